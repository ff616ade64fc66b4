"""Which rows of labelled splits stand together: copies, similar sequences and a column's equal values; and what splits share of that."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dnafeat.finetune.similarity import SHARE, components, similar_groups
from dnafeat.finetune.splits import Split


@dataclass(frozen=True)
class RowGroups:
    """Groups over the rows of some splits, which may be divided further.

    Attributes
    ----------
    digests : np.ndarray, shape=(distinct,), bytes
        Of the distinct sequences, in order; a sequence and its reverse complement are one.
    similar : np.ndarray, shape=(distinct,), int64
        The group of similar sequences that each belongs to.
    together : bool
        Whether similar sequences stand together; otherwise they are counted alone.
    column : str | None
        The column whose equal values stand together.
    """

    digests: np.ndarray
    similar: np.ndarray
    together: bool
    column: str | None

    @classmethod
    def of(cls, splits: Mapping[str, Split], *, together: bool, column: str | None) -> RowGroups:
        """Find the groups of similar sequences in some splits."""
        names = np.concatenate([split.groups for split in splits.values()])
        letters = list(itertools.chain.from_iterable(split.sequences for split in splits.values()))
        digests, first = np.unique(names, return_index=True)
        return cls(digests, similar_groups([letters[i] for i in first.tolist()]), together, column)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Distinct sequences of each group of similar ones."""
        return np.bincount(self.similar)

    def copies(self, split: Split) -> np.ndarray:
        """Number of each row's distinct sequence, (n,) int64."""
        return np.searchsorted(self.digests, split.groups)

    def names(self, split: Split) -> np.ndarray | None:
        """Name what stays together when a split is divided, (n,) bytes; None where that is copies alone.

        A group has the name of its first sequence in the order of digests, so that the order of rows does not matter.
        """
        joined = self._joined({"": split})[""]
        own = self.copies(split)
        least = np.full(joined.max(initial=0) + 1, len(self.digests))
        np.minimum.at(least, joined, own)
        return None if np.array_equal(least[joined], own) else self.digests[least[joined]]

    def numbers(self, splits: Mapping[str, Split]) -> dict[str, np.ndarray]:
        """Number the groups that intervals draw: rows with copies, similar sequences or an equal value of the column, (n,) int64 each."""
        return self._joined(splits)

    def _joined(self, splits: Mapping[str, Split]) -> dict[str, np.ndarray]:
        by_sequence = {
            name: self.similar[self.copies(split)] if self.together else self.copies(split) for name, split in splits.items()
        }
        if self.column is None:
            return by_sequence
        values: dict[str, int] = {}
        count = len(self.digests)
        edges = [
            (row, count + values.setdefault(value, len(values)))
            for name, split in splits.items()
            for row, value in zip(by_sequence[name].tolist(), split.given_groups, strict=True)
            if value is not None
        ]
        one, other = np.array(edges, np.int64).reshape(-1, 2).T
        joined = components(count + len(values), one, other)
        return {name: joined[rows] for name, rows in by_sequence.items()}

    def shared(self, splits: Mapping[str, Split]) -> dict[str, dict[tuple[str, str], int]]:
        """Count, for each pair of splits, rows of the second that are related to some of the first.

        `similar`: in a group of similar sequences that the first has, too, without the copies themselves. `column`: with a value of
        the column that the first has, too.
        """
        counts: dict[str, dict[tuple[str, str], int]] = {"similar": {}, "column": {}}
        for one, other in itertools.combinations(splits, 2):
            a, b = self.copies(splits[one]), self.copies(splits[other])
            near = np.isin(self.similar[b], self.similar[a]) & ~np.isin(b, a)
            counts["similar"][one, other] = int(near.sum())
            if self.column is not None:
                known = set(splits[one].given_groups) - {None}
                counts["column"][one, other] = sum(value in known for value in splits[other].given_groups)
        return counts

    def describe(self, splits: Mapping[str, Split]) -> dict[str, Any]:
        """What the summary says of groups, as JSON takes it: what stands together, and rows that splits share all the same."""
        rows = np.concatenate([self.similar[self.copies(split)] for split in splits.values()])
        several = np.bincount(rows, minlength=len(self.sizes))[self.sizes > 1]
        shared = self.shared(splits)
        return {
            "column": self.column,
            "similar_together": self.together,
            "similar_groups": len(several),
            "similar_rows": int(several.sum()),
            "largest": int(several.max(initial=0)),
            "shared_similar": {f"{one}, {other}": count for (one, other), count in shared["similar"].items()},
            "shared_column": {f"{one}, {other}": count for (one, other), count in shared["column"].items()},
        }

    def notes(self, splits: Mapping[str, Split], *, divided: bool) -> list[str]:
        """Sentences for people on what splits share, and on what was kept together; none where no rows are related.

        Parameters
        ----------
        divided : bool
            Whether the splits were made of one table, and not given.
        """
        about, shared = self.describe(splits), self.shared(splits)
        lines = []
        for (one, other), count in shared["similar"].items():
            if count:
                lines.append(
                    f"{count:,} of {len(splits[other]):,} {other} rows are near copies of what {one} has ({SHARE:.0%} or more of their "
                    f"k-mers are the same, or linked by others): what is measured on {other} is in part remembered"
                )
        for (one, other), count in shared["column"].items():
            if count:
                lines.append(f"{count:,} of {len(splits[other]):,} {other} rows have a {self.column} that {one} has, too")
        missing = sum(value is None for split in splits.values() for value in split.given_groups)
        if missing:
            lines.append(f"{missing:,} rows have no {self.column}: they are grouped by their sequences alone")
        if divided and self.together and about["similar_groups"]:
            lines.append(
                f"{about['similar_rows']:,} rows are near copies of others and stay on one side with them: {about['similar_groups']:,} "
                f"groups, the largest of {about['largest']:,} rows"
            )
        return lines
