"""Profile of a run: counts, histograms and moments of what it read and encoded, kept with its row in `runs` and compared by `monitor`.

Every number is rounded to a whole one before it is summed, so that sums are exact: the profile is the same whatever the order, the shards
and the number of workers. It names no entry and no value of a key, and one of few entries keeps their counts alone.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

FEWEST = 32
"""Rows below which a profile keeps no histogram and no moments: those of a few entries would describe persons."""

LETTERS = 2_048
"""Bases from the beginning of an entry whose composition is counted."""

KEY_BUCKETS = 64
_FREQUENCY = 4_096  # of a pair of letters, as a whole number
_COMPONENT, _PROJECTION = 2.0**16, 2.0**-6  # of a vector of length 1, and of its projections
_PROJECTIONS = 16
_FORMAT = 1
_CODES = np.full(256, 4, np.uint8)
for _i, _letter in enumerate("ACGT"):
    _CODES[[ord(_letter), ord(_letter.lower())]] = _i
_CODES[[ord("U"), ord("u")]] = 3
_ZERO = -(10**6)  # bin of vectors that are zero


@dataclass(frozen=True)
class ExactMoments:
    """Number of rows, their sum, (p,), and the sum of their outer products, (p, p): whole numbers in float64, exact below 2**53."""

    rows: int
    sums: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> ExactMoments:
        """Of (n, p) whole numbers in float64."""
        return cls(len(values), values.sum(0), values.T @ values)

    def __add__(self, other: ExactMoments) -> ExactMoments:
        return ExactMoments(self.rows + other.rows, self.sums + other.sums, self.products + other.products)

    def mean(self) -> np.ndarray:
        """(p,) float64."""
        return self.sums / self.rows

    def scatter(self) -> np.ndarray:
        """Sum of the outer products of deviations from the mean, (p, p) float64."""
        return self.products - np.outer(self.sums, self.sums) / self.rows


@dataclass(frozen=True)
class Profile:
    """Statistics of a run that add up over its parts.

    Attributes
    ----------
    counts : Mapping[str, int]
        `entries` accepted, `rejected`, `distinct` sequences, `known` ones among them that had vectors of the version, `returning` entries
        whose id the source had before, `changed` ones among them with another sequence or key, and `missing/KEY`.
    histograms : Mapping[str, Mapping[int, int]]
        Rows by bin: `length` (1/16 octave), `gc` and `n_share` (1/40), `first` and `last` (three letters), `norm/VECTOR` (1/32 octave), and
        `key/KEY` (entries by one of 64 hash buckets of the key's value).
    moments : Mapping[str, ExactMoments]
        `composition` (frequencies of the 16 pairs of letters) and `vector/VECTOR` (16 random projections of the vector's direction).
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    histograms: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    moments: Mapping[str, ExactMoments] = field(default_factory=dict)

    def __add__(self, other: Profile) -> Profile:
        counts = {name: self.counts.get(name, 0) + other.counts.get(name, 0) for name in {**self.counts, **other.counts}}
        histograms = {
            name: _added(self.histograms.get(name, {}), other.histograms.get(name, {}))
            for name in {**self.histograms, **other.histograms}
        }
        moments = dict(self.moments)
        for name, one in other.moments.items():
            moments[name] = moments[name] + one if name in moments else one
        return Profile(counts, histograms, moments)

    def with_counts(self, **counts: int) -> Profile:
        """The same with more counts."""
        return Profile({**self.counts, **counts}, self.histograms, self.moments)

    def discreet(self) -> Profile:
        """Without the histograms and moments of fewer than `FEWEST` rows."""
        histograms = {name: one for name, one in self.histograms.items() if sum(one.values()) >= FEWEST}
        return Profile(self.counts, histograms, {name: one for name, one in self.moments.items() if one.rows >= FEWEST})

    def to_json(self) -> str:
        """Compact JSON with sorted names; of symmetric products the upper triangle."""
        moments = {
            name: {"rows": one.rows, "sums": _whole(one.sums), "products": _whole(one.products[np.triu_indices(len(one.sums))])}
            for name, one in self.moments.items()
        }
        histograms = {name: {str(at): one[at] for at in sorted(one)} for name, one in self.histograms.items()}
        document = {"format": _FORMAT, "counts": dict(self.counts), "histograms": histograms, "moments": moments}
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Profile | None:
        """Read what `to_json` wrote; None for a format of a later release."""
        document = json.loads(text)
        if document.get("format") != _FORMAT:
            return None
        histograms = {name: {int(at): count for at, count in one.items()} for name, one in document["histograms"].items()}
        moments = {}
        for name, one in document["moments"].items():
            sums = np.array(one["sums"], np.float64)
            products = np.zeros((len(sums), len(sums)))
            products[np.triu_indices(len(sums))] = one["products"]
            moments[name] = ExactMoments(one["rows"], sums, products + np.triu(products, 1).T)
        return cls(document["counts"], histograms, moments)


def total(profiles: Iterable[Profile]) -> Profile:
    """The sum of profiles."""
    return functools.reduce(Profile.__add__, profiles, Profile())


def _added(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return {at: one.get(at, 0) + other.get(at, 0) for at in {**one, **other}}


def _whole(values: np.ndarray) -> list[int]:
    return [int(value) for value in values]


def histogram(bins: np.ndarray) -> dict[int, int]:
    """Rows by bin, of (n,) bins."""
    values, counts = np.unique(bins.astype(np.int64), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def sequences_profile(letters: Sequence[bytes]) -> Profile:
    """Profile sequences: composition, GC, share of N, length, and the three letters at either end."""
    if not letters:
        return Profile()
    n = len(letters)
    cut = [one[:LETTERS] for one in letters]
    sizes = np.array([len(one) for one in cut])
    lengths = np.array([len(one) for one in letters], np.float64)
    codes = _CODES[np.frombuffer(b"".join(cut), np.uint8)]
    owner = np.repeat(np.arange(n), sizes)
    singles = np.bincount(owner * 5 + codes, minlength=5 * n).reshape(n, 5)
    inside = (owner[1:] == owner[:-1]) & (codes[1:] < 4) & (codes[:-1] < 4)
    pairs = np.bincount((owner[1:] * 16 + codes[:-1] * 4 + codes[1:])[inside], minlength=16 * n).reshape(n, 16)
    known = singles[:, :4].sum(1)
    gc = (singles[:, 1] + singles[:, 2]) / np.maximum(known, 1)
    frequencies = np.rint(pairs * (_FREQUENCY / np.maximum(pairs.sum(1, keepdims=True), 1)))
    histograms = {
        "length": histogram(np.rint(np.log2(np.maximum(lengths, 1)) * 16)),
        "gc": histogram(np.floor(gc * 40)[known > 0]),
        "n_share": histogram(np.floor(singles[:, 4] / np.maximum(sizes, 1) * 40)),
        "first": histogram(_triplets([one[:3] for one in letters])),
        "last": histogram(_triplets([one[-3:] for one in letters])),
    }
    return Profile({}, histograms, {"composition": ExactMoments.of(frequencies)})


def _triplets(ends: Sequence[bytes]) -> np.ndarray:
    codes = _CODES[np.frombuffer(b"".join(one.ljust(3, b"N") for one in ends), np.uint8)].reshape(-1, 3).astype(np.int64)
    return np.where((codes < 4).all(1), codes @ np.array([16, 4, 1]), 64)


def keys_profile(columns: Mapping[str, pa.Array]) -> Profile:
    """Profile keys of entries: how many lack each, and how entries are dealt over hash buckets of the values."""
    counts, histograms = {}, {}
    for name, column in columns.items():
        counts[f"missing/{name}"] = column.null_count
        buckets: dict[int, int] = {}
        for value, count in ((one["values"], one["counts"]) for one in column.drop_null().value_counts().to_pylist()):
            bucket = zlib.crc32(str(value).encode()) % KEY_BUCKETS
            buckets[bucket] = buckets.get(bucket, 0) + count
        histograms[f"key/{name}"] = buckets
    return Profile(counts, histograms)


@functools.cache
def _signs(width: int) -> np.ndarray:
    """Random signs, (width, 16) float64: the same wherever they are drawn."""
    bits = np.random.Generator(np.random.PCG64(width)).integers(0, 2, (width, _PROJECTIONS))
    return 2.0 * bits - 1.0


def vectors_profile(vectors: Mapping[str, np.ndarray]) -> Profile:
    """Profile (n, width) vectors by their names: norms, and projections of their directions. Rows that are not finite do not count."""
    histograms, moments = {}, {}
    for name, rows in vectors.items():
        rows = rows[np.isfinite(rows).all(1)].astype(np.float64)
        if not len(rows):
            continue
        largest = np.abs(rows).max(1)
        scaled = rows / np.where(largest > 0, largest, 1)[:, None]
        norms = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
        with np.errstate(divide="ignore"):
            octaves = np.rint((np.log2(norms) + np.log2(largest)) * 32)
        histograms[f"norm/{name}"] = histogram(np.where(largest > 0, octaves, _ZERO))
        whole = np.rint(scaled / np.where(norms > 0, norms, 1)[:, None] * _COMPONENT)
        # Products of whole numbers by signs are exact in any order, so that the rounding below is the same everywhere.
        moments[f"vector/{name}"] = ExactMoments.of(np.rint(whole @ _signs(rows.shape[1]) * _PROJECTION))
    return Profile({}, histograms, moments)


def parsed(row: Mapping[str, Any]) -> Profile | None:
    """The profile in a row of `runs`; None for a run of an earlier release, or of a later format."""
    text = row.get("profile")
    return Profile.from_json(text) if text else None
