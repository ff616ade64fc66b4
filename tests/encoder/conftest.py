"""A model that the tests of encoders share."""

from __future__ import annotations

from pathlib import Path

import models
import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random model, which tests leave as it is."""
    return models.random_folder(tmp_path_factory.mktemp("model"))
