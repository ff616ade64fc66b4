"""The numbers of a page: what a version holds, computed from the store for a sample of its entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from dnafeat.errors import StoreError, UsageError
from dnafeat.statistics import principal_axes_of
from dnafeat.store import Store, digests
from dnafeat.store.lookup import Lookup
from dnafeat.store.matrices import matrix
from dnafeat.store.monitor import Monitoring, monitor
from dnafeat.store.reading import Reading
from dnafeat.store.refusals import refusals
from dnafeat.text import did_you_mean

SAMPLE = 2_000
"""Entries whose vectors are looked at."""

_COMPONENTS = 20
_NEIGHBOURS = 5
_SHOWN = 8  # entries in a table, and values of a key with a colour of their own
_OTHERS, _NONE = "(other values)", "(no value)"
_OWN = ("sequence_id", "source_name", "sequence_digest")


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """How well the nearest neighbours of the sampled entries tell a key.

    Attributes
    ----------
    agreement, chance : float
        Share of the 5 nearest neighbours, by cosine, with the entry's value, and of two entries drawn at random. NaN without a key.
    examples : list of (str, list of (str, float))
        Some entries, and the ids and cosines of their neighbours.
    """

    agreement: float
    chance: float
    examples: list[tuple[str, list[tuple[str, float]]]]


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Relative distances of the vectors that two versions have of the sampled sequences.

    Attributes
    ----------
    against : str
    compared : int
    median, upper, largest : float
        Of the distance over the longer vector's length; `upper` is the 95th percentile.
    groups : list of (str, int, float)
        Value of the key, entries, and mean distance.
    most : list of (str, float)
        Entries that moved most.
    note : str
        Why nothing is compared; else empty.
    """

    against: str
    compared: int = 0
    median: float = float("nan")
    upper: float = float("nan")
    largest: float = float("nan")
    groups: list[tuple[str, int, float]] = field(default_factory=list)
    most: list[tuple[str, float]] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a page shows.

    Attributes
    ----------
    lineage : Mapping[str, Any]
    run : Mapping[str, Any]
        The last run of the state that is shown, or the one asked for: its row in `runs`.
    entries, sequences : int
        Of the version, and distinct ones.
    ids : list of str
        Of the sample.
    vector : str
        The kind of vector that is shown.
    bases, tokens, norms : np.ndarray
        Of the sample, (n,).
    shares : np.ndarray
        Of the variance, by principal component: at most 20.
    places : np.ndarray
        The sample on the first two principal components, (n, 2).
    groups : list of str
        Value of the key by entry, or its length in a range.
    runs : list of mappings
        Rows of `runs` of the version, oldest first.
    """

    store: str
    version: str
    lineage: Mapping[str, Any]
    run: Mapping[str, Any]
    entries: int
    sequences: int
    keys: list[str]
    ids: list[str]
    vector: str
    bases: np.ndarray
    tokens: np.ndarray
    norms: np.ndarray
    shares: np.ndarray
    places: np.ndarray
    color_by: str
    groups: list[str]
    neighbourhood: Neighbourhood
    movement: Movement | None
    monitoring: Monitoring
    reasons: Mapping[str, int]
    runs: list[Mapping[str, Any]]


def facts(
    store: Store, version: str | None = None, *, against: str | None = None, run: str | None = None, color_by: str | None = None
) -> Facts:
    """Collect the numbers of a page.

    Raises
    ------
    UsageError
        No entry has the key `color_by`.
    StoreError
        Something that was asked for is not there, or the version has no entries.
    """
    reading = store.reading(version, run=run)
    table = reading.entries.table
    if not len(table):
        raise StoreError(f"version {reading.version} of {store.uri} has no entries: there is nothing to show")
    keys = [name for name in table.column_names if name not in _OWN]
    if color_by is not None and color_by not in [*keys, "source_name"]:
        raise UsageError(f"color_by names key {color_by!r}, which no entry has{did_you_mean(color_by, keys)}")
    history = store.history()
    other = None if against is None else history.resolve(against)
    sample = table.take(pa.array(drawn(len(table))))
    kind = reading.stored()[0] if "mean" not in reading.stored() else "mean"
    names, at = np.unique(digests.to_numpy(sample["sequence_digest"]), return_inverse=True)
    batch = Lookup(reading.features, reading.version, reading.parent).rows(names, [kind, "bases", "tokens"])
    vectors = matrix(batch[kind]).astype(np.float64)[at]
    bases, tokens = (batch[name].to_numpy(zero_copy_only=False)[at] for name in ("bases", "tokens"))
    values = None if color_by is None else sample[color_by].to_pylist()
    groups = by_length(bases) if values is None else by_value(values)
    ids = [str(one) for one in sample["sequence_id"].to_pylist()]
    shares, places = components(vectors)
    rows = store.runs.reload().read().sort_by("run_number").to_pylist()
    own = [row for row in rows if row["feature_version"] == reading.version]
    last = next(row for row in reversed(own) if row["run_number"] in reading.state.values())
    return Facts(
        store=store.uri,
        version=reading.version,
        lineage=history.lineage(reading.version),
        run=last,
        entries=len(table),
        sequences=len(reading.entries.distinct),
        keys=keys,
        ids=ids,
        vector=kind,
        bases=bases,
        tokens=tokens,
        norms=lengths(vectors),
        shares=shares,
        places=places,
        color_by=color_by or "length in bases",
        groups=groups,
        neighbourhood=neighbourhood(vectors, ids, values),
        movement=None if other is None else movement(store, reading, other, kind, ids, names, at, groups),
        monitoring=monitor(store, last["run_id"]),
        reasons=refusals(store, last["run_id"], 0).reasons if last["rejected"] else {},
        runs=own,
    )


def drawn(rows: int) -> np.ndarray:
    """Sorted places of the sample among so many rows: the same for the same number."""
    if rows <= SAMPLE:
        return np.arange(rows)
    return np.sort(np.random.default_rng(rows).choice(rows, SAMPLE, replace=False))


def lengths(vectors: np.ndarray) -> np.ndarray:
    """L2 norms, (n,) float64, of numbers of any size."""
    largest = np.maximum(np.abs(vectors).max(1), 1e-300)
    return largest * np.linalg.norm(vectors / largest[:, None], axis=1)


def components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the variance, at most 20, and places on the first two principal components, (n, 2); zeros where all vectors are equal."""
    scaled = vectors / max(float(np.abs(vectors).max()), 1e-300)
    centred = scaled - scaled.mean(0)
    whole = float((centred**2).sum())
    count = min(_COMPONENTS, *centred.shape)
    if whole <= 1e-20 * len(vectors):
        return np.zeros(count), np.zeros((len(vectors), 2))
    sizes, axes = principal_axes_of(centred, count)
    places = np.zeros((len(vectors), 2))
    places[:, : min(2, count)] = centred @ axes[:2].T
    return sizes / whole, places


def by_value(values: Sequence[Any]) -> list[str]:
    """Values of a key as text: the most frequent ones, and one name for all others."""
    texts = [_NONE if one is None else str(one) for one in values]
    kept = {name for name, _ in Counter(texts).most_common(_SHOWN)}
    return [one if one in kept else _OTHERS for one in texts]


def by_length(bases: np.ndarray) -> list[str]:
    """The quarter of the sample that a length falls into, as text."""
    ends = np.unique(np.quantile(bases, [0, 0.25, 0.5, 0.75, 1], method="nearest").astype(int))
    if len(ends) == 1:
        return [f"{ends[0]:,}"] * len(bases)
    place = np.clip(np.searchsorted(ends, bases, side="right") - 1, 0, len(ends) - 2)
    return [f"{ends[i]:,} to {ends[i + 1]:,}" for i in place]


def neighbourhood(vectors: np.ndarray, ids: Sequence[str], values: Sequence[Any] | None) -> Neighbourhood:
    """Find the nearest neighbours of each entry of the sample in the sample, by cosine."""
    count = min(_NEIGHBOURS, len(ids) - 1)
    if not count:
        return Neighbourhood(agreement=float("nan"), chance=float("nan"), examples=[])
    scale = lengths(vectors)
    cosines = (unit := vectors / np.where(scale > 0, scale, 1)[:, None]) @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    shown = np.linspace(0, len(ids) - 1, min(_SHOWN, len(ids))).astype(int)
    examples = [(ids[i], [(ids[j], float(cosines[i, j])) for j in nearest[i]]) for i in shown]
    agreement = chance = float("nan")
    if values is not None:
        codes = np.unique([_NONE if one is None else str(one) for one in values], return_inverse=True)[1]
        sizes = np.bincount(codes)
        agreement = float((codes[nearest] == codes[:, None]).mean())
        chance = float((sizes * (sizes - 1)).sum() / (len(ids) * (len(ids) - 1)))
    return Neighbourhood(agreement=agreement, chance=chance, examples=examples)


def movement(
    store: Store,
    reading: Reading,
    other: str,
    kind: str,
    ids: Sequence[str],
    names: np.ndarray,
    at: np.ndarray,
    groups: Sequence[str],
) -> Movement:
    """Compare the vectors of the sampled sequences, sorted digests `names` at places `at`, with those of another version."""
    history = store.history()
    if kind not in history.vectors(other):
        return Movement(against=other, note=f"version {other} stores no {kind} vectors")
    there = np.zeros(len(names), bool)
    for stored in store.stored_digests(other, names[0].decode(), names[-1].decode()):
        there |= np.isin(names, stored)
    if not there.any():
        return Movement(against=other, note=f"version {other} has no vectors of the sampled sequences")
    mine = Lookup(reading.features, reading.version, reading.parent).rows(names[there], [kind])
    its = Lookup(reading.features, other, history.parent(other)).rows(names[there], [kind])
    one, two = (matrix(batch[kind]).astype(np.float64) for batch in (mine, its))
    if one.shape != two.shape:
        return Movement(against=other, note=f"its {kind} vectors are {two.shape[1]} wide, and these {one.shape[1]}")
    longer = np.maximum(lengths(one), lengths(two))
    of_sequences = np.full(len(names), np.nan)
    of_sequences[there] = lengths(one - two) / np.where(longer > 0, longer, 1)
    distances = of_sequences[at]
    found = np.flatnonzero(np.isfinite(distances)).tolist()
    seen = Counter(groups[i] for i in found)
    means = [
        (name, count, float(np.mean([distances[i] for i in found if groups[i] == name]))) for name, count in seen.most_common()
    ]
    most = sorted(found, key=lambda i: -distances[i])[:_SHOWN]
    return Movement(
        against=other,
        compared=len(found),
        median=float(np.median(distances[found])),
        upper=float(np.percentile(distances[found], 95)),
        largest=float(distances[found].max()),
        groups=means,
        most=[(ids[i], float(distances[i])) for i in most],
    )
