"""The 512-dimensional column: an MLP on a pooled vector (hidden -> 1024 -> 512; GELU, dropout, LayerNorm), named by its weights' hash."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dnafeat.errors import CheckpointError, one_line
from dnafeat.models.fetch import fetch
from dnafeat.schema import PROJECTED_WIDTH

_INNER = 1024
_RANDOM = re.compile(r"random@(\d+)")


class Projector(nn.Module):
    """Maps pooled vectors (n, hidden_size) float32 to (n, 512) float32. Takes the mean vector."""

    def __init__(self, hidden_size: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.expand = nn.Linear(hidden_size, _INNER)
        self.dropout = nn.Dropout(dropout)
        self.reduce = nn.Linear(_INNER, PROJECTED_WIDTH)
        self.norm = nn.LayerNorm(PROJECTED_WIDTH)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.norm(self.reduce(self.dropout(nn.functional.gelu(self.expand(pooled)))))

    def fingerprint(self) -> str:
        """SHA-256 over the weights as little-endian float32, in the order of their names."""
        state = self.state_dict()
        digest = hashlib.sha256()
        for name in sorted(state):
            digest.update(name.encode() + state[name].numpy().astype("<f4").tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """The weights as a safetensors file."""
        return save(self.state_dict())


PROJECTOR_FILE = "projector.safetensors"


def read_projector(folder: Path, hidden_size: int) -> Projector:
    """The projector that lies in an artifact's folder. Raises CheckpointError when it does not fit."""
    file = folder / PROJECTOR_FILE
    try:
        state = load_file(file)
    except Exception as error:  # whatever the library makes of a missing or broken file
        raise CheckpointError(f"{file} cannot be read as a projector: {one_line(error)}") from error
    projector = Projector(hidden_size).eval()
    own = {name: tuple(value.shape) for name, value in projector.state_dict().items()}
    if own != {name: tuple(value.shape) for name, value in state.items()}:
        raise CheckpointError(
            f"{file} is no projector from {hidden_size} to {PROJECTED_WIDTH} dimensions: it was made for another model"
        )
    projector.load_state_dict({name: value.float() for name, value in state.items()})
    return projector


def load_projector(name: str, hidden_size: int) -> Projector:
    """The projector of a name: `random@SEED`, an untrained, fixed random map, or a folder or `s3://` prefix that holds a trained one.

    Raises UsageError where there is none.

    The weights are drawn by NumPy's PCG64, which gives the same numbers on every machine; torch's generators do not promise to.
    """
    match = _RANDOM.fullmatch(name)
    if not match:
        return read_projector(fetch(name, "projector")[0], hidden_size)
    projector = Projector(hidden_size).eval()
    random = np.random.Generator(np.random.PCG64(int(match[1])))
    with torch.no_grad():
        for layer in (projector.expand, projector.reduce):
            # He's scale keeps the variance through the GELU.
            drawn = random.standard_normal(layer.weight.shape) * np.sqrt(2.0 / layer.in_features)
            layer.weight.copy_(torch.from_numpy(drawn.astype(np.float32)))
            layer.bias.zero_()
    return projector
