"""Labelled sequences for training: read whole or not at all, divided without leaks, and what supplied splits share is counted."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dnafeat.errors import UsageError
from dnafeat.finetune import columns as labelcolumn
from dnafeat.finetune.labels import Label
from dnafeat.sequence import IUPAC, UNAMBIGUOUS, digest, problem, reverse_complement
from dnafeat.sources.reader import ReadOptions, expand
from dnafeat.store import digests

SPLITS = ("train", "dev", "test")

_BINS = 10  # strata of a numeric target
_SHOWN = 40  # letters of a refused sequence


@dataclass(frozen=True)
class Split:
    """Labelled sequences, one entry a row, all lists of one length.

    Attributes
    ----------
    name : str
        `train`, `dev` or `test`, or what the caller calls rows that are yet to be divided.
    sequences : list of str
        Normalised letters.
    labels : list of str, tuple of str, or None
        As text, without white space around it; of a Parquet column of lists the distinct names, as they stand there, in order; None
        where the cell is empty.
    ids : list of str
        The table's, else `<file name>:<row>`. Not checked for being unique.
    files : list of str
    rows : list of int
        1-based data rows of `files`.
    given_groups : list of str or None
        Of the column of groups, None where a cell is empty; no list at all where no such column was named.
    """

    name: str
    sequences: list[str]
    labels: list[Label]
    ids: list[str]
    files: list[str]
    rows: list[int]
    given_groups: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sequences)

    def place(self, i: int) -> str:
        """Where entry `i` comes from: `<file>:<row>`."""
        return f"{self.files[i]}:{self.rows[i]}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over sequences and labels in their order; paths, ids and the split's name do not enter."""
        found = hashlib.sha256()
        for sequence, label in zip(self.sequences, self.labels, strict=True):
            # Lengths before the texts: no two lists of rows then give the same bytes.
            found.update(f"{len(sequence)}:{sequence}{_measured(label)}".encode())
        return found.hexdigest()

    @cached_property
    def groups(self) -> np.ndarray:
        """(n,) of dtype S35: a digest, the same for a sequence, all its duplicates and their reverse complements."""
        strands = ((letters, reverse_complement(letters)) for letters in map(str.encode, self.sequences))
        return np.fromiter((digest(min(pair)) for pair in strands), digests.DTYPE, len(self))


def _measured(label: Label) -> str:
    if isinstance(label, tuple):
        return f"[{''.join(map(_measured, label))}]"
    return "-" if label is None else f"{len(label)}:{label}"


def read_split(
    name: str,
    source: str,
    *,
    label_column: str | None = None,
    sequence_column: str | None = None,
    group_column: str | None = None,
    iupac: bool = False,
    min_bases: int = 1,
) -> Split:
    """Reads labelled sequences: CSV, TSV or Parquet, packed or not, one file or all of a folder or glob, local or remote.

    Parameters
    ----------
    name : str
        Of the split.
    label_column : str, optional
        By default `label`, else the only one there is of `labels`, `target` and `y`, in upper or lower case. In Parquet it may hold
        lists of texts or whole numbers: the labels that each row has.
    sequence_column : str, optional
        By default `sequence` or `seq`.
    group_column : str, optional
        Column whose values are the rows' groups.
    iupac : bool
        Whether the IUPAC codes are allowed besides A C G T N.
    min_bases : int
        Shortest accepted sequence.

    Raises
    ------
    UsageError
        A file that is missing or cannot be read, a table without the columns, no rows at all, or a row that cannot be used: the
        first such row ends the reading. Labels are not judged.
    """
    files = expand([source])
    options = ReadOptions(sequence_column=sequence_column)
    column = labelcolumn.find(files, options, label_column)
    split = Split(name, [], [], [], [], [])
    alphabet = IUPAC if iupac else UNAMBIGUOUS
    for batch, labels in labelcolumn.read(files, options, column, (group_column,) if group_column else ()):
        file, rows = batch["file"][0].as_py(), batch["row"].to_pylist()
        letters = batch["sequence"].to_pylist()
        for row, raw, fault in zip(rows, letters, batch["problem"].to_pylist(), strict=True):
            if fault := fault or problem(raw, alphabet=alphabet, min_bases=min_bases):
                shown = raw[:_SHOWN].decode(errors="replace") + "…" * (len(raw) > _SHOWN)
                raise UsageError(
                    f"{file}, row {row}, {shown!r}: {fault}; mend the row or take it out, for training leaves out none"
                )
        split.sequences.extend(map(bytes.decode, letters))
        split.labels.extend(labels)
        split.ids.extend(batch["sequence_id"].to_pylist())
        split.files.extend([file] * len(rows))
        split.rows.extend(rows)
        if group_column:
            split.given_groups.extend(batch[group_column].to_pylist())
    if not len(split):
        raise UsageError(f"{source} has no rows, and {name} needs some; name another file for {name}")
    return split


def random_splits(
    split: Split,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    stratify: bool = True,
    groups: np.ndarray | None = None,
) -> dict[str, Split]:
    """Divides rows into parts, each in the order of `split`; equal `groups` stay together.

    Which part a group falls into depends on the seed and on what sequences and labels there are, not on the order of rows. Shares
    are of rows, and met to within a few of the largest groups.

    Parameters
    ----------
    shares : mapping of names to floats above 0 that add up to 1
        The part that trains first; by default train 0.8, dev 0.1 and test 0.1.
    stratify : bool
        Whether each part gets its share of each label; a group with several labels counts for its most frequent one. The first part
        gets every label at least once, so rare ones may stand there alone. Where labels are on average in fewer than two groups,
        they are no classes: numbers are then divided in ten bins of equally many groups, and texts are not stratified.
    groups : np.ndarray, shape=(n,), bytes, optional
        Names of larger groups than those of `split`. One with more rows than the smallest part should have goes to the first part.

    Raises
    ------
    UsageError
        Shares that are none, or a part without a row.
    """
    parts = shares or dict(zip(SPLITS, (0.8, 0.1, 0.1), strict=True))
    shown = ", ".join(f"{name} {share:g}" for name, share in parts.items())
    if not all(share > 0 for share in parts.values()) or abs(sum(parts.values()) - 1) > 1e-6:
        raise UsageError(f"shares are {shown}; give numbers above 0 that add up to 1")
    names, group = np.unique(split.groups if groups is None else groups, return_inverse=True)
    sizes = np.bincount(group, minlength=len(names))
    strata, label_sets = _strata(split, group, len(names), stratify)
    # A hash and not a random generator's permutation: this must be the same in every version of NumPy.
    draws = (hashlib.sha256(b"%d:%b" % (seed, name)).digest()[:8] for name in names.tolist())
    drawn = np.fromiter((int.from_bytes(draw, "big") for draw in draws), np.uint64, len(names))
    heights = np.bincount(strata, weights=sizes)
    ranked = np.argsort(heights, kind="stable")
    ends = np.empty_like(heights)
    ends[ranked] = np.cumsum(heights[ranked])
    order = np.lexsort((drawn, ends[strata]))  # stratum by stratum, the smallest first, so that the large ones even out the rest
    have = [0] * len(parts)
    side = np.empty(len(names), np.int8)
    unseen = set(itertools.chain.from_iterable(label_sets))
    most = np.inf if groups is None else min(parts.values()) * len(split)
    for at, size, end in zip(order.tolist(), sizes[order].tolist(), ends[strata[order]].tolist(), strict=True):
        short = [share * end - rows for share, rows in zip(parts.values(), have, strict=True)]
        part = 0 if size > most or (unseen and not unseen.isdisjoint(label_sets[at])) else short.index(max(short))
        if unseen and part == 0:
            unseen.difference_update(label_sets[at])
        have[part] += size
        side[at] = part
    if 0 in have:
        of_groups = f"{len(names)} group(s) of similar or related sequences, the largest of {sizes.max(initial=0):,} rows,"
        of_copies = f"{len(names)} distinct sequences (reverse complements taken as one)"
        others = "" if groups is None else "divide by another --group-column, or by none with --no-group-similar, "
        raise UsageError(
            f"{next(iter(split.files), split.name)}: with shares {shown} and {of_copies if groups is None else of_groups} "
            f"{list(parts)[have.index(0)]} gets no row; {others}give other shares, or files for dev and test"
        )
    return {name: _part(split, name, np.flatnonzero(side[group] == part)) for part, name in enumerate(parts)}


def _strata(split: Split, group: np.ndarray, count: int, stratify: bool) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """The stratum of each group, (groups,) int64, and, where strata are labels, the codes of each group's labels; else no codes."""
    strata = np.zeros(count, np.int64)
    if not stratify:
        return strata, []
    texts = _distinct(split.labels)
    pairs, rows = np.unique(group * len(texts) + _codes(split.labels, texts), return_counts=True)
    owner, code = np.divmod(pairs, max(len(texts), 1))
    bounds = np.searchsorted(owner, np.arange(count + 1))
    main = code[np.lexsort((code, -rows, owner))[bounds[:-1]]]
    if len(texts) * 2 <= count:
        listed = code.tolist()
        return main, [tuple(listed[a:b]) for a, b in itertools.pairwise(bounds.tolist())]
    try:
        values = np.array([float(str(text)) for text in texts])
    except ValueError:
        return strata, []
    strata[np.argsort(values[main], kind="stable")] = np.arange(count) * _BINS // count
    return strata, []


def _distinct(labels: Sequence[Label]) -> list[Label]:
    """The labels there are, in order, texts before lists; None counts as the empty text, which no label is."""
    return sorted({label or "" for label in labels}, key=lambda label: ((), label) if isinstance(label, str) else (label, ""))


def _codes(labels: Sequence[Label], texts: Sequence[Label]) -> np.ndarray:
    """Place of each label in what `_distinct` gives, (n,) int64."""
    place = {text: i for i, text in enumerate(texts)}
    return np.fromiter((place[label or ""] for label in labels), np.int64, len(labels))


def _part(split: Split, name: str, rows: np.ndarray) -> Split:
    lists: tuple[list[Any], ...] = (split.sequences, split.labels, split.ids, split.files, split.rows, split.given_groups)
    at = rows.tolist()
    return Split(name, *([values[i] for i in at] if values else [] for values in lists))


@dataclass(frozen=True)
class Conflicts:
    """Sequences of one split that have more than one label, and the first two rows that show it.

    Attributes
    ----------
    sequences : int
        Distinct ones, reverse complements taken as one.
    places : (str, str)
        `<file>:<row>` of the two.
    labels : pair of str, tuple of str, or None
        Theirs.
    opposite : bool
        Whether the second is the reverse complement of the first, and not equal to it.
    """

    sequences: int
    places: tuple[str, str]
    labels: tuple[Label, Label]
    opposite: bool


@dataclass(frozen=True)
class Overlap:
    """What splits share, and what each repeats. A sequence and its reverse complement are one.

    Attributes
    ----------
    rows : dict of str to int
        Of each split.
    shared : dict of (str, str) to int
        For each pair, rows of the second split whose sequence stands in the first.
    duplicates : dict of str to int
        Rows of each split beyond the first of their sequence.
    conflicts : dict of str to Conflicts
        Of the splits that have any.
    """

    rows: dict[str, int]
    shared: dict[tuple[str, str], int]
    duplicates: dict[str, int]
    conflicts: dict[str, Conflicts]


def overlaps(splits: dict[str, Split]) -> Overlap:
    """Counts what splits share; pairs are in the order of `splits`: train and dev, train and test, dev and test."""
    shared = {
        (one, other): int(np.isin(splits[other].groups, splits[one].groups).sum())
        for one, other in itertools.combinations(splits, 2)
    }
    duplicates, conflicts = {}, {}
    for name, split in splits.items():
        distinct, first, group = np.unique(split.groups, return_index=True, return_inverse=True)
        duplicates[name] = len(split) - len(distinct)
        codes = _codes(split.labels, _distinct(split.labels))
        differing = np.flatnonzero(codes != codes[first[group]])
        if len(differing):
            a, b = int(first[group[differing[0]]]), int(differing[0])
            conflicts[name] = Conflicts(
                sequences=len(np.unique(group[differing])),
                places=(split.place(a), split.place(b)),
                labels=(split.labels[a], split.labels[b]),
                opposite=split.sequences[a] != split.sequences[b],
            )
    return Overlap({name: len(split) for name, split in splits.items()}, shared, duplicates, conflicts)


def format_overlaps(overlap: Overlap) -> list[str]:
    """Sentences for people, what is worst first; none when splits share nothing, repeat nothing and contradict nothing."""
    lines = [
        f"{count:,} of {overlap.rows[other]:,} {other} rows have a sequence that {one} has too, on one strand or the other: "
        f"what is measured on {other} is in part remembered"
        for (one, other), count in overlap.shared.items()
        if count
    ]
    for name, found in overlap.conflicts.items():
        (a, b), (label, other_label) = found.places, map(_shown, found.labels)
        many = "1 sequence of {} has" if found.sequences == 1 else f"{found.sequences:,} sequences of {{}} have"
        second = "its reverse complement " if found.opposite else ""
        lines.append(f"{many.format(name)} more than one label: {label} at {a}, and {second}{other_label} at {b}")
    lines.extend(
        f"{count:,} of {overlap.rows[name]:,} {name} rows repeat a sequence of {name}, on one strand or the other"
        for name, count in overlap.duplicates.items()
        if count
    )
    return lines


def _shown(label: Label) -> str:
    return repr(list(label) if isinstance(label, tuple) else label) if label else "no label"
