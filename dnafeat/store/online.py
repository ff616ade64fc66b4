"""Vectors of some entries by id or by sequence, in the order asked: `Store.get`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from dnafeat import pseudonyms
from dnafeat import sequence as dna
from dnafeat.declarations import shown
from dnafeat.errors import StoreError, UsageError
from dnafeat.store import digests
from dnafeat.store.conditions import stood
from dnafeat.store.lookup import Lookup
from dnafeat.store.matrices import matrix
from dnafeat.store.reading import chosen, is_vector, stored
from dnafeat.store.table import Table
from dnafeat.text import did_you_mean

if TYPE_CHECKING:
    from dnafeat.store.queries import Queries

_ID, _NAME = "sequence_id", "sequence_digest"
_SHOWN = 5  # of those that are missing
_MOST_COMPARED = 10_000


@dataclass(frozen=True)
class Asked:
    """What is looked up: entries by id, or sequences.

    Attributes
    ----------
    column : str
        `sequence_id` or `sequence_digest`.
    values : list of str
        Of that column, as they stand in the store.
    names : list of str
        The same as they were asked for.
    """

    column: str
    values: list[str]
    names: list[str]

    @classmethod
    def of(cls, ids: Iterable[str] | None, sequences: Iterable[str] | None, salt: bytes | None = None) -> Asked:
        """Raise UsageError unless either ids or sequences are given, all of them texts, and sequences of IUPAC letters."""
        if (ids is None) == (sequences is None):
            raise UsageError("give ids or sequences, and not both")
        names = _texts(ids, "ids") if ids is not None else _texts(sequences, "sequences")
        if ids is not None:
            return cls(_ID, names if salt is None else list(pseudonyms.pseudonyms(names, salt)), names)
        letters = [dna.normalise(text.encode(errors="replace")) for text in names]
        for i, one in enumerate(letters):
            if fault := dna.problem(one, alphabet=dna.IUPAC):
                raise UsageError(f"sequence {i} of {len(letters)} cannot be looked up: {fault}")
        return cls(_NAME, [dna.digest(one, salt or b"") for one in letters], names)


def _texts(values: Any, what: str) -> list[str]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UsageError(f"{what} is {shown(values)}: give a list of texts")
    found = list(values)
    if strange := [value for value in found if not isinstance(value, str)]:
        raise UsageError(f"{what} holds {shown(strange[0])}, which is no text: ask for {str(strange[0])!r}")
    return found


def digests_of(sequences: Table, state: Mapping[str, int], asked: Asked) -> list[str | None]:
    """The digest of each value asked for, in order; None where no entry of a state has it.

    Raises StoreError for an id that several sources have for different sequences.
    """
    found: dict[str, tuple[str, str]] = {}
    sought = pa.array(sorted(set(asked.values)), pa.string())
    for source, number in state.items():
        where = stood(source, number) & ds.field(asked.column).isin(sought)
        columns = list(dict.fromkeys([asked.column, _NAME]))
        rows = sequences.read(columns, where, [("source_name", "=", source)])
        for value, digest in zip(rows[asked.column].to_pylist(), rows[_NAME].to_pylist(), strict=True):
            before = found.setdefault(value, (digest, source))
            if before[0] != digest:
                raise StoreError(
                    f"entry {value!r} stands in source {before[1]!r} and in source {source!r} with different sequences: name the source"
                )
    return [found[value][0] if value in found else None for value in asked.values]


def check_known(sequences: Table, state: Mapping[str, int], asked: Asked, found: Sequence[str | None]) -> None:
    """Raise StoreError, which names some with the closest known ids, where something was not found."""
    missing = list(dict.fromkeys(name for name, digest in zip(asked.names, found, strict=True) if digest is None))
    if not missing:
        return
    head = f"{len(missing):,} of {len(found):,} are not among the entries: "
    named = ", ".join(f"{name[:40]}…" if len(name) > 40 else name for name in missing[:_SHOWN])
    named += f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    if asked.column != _ID:
        raise StoreError(f"{head}{named}; sequences that are hashed under a salt are found with it")
    there = list(_some_ids(sequences, state))
    hashed = bool(there) and None not in pseudonyms.checks(pa.array(there, pa.string()))
    hint = ", whose ids are hashed: give the salt, or pseudonyms" if hashed else did_you_mean(missing[0], there)
    raise StoreError(f"{head}{named}{hint}")


def _some_ids(sequences: Table, state: Mapping[str, int]) -> Iterable[str]:
    batches = (
        batch
        for source, number in state.items()
        for batch in sequences.batches([_ID], stood(source, number), [("source_name", "=", source)], _MOST_COMPARED)
    )
    return itertools.islice((one for batch in batches for one in batch[_ID].to_pylist()), _MOST_COMPARED)


def get(
    store: Queries, asked: Asked, version: str | None, columns: Sequence[str] | None, source: str | None, missing: str
) -> pa.Table:
    """`Store.get`, at the newest snapshots."""
    history = store.history()
    digest = history.resolve(version)
    names = chosen(columns, digest, history.vectors(digest))
    state = history.state(digest, None, source)
    store.features.reload().version()
    store.sequences.reload()
    store.check_whole(history, state.values())
    found = digests_of(store.sequences, state, asked)
    if missing == "refuse":
        check_known(store.sequences, state, asked, found)
    there = np.array([one is not None for one in found], bool)
    every = np.array([one.encode() for one in found if one is not None], digests.DTYPE)
    distinct, place = np.unique(every, return_inverse=True)
    lookup = Lookup(store.features, digest, history.parent(digest), sparse=True)
    batch = lookup.rows(distinct, stored(names)) if len(distinct) else lookup.first(stored(names))
    at = np.full(len(found), -1)
    at[there] = place
    rows = pa.array(at, pa.int64(), mask=~there)
    arrays = [pa.array(asked.names, pa.string()) if asked.column == _ID else pa.array(asked.values, pa.string())]
    for name in names:
        arrays.append(_taken(batch, name, at, there) if is_vector(name) else _column(batch, name).take(rows))
    keys = [asked.column, *(name for name in names if name != asked.column)]
    kept = [array for name, array in zip([asked.column, *names], arrays, strict=True) if name != asked.column]
    return pa.Table.from_arrays([arrays[0], *kept], names=keys)


def _column(batch: pa.RecordBatch | None, name: str) -> pa.Array:
    return pa.array([], pa.string()) if batch is None else batch[name]


def _taken(batch: pa.RecordBatch | None, name: str, at: np.ndarray, there: np.ndarray) -> pa.FixedSizeListArray:
    """Vectors, put end to end where the column names several, of these rows; null where there is none."""
    parts = [matrix(batch[part]) for part in name.split("+")] if batch is not None else [np.zeros((0, 1), np.float32)]
    width = sum(part.shape[1] for part in parts)
    whole = np.zeros((len(at), width), np.float32)
    if there.any():
        whole[there] = np.concatenate([part[at[there]] for part in parts], axis=1)
    mask = None if there.all() else pa.array(~there)
    return pa.FixedSizeListArray.from_arrays(pa.array(whole.reshape(-1)), width, mask=mask)
