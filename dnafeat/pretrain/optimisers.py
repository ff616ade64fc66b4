"""Optimisers and the learning rate of pretraining. No Ray."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def learning_rate(peak: float, warmup_steps: int, steps: int, step: int) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak at the last step."""
    warm = min(1.0, (step + 1) / max(warmup_steps, 1))
    return peak * warm * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def make_optimisers(model: nn.Module, name: str, rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or (`name="muon"`) Muon for the matrices of the layers and AdamW for the rest.

    Biases and norms are not decayed.
    """
    inner = [p for key, p in model.named_parameters() if name == "muon" and p.ndim == 2 and "embeddings" not in key]
    taken = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)]
    if inner:
        # Steps as large as AdamW's, so that one learning rate and schedule serve both.
        settings: dict[str, Any] = {"weight_decay": weight_decay, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
        optimisers.insert(0, torch.optim.Muon(inner, lr=rate, **settings))
    return optimisers
