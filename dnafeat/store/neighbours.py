"""Nearest neighbours among the entries of a version: every distinct sequence is compared once, and entries are listed by their keys."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat.errors import DnafeatWarning, MissingFileError, StoreError, UsageError
from dnafeat.store import digests
from dnafeat.store.conditions import Where, conditions, warn_of_unknown
from dnafeat.store.groups import vector_groups
from dnafeat.store.history import AsOf
from dnafeat.store.lookup import Lookup
from dnafeat.store.membership import Members
from dnafeat.store.nearest import METRICS, Metric, Nearest, check_queries
from dnafeat.store.reading import Entries, chosen, load_entries
from dnafeat.store.retry import READINGS
from dnafeat.text import did_you_mean
from dnafeat.vectors import VECTORS, VIEWS

if TYPE_CHECKING:
    from dnafeat.store.queries import Queries

Searched = Callable[["Scope", Nearest, Members], None]
"""Adds the vectors of a scope to the nearest."""
_MOST_K = 100_000


@dataclass(frozen=True)
class Scope:
    """Whose vectors are compared.

    Attributes
    ----------
    store : Queries
        Tables at the snapshots that are read.
    version : str
    parent : str | None
        The version whose vectors are compared where the version's own rows have none.
    column : str
    state, whole : Mapping[str, int]
        Of each source that is searched, or of all, the number of the run as of which.
    where : Where | None
    """

    store: Queries
    version: str
    parent: str | None
    column: str
    state: Mapping[str, int]
    whole: Mapping[str, int]
    where: Where | None

    @classmethod
    def of(
        cls,
        store: Queries,
        version: str | None,
        column: str,
        source: str | None = None,
        as_of: AsOf | None = None,
        where: Where | None = None,
    ) -> Scope:
        """Resolve it at the newest snapshots. Raises StoreError for what is not there."""
        history = store.history()
        digest = history.resolve(version)
        chosen([column], digest, history.vectors(digest))
        state = history.state(digest, as_of, source)
        store.features.reload().version()
        store.sequences.reload()
        store.check_whole(history, state.values())
        parent = history.parent(digest) if column in VIEWS else None
        return cls(store, digest, parent, column, state, history.state(digest, as_of), where)

    def members(self) -> Members:
        """The sequences of its entries."""
        keys = self.store.keys()
        chosen_by = conditions(self.where or {}, keys, self.store.uri)
        found = Members.of(self.store.sequences, self.state, chosen_by)
        if not len(found):
            for column, values in (self.where or {}).items():
                asked = [values] if isinstance(values, str) else values
                warn_of_unknown(self.store.sequences, self.state, column, asked, pa.chunked_array([], pa.string()))
        return found

    def vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Digests and vectors of all rows, the version's own first. A sequence may come once more with its parent's."""
        for version in (self.version, self.parent):
            if version is not None:
                yield from vector_groups(self.store.features, version, self.column)

    def entries(self, names: np.ndarray) -> Entries:
        """Those of its entries that have one of some digests."""
        here = ds.field("sequence_digest").isin(digests.to_arrow(np.unique(names)))
        return load_entries(self.store.sequences, self.state, self.whole, self.where, here)


def every(scope: Scope, nearest: Nearest, members: Members) -> None:
    """Compare all vectors of a scope, in this process."""
    for names, vectors in scope.vectors():
        new = members.meet(names)
        if new.any():
            nearest.add(names[new], vectors if new.all() else vectors[new])
    if lacking := members.lacking():
        raise StoreError(
            f"{scope.store.uri} is damaged: it lacks the vectors of {lacking} published sequences of version {scope.version}"
        )


def search(
    resolve: Callable[[], Scope],
    queries: np.ndarray,
    labels: Sequence[str],
    k: int,
    metric: Metric,
    by: Sequence[str] = (),
    compare: Searched = every,
) -> pa.Table:
    """The nearest sequences of each query, with their entries.

    Parameters
    ----------
    resolve : callable
        Makes the scope at the newest snapshots; called again where files are deleted or entries erased meanwhile.
    queries : np.ndarray
        (queries, width) float32.
    labels : sequence of str
        Their names.
    k, metric
        As of `Store.neighbours`.
    by : sequence of str
        Keys by which the entries of a neighbour are counted; none: they are listed.
    compare : callable
        As `every`.

    Raises
    ------
    StoreError, UsageError
        As `Store.neighbours`.
    """
    check_queries(queries, metric, list(labels))
    if len(set(labels)) < len(labels):
        raise UsageError(
            f"query {next(one for one in labels if list(labels).count(one) > 1)!r} stands twice: give each query once"
        )
    for attempt in range(READINGS):
        try:
            scope = resolve()
            members = scope.members()
            if not len(members):
                raise StoreError(f"no entry of version {scope.version} meets the conditions: nothing is compared")
            held = min(k, len(members))
            nearest = Nearest(queries, held, metric)
            _check_width(scope, queries)
            compare(scope, nearest, members)
            found = np.isfinite(nearest.distances)
            entries = scope.entries(nearest.names[found]) if found.any() else None
            # An erasure has come between, or two digests share a number.
            if entries is not None and not np.isin(nearest.names[found], entries.distinct).all():
                raise MissingFileError(f"entries of {scope.store.uri} were erased while it was searched: send the command again")
            break
        except MissingFileError:
            if attempt == READINGS - 1:
                raise
    _say(nearest, k, held)
    table = _table(nearest, entries, labels)
    return counted(table, by) if by else table


def check_question(column: str, metric: str, k: int) -> None:
    """Raise UsageError for a column without vectors, an unknown metric, or a number of neighbours that makes no sense."""
    if column not in VECTORS:
        raise UsageError(
            f"column {column!r} holds no vectors to compare: use {', '.join(VECTORS)}{did_you_mean(str(column), VECTORS)}"
        )
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is not known: use {', '.join(METRICS)}")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= _MOST_K:
        raise UsageError(f"k is {k!r}: give a whole number from 1 to {_MOST_K:,}")


def _check_width(scope: Scope, queries: np.ndarray) -> None:
    width = Lookup(scope.store.features, scope.version, scope.parent).widths([scope.column]).get(scope.column)
    if width not in (None, queries.shape[1]):
        raise UsageError(
            f"queries are {queries.shape[1]} wide and {scope.column} of version {scope.version} is {width}: give vectors of it"
        )


def _say(nearest: Nearest, k: int, held: int) -> None:
    if held < k:
        warnings.warn(
            f"{k:,} neighbours are asked for and there are {held:,} sequences: all are given", DnafeatWarning, stacklevel=3
        )
    if nearest.without_direction:
        warnings.warn(
            f"{nearest.without_direction:,} vectors of zeros have no direction and are left out of the cosine",
            DnafeatWarning,
            stacklevel=3,
        )


def _table(nearest: Nearest, entries: Entries | None, labels: Sequence[str]) -> pa.Table:
    """A row for each entry of a neighbour."""
    query, rank = np.nonzero(np.isfinite(nearest.distances))
    names = nearest.names[query, rank]
    if entries is None:
        entries = Entries(pa.table({n: pa.array([], pa.string()) for n in ("source_name", "sequence_id", "sequence_digest")}))
    keys = [name for name in entries.table.column_names if name not in ("source_name", "sequence_id", "sequence_digest")]
    at, rows = entries.matching(names)
    # Of equal digests by id, so that the order does not depend on files.
    ids = entries.table["sequence_id"].take(pa.array(at))
    order = pc.sort_indices(
        pa.table({"row": rows, "source": entries.table["source_name"].take(pa.array(at)), "id": ids}),
        sort_keys=[("row", "ascending"), ("source", "ascending"), ("id", "ascending")],
    ).to_numpy()
    at, rows = at[order], rows[order]
    head = {
        "query": pa.array(np.array(labels, object)[query[rows]], pa.string()),
        "rank": pa.array(rank[rows] + 1, pa.int32()),
        "distance": pa.array(nearest.distances[query, rank][rows]),
        "sequence_digest": digests.to_arrow(names[rows]),
    }
    own = entries.table.take(pa.array(at))
    left = {"query": head["query"], "neighbour": own["sequence_id"], "distance": head["distance"], "rank": head["rank"]}
    return pa.table({**left, "sequence_digest": head["sequence_digest"], **{name: own[name] for name in ("source_name", *keys)}})


def counted(table: pa.Table, by: Sequence[str]) -> pa.Table:
    """A table of neighbours with a row for each combination of some keys, and `entries`, how many have it.

    Raises UsageError for a key that is not there.
    """
    fixed = ("query", "rank", "distance", "sequence_digest")
    keys = [name for name in table.column_names if name not in (*fixed, "neighbour")]
    if strange := [name for name in by if name not in keys]:
        raise UsageError(f"the entries have no key {strange[0]!r} to count by: there are {', '.join(keys)}")
    number = pc.index_in(table["query"], table["query"].unique())
    some = table.select([*fixed, *by]).append_column("number", number)
    groups = some.group_by(some.column_names, use_threads=False).aggregate([([], "count_all")])
    groups = groups.rename_columns([*some.column_names, "entries"])
    order = [("number", "ascending"), ("rank", "ascending"), ("entries", "descending")]
    return groups.sort_by([*order, *((name, "ascending") for name in by)]).drop_columns(["number"])
