"""The one format of training checkpoints: what a folder of a checkpoint holds, written and read. No Ray.

trainer_state.json            steps done and the history of logged values, as transformers' Trainer writes them
trained.safetensors           the tensors that are trained, as they are now
best.safetensors, best.json   the best of them so far with its step and value, seconds of training, and what was decided at the start
optimizer.pt, scheduler.pt    optimiser and learning-rate schedule
results.json                  in the last checkpoint of a finished run alone, beside best.safetensors
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from dnafeat.errors import CheckpointError

TRAINED, BEST, PROGRESS = "trained.safetensors", "best.safetensors", "best.json"
STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
RESULTS = "results.json"


def known(value: float) -> float | None:
    """Return a number as JSON takes it: None where it is not finite."""
    return value if np.isfinite(value) else None


@dataclass
class Best:
    """The best state of a run so far, by a value that evaluation gives; an equal value is no better.

    Attributes
    ----------
    value : float | None
        None until the value was defined once.
    step : int
        Optimiser steps done at that state.
    worse_since : int
        Evaluations since then.
    tensors : dict of str to Tensor
    """

    value: float | None = None
    step: int = 0
    worse_since: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def update(
        self, value: float | None, step: int, tensors: Callable[[], dict[str, Tensor]], better: Callable[[float, float], bool]
    ) -> None:
        """Take an evaluated value into account; `better(a, b)` is whether a is better than b."""
        if value is not None and np.isfinite(value) and (self.value is None or better(value, self.value)):
            self.value, self.step, self.worse_since, self.tensors = value, step, 0, tensors()
        else:
            self.worse_since += 1

    def exhausted(self, patience: int) -> bool:
        """Whether there were `patience` evaluations without a better one; 0: never."""
        return bool(patience and self.worse_since >= patience)


@dataclass
class TrainingProgress:
    """What a checkpoint holds beside steps, history, optimiser and current tensors.

    Attributes
    ----------
    seconds : float
        Of training, over all attempts before this one.
    decided : dict
        What was decided once for the whole run, such as its precision, as JSON takes it.
    """

    best: Best = field(default_factory=Best)
    seconds: float = 0.0
    decided: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Return the seconds of training over all attempts, this one among them."""
        return round(self.seconds + time.monotonic() - self._began, 3)

    def save(self, folder: Path, trained: Mapping[str, Tensor]) -> None:
        """Write the trained tensors, the best ones and the rest into a checkpoint's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(trained), folder / TRAINED)
        if self.best.tensors:
            save_file(self.best.tensors, folder / BEST)
        numbers = {name: getattr(self.best, name) for name in ("value", "step", "worse_since")}
        (folder / PROGRESS).write_text(json.dumps({**numbers, "seconds": self.elapsed(), "decided": self.decided}))

    @classmethod
    def load(cls, folder: Path) -> tuple[TrainingProgress, dict[str, Tensor]]:
        """Read a checkpoint: its progress and the trained tensors.

        Raises CheckpointError where the folder has another format, such as that of an earlier release.
        """
        if not all((folder / name).is_file() for name in (TRAINED, PROGRESS, STATE)):
            raise CheckpointError(
                "the run's last checkpoint was written by another release of dnafeat: remove the run's folder to train from the start"
            )
        found = json.loads((folder / PROGRESS).read_text())
        best = Best(found["value"], found["step"], found["worse_since"])
        if (folder / BEST).is_file():
            best.tensors = load_file(folder / BEST)
        return cls(best, found.get("seconds", 0.0), found.get("decided", {})), load_file(folder / TRAINED)


def decided(folder: Path) -> dict[str, Any]:
    """Read what a checkpoint's run decided at its start."""
    file = folder / PROGRESS
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return dict(found.get("decided", {}))


def write_finished(folder: Path, tensors: Mapping[str, Tensor], results: Mapping[str, Any]) -> None:
    """Write the last checkpoint of a finished run."""
    folder.mkdir()
    save_file(dict(tensors), folder / BEST)
    (folder / RESULTS).write_text(json.dumps(results))


def is_finished(folder: Path) -> bool:
    """Whether a checkpoint is the last one of a finished run."""
    return (folder / RESULTS).is_file()


def read_finished(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the trained tensors and the results from the last checkpoint of a finished run."""
    return load_file(folder / BEST), json.loads((folder / RESULTS).read_text())
