"""File names and (de)serialisation of training checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ray import train
from safetensors.torch import load_file
from torch import Tensor

BEST = "best.safetensors"

RESULTS = "results.json"


def known(value: float) -> float | None:
    """The number, or None for one that JSON does not know."""
    return value if np.isfinite(value) else None


def report(folder: Path | None, values: dict[str, Any]) -> None:
    """`ray.train.report`, which all workers have to call; the one with a folder gives it as the checkpoint."""
    train.report(values, checkpoint=None if folder is None else train.Checkpoint.from_directory(str(folder)))


def finished(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trained tensors and the results in a finished run's last checkpoint."""
    return load_file(folder / BEST), json.loads((folder / RESULTS).read_text())
