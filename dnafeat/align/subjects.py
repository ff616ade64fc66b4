"""The subjects of an alignment: vectors of both modalities row by row, columns of subjects, and the side of the split each is on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from dnafeat import pseudonyms as keyhash
from dnafeat import storage
from dnafeat.align import columns as subjectcolumns
from dnafeat.align import kinship
from dnafeat.align.config import AlignConfig
from dnafeat.errors import UsageError
from dnafeat.join.config import DNA
from dnafeat.join.job import join
from dnafeat.join.table import JoinedTable
from dnafeat.parquet import checked_scan
from dnafeat.store.matrices import fixed, matrix, one_array
from dnafeat.text import did_you_mean

SIDES = ("train", "dev", "test")
_LEAST = {"train": 10, "dev": 4, "test": 8}
_NAMED = 3  # subjects that are told as examples


@dataclass(frozen=True)
class Subjects:
    """Rows of a joined table that have both modalities, in the order of their keys.

    Attributes
    ----------
    keys : list of str, (n,)
        Subjects; one has several rows where the table's level is below it.
    dna, partner : np.ndarray, shape=(n, width), float32
    mask : np.ndarray | None, shape=(n, genes), bool
        Which genes are there, under concat.
    columns : mapping of str to list of str, (n,)
        Of subjects, None where one has no value.
    groups : np.ndarray, shape=(n,), int64
        The same for rows that stay on one side: of a subject, of relatives, of subjects with the same vectors.
    families : np.ndarray | None, shape=(n,), int64
        The same for rows that are shuffled and resampled together: of a subject, of relatives; None: each subject alone.
    side : np.ndarray, shape=(n,), str
    name : str
        Of the partner.
    about : mapping
        What the joined table was made of.
    notes : list of str
    """

    keys: list[str]
    dna: np.ndarray
    partner: np.ndarray
    mask: np.ndarray | None
    columns: Mapping[str, list[str | None]]
    groups: np.ndarray
    side: np.ndarray
    name: str
    about: Mapping[str, Any]
    notes: list[str]
    families: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def genes(self) -> list[str]:
        """Whose vectors stand end to end; none where they do not."""
        return list(self.about["genes"]) if self.about["aggregate"] == "concat" else []

    def rows(self, side: str) -> np.ndarray:
        return self.side == side

    def people(self, side: str) -> int:
        """Subjects on a side."""
        return len({key for key, own in zip(self.keys, self.rows(side), strict=True) if own})

    @cached_property
    def same(self) -> np.ndarray:
        """Rows that are never told apart: (n, 3) int64, equal in a column for rows of one subject, with the same DNA or partner vector."""
        return np.stack([self._subject, kinship.identical(self.dna), kinship.identical(self.partner)], axis=1)

    @cached_property
    def _subject(self) -> np.ndarray:
        return np.unique(np.array(self.keys, str), return_inverse=True)[1].astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over keys, vectors, sides and columns."""
        found = hashlib.sha256()
        for values in (self.keys, self.side.tolist(), *(self.columns[name] for name in sorted(self.columns))):
            found.update(repr(list(values)).encode())
        for numbers in (self.dna, self.partner):
            found.update(repr(numbers.shape).encode() + np.ascontiguousarray(numbers, "<f4").tobytes())
        return found.hexdigest()

    def exchanged(self, at: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Families of some rows, numbers that are the same for rows that are exchanged together: (rows,) int64."""
        return (self._subject if self.families is None else self.families)[at]

    def group_sizes(self) -> np.ndarray:
        """Subjects of each group that stays on one side: (groups,) int64."""
        one_row = np.unique(self._subject, return_index=True)[1]
        return np.unique(self.groups[one_row], return_counts=True)[1]

    def by_subject(self, values: np.ndarray, side: str) -> np.ndarray:
        """The mean of a side's rows, (rows of the side, width), for each of its subjects, (subjects, width)."""
        return mean_by(self._subject[self.rows(side)], values)

    def first(self, side: str) -> np.ndarray:
        """A row of each subject of a side, in the order of `by_subject`: (subjects,) int64."""
        at = np.flatnonzero(self.rows(side))
        return at[np.unique(self._subject[at], return_index=True)[1]]


def mean_by(label: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means of rows (n, width) with the same label, in the order of labels."""
    names, at = np.unique(label, return_inverse=True)
    if len(names) == len(label):
        return values[np.argsort(at)]
    total = np.zeros((len(names), values.shape[1]))
    np.add.at(total, at, values)
    return (total / np.bincount(at)[:, None]).astype(values.dtype)


def gather(config: AlignConfig, *, show: bool = True) -> Subjects:
    """The subjects that a configuration means, joined first where need be.

    Raises
    ------
    UsageError
        Something is missing, or there are too few to split, or their vectors are all the same; in one sentence.
    """
    uri, salt = config.joined, None
    notes: list[str] = []
    if uri is None:
        uri = f"{storage.absolute(config.output)}.joined"
        notes += join(config.join(uri), show=show).notes
        if config.inputs.salt_file:
            salt = keyhash.read_salt(config.inputs.salt_file)
    table, name, about = read_joined(uri, config.modality)
    keys = one_array(table[about["on"]]).to_pylist()
    dna, partner = (matrix(fixed(one_array(table[column]))) for column in (DNA, name))
    _check(dna, DNA, keys)
    _check(partner, f"partner {name}", keys)
    mask = np.array(table[f"{DNA}_mask"].to_pylist()) if f"{DNA}_mask" in table.column_names else None
    used = [*config.covariates, config.phenotype, config.family_column]
    wanted = list(dict.fromkeys(column for column in used if column is not None))
    columns = read_columns(wanted, keys, about, name, config.subjects, salt)
    classes = [name for name in (*config.covariates, config.phenotype) if name is not None and name not in config.categorical]
    notes += subjectcolumns.half_numbers(columns, classes)
    stays, told = _complete(config, keys, columns)
    notes += told
    rows = np.flatnonzero(stays)
    keys, dna, partner = [keys[i] for i in rows], dna[rows], partner[rows]
    mask = None if mask is None else mask[rows]
    columns = {column: [values[i] for i in rows] for column, values in columns.items()}
    subject = np.unique(np.array(keys, str), return_inverse=True)[1]
    alike = [kinship.identical(mean_by(subject, vectors))[subject] for vectors in (dna, partner)]
    told_apart = (f"DNA vectors of version {about['dna']['feature_version']}", f"vectors of partner {name}")
    for labels, what in zip(alike, told_apart, strict=True):
        if len(keys) > 1 and len(np.unique(labels)) == 1:
            raise UsageError(
                f"the {what} are the same for all {len(np.unique(subject)):,} subjects, so that nobody can be told apart by them"
            )
    family = columns[config.family_column] if config.family_column else None
    families = kinship.together(keys, *([family] if family else []))
    groups = kinship.together(families, *alike)
    side = kinship.sides(keys, groups, config.shares, config.seed, family)
    found = Subjects(keys, dna, partner, mask, columns, groups, side, name, about, notes, families)
    _check_sides(found)
    if config.shuffle:
        found = _shuffled(found, config.seed)
    copies = [len(np.unique(subject)) - len(np.unique(one)) for one in alike]
    for count, what in zip(copies, ("DNA", name), strict=True):
        if count:
            notes.append(
                f"{count:,} subjects have the {what} vector of another: they stay on its side, and are never told apart from it"
            )
    notes += _shares(found, config.shares)
    if family is not None and (alone := len({key for key, name in zip(keys, family, strict=True) if name is None})):
        notes.append(f"{alone:,} subjects have no value of {config.family_column} and count as unrelated to all others")
    if family is None:
        notes.append(
            "p-values and intervals assume that subjects are unrelated: name the column of families with --family-column if some are "
            "relatives, else what relatives share counts as a signal"
        )
    return found


def _shares(subjects: Subjects, wanted: Mapping[str, float]) -> list[str]:
    """A sentence for each side that has got much less or more than its share, because groups stay whole."""
    people = {side: subjects.people(side) for side in SIDES}
    everybody = sum(people.values())
    sizes = subjects.group_sizes()
    return [
        f"{side} has {people[side]:,} subjects, {people[side] / everybody:.0%} instead of {wanted[side]:.0%}: groups of relatives and of "
        f"subjects with the same vectors are kept whole, and the largest has {sizes.max():,}; another --seed splits otherwise"
        for side in ("dev", "test")
        if sizes.max() > 1 and abs(people[side] / everybody - wanted[side]) > wanted[side] / 2
    ]


def read_joined(uri: str, modality: str | None, *, both: bool = True) -> tuple[pa.Table, str, dict[str, Any]]:
    """Rows of a joined table that have DNA and a partner, or either, sorted; the partner's name; and what the table was made of.

    Columns are the table's keys, `dna`, the partner's, and `dna_mask` where it has one. Raises UsageError where there is no such row.
    """
    place = JoinedTable(uri)
    about = place.last()
    if about is None:
        raise UsageError(f"there is no table at {uri}: make one with `dnafeat join`")
    names = [one["name"] for one in about["partners"]]
    if not names:
        raise UsageError(f"{uri} has no modality beside DNA: join it with a --partner")
    if modality is None and len(names) > 1:
        raise UsageError(f"{uri} has several modalities, {', '.join(names)}: say with --modality which one DNA is aligned with")
    name = modality or names[0]
    if name not in names:
        raise UsageError(f"{uri} has no modality {name!r}: there are {', '.join(names)}{did_you_mean(name, names)}")
    there = pa.schema(place.table.snapshot.schema().to_arrow()).names
    vectors = {DNA, *(f"{DNA}_{end}" for end in ("mask", "rows")), *names, *(f"{one}_rows" for one in names)}
    further = [one for one in there if one not in vectors and not one.startswith("has_")]
    columns = [*further, DNA, name, *([f"{DNA}_mask"] if f"{DNA}_mask" in there else [])]
    has = [ds.field(f"has_{one}") for one in (DNA, name)]
    table = place.table.snapshot.to_pyarrow_dataset().to_table(
        columns=columns, filter=has[0] & has[1] if both else has[0] | has[1], fragment_scan_options=checked_scan()
    )
    if not len(table):
        raise UsageError(
            f"no row of {uri} has {'both ' if both else ''}DNA {'and' if both else 'or'} {name}: join it with others"
        )
    return table.sort_by([(one, "ascending") for one in further]), name, about


def _check(vectors: np.ndarray, what: str, keys: Sequence[str]) -> None:
    strange = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if strange.size:
        raise UsageError(
            f"the vector of {what} for {keys[int(strange[0])]!r} holds a number that is not finite: take the row out"
        )


def read_columns(
    names: Sequence[str], keys: Sequence[str], about: Mapping[str, Any], modality: str, subjects: str | None, salt: bytes | None
) -> dict[str, list[str | None]]:
    """Columns of subjects in the order of `keys`, from a table of subjects, else from the partner's own.

    Raises UsageError where a table or column is missing, a subject has two values, or none of these has one.
    """
    if not names:
        return {}
    on = about["on"]
    if subjects is not None:
        found = subjectcolumns.read(subjects, on, names, what=f"the table of subjects {subjects}", salt=salt)
    else:
        partner = next(one for one in about["partners"] if one["name"] == modality)
        if "mapping" in partner:
            raise UsageError(
                f"partner {modality} has keys of its own, so that its columns name no {on}: give {', '.join(names)} with --subjects"
            )
        what = f"partner {modality}, {partner['uri']},"
        found = subjectcolumns.read(
            partner["uri"], partner["key_column"], names, what=what, version=partner["version"], salt=salt
        )
    columns: dict[str, list[str | None]] = {name: [values.get(key) for key in keys] for name, values in found.items()}
    for name, values in columns.items():
        if not any(value is not None for value in values):
            raise UsageError(f"no subject of the joined table has a value in column {name!r}: are the keys of one key space?")
    return columns


def _complete(config: AlignConfig, keys: Sequence[str], columns: Mapping[str, list[str | None]]) -> tuple[np.ndarray, list[str]]:
    """Which rows have all covariates, and a sentence about the others. Raises UsageError where some lack one and none may be dropped."""
    stays = np.ones(len(keys), bool)
    lacking: Counter[str] = Counter()
    for name in config.covariates:
        has = np.array([value is not None for value in columns[name]], bool)
        if not has.all():
            without = sorted({key for key, own in zip(keys, has, strict=True) if not own})
            lacking[name] = len(without)
            if not config.drop_missing:
                more = f" and {len(without) - _NAMED:,} more" if len(without) > _NAMED else ""
                raise UsageError(
                    f"{len(without):,} of {len(set(keys)):,} subjects have no value of covariate {name!r}, "
                    f"{', '.join(without[:_NAMED])}{more}: fill it, or leave them out with --drop-missing"
                )
        stays &= has
    out = len({key for key, own in zip(keys, stays, strict=True) if not own})
    told = ", ".join(f"{count:,} without {name}" for name, count in lacking.items())
    return stays, [f"{out:,} subjects that lack a covariate are left out: {told}"] if out else []


def _check_sides(subjects: Subjects) -> None:
    counts = {side: subjects.people(side) for side in SIDES}
    for side, least in _LEAST.items():
        if counts[side] < least:
            found = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            sizes = subjects.group_sizes()
            whole = (
                f", and the largest of {len(sizes):,} groups that are kept whole has {sizes.max():,}" if sizes.max() > 1 else ""
            )
            raise UsageError(
                f"{sum(counts.values()):,} subjects in {len(np.unique(subjects.exchanged())):,} families with both modalities come to "
                f"{found}, and {side} needs {least}{whole}: bring more, or give other shares or another --seed"
            )


def _shuffled(subjects: Subjects, seed: int) -> Subjects:
    """Every subject with a stranger's partner vector, within its side; all rows of a subject with those of one other.

    A stranger is of another family where no family has more than half of a side.
    """
    partner = subjects.partner.copy()
    for number, side in enumerate(SIDES):
        at = subjects.first(side)
        order = np.random.default_rng([seed, 3, number]).permutation(len(at))
        # Nobody stays: all stand in a random circle, families in a row, and each takes the vector of the one who is a family's length on.
        _, begins, family = np.unique(subjects.exchanged(at)[order], return_index=True, return_inverse=True)
        order = order[np.argsort(begins[family], kind="stable")]
        circle = np.empty(len(at), np.int64)
        circle[order] = np.roll(order, min(int(np.bincount(family).max()), max(1, len(at) // 2)))
        rows = np.flatnonzero(subjects.rows(side))
        place = np.unique(subjects._subject[rows], return_inverse=True)[1]
        partner[rows] = subjects.partner[at[circle[place]]]
    return Subjects(**{**{f: getattr(subjects, f) for f in Subjects.__dataclass_fields__}, "partner": partner})
