"""Vectors found by digest: those that a version's own rows have, and where a row lacks some, those of its parent's row.

A version with a parent is what `dnafeat project` makes: its rows have `projected`, and `cls`, `mean` and `max` stand with the parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dnafeat.errors import StoreError
from dnafeat.store import digests
from dnafeat.store.matrices import fixed, matrix
from dnafeat.store.schema import arrow_schema
from dnafeat.store.sparse import sought_rows
from dnafeat.store.table import Table
from dnafeat.vectors import VECTORS

_NAME = "sequence_digest"
_PAGE_ROWS = 4_096
# Of vectors that are looked up at a time.
_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Lookup:
    """Rows of a version.

    Attributes
    ----------
    features : Table
        At the snapshot that is read.
    version : str
    parent : str | None
        A parent has none itself.
    sparse : bool
        Whether few of the version's sequences are looked up, so that pages without any of them are not unpacked.
    """

    features: Table
    version: str
    parent: str | None = None
    sparse: bool = False

    def rows(self, names: np.ndarray, columns: Sequence[str]) -> pa.RecordBatch:
        """Rows in the order of `names`, sorted digests, (n,) of dtype S35: `columns` of `features`, vectors as fixed-size lists.

        Raises StoreError unless each has one, with all of the vectors.
        """
        made = Assembly(names, columns, *self.wording())
        for version in (self.version, self.parent):
            lacking = made.lacking()
            if version is None or not lacking.any():
                break
            wanted = list(dict.fromkeys([_NAME, *columns])) if version == self.version else [_NAME, *made.wanted()]
            for batch in self._pages(version, wanted, names[lacking]):
                made.add(batch, own=version == self.version)
        return made.batch()

    def wording(self) -> tuple[str, str]:
        """Store and version as errors name them."""
        whose = f"version {self.version}" + (f" or its parent {self.parent}" if self.parent else "")
        return self.features.uri.rpartition("/")[0], whose

    def own(self, names: np.ndarray, view: str) -> np.ndarray:
        """Find sequences, by sorted digests, with a vector in the version's own row: (n,) bool. Reads those vectors."""
        found = [np.zeros(0, bool)]
        for first in range(0, len(names), _PAGE_ROWS):
            some = names[first : first + _PAGE_ROWS]
            made = Assembly(some, [view], *self.wording())
            for batch in self._pages(self.version, [_NAME, view], some):
                made.add(batch, own=True)
            found.append(~made.lacking())
        return np.concatenate(found)

    def _pages(self, version: str, columns: Sequence[str], sought: np.ndarray) -> Iterator[pa.RecordBatch]:
        if self.sparse:
            return sought_rows(self.features, version, columns, sought)
        ends = [(_NAME, how, end.decode()) for how, end in zip((">=", "<="), sought[[0, -1]], strict=True)]
        return self.features.pages(columns, [("feature_version", "=", version), *ends], _PAGE_ROWS, sought)

    def widths(self, columns: Sequence[str]) -> dict[str, int]:
        """Widths of these vectors, without those of which there are none."""
        found: dict[str, int] = {}
        for name in columns:
            # Of what the parent has the first row tells; the version's own may all lack it.
            for version in (self.parent, self.version) if name != "projected" else (self.version,):
                pruned_by = [("feature_version", "=", version)]
                batches = self.features.pages([_NAME, name], pruned_by, 1) if version is not None and name not in found else ()
                there = (one for batch in batches if len(one := batch[name].drop_null()))
                if (one := next(there, None)) is not None:
                    found[name] = len(one[0])
        return found

    def first(self, columns: Sequence[str]) -> pa.RecordBatch | None:
        """Any row of the version, for its types; None where the version has no row."""
        one = next(self.features.pages([_NAME], [("feature_version", "=", self.version)], 1), None)
        return None if one is None else self.rows(digests.to_numpy(one[_NAME]), columns)

    def in_chunks(self, names: np.ndarray, columns: Sequence[str]) -> Iterator[tuple[slice, pa.RecordBatch]]:
        """The same some at a time, 16 MiB of vectors, with their places in `names`: memory does not grow with them."""
        width = sum(self.widths([name for name in columns if name in VECTORS]).values())
        step = max(1, _BYTES // (4 * width)) if width else 65_536
        for first in range(0, len(names), step):
            place = slice(first, min(first + step, len(names)))
            yield place, self.rows(names[place], columns)


class Assembly:
    """Rows that are put together from batches of `features`: a version's own first, then its parent's.

    Parameters
    ----------
    names : np.ndarray
        (n,) of dtype S35, sorted, each once.
    columns : sequence of str
        Of `features`.
    store, whose : str
        As `Lookup.wording` has them.
    """

    def __init__(self, names: np.ndarray, columns: Sequence[str], store: str, whose: str) -> None:
        self._names, self._columns, self._store, self._whose = names, list(columns), store, whose
        self._vectors = {name: np.empty((0, 0), np.float32) for name in columns if name in VECTORS}
        self._missing = {name: np.ones(len(names), bool) for name in self._vectors}
        self._seen = np.zeros(len(names), np.int64)
        self._plain: list[tuple[np.ndarray, pa.RecordBatch]] = []

    def lacking(self) -> np.ndarray:
        """Rows of which something is still missing, (n,) bool."""
        return np.any([self._seen == 0, *self._missing.values()], axis=0)

    def wanted(self) -> list[str]:
        """Vectors that some row lacks."""
        return [name for name, missing in self._missing.items() if missing.any()]

    def add(self, batch: pa.RecordBatch, *, own: bool) -> None:
        """Take what is wanted of some rows. Of a row that is not the version's own, the vectors that its own row lacks."""
        if not len(self._names):
            return
        rows, place = digests.located(self._names, digests.to_numpy(batch[_NAME]))
        if own:
            np.add.at(self._seen, place, 1)
            plain = [name for name in self._columns if name not in self._vectors]
            if plain and len(rows):
                self._plain.append((place, batch.select(plain).take(pa.array(rows))))
        for name in self._vectors:
            if name in batch.schema.names:
                self._copy(name, batch[name], rows, place)

    def _copy(self, name: str, column: pa.Array, rows: np.ndarray, place: np.ndarray) -> None:
        there = column.is_valid().to_numpy(zero_copy_only=False)[rows] & self._missing[name][place]
        if not there.any():
            return
        values = matrix(fixed(column.take(pa.array(rows[there]))))
        if not self._vectors[name].size:
            self._vectors[name] = np.empty((len(self._names), values.shape[1]), np.float32)
        whole = self._vectors[name]
        if values.shape[1] != whole.shape[1]:
            raise StoreError(
                f"{self._store} is damaged: {name} vectors of {self._whose} are {whole.shape[1]} and {values.shape[1]} wide"
            )
        whole[place[there]] = values
        self._missing[name][place[there]] = False

    def batch(self) -> pa.RecordBatch:
        """All rows. Raises StoreError where one is not there once, or lacks a vector."""
        none, several = int((self._seen == 0).sum()), int((self._seen > 1).sum())
        head = f"{self._store} is damaged: of {len(self._names)} sequences of {self._whose}"
        if none or several:
            raise StoreError(f"{head}, {none} have no vectors and {several} have several")
        if lacking := self.wanted():
            raise StoreError(f"{head}, {int(self._missing[lacking[0]].sum())} have no {lacking[0]} vector")
        order = np.argsort(np.concatenate([place for place, _ in self._plain])) if self._plain else None
        arrays = []
        for name in self._columns:
            if name in self._vectors:
                whole = self._vectors[name]
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(whole.reshape(-1)), max(1, whole.shape[1])))
            elif order is None:
                arrays.append(pa.array([], arrow_schema("features").field(name).type))
            else:
                arrays.append(pa.concat_arrays([part[name] for _, part in self._plain]).take(pa.array(order)))
        return pa.RecordBatch.from_arrays(arrays, names=self._columns)
