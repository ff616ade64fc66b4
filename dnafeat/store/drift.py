"""Drift between two versions: cosines and distances of the vectors of sequences that both have.

The digest range is walked in partitions: what is held at once is the vectors of one of them, and two numbers for each sequence and kind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dnafeat.errors import StoreError
from dnafeat.spill import Spill
from dnafeat.store import digests
from dnafeat.store.catalog import Store
from dnafeat.store.lookup import Lookup
from dnafeat.store.matrices import matrix
from dnafeat.store.retry import looking_again
from dnafeat.text import fitted
from dnafeat.vectors import VECTORS

# Entries of a partition: at 1,024 channels their vectors take about 230 MB.
_PARTITION_ROWS = 16_384
_NAMES = pa.schema([("sequence_digest", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of one kind of vector over all common sequences.

    Attributes
    ----------
    cosine_mean, cosine_median, cosine_p5, cosine_min : float
        Cosine similarity, its 5th percentile and minimum; 1 between two zero vectors, 0 between one and another vector.
    distance_mean, distance_median, distance_p95, distance_max : float
        L2 distance as a share of the longer vector's length, 0 to 2: the same whichever version comes first. 0 between two zero vectors.
    """

    cosine_mean: float
    cosine_median: float
    cosine_p5: float
    cosine_min: float
    distance_mean: float
    distance_median: float
    distance_p95: float
    distance_max: float


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Drift between two versions over the sequences that both have.

    Attributes
    ----------
    one, other : str
        The versions' digests.
    common, only_one, only_other : int
        Distinct sequences among the entries that the last published runs of each version name.
    vectors : Mapping[str, Agreement]
        For each kind of vector that can be compared; empty without common sequences.
    not_comparable : Mapping[str, str]
        The other kinds, and why.
    """

    one: str
    other: str
    common: int
    only_one: int
    only_other: int
    vectors: Mapping[str, Agreement]
    not_comparable: Mapping[str, str]

    def __repr__(self) -> str:
        return format_drift(self)


def diff(store: Store, one: str, other: str) -> Drift:
    """Compare the vectors of two versions, each named by digest, beginning of a digest or channel.

    Raises
    ------
    StoreError
        A version is not there, or vectors that it names are missing or not finite.
    """
    return looking_again(lambda: _diff(store, one, other))


def _diff(store: Store, one: str, other: str) -> Drift:
    history = store.history()
    versions = [history.resolve(name) for name in (one, other)]
    states = [history.state(version) for version in versions]
    stored = [history.vectors(version) for version in versions]
    # Loaded after `runs`, both tables hold at least what the published runs name; `features` first, since an erasure comes to it last.
    store.features.reload().version()
    store.sequences.reload()
    store.check_whole(history, {number for state in states for number in state.values()})
    lookups = [Lookup(store.features, version, history.parent(version)) for version in versions]
    comparison = _Comparison(store, lookups, [name for name in VECTORS if all(name in names for names in stored)])
    apart = {
        name: f"stored by {versions[0] if name in stored[0] else versions[1]} alone"
        for name in VECTORS
        if (name in stored[0]) != (name in stored[1])
    }
    common = only_one = only_other = 0
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        for first, second in _partitions(store, states, Path(folder)):
            both = np.intersect1d(first, second, assume_unique=True)
            common += len(both)
            only_one += len(first) - len(both)
            only_other += len(second) - len(both)
            if len(both):
                comparison.add(both)
    return Drift(
        one=versions[0],
        other=versions[1],
        common=common,
        only_one=only_one,
        only_other=only_other,
        vectors=comparison.agreements(),
        not_comparable={**apart, **comparison.apart},
    )


def _partitions(store: Store, states: Sequence[Mapping[str, int]], folder: Path) -> Iterator[Sequence[np.ndarray]]:
    """For each partition of the digest range in turn, the sorted distinct digests that each state's entries name: (n,) of dtype S35."""
    rows = max(store.count_entries(state) for state in states)
    count = min(digests.MAX_PARTITIONS, -(-rows // _PARTITION_ROWS) or 1)
    spills = [Spill(folder, f"names-{i}", _NAMES, count) for i in range(len(states))]
    for spill, state in zip(spills, states, strict=True):
        for own in store.entry_digests(state):
            spill.add(pa.record_batch([digests.to_arrow(own)], schema=_NAMES), digests.partition(own, count))
        spill.close()
    for i in range(count):
        yield [np.unique(digests.to_numpy(spill.table(i)["sequence_digest"])) for spill in spills]


class _Comparison:
    """Cosines and distances, gathered a partition at a time. `kinds` lists what both versions store."""

    def __init__(self, store: Store, lookups: Sequence[Lookup], kinds: Sequence[str]) -> None:
        self._store, self._lookups, self._kinds = store, lookups, list(kinds)
        self._versions = [lookup.version for lookup in lookups]
        self.apart: dict[str, str] = {}
        self._cosines: dict[str, list[np.ndarray]] = {}
        self._distances: dict[str, list[np.ndarray]] = {}

    def add(self, names: np.ndarray) -> None:
        """Compare the vectors of some sequences, given by sorted digests that both versions name."""
        held = {name: np.empty((0, 0), np.float32) for name in self._kinds}
        for place, vectors in self._vectors(self._lookups[0], names):
            for name, values in vectors.items():
                if not held[name].size:
                    held[name] = np.empty((len(names), values.shape[1]), np.float32)
                held[name][place] = values
        cosines = {name: np.empty(len(names), np.float32) for name in self._kinds}
        distances = {name: np.empty(len(names), np.float32) for name in self._kinds}
        for place, vectors in self._vectors(self._lookups[1], names):
            for name, values in vectors.items():
                widths = held[name].shape[1], values.shape[1]
                if widths[0] == widths[1]:
                    cosines[name][place], distances[name][place] = _compare(held[name][place], values)
                else:
                    self.apart[name] = f"{widths[0]} wide in {self._versions[0]} and {widths[1]} in {self._versions[1]}"
        self._kinds = [name for name in self._kinds if name not in self.apart]
        for name in self._kinds:
            if not np.isfinite(cosines[name]).all():
                raise StoreError(f"{self._store.uri} is damaged: a {name} vector of {' or '.join(self._versions)} is not finite")
            self._cosines.setdefault(name, []).append(cosines[name])
            self._distances.setdefault(name, []).append(distances[name])

    def _vectors(self, lookup: Lookup, names: np.ndarray) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Places in `names` with their vectors of a version, (n, width) float32 each. All of them, each once."""
        for place, batch in lookup.in_chunks(names, ["sequence_digest", *self._kinds]):
            yield place, {name: matrix(batch[name]) for name in self._kinds}

    def agreements(self) -> dict[str, Agreement]:
        return {
            name: _agreement(np.concatenate(self._cosines[name]), np.concatenate(self._distances[name])) for name in self._cosines
        }


def _compare(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and relative distances of the rows of two (n, width) float32 arrays: (n,) float64 each."""
    # In double precision: a float32 sum over 1,024 channels is off by more than what two runs of one model differ.
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths, others, apart = (np.sqrt(np.einsum("ij,ij->i", rows, rows)) for rows in (one, other, one - other))
    product, longer = lengths * others, np.maximum(lengths, others)
    with np.errstate(invalid="ignore"):  # infinities become NaN, which is reported
        cosine = np.einsum("ij,ij->i", one, other) / np.where(product == 0, 1, product)
        distance = apart / np.where(longer == 0, 1, longer)
    cosine[longer == 0] = 1
    return np.clip(cosine, -1, 1), distance


def _agreement(cosines: np.ndarray, distances: np.ndarray) -> Agreement:
    cosines, distances = cosines.astype(np.float64), distances.astype(np.float64)
    return Agreement(
        cosine_mean=float(cosines.mean()),
        cosine_median=float(np.median(cosines)),
        cosine_p5=float(np.percentile(cosines, 5)),
        cosine_min=float(cosines.min()),
        distance_mean=float(distances.mean()),
        distance_median=float(np.median(distances)),
        distance_p95=float(np.percentile(distances, 95)),
        distance_max=float(distances.max()),
    )


def format_drift(drift: Drift, width: int | None = None) -> str:
    """The comparison as a few lines and a small table, in blocks where the terminal is narrower."""
    lines = [
        f"{drift.common:,} sequences in both, {drift.only_one:,} in {drift.one} alone, {drift.only_other:,} in {drift.other} alone"
    ]
    if drift.vectors:
        heads = ("vector", "cosine", "median", "5th pct.", "least", "distance", "median", "95th pct.", "most")
        rows = [[name, *(f"{value:.6f}" for value in astuple(agreement))] for name, agreement in drift.vectors.items()]
        lines += ["", "Mean cosine, and mean distance over the longer length, with their spread:"]
        lines.append(fitted([heads, *rows], right=range(1, 9), width=width))
    lines += [f"{name:<10} cannot be compared: {why}" for name, why in drift.not_comparable.items()]
    return "\n".join(lines)
