"""Artifact layout of alignment: a folder or prefix with all that maps new subjects, or new sequences, to the common space.

dnafeat.json             what it is: tables, split, covariates, settings, measures, versions
alignment.safetensors    both projectors, and what is done to vectors before them: covariates' coefficients, means, gains, principal axes
projector.json, projector.safetensors   the DNA's z-score and projector for `embed --projector`; where they take nothing but mean vectors
adapter_config.json, adapter_model.safetensors   of an encoder that was tuned, too, for `embed --adapter`, which takes the projector with it
history.json, alignment.png   how training went, and what was measured
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save_file
from torch import Tensor

from dnafeat import storage
from dnafeat.align.covariates import Covariates
from dnafeat.align.model import project
from dnafeat.align.preparation import Preparation
from dnafeat.encoder.projection import Projection, Projector, ZScore
from dnafeat.errors import UsageError, one_line
from dnafeat.join.config import DNA
from dnafeat.training import artifact as training_artifact
from dnafeat.training.artifact import ABOUT, ALIGNMENT, put

_WEIGHTS, _PICTURE = "alignment.safetensors", "alignment.png"


@dataclass(frozen=True)
class Side:
    """Map of a modality from its vectors, (n, width), to the common space, (n, 512)."""

    steps: Preparation
    projector: Projector

    def prepared(self, rows: np.ndarray, design: np.ndarray | None, without: slice | None = None) -> np.ndarray:
        """Prepare vectors by the fitted steps: residuals of covariates, z-scores, principal components; (n, prepared width) float32."""
        return self.steps(rows, design if self.steps.coef is not None else None, without)

    def __call__(self, rows: np.ndarray, design: np.ndarray | None, without: slice | None = None) -> np.ndarray:
        return project(self.projector, self.prepared(rows, design, without))

    def projection(self) -> Projection:
        """Return the same map from stored mean vectors alone. Raises ValueError for steps beyond the z-score."""
        if self.steps.coef is not None or self.steps.axes is not None:
            raise ValueError("a projection takes vectors alone, and no covariates or principal components come before it")
        mean, gain = (torch.from_numpy(one.astype(np.float32)) for one in (self.steps.mean, self.steps.gain))
        return Projection(self.projector, before=[ZScore(mean, gain)], about={"kind": "mlp"})


@dataclass(frozen=True)
class Aligned:
    """An alignment, ready for subjects.

    Attributes
    ----------
    about : mapping
        `dnafeat.json`.
    sides : mapping of str to Side
        `dna`, and the partner's name.
    covariates : Covariates | None
    """

    about: Mapping[str, Any]
    sides: Mapping[str, Side]
    covariates: Covariates | None

    def design(
        self, columns: Mapping[str, Sequence[str | None]], keys: Sequence[str]
    ) -> tuple[np.ndarray | None, dict[str, int]]:
        """Return the covariates of some subjects as the steps take them. Raises UsageError for a value that is missing or no number."""
        if self.covariates is None:
            return None, {}
        for name in (*self.covariates.numbers, *self.covariates.levels):
            if lacks := [key for key, value in zip(keys, columns[name], strict=True) if value is None]:
                raise UsageError(f"{len(lacks):,} subjects have no value of covariate {name!r}, such as {lacks[0]!r}: fill it")
        return self.covariates.design(columns, keys)


def write(
    uri: str, aligned: Aligned, about: Mapping[str, Any], history: Sequence[Mapping[str, Any]], picture: bytes, adapter: Path
) -> None:
    """Write an artifact, with the files of the folder `adapter` if it exists; `dnafeat.json` last: without it there is none."""
    tensors: dict[str, Tensor] = {}
    for name, side in aligned.sides.items():
        tensors |= {
            f"{name}.steps.{key}": torch.from_numpy(np.ascontiguousarray(value)) for key, value in side.steps.arrays().items()
        }
        tensors |= {f"{name}.projector.{key}": value.contiguous() for key, value in side.projector.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as scratch:
        folder = Path(scratch)
        save_file(tensors, folder / _WEIGHTS)
        if about["for_embed"] and not adapter.is_dir():
            aligned.sides[DNA].projection().save(str(folder))
        (folder / "history.json").write_text(json.dumps(list(history), indent=1))
        (folder / _PICTURE).write_bytes(picture)
        for file in sorted([*folder.iterdir(), *(adapter.iterdir() if adapter.is_dir() else ())]):
            put(storage.join(uri, file.name), file.read_bytes())
    put(storage.join(uri, ABOUT), json.dumps(about, indent=1).encode())


def read(uri: str) -> Aligned:
    """Read the alignment in a folder or an `s3://` prefix. Raises UsageError where there is none."""
    uri = storage.absolute(uri)
    about = training_artifact.read(uri)
    if about is None or about.get("kind") != ALIGNMENT:
        raise UsageError(f"{uri} holds no alignment: give the folder that `dnafeat align` wrote")
    file = storage.join(uri, _WEIGHTS)
    if storage.is_local(file) and Path(file).exists() and not Path(file).is_file():
        raise UsageError(f"{file} cannot be read: it is no regular file")
    with storage.open_input(file) as opened:
        try:
            tensors = load(opened.read())
        except Exception as error:  # whatever the library makes of a broken file
            raise UsageError(f"{file} cannot be read: {one_line(error)}") from error
    try:
        return _aligned(about, tensors)
    except Exception as error:  # whatever an artifact that was changed leads to
        reason = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
        raise UsageError(f"{uri} is not as `dnafeat align` wrote it: {reason}") from error


def _aligned(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Aligned:
    sides = {}
    for name in about["modalities"]:
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        steps = Preparation.from_arrays({k.removeprefix("steps."): v.numpy() for k, v in own.items() if k.startswith("steps.")})
        projector = Projector(steps.width).eval()
        projector.load_state_dict({k.removeprefix("projector."): v for k, v in own.items() if k.startswith("projector.")})
        sides[name] = Side(steps, projector)
    covariates = Covariates.from_dict(about["covariates"]) if about["covariates"] else None
    return Aligned(about, sides, covariates)
