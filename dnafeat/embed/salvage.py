"""What dead runs left behind: whole vector files that no commit names count as encoded, whichever run comes next.

A vector depends on sequence and feature version alone, so it does not matter which command, source or state of it wrote the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dnafeat import storage
from dnafeat.errors import StoreError
from dnafeat.store import Store
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.retention import ABANDONED_AFTER
from dnafeat.store.vector_files import Receipt


class Claim(NamedTuple):
    """Rows of a file that a run takes: those of its `rows` rows from `first` on whose bits are set."""

    path: str
    first: int
    rows: int
    bits: bytes

    def mask(self) -> np.ndarray:
        """(rows,) bool."""
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.rows).astype(bool)


class Salvage:
    """Uncommitted vector files of one version, and the rows of each that this run claims.

    Once it has looked it can be sent to other processes.

    Parameters
    ----------
    store : Store
    version : str
        Feature version.
    columns : sequence of str
        The vectors that the version stores; a file with others is left alone.
    """

    def __init__(self, store: Store, version: str, columns: Sequence[str]) -> None:
        self._table, self._version, self._columns = store.features, version, set(columns)
        self._files: list[Receipt] = []
        self._claimed: dict[str, list[Claim]] = {}
        self._read: tuple[str, np.ndarray | None] | None = None

    def look(self) -> bool:
        """Finds the files; whether there are any."""
        self._files = self._find()
        return bool(self._files)

    def claim(self, names: np.ndarray) -> tuple[np.ndarray, list[Claim]]:
        """Looks for some sequences.

        Parameters
        ----------
        names : np.ndarray, shape=(n,), dtype=S35
            Sorted digests. Nobody asks for one of another range that lies between them.

        Returns
        -------
        np.ndarray, shape=(n,), dtype=bool
            Those that are in a file.
        list of Claim
            In which; each is claimed in one only. They count once they are given to `take`.
        """
        found = np.zeros(len(names), bool)
        claims: list[Claim] = []
        if not len(names):
            return found, claims
        first, last = names[0].decode(), names[-1].decode()
        for receipt in self._files:
            file = receipt.file
            if file.maximum["sequence_digest"] < first or file.minimum["sequence_digest"] > last:
                continue
            own = self._digests(file.path)
            if own is None:
                continue
            start, end = np.searchsorted(own, names[0]), np.searchsorted(own, names[-1], side="right")
            own = own[start:end]
            place = np.searchsorted(names, own)
            mine = (names[place] == own) & ~found[place]
            if mine.any():
                claims.append(Claim(file.path, int(start), len(own), np.packbits(mine).tobytes()))
                found[place[mine]] = True
        return found, claims

    def take(self, claims: Sequence[Claim]) -> None:
        """Makes claims part of the run."""
        for claim in claims:
            self._claimed.setdefault(claim.path, []).append(claim)

    def _mask(self, receipt: Receipt) -> np.ndarray:
        """Which rows of a file are claimed, (rows,) bool."""
        mask = np.zeros(receipt.file.rows, bool)
        for claim in self._claimed.get(receipt.file.path, ()):
            mask[claim.first : claim.first + claim.rows] |= claim.mask()
        return mask

    def whole(self) -> list[Receipt]:
        """Files of which every row is claimed: they can be committed as they are."""
        return [one for one in self._files if self._mask(one).all()]

    def rewritten(self, stem: str) -> list[Receipt]:
        """The claimed rows of all other files, as new files whose names begin with `stem`."""
        receipts = []
        for one in self._files:
            mine = self._mask(one)
            if mine.all() or not mine.any():
                continue
            receipt = vectorfiles.rewrite(self._table, [one.file], vectorfiles.keeping(mine), stem=stem, version=self._version)
            receipts += [receipt] if receipt is not None else []
        return receipts

    def _digests(self, path: str) -> np.ndarray | None:
        """Those of a file, None where it is gone or was not written by us."""
        # Ranges are asked for in their order, and most files fall into one or two of them.
        if self._read is None or self._read[0] != path:
            try:
                names = vectorfiles.read_digests(self._table, path)
            except (*storage.STORAGE_ERRORS, StoreError):
                return None
            self._read = path, names if (names[1:] > names[:-1]).all() else None
        return self._read[1]

    def _find(self) -> list[Receipt]:
        """Whole files below the version's folder that were never part of the table, in digest order."""
        table = self._table
        oldest = storage.clock(table.uri) - ABANDONED_AFTER / 2
        found = []
        for listed in table.uncommitted(f"feature_version={self._version}"):
            if listed.modified < oldest:
                continue
            receipt = vectorfiles.read_receipt(table, listed.path, listed.size, self._version)
            if receipt is not None and set(receipt.norms) == self._columns and not receipt.not_finite:
                # Another run's shards have the names of this one's.
                found.append(replace(receipt, shard=""))
        return sorted(found, key=lambda one: one.file.minimum["sequence_digest"])
