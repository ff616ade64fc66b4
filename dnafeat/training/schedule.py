"""The learning-rate schedule of all training, as torch's LambdaLR, and the random numbers of a step. No Ray."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

Decay = Literal["linear", "cosine"]
# Of the peak, where the cosine ends.
_COSINE_FLOOR = 0.02


def schedule(
    optimizer: torch.optim.Optimizer, decay: Decay, *, steps: int, warmup_steps: int, first: Literal[0, 1] = 1
) -> LambdaLR:
    """Schedule the learning rates of an optimiser over a run; each parameter group has a peak of its own, its `lr`."""
    return LambdaLR(optimizer, partial(share, decay=decay, steps=steps, warmup_steps=warmup_steps, first=first))


def share(step: int, *, decay: Decay, steps: int, warmup_steps: int, first: Literal[0, 1] = 1) -> float:
    """Return the learning rate of a step as a share of its peak: a linear warm-up, then a decay.

    Parameters
    ----------
    step : int
        0-based.
    decay : {"linear", "cosine"}
        A straight line from the end of the warm-up down to 0, or a cosine over the whole run down to 2 % of the peak.
    first : {0, 1}
        Of `warmup_steps`, what the first step has: 0 is transformers' convention, whose first step moves nothing.
    """
    if decay == "cosine":
        warm = min(1.0, (step + first) / max(1, warmup_steps))
        return warm * (0.5 * (1 + _COSINE_FLOOR) + 0.5 * (1 - _COSINE_FLOOR) * math.cos(math.pi * step / steps))
    if step < warmup_steps:
        return (step + first) / warmup_steps
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed all of torch's generators, those of GPUs among them, from the run's seed, the step and the worker's rank alone.

    A resumed run draws what it would have drawn.
    """
    numbers = np.random.SeedSequence([seed, step, rank])
    torch.manual_seed(int(numbers.generate_state(1, np.uint64)[0]))
