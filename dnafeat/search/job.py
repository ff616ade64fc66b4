"""`dnafeat neighbours`: the nearest entries of ids and sequences, whose vectors are looked up, or made where the store has none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from dnafeat import sequence as dna
from dnafeat.errors import StoreError, UsageError
from dnafeat.pseudonyms import read_salt
from dnafeat.search.asked import Query, as_sequence, parse
from dnafeat.search.config import NeighboursConfig
from dnafeat.search.panel import with_panel
from dnafeat.store import Store
from dnafeat.store.conditions import Where, parse_where
from dnafeat.store.history import AsOf
from dnafeat.store.matrices import matrix
from dnafeat.store.nearest import Metric
from dnafeat.store.neighbours import check_question, counted
from dnafeat.store.online import Asked, check_known, digests_of


def neighbours(
    store: Store | str,
    ids: Iterable[str] = (),
    sequences: Mapping[str, str] | Sequence[str] = (),
    *,
    version: str | None = None,
    column: str = "mean",
    metric: Metric = "cosine",
    k: int = 10,
    where: Where | None = None,
    source: str | None = None,
    as_of: AsOf | None = None,
    by: Sequence[str] = (),
    salt_file: str | None = None,
) -> pa.Table:
    """The nearest sequences of ids and of any sequences, which are encoded by the version's own model.

    Parameters
    ----------
    store : Store | str
    ids : iterable of str
        Entries of the version.
    sequences : mapping of str to str, or sequence of str
        Letters by name, or letters alone.
    version, column, metric, k, where, source, as_of, by, salt_file
        As of `Store.neighbours`, whose table is returned.

    Raises
    ------
    DnafeatError
        As `Store.neighbours`, and where the model of the version is not there or is another one by now.

    Examples
    --------
    >>> dnafeat.neighbours("store", sequences={"mine": "ACGTTGCA"}, k=5)
    """
    named = sequences.items() if isinstance(sequences, Mapping) else ((one, one) for one in sequences)
    queries = [*(Query(name) for name in ids), *(Query(name, letters) for name, letters in named)]
    store = Store(store) if isinstance(store, str) else store
    return _found(store, queries, version, column, metric, k, where, source, as_of, by, salt_file, loose=False)


def run(config: NeighboursConfig) -> pa.Table:
    """The table of a search from the command line."""
    store = Store(config.store)
    where = parse_where(config.where)
    queries = parse(config.query)
    options = (config.version, config.column, config.metric, config.k, where, config.source, config.as_of)
    by = () if config.panel is not None else config.by
    table = _found(store, queries, *options, by, config.salt_file, loose=True)
    if config.panel is None:
        return table
    table = with_panel(table, config.panel)
    return counted(table, config.by) if config.by else table


def _found(
    store: Store,
    queries: Sequence[Query],
    version: str | None,
    column: str,
    metric: Metric,
    k: int,
    where: Where | None,
    source: str | None,
    as_of: AsOf | None,
    by: Sequence[str],
    salt_file: str | None,
    *,
    loose: bool,
) -> pa.Table:
    """Search; where `loose`, a name that is no id is taken for a sequence if it can be one."""
    check_question(column, metric, k)
    if not queries:
        raise UsageError("there is no query: give ids or sequences")
    salt = None if salt_file is None else read_salt(salt_file, store.uri)
    history = store.history()
    digest = history.resolve(version)
    state = history.state(digest)
    store.sequences.reload()
    names = [query.name for query in queries if query.sequence is None]
    if names:
        asked = Asked.of(names, None, salt)
        found = digests_of(store.sequences, state, asked)
        other = {name: as_sequence(name) if loose else None for name, one in zip(names, found, strict=True) if one is None}
        known = [one if one is not None or other[name] is None else "" for name, one in zip(names, found, strict=True)]
        _check(store, state, asked, known)
        queries = [other.get(query.name) or query for query in queries]
    vectors = _vectors(store, digest, column, queries, salt_file)
    labels = [query.name for query in queries]
    return store.neighbours(
        None, digest, column, metric, k, vectors=vectors, labels=labels, where=where, source=source, as_of=as_of, by=by
    )


def _check(store: Store, state: Mapping[str, int], asked: Asked, found: Sequence[str | None]) -> None:
    """`check_known`, with the letters that keep a name from being a sequence."""
    try:
        check_known(store.sequences, state, asked, found)
    except StoreError as error:
        missing = next(name for name, one in zip(asked.names, found, strict=True) if one is None)
        fault = dna.problem(dna.normalise(missing.encode(errors="replace")), alphabet=dna.IUPAC)
        raise StoreError(f"{error}; as a sequence, {fault}" if fault else str(error)) from None


def _vectors(store: Store, version: str, column: str, queries: Sequence[Query], salt_file: str | None) -> np.ndarray:
    """Vectors of queries in their order: stored ones where the store has them, and others from the version's model."""
    ids = [query.name for query in queries if query.sequence is None]
    letters = [query.sequence for query in queries if query.sequence is not None]
    parts: dict[bool, np.ndarray] = {}
    if ids:
        parts[True] = matrix(store.get(ids, version, [column], salt_file=salt_file)[column])
    if letters:
        parts[False] = _of_sequences(store, version, column, letters, salt_file)
    if len({part.shape[1] for part in parts.values()}) > 1:
        raise UsageError("queries that are ids and those that are sequences have vectors of different widths")
    whole = np.empty((len(queries), next(iter(parts.values())).shape[1]), np.float32)
    is_id = np.array([query.sequence is None for query in queries])
    for kind, part in parts.items():
        whole[is_id == kind] = part
    return whole


def _of_sequences(store: Store, version: str, column: str, letters: list[str], salt_file: str | None) -> np.ndarray:
    there = store.get(None, version, [column], sequences=letters, missing="null", salt_file=salt_file)[column].combine_chunks()
    has = there.is_valid().to_numpy(zero_copy_only=False)
    if has.all():
        return matrix(there)
    from dnafeat.search.encoding import encode

    new = [one for one, known in zip(letters, has, strict=True) if not known]
    made = encode(store.uri, version, store.lineage(version), column, new)
    whole = np.empty((len(letters), made.shape[1]), np.float32)
    whole[~has] = made
    if has.any():
        whole[has] = matrix(there.drop_null())
    return whole
