"""A label for each base: texts to classes and back, classes of bases to classes of tokens, values of tokens to values of bases."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from dnafeat.errors import UsageError

IGNORED = -100  # the class of a token without bases; torch's cross-entropy leaves it out by default
OUTSIDE = "none"  # the class of bases outside every interval
_INTERVAL = re.compile(r"\s*(\d+)\s*-\s*(\d+)\s*=\s*(\S|\S.*\S)\s*", re.ASCII)


def read_per_base(text: str, length: int, place: str) -> tuple[list[str], np.ndarray]:
    """The names in one row of task token, and for each base the position of its own among them, (length,) int64."""
    parts = [part for part in text.split(";") if part.strip()]
    matches = [match for part in parts if (match := _INTERVAL.fullmatch(part))]
    if len(matches) < len(parts) or not parts:
        if len(text) != length:
            raise UsageError(
                f"{place}: label {short(text)!r} is neither one character per base, which would be {length} and not {len(text)}, nor "
                f"intervals start-end=name with ; between; correct it"
            )
        letters, codes = np.unique(np.frombuffer(text.encode("utf-32-le"), "<U1"), return_inverse=True)
        return letters.tolist(), codes
    codes = np.full(length, -1)
    for i, match in enumerate(matches):
        start, stop = int(match[1]), int(match[2])
        if not start < stop <= length:
            raise UsageError(
                f"{place}: interval {parts[i].strip()!r} does not lie inside the sequence, which has {length} bases; start-end is 0-based "
                f"and half open, with start below end"
            )
        if (before := codes[start:stop].max()) >= 0:
            raise UsageError(
                f"{place}: interval {parts[i].strip()!r} overlaps {parts[before].strip()!r}; give each base one class at most"
            )
        codes[start:stop] = i
    names, outside = [match[3] for match in matches], codes < 0
    codes[outside] = len(names)
    return names + [OUTSIDE] * bool(outside.any()), codes


def intervals(classes: np.ndarray, names: Sequence[str]) -> str:
    """Classes of bases, (bases,) int64, as `start-end=name;…`, 0-based and half open; bases of class -1 are in none."""
    edges = np.flatnonzero(np.diff(classes)) + 1
    runs = zip([0, *edges], [*edges, len(classes)], strict=True)
    return ";".join(f"{a}-{b}={names[classes[a]]}" for a, b in runs if classes[a] >= 0)


def token_classes(per_base: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The class that most of a token's bases have, and among equally frequent ones that of the earliest base.

    Parameters
    ----------
    per_base : np.ndarray, shape=(bases,), int64
        0 or more.
    starts, stops : np.ndarray, shape=(tokens,), int64
        0-based, half open, within the sequence; tokens may overlap.

    Returns
    -------
    np.ndarray, shape=(tokens,), int64
        `IGNORED` for tokens without bases.
    """
    token, base = _spread(starts, stops)
    k = int(per_base.max(initial=0)) + 1
    pair, first, count = np.unique(token * k + per_base[base], return_index=True, return_counts=True)
    owner = pair // k
    order = np.lexsort((first, -count, owner))
    some, best = np.unique(owner[order], return_index=True)
    classes = np.full(len(starts), IGNORED, np.int64)
    classes[some] = (pair % k)[order][best]
    return classes


def base_values(per_token: np.ndarray, starts: np.ndarray, stops: np.ndarray, bases: int) -> np.ndarray:
    """Each base's values: those of its token, the mean where several cover it (k-mers), NaN where none does.

    Parameters
    ----------
    per_token : np.ndarray, shape=(tokens, k), float
    starts, stops : np.ndarray, shape=(tokens,), int64
        0-based, half open, within the sequence.
    bases : int

    Returns
    -------
    np.ndarray, shape=(bases, k), dtype of `per_token`
    """
    token, base = _spread(starts, stops)
    k = per_token.shape[1]
    cells = (base[:, None] * k + np.arange(k)).ravel()
    # Sums of what covers a base, not differences of running sums: the values of a single token come back exactly.
    sums = np.bincount(cells, per_token[token].ravel(), minlength=bases * k).reshape(bases, k)
    count = np.bincount(base, minlength=bases)[:, None]
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan).astype(per_token.dtype)


def _spread(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of a token and one of its bases, in order, as two int64 arrays."""
    size = np.maximum(stops - starts, 0)
    token = np.repeat(np.arange(len(size)), size)
    within = np.arange(len(token)) - np.repeat(np.cumsum(size) - size, size)
    return token, starts[token] + within


def short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
