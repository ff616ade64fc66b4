"""Hidden states to cls, mean and max: the one implementation."""

from __future__ import annotations

import torch
from torch import Tensor


def _pooled(hidden: Tensor, own: Tensor | None, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sum and maximum of what is pooled, and the first state: each (rows, hidden_size), of a block. `closed` says whether [SEP] ends it."""
    if own is None:
        content = hidden[:, 1 : hidden.shape[1] - closed]
        return content.sum(1), content.amax(1), hidden[:, 0]
    return torch.bmm(own.float()[:, None], hidden)[:, 0], hidden.masked_fill(~own[:, :, None], -torch.inf).amax(1), hidden[:, 0]


def pool(hidden: Tensor, content: Tensor, views: str) -> Tensor:
    """Pooled vectors (rows, views · hidden_size) of hidden states (rows, tokens, hidden_size), [CLS] first.

    `content`, a boolean (rows, tokens), says which tokens mean and max take.
    """
    parts = []
    for view in views.split("+"):
        if view == "cls":
            parts.append(hidden[:, 0])
        elif view == "mean":
            weights = content.to(hidden.dtype)
            parts.append(torch.bmm(weights[:, None], hidden)[:, 0] / weights.sum(1, keepdim=True))
        else:
            parts.append(hidden.masked_fill(~content[:, :, None], -torch.inf).amax(1))
    return torch.cat(parts, dim=1)
