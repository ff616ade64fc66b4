"""Vectors of sequences: as they come from the encoder, while a GPU computes them, and put together from parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dnafeat.encoder.windows import Windows
from dnafeat.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Vectors:
    """Vectors of sequences, in input order.

    Attributes
    ----------
    cls, mean, max : np.ndarray, shape=(n, hidden_size), float32
    projected : np.ndarray, shape=(n, 512), float32
    tokens : np.ndarray, shape=(n,), int64
        Content tokens of the forward strand, special ones not counted; of a truncated sequence those kept.
    windows : np.ndarray, shape=(n,), int32
        Of the forward strand.
    truncated : np.ndarray, shape=(n,), bool
        Whether the end of a sequence was left out.
    needed, computed : int
        Tokens of all windows with their special ones, and those computed, padding among them.
    """

    cls: np.ndarray
    mean: np.ndarray
    max: np.ndarray
    projected: np.ndarray
    tokens: np.ndarray
    windows: np.ndarray
    truncated: np.ndarray
    needed: int
    computed: int

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {getattr(self, name).shape}" for name in ("cls", "mean", "max", "projected"))
        return f"Vectors({shapes}; {int(self.tokens.sum()):,} tokens)"

    @property
    def padding_share(self) -> float:
        """Share of the tokens computed that were padding."""
        return 1 - self.needed / self.computed if self.computed else 0.0

    def pooled(self, views: str) -> np.ndarray:
        """One or several of cls, mean, max and projected end to end, named with plus signs: `cls+mean` is (n, 2 · hidden_size)."""
        known = ("cls", "mean", "max", "projected")
        names = views.split("+")
        if strange := [name for name in names if name not in known]:
            raise UsageError(f"no vector {strange[0]!r}: name some of {', '.join(known)}, with + between")
        return np.concatenate([getattr(self, name) for name in names], axis=1)


class Collected:
    """Vectors of `n` sequences that come in parts, in order, put into one place as they come."""

    def __init__(self, n: int) -> None:
        self._n, self._filled, self._sums = n, 0, dict[str, Any](needed=0, computed=0)
        self._arrays: dict[str, Any] = {}

    def add(self, part: Vectors) -> None:
        for name, values in vars(part).items():
            if name in self._sums:
                self._sums[name] += values
                continue
            if name not in self._arrays:
                self._arrays[name] = np.empty((self._n, *values.shape[1:]), values.dtype)
            self._arrays[name][self._filled : self._filled + len(values)] = values
        self._filled += len(part.tokens)

    def vectors(self) -> Vectors:
        return Vectors(**self._arrays, **self._sums)


class Begun:
    """Vectors that a GPU may still be computing."""

    def __init__(self, vectors: dict[str, Tensor], windows: Windows, needed: int, computed: int) -> None:
        self._vectors, self._windows, self._needed, self._computed = vectors, windows, needed, computed
        self._done = torch.cuda.Event() if vectors["mean"].is_pinned() else None
        if self._done is not None:
            self._done.record()

    def wait(self) -> None:
        """Wait until the vectors are computed."""
        if self._done is not None:
            self._done.synchronize()

    def vectors(self) -> Vectors:
        """Wait for the vectors and return them. On a GPU they are in pinned memory."""
        self.wait()
        return Vectors(
            **{name: values.numpy() for name, values in self._vectors.items()},
            tokens=self._windows.tokens(),
            windows=self._windows.counts().astype(np.int32),
            truncated=self._windows.cut,
            needed=self._needed,
            computed=self._computed,
        )


def one_behind(begun: Iterable[T]) -> Iterator[T]:
    """Yield each item once the one after it has begun, so that a GPU computes that one while this one is used."""
    before: list[T] = []
    for one in begun:
        yield from before
        before = [one]
    yield from before
