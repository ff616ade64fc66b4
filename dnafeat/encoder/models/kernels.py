"""Triton kernels for what is between DNABERT-2's matrix products: attention over sequences end to end, gate, norm.

Each reads what it needs once and writes once, and computes in float32 whatever the type it reads and writes. Triton comes with PyTorch for
GPUs and needs a C compiler there; it is imported here, so that this module is imported only where there is a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from dnafeat.encoder.models.base import to_device
from dnafeat.encoder.models.dnabert2 import alibi_slopes

# Queries of one sequence that a program answers, and keys that it looks at a time. In float32 more would not fit into its registers.
_QUERIES, _EXACT_QUERIES, _KEYS = 64, 32, 32
# A tile of a product, how many of its inputs are multiplied at a time, and how many tiles stand upon each other in a group: the fastest
# of twelve ways on an H100.
_ROWS, _COLUMNS, _STEP, _GROUP = 128, 128, 64, 8
_LOG2_E = 1.4426950408889634


@triton.jit
def _attend(
    qkv, out, blocks, slopes, scale,
    HEADS: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    # Heads vary fastest, so that programs that run at the same time read whole rows.
    block, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    first, start, end = tl.load(blocks + 3 * block), tl.load(blocks + 3 * block + 1), tl.load(blocks + 3 * block + 2)
    slope = tl.load(slopes + head)
    width: tl.constexpr = HEADS * SIZE
    column = tl.arange(0, PADDED)
    query = first + tl.arange(0, QUERIES)
    own = (query < end)[:, None] & (column < SIZE)[None, :]
    q = tl.load(qkv + query.to(tl.int64)[:, None] * (3 * width) + head * SIZE + column[None, :], own, 0.0)
    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    summed = tl.zeros([QUERIES, PADDED], tl.float32)
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    for at in range(start, end, KEYS):
        key = at + tl.arange(0, KEYS)
        inside = key < end
        there = inside[:, None] & (column < SIZE)[None, :]
        place = qkv + key.to(tl.int64)[:, None] * (3 * width) + head * SIZE + column[None, :]
        k, v = tl.load(place + width, there, 0.0), tl.load(place + 2 * width, there, 0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=precision) * scale
        scores -= slope * tl.abs(query[:, None] - key[None, :]).to(tl.float32)
        scores = tl.where(inside[None, :], scores, float("-inf"))
        most = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - most[:, None])
        shrunk = tl.exp2(largest - most)
        total = total * shrunk + tl.sum(weights, 1)
        summed = summed * shrunk[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=precision)
        largest = most
    place = out + query.to(tl.int64)[:, None] * width + head * SIZE + column[None, :]
    tl.store(place, (summed / total[:, None]).to(out.dtype.element_ty), own)


@triton.jit
def _gate(both, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(both + row * 2 * width + column, column < width, 0.0).to(tl.float32)
    second = tl.load(both + row * 2 * width + width + column, column < width, 0.0).to(tl.float32)
    gated = 0.5 * first * (1 + tl.math.erf(first * 0.7071067811865476)) * second
    tl.store(out + row * width + column, gated.to(out.dtype.element_ty), column < width)


@triton.jit
def _gated_product(
    x, weight, out, rows, width,
    INPUTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # Tiles of some rows of blocks are computed together, so that what they share stays in the cache.
    down, across = tl.cdiv(rows, ROWS), width // COLUMNS
    group = tl.program_id(0) // (GROUP * across)
    tall = tl.minimum(down - group * GROUP, GROUP)
    of_group = tl.program_id(0) % (GROUP * across)
    row = (group * GROUP + of_group % tall) * ROWS + tl.arange(0, ROWS)
    column = of_group // tall * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.arange(0, STEP)
    # Rows past the last are other rows, which are not stored.
    left = x + (row % rows).to(tl.int64)[:, None] * INPUTS + step[None, :]
    right = weight + column[None, :] * INPUTS + step[:, None]
    first, second = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    for _ in range(0, INPUTS, STEP):
        values = tl.load(left)
        first = tl.dot(values, tl.load(right), first)
        second = tl.dot(values, tl.load(right + width * INPUTS), second)
        left += STEP
        right += STEP
    # GELU by an error function that is off by 1.5e-7 at most (Abramowitz and Stegun, 7.1.26): with the usual one it took 5 % longer.
    size = tl.abs(first) * 0.7071067811865476
    t = 1 / (1 + 0.3275911 * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * first * series * tl.exp2(size * size * -1.4426950408889634)
    gated = tl.where(first > 0, first - tail, tail) * second
    tl.store(out + row.to(tl.int64)[:, None] * width + column[None, :], gated.to(out.dtype.element_ty), (row < rows)[:, None])


@triton.jit
def _add_norm(x, residual, weight, bias, out, eps, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    value = tl.load(x + row * WIDTH + column, inside, 0.0).to(tl.float32)
    value += tl.load(residual + row * WIDTH + column, inside, 0.0).to(tl.float32)
    mean = tl.sum(value, 0) / WIDTH
    centred = tl.where(inside, value - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / WIDTH + eps)
    gain, offset = tl.load(weight + column, inside, 0.0).to(tl.float32), tl.load(bias + column, inside, 0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, (centred * scale * gain + offset).to(out.dtype.element_ty), inside)


def attention_over(runs: Sequence[tuple[int, int]], heads: int, like: Tensor) -> Callable[[Tensor], Tensor]:
    """ALiBi attention within each of some sequences that lie end to end.

    Parameters
    ----------
    runs : sequence of (int, int)
        How many sequences there are next to one another of a length, and that length in tokens.
    like : Tensor
        Of the type and on the device of what will be given.

    Returns
    -------
    callable
        From queries, keys and values, (total, 3 · hidden_size) and contiguous, to what they attend to, (total, hidden_size).
    """
    exact = like.dtype == torch.float32
    queries = _EXACT_QUERIES if exact else _QUERIES
    blocks, slopes = to_device(_query_blocks(runs, queries), like.device), _slopes(heads, like.device)

    def attend(qkv: Tensor) -> Tensor:
        size = qkv.shape[1] // (3 * heads)
        out = qkv.new_empty(len(qkv), heads * size)
        _attend[(len(blocks) * heads,)](
            qkv, out, blocks, slopes, _LOG2_E / size**0.5, heads, size, max(16, triton.next_power_of_2(size)), queries, _KEYS,
            exact, num_warps=4, num_stages=3,
        )  # fmt: skip
        return out

    return attend


def _query_blocks(runs: Sequence[tuple[int, int]], queries: int) -> np.ndarray:
    """Of each block of queries its first token, and where its sequence starts and ends: (blocks, 3) int32."""
    counts, lengths = (np.array(values, np.int64) for values in zip(*runs, strict=True))
    length = np.repeat(lengths, counts)
    end = np.cumsum(length)
    of_each = -(-length // queries)
    number = np.arange(of_each.sum()) - np.repeat(np.cumsum(of_each) - of_each, of_each)
    start, end = np.repeat(end - length, of_each), np.repeat(end, of_each)
    return np.stack([start + queries * number, start, end], 1).astype(np.int32)


@cache
def _slopes(heads: int, device: torch.device) -> Tensor:
    """Powers of two are computed faster than those of e, and are the same after a factor."""
    return to_device(np.float32(_LOG2_E) * np.array(alibi_slopes(heads), np.float32), device)


def gate(both: Tensor) -> Tensor:
    """gelu(first half) · second half of each row, the exact (erf) GELU: half as wide as (…, 2 · intermediate_size)."""
    width = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], width)
    block = min(1024, triton.next_power_of_2(width))
    _gate[(out.numel() // width, triton.cdiv(width, block))](both.contiguous(), out, width, block, num_warps=4)
    return out


def fuses_gate(weight: Tensor) -> bool:
    """Return whether `gated_product` is faster for weights, (2 · intermediate_size, hidden_size); measured on Hopper GPUs alone."""
    if not weight.is_cuda or torch.cuda.get_device_capability(weight.device)[0] != 9:
        return False
    return weight.dtype == torch.bfloat16 and weight.shape[0] % (2 * _COLUMNS) == 0 and weight.shape[1] % _STEP == 0


def gated_product(x: Tensor, weight: Tensor) -> Tensor:
    """`gate` of the product of rows, (…, hidden_size), and weights, (2 · intermediate_size, hidden_size): (…, intermediate_size).

    The product itself is never written, which saves half of what a pass moves beside products. Of a dtype with 8 or 11 bits of precision,
    with sizes that are multiples of 64 and 128.
    """
    width, rows = len(weight) // 2, x.numel() // x.shape[-1]
    out = x.new_empty(*x.shape[:-1], width)
    tiles = triton.cdiv(rows, _ROWS) * (width // _COLUMNS)
    _gated_product[(tiles,)](
        x.contiguous(), weight, out, rows, width, x.shape[-1], _ROWS, _COLUMNS, _STEP, _GROUP, num_warps=8, num_stages=3
    )
    return out


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of the sum of two tensors, (…, hidden_size)."""
    width = x.shape[-1]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _add_norm[(x.numel() // width,)](
        x.contiguous(), residual.contiguous(), weight, bias, out, eps, width, triton.next_power_of_2(width), num_warps=1
    )
    return out
