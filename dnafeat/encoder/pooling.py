"""Hidden states to cls, mean and max: the one implementation, of the encoder and of training."""

from __future__ import annotations

import torch
from torch import Tensor


def total(hidden: Tensor, content: Tensor) -> Tensor:
    """Sum of the states (rows, tokens, hidden_size) that `content`, a boolean (rows, tokens), marks: (rows, hidden_size)."""
    return torch.bmm(content.to(hidden.dtype)[:, None], hidden)[:, 0]


def largest(hidden: Tensor, content: Tensor) -> Tensor:
    """Element-wise maximum of the states that `content` marks: (rows, hidden_size)."""
    return hidden.masked_fill(~content[:, :, None], -torch.inf).amax(1)


def pool_windows(hidden: Tensor, owned: Tensor | None, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sum and maximum of the owned tokens of windows, and the states of [CLS], each (rows, hidden_size).

    Parameters
    ----------
    hidden : Tensor, shape=(rows, tokens, hidden_size), float32
        [CLS] first.
    owned : Tensor | None, shape=(rows, tokens), bool
        Which tokens are pooled; None: the whole content, in windows of equal length without padding.
    closed : bool
        Whether [SEP] ends a window.
    """
    if owned is None:
        content = hidden[:, 1 : hidden.shape[1] - closed]
        return content.sum(1), content.amax(1), hidden[:, 0]
    return total(hidden, owned), largest(hidden, owned), hidden[:, 0]


def pool(hidden: Tensor, content: Tensor, views: str) -> Tensor:
    """Pooled vectors (rows, views · hidden_size) of hidden states (rows, tokens, hidden_size), [CLS] first.

    `content`, a boolean (rows, tokens), says which tokens mean and max take.
    """
    parts = []
    for view in views.split("+"):
        if view == "cls":
            parts.append(hidden[:, 0])
        elif view == "mean":
            parts.append(total(hidden, content) / content.sum(1, keepdim=True))
        else:
            parts.append(largest(hidden, content))
    return torch.cat(parts, dim=1)
