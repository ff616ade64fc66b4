"""Two projectors that map two modalities of a subject to a common space, and the loss that trains them. No Ray.

The loss is InfoNCE both ways (Radford et al. 2021, arXiv:2103.00020): a subject's DNA must be told apart by its partner's vector from
the DNA of everybody else in the global batch, and the other way round. Rows of one subject, and rows with the same DNA or the same
partner vector, are masked: they are never negatives of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from dnafeat.encoder.projection import Projector

# Cosines are multiplied by 100 at the most, as published.
_MOST_SCALE = math.log(100.0)


class Alignment(nn.Module):
    """Projectors of prepared vectors of both modalities, (n, width) float32, to unit vectors of one space, (n, 512).

    Attributes
    ----------
    dna, partner : Projector
    log_scale : torch.Tensor
        The logarithm of what cosines are multiplied by: of one over the temperature.
    """

    def __init__(self, dna: int, partner: int, dropout: float = 0.0, temperature: float = 0.07) -> None:
        super().__init__()
        self.dna, self.partner = Projector(dna, dropout), Projector(partner, dropout)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(self, dna: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.dna(dna), dim=1), F.normalize(self.partner(partner), dim=1)

    def clamp(self) -> None:
        """Keep the temperature at 0.01 or above."""
        with torch.no_grad():
            self.log_scale.clamp_(max=_MOST_SCALE)


def losses(
    own: tuple[Tensor, Tensor], everybody: tuple[Tensor, Tensor], places: Tensor, same: Tensor, log_scale: Tensor
) -> Tensor:
    """Compute the loss of each row, (rows,): the mean of both directions.

    Parameters
    ----------
    own : (Tensor, Tensor), shape=(rows, 512)
        Unit vectors of DNA and partner of these rows.
    everybody : (Tensor, Tensor), shape=(batch, 512)
        Of the whole batch.
    places : Tensor, shape=(rows,), int64
        Of these rows in the batch.
    same : Tensor, shape=(batch, kinds), int64
        Rows that are equal in any column are not told apart.
    """
    alike = (same[places][:, None, :] == same[None, :, :]).any(dim=2)
    alike[torch.arange(len(places), device=alike.device), places] = False
    found = []
    for queries, candidates in ((own[0], everybody[1]), (own[1], everybody[0])):
        logits = (log_scale.exp() * queries @ candidates.T).masked_fill(alike, -torch.inf)
        found.append(F.cross_entropy(logits, places, reduction="none"))
    return (found[0] + found[1]) / 2


class _Gathered(torch.autograd.Function):
    """Gather (rows, width) of every worker as (workers, rows, width); gradients are summed over the workers that used them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        whole = gradient.contiguous()
        distributed.all_reduce(whole)
        return whole[distributed.get_rank()]


def gather(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Gather the rows of all workers, (sum of sizes, width), in their order; `sizes` has the rows of each. Gradients flow to all."""
    if len(sizes) == 1:
        return rows
    most = max(sizes)
    whole = _Gathered.apply(F.pad(rows, (0, 0, 0, most - len(rows))))
    return torch.cat([whole[i, :size] for i, size in enumerate(sizes)])


def batches(count: int, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Draw an epoch's global batches of row numbers, as many as `size` needs and of like size, drawn from seed and epoch alone."""
    return np.array_split(np.random.default_rng([seed, epoch]).permutation(count), -(-count // size))


def dev_loss(model: Alignment, dna: Tensor, partner: Tensor, same: Tensor, rows: int = 1024) -> float:
    """Compute the mean loss of some rows, all of them being one batch, in float32 and without dropout."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        parts = [model(x, y) for x, y in zip(dna.split(rows), partner.split(rows), strict=True)]
        everybody = (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
        total = 0.0
        for places in torch.arange(len(dna), device=dna.device).split(rows):
            own = (everybody[0][places], everybody[1][places])
            total += float(losses(own, everybody, places, same, model.log_scale).double().sum())
    model.train(was_training)
    return total / len(dna)


@torch.no_grad()
def project(projector: Projector, rows: np.ndarray, at_a_time: int = 8192) -> np.ndarray:
    """Project prepared vectors, (n, width) float32, to (n, 512) float32, on the CPU."""
    projector.eval()
    parts = [projector(part).numpy() for part in torch.from_numpy(np.ascontiguousarray(rows)).split(at_a_time)]
    return np.concatenate(parts)
