"""Learning rates step by step: those of transformers for fine-tuning, and the formulas that alignment and pretraining state."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import get_scheduler

from dnafeat.training.schedule import schedule, seed_step, share


def rates(kind: torch.optim.lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        kind.step()
    return found


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": peak} for peak in (0.3, 2.0)], lr=1.0)


@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
def test_counted_from_zero_it_is_that_of_transformers(warmup_steps: int) -> None:
    ours, theirs = optimizer(), optimizer()
    own = schedule(ours, "linear", steps=40, warmup_steps=warmup_steps, first=0)
    other = get_scheduler("linear", theirs, num_warmup_steps=warmup_steps, num_training_steps=40)
    assert rates(own, ours, 40) == rates(other, theirs, 40)


@pytest.mark.parametrize("warmup_steps", [0, 1, 5])
def test_the_line_rises_to_the_peak_of_each_group_and_falls_to_nothing(warmup_steps: int) -> None:
    steps = 20
    ours = optimizer()
    found = rates(schedule(ours, "linear", steps=steps, warmup_steps=warmup_steps), ours, steps)
    for step, (low, high) in enumerate(found):
        part = (step + 1) / warmup_steps if step < warmup_steps else (steps - step) / (steps - warmup_steps)
        assert low == pytest.approx(0.3 * part, rel=1e-12)
        assert high == pytest.approx(2.0 * part, rel=1e-12)
    assert max(high for _, high in found) == 2.0
    assert share(steps, decay="linear", steps=steps, warmup_steps=warmup_steps) == 0
    assert share(steps + 1, decay="linear", steps=steps, warmup_steps=warmup_steps) == 0


def test_the_cosine_ends_at_two_percent_of_the_peak() -> None:
    for step in range(101):
        expected = min(1.0, (step + 1) / 10) * (0.51 + 0.49 * math.cos(math.pi * step / 100))
        assert share(step, decay="cosine", steps=100, warmup_steps=10) == pytest.approx(expected, rel=1e-12)
    assert share(100, decay="cosine", steps=100, warmup_steps=10) == pytest.approx(0.02)


def test_what_a_step_draws_follows_from_seed_step_and_rank() -> None:
    def drawn(seed: int, step: int, rank: int, before: int = 0) -> tuple[float, ...]:
        torch.rand(before)
        seed_step(seed, step, rank)
        return tuple(torch.rand(8).tolist())

    assert drawn(0, 5, 1) == drawn(0, 5, 1, before=7)
    assert len({drawn(seed, step, rank) for seed in range(3) for step in range(4) for rank in range(5)}) == 3 * 4 * 5
