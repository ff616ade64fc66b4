"""Whether what is measured computes what it should: vectors beside those of the plain model in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from dnafeat.bench.rows import Row, measured
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.errors import BenchmarkError

# How far vectors may lie from the plain model's in float64: of the largest number of all, and as a cosine.
_ERROR = {"float32": 1e-5, "bfloat16": 5e-2, "int8": 5e-2}
_COSINE = {"float32": 0.999999, "bfloat16": 0.999, "int8": 0.999}


@torch.inference_mode()
def plain_means(model: nn.Module, tokenizer: Tokenizer, sequences: Sequence[str]) -> np.ndarray:
    """Mean vectors of the plain model in float64 on the CPU, sequence by sequence and so without padding: (n, hidden_size)."""
    exact = copy.deepcopy(model).to("cpu", torch.float64)
    end = -1 if tokenizer.sep_id is not None else None
    rows = []
    for one in sequences:
        ids = torch.tensor([tokenizer.encode(one)])
        rows.append(exact(ids, torch.ones_like(ids)).last_hidden_state[0, 1:end].mean(0))
    return torch.stack(rows).numpy()


def check(name: str, found: np.ndarray, reference: np.ndarray, precision: str) -> list[Row]:
    """Rows that say how near vectors are to the plain model's. Raises BenchmarkError where they are not near enough.

    Parameters
    ----------
    found, reference : np.ndarray, shape=(n, hidden_size)
    precision : str
        What arithmetic they come from, which says how near they should be.
    """
    error = float(np.abs(found - reference).max() / max(1.0, np.abs(reference).max()))
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    cosine = float(((found * reference).sum(1) / lengths).min())
    most, least = _ERROR[precision], _COSINE[precision]
    if not (error <= most and cosine >= least):
        raise BenchmarkError(
            f"{name} gives wrong vectors: the furthest is off by {error:.2g} of the largest number ({most:g} allowed) and has cosine "
            f"{cosine:.6f} with the plain model's in float64 (at least {least:g}); nothing was timed"
        )
    note = "of mean vectors, against the plain model in float64; checked before anything is timed"
    return [
        measured(f"{name}.error", [error], "", most=most, note=f"furthest {note}"),
        measured(f"{name}.cosine", [cosine], "", least=least, note=f"least {note}"),
    ]
