"""A model that the tests of effects share."""

from __future__ import annotations

import pytest
from models import random_folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small random model, which tests leave as it is."""
    return str(random_folder(tmp_path_factory.mktemp("models") / "tiny"))
