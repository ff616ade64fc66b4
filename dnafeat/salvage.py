"""What dead runs left behind: whole vector files that no commit names count as encoded, whichever run comes next.

A vector depends on sequence and feature version alone, so it does not matter which command, source or state of it wrote the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from dnafeat import storage, vectorfiles
from dnafeat.store import Store
from dnafeat.vectorfiles import Receipt

# What no commit has named for so long belongs to nobody: `maintain` removes it. Salvage takes only what is younger than half of it, so
# that nothing it counts on is removed before it is committed.
ABANDONED_AFTER = timedelta(days=7)


class Salvage:
    """Uncommitted vector files of one version, and the rows of each that this run claims.

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
        self._files: list[Receipt] | None = None
        self._claimed: dict[str, np.ndarray] = {}
        self._read: tuple[str, np.ndarray | None] | None = None

    @property
    def rows(self) -> int:
        """Sequences claimed."""
        return sum(int(rows.sum()) for rows in self._claimed.values())

    def claim(self, names: np.ndarray) -> np.ndarray:
        """Takes what is there of some sequences.

        Parameters
        ----------
        names : np.ndarray, shape=(n,), dtype=S35
            Sorted digests, none of which has been asked for before.

        Returns
        -------
        np.ndarray, shape=(n,), dtype=bool
            Those that are in a file; each is claimed in one only.
        """
        found = np.zeros(len(names), bool)
        if not len(names):
            return found
        if self._files is None:
            self._files = self._find()
        first, last = names[0].decode(), names[-1].decode()
        for receipt in self._files:
            file = receipt.file
            if file.maximum["sequence_digest"] < first or file.minimum["sequence_digest"] > last:
                continue
            own = self._digests(file.path)
            if own is None:
                continue
            place = np.searchsorted(names, own)
            place[place == len(names)] = 0
            mine = (names[place] == own) & ~found[place]
            if mine.any():
                self._claimed.setdefault(file.path, np.zeros(len(own), bool))[mine] = True
                found[place[mine]] = True
        return found

    def whole(self) -> list[Receipt]:
        """Files of which every row is claimed: they can be committed as they are."""
        return [one for one in self._files or [] if one.file.path in self._claimed and self._claimed[one.file.path].all()]

    def rewritten(self, stem: str) -> list[Receipt]:
        """The claimed rows of all other files, as new files whose names begin with `stem`."""
        receipts = []
        for one in self._files or []:
            mine = self._claimed.get(one.file.path)
            if mine is None or mine.all():
                continue
            receipt = vectorfiles.rewrite(
                self._table, [one.file], lambda file, names: self._claimed[file.path], stem=stem, version=self._version
            )
            receipts += [receipt] if receipt is not None else []
        return receipts

    def _digests(self, path: str) -> np.ndarray | None:
        """Those of a file, None where it is gone or was not written by us."""
        # Ranges are asked for in their order, and most files fall into one or two of them.
        if self._read is None or self._read[0] != path:
            try:
                names = vectorfiles.read_digests(self._table, path)
            except storage.STORAGE_ERRORS:
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
                found.append(receipt)
        return sorted(found, key=lambda one: one.file.minimum["sequence_digest"])
