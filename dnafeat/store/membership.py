"""Which of many sequences are meant, by 8 bytes of each: entries by the million are known again without their digests in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow.compute as pc

from dnafeat.store import digests
from dnafeat.store.conditions import stood
from dnafeat.store.table import Table

_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def numbered(names: np.ndarray) -> np.ndarray:
    """A number for each digest, (n,) of dtype S35 to (n,) uint64. Two of ten million share one in three cases of a million."""
    letters = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), digests.WIDTH)
    words = np.ascontiguousarray(letters[:, digests.WIDTH - 32 :]).view(np.uint64)
    found = np.zeros(len(names), np.uint64)
    for word in words.T:
        found = (found ^ word) * _MIX[0]
        found = (found ^ (found >> np.uint64(29))) * _MIX[1]
        found ^= found >> np.uint64(32)
    return found


class Members:
    """Sequences, and which of them were met.

    Attributes
    ----------
    numbers : np.ndarray
        (n,) uint64 as `numbered` gives them, sorted; one may stand in it several times.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers
        self.numbers.sort()
        self._met = np.zeros(len(numbers), bool)

    def __len__(self) -> int:
        """Distinct sequences."""
        return 0 if not len(self.numbers) else 1 + int((self.numbers[1:] != self.numbers[:-1]).sum())

    def meet(self, names: np.ndarray) -> np.ndarray:
        """Those of some digests, (n,) of dtype S35, that are members and are met for the first time: (n,) bool."""
        if not len(self.numbers) or not len(names):
            return np.zeros(len(names), bool)
        wanted = numbered(names)
        place = np.minimum(np.searchsorted(self.numbers, wanted), len(self.numbers) - 1)
        new = (self.numbers[place] == wanted) & ~self._met[place]
        self._met[place[new]] = True
        return new

    def lacking(self) -> int:
        """Members that were not met."""
        return len(self) - int(self._met.sum())

    @classmethod
    def of(cls, sequences: Table, state: Mapping[str, int], where: pc.Expression | None = None) -> Members:
        """Those of the entries of a state, at the table's snapshot, that meet a condition."""
        rows = sum(file.rows for file, _ in sequences.files())
        numbers, count = np.empty(rows, np.uint64), 0
        for batch in _batches(sequences, state, where):
            if count + len(batch) > len(numbers):
                # Files that another tool has rewritten may not say how many rows they have.
                numbers = np.concatenate([numbers[:count], np.empty(count + len(batch), np.uint64)])
            numbers[count : count + len(batch)] = numbered(batch)
            count += len(batch)
        # Not a copy: what is not filled is not in memory.
        return cls(numbers[:count])


def _batches(sequences: Table, state: Mapping[str, int], where: pc.Expression | None) -> Iterator[np.ndarray]:
    for source, number in state.items():
        rows = stood(source, number) if where is None else stood(source, number) & where
        for batch in sequences.batches(["sequence_digest"], rows, [("source_name", "=", source)], 131_072):
            yield digests.to_numpy(batch["sequence_digest"])
