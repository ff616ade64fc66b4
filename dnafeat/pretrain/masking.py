"""Crops, masks, and the loss on [MASK] tokens, for masked-language modelling. No Ray."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnafeat.errors import UsageError
from dnafeat.pretrain.corpus import CLS, FIRST_CONTENT, MASK, SEP

IGNORED = -100  # the target of tokens that are not predicted


def crops(stream: np.ndarray, offsets: np.ndarray, content: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Draw random crops of `content` tokens, each inside one stretch, every possible start equally likely: int64 (rows, content)."""
    starts = np.maximum(np.diff(offsets) - content + 1, 0)
    ends = np.cumsum(starts)
    if ends[-1] == 0:
        raise UsageError(f"no training stretch has {content} tokens, the content of the longest crop; give shorter lengths")
    drawn = rng.integers(0, ends[-1], rows)
    stretch = np.searchsorted(ends, drawn, side="right")
    first = offsets[stretch] + drawn - (ends[stretch] - starts[stretch])
    return stream[first[:, None] + np.arange(content)].astype(np.int64)


def mask(ids: np.ndarray, rate: float, vocab: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mask the same number of tokens in every row: 80 % become [MASK], 10 % a random content token, 10 % stay.

    Parameters
    ----------
    ids : np.ndarray, shape=(rows, content), int64
        Content tokens. An [UNK] is never masked.

    Returns
    -------
    inputs : np.ndarray, same shape
    targets : np.ndarray, same shape
        The original id where the loss is taken, -100 elsewhere.
    """
    draw = np.where(ids >= FIRST_CONTENT, rng.random(ids.shape), 2.0)
    number = max(1, round(rate * ids.shape[1]))
    chosen = np.zeros(ids.shape, bool)
    np.put_along_axis(chosen, np.argpartition(draw, number - 1, axis=1)[:, :number], True, axis=1)
    chosen &= draw < 2.0
    fate = rng.random(ids.shape)
    inputs = np.where(chosen & (fate < 0.8), MASK, ids)
    inputs = np.where(chosen & (fate >= 0.9), rng.integers(FIRST_CONTENT, vocab, ids.shape), inputs)
    return inputs, np.where(chosen, ids, IGNORED)


def framed(ids: np.ndarray, first: int, last: int) -> Tensor:
    """Pad rows with one value before and one behind, as a tensor: [CLS] and [SEP] around ids, False around a mask."""
    return torch.from_numpy(np.pad(ids, ((0, 0), (1, 1)), constant_values=((0, 0), (first, last))))


def faster_precision(device: torch.device) -> str:
    """Choose `bfloat16` where a matrix product in it is faster than in float32, which some milliseconds of timing show."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"

    def seconds(dtype: torch.dtype) -> float:
        x = torch.ones(512, 512, dtype=dtype)
        best = math.inf
        for _ in range(4):  # the first one also sets the library up
            begin = time.perf_counter()
            x @ x
            best = min(best, time.perf_counter() - begin)
        return best

    return "bfloat16" if seconds(torch.bfloat16) < 0.8 * seconds(torch.float32) else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def masked_score(
    model: nn.Module,
    ids: np.ndarray,
    scored: np.ndarray,
    *,
    precision: str,
    window: int = 256,
    passes: int = 7,
    windows: int | None = None,
) -> tuple[float, float, int]:
    """Measure loss and accuracy on [MASK] tokens of a held-out stretch.

    Tokens are dealt at random, always in the same way, into 7 groups; a pass replaces one group by [MASK] in non-overlapping
    windows. With all 7 passes every scored token is predicted once, with 6 in 7 of the others in sight.

    Parameters
    ----------
    scored : np.ndarray, shape=(tokens,), bool
        Tokens that count. The others are context, and are masked as often.
    passes : int
        Groups used, at most 7.
    windows : int or None
        Evenly spread windows used; None for all.

    Returns
    -------
    loss : float, nats per token
    accuracy : float
    tokens : int, how many were scored
    """
    device = next(model.parameters()).device
    content = min(window - 2, len(ids))
    number = len(ids) // content
    used = np.unique(np.linspace(0, number - 1, min(windows or number, number)).astype(int))
    group = np.random.default_rng(7).integers(0, 7, len(ids))
    training = model.training
    model.eval()
    loss, right, count = 0.0, 0, 0
    with torch.inference_mode(), autocast(device, precision):
        for start in range(0, len(used), 32):
            at = used[start : start + 32, None] * content + np.arange(content)
            for chosen in range(passes):
                hidden = group[at] == chosen
                take = framed(hidden & scored[at], False, False)
                inputs = framed(np.where(hidden, MASK, ids[at]).astype(np.int64), CLS, SEP)
                targets = torch.from_numpy(ids[at][hidden & scored[at]].astype(np.int64)).to(device)
                logits = model(inputs.to(device), positions=take.to(device)).logits.float()
                loss += float(F.cross_entropy(logits, targets, reduction="sum"))
                right += int((logits.argmax(1) == targets).sum())
                count += len(targets)
    model.train(training)
    return loss / max(count, 1), right / max(count, 1), count
