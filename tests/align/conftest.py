"""A cohort that the tests of alignment share."""

from __future__ import annotations

import alignments
import pytest


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A store and a partner's file, which tests leave as they are."""
    return alignments.cohort(tmp_path_factory.mktemp("cohort"))
