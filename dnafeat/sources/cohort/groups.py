"""Which haplotypes of a region are the same: each gets the sum of random numbers that stand for the alleles it carries.

In memory is 16 bytes a haplotype, and 10 bytes for each allele that differs from the reference up to a limit, beyond which the records are
read a second time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dnafeat.sources.cohort.calls import MISSING, NONE, Calls

# Genotypes that are looked at together.
_BLOCK = 2_000_000
# Carried alleles that are kept in memory, of 10 bytes each.
_MOST_KEPT = 4_000_000
# Half of the ploidy that is taken where no call says it.
_DIPLOID = 2


class Carried(NamedTuple):
    """Alleles that differ from the reference: haplotype (subject * ploidy + number), record and allele of each, in order of records."""

    haplotype: np.ndarray
    record: np.ndarray
    allele: np.ndarray


class Numbered(NamedTuple):
    """The calls of a record with its number in the region, and phase sets, (samples,) int64, where it has them (0: none)."""

    number: int
    calls: Calls
    phase_sets: np.ndarray | None


@dataclass
class HaplotypeGroups:
    """The haplotypes of a region in groups that carry the same alleles.

    Attributes
    ----------
    codes : np.ndarray, shape=(samples, ploidy), int32
        Group of each haplotype; -1 for those that a subject does not have.
    carriers : np.ndarray, shape=(groups,), int64
        Haplotypes of each.
    alleles : list of list of (int, int)
        Record and allele that each group carries, in order.
    missing, unphased, ambiguous, mixed_ploidy, left_out : int
        Missing alleles; heterozygous calls without phase; subjects with several heterozygous calls that are not of one phase; subjects
        with calls of several ploidies; subjects with too many missing alleles.
    """

    codes: np.ndarray
    carriers: np.ndarray
    alleles: list[list[tuple[int, int]]]
    missing: int = 0
    unphased: int = 0
    ambiguous: int = 0
    mixed_ploidy: int = 0
    left_out: int = 0


def group(read: Callable[[], Iterable[Numbered]], samples: int, max_missing: float = 1.0) -> HaplotypeGroups:
    """Group the haplotypes of a region.

    Parameters
    ----------
    read : callable
        Returns the calls of all records of the region; called a second time where the alleles that are carried are too many to keep.
    samples : int
    max_missing : float
        Largest share of missing alleles of a subject that has rows.
    """
    state = _State(samples)
    for block in _blocks(read(), samples):
        state.add(block)
    ploidy = np.where(state.most > 0, state.most, _DIPLOID)
    share = np.divide(state.missing, state.called, out=np.zeros(samples), where=state.called > 0)
    taken = share <= max_missing
    width = int(ploidy[taken].max(initial=1))
    there = (np.arange(width) < ploidy[:, None]) & taken[:, None]
    keys = np.zeros((samples, width, 2), np.uint64)
    common = min(width, state.keys.shape[1])
    keys[:, :common] = state.keys[:, :common]
    first, members = _distinct(keys[there])
    codes = np.full((samples, width), -1, np.int32)
    codes[there] = members
    representatives = np.flatnonzero(there)[first]
    carried = state.carried() if state.kept is not None else _again(read, samples, representatives, width)
    ploidy_of_kept = state.keys.shape[1] if state.kept is not None else width
    return HaplotypeGroups(
        codes=codes,
        carriers=np.bincount(members, minlength=len(first)),
        alleles=_alleles(carried, representatives // width * ploidy_of_kept + representatives % width),
        missing=int(state.missing.sum()),
        unphased=state.unphased,
        ambiguous=int(state.ambiguous.sum()),
        mixed_ploidy=int(((state.least != state.most) & (state.most > 0)).sum()),
        left_out=int((~taken).sum()),
    )


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of keys (n, 2): the first place of each distinct one, in order of those places, and the number of each key's."""
    if not len(keys):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    # The sort is stable, so that the first of a run is the first of all.
    first = order[new]
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    members = np.empty(len(keys), np.int64)
    members[order] = rank[np.cumsum(new) - 1]
    return np.sort(first), members


def _alleles(carried: Carried, representatives: np.ndarray) -> list[list[tuple[int, int]]]:
    """The alleles of some haplotypes, in order of records."""
    size = 1 + max(int(carried.haplotype.max(initial=-1)), int(representatives.max(initial=-1)))
    group_of = np.full(size, -1, np.int32)
    group_of[representatives] = np.arange(len(representatives), dtype=np.int32)
    owner = group_of[carried.haplotype]
    mine = np.flatnonzero(owner >= 0)
    owner, records, alleles = owner[mine], carried.record[mine], carried.allele[mine]
    by_owner = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[by_owner], np.arange(len(representatives) + 1))
    pairs = list(zip(records[by_owner].tolist(), alleles[by_owner].tolist(), strict=True))
    return [pairs[start:end] for start, end in itertools.pairwise(ends)]


class _Block(NamedTuple):
    """Calls of records of one ploidy at most: numbers (records,), alleles (records, samples, ploidy), unphased and phase sets (records,
    samples)."""

    numbers: np.ndarray
    alleles: np.ndarray
    unphased: np.ndarray
    phase_sets: np.ndarray | None


def _blocks(records: Iterable[Numbered], samples: int) -> Iterator[_Block]:
    held: list[Numbered] = []
    for record in records:
        ploidy = max(record.calls.alleles.shape[1], *(one.calls.alleles.shape[1] for one in held[:1])) if held else 1
        same = not held or record.calls.alleles.shape[1] == held[0].calls.alleles.shape[1]
        if held and (not same or (len(held) + 1) * samples * ploidy > _BLOCK):
            yield _block(held)
            held = []
        held.append(record)
    if held:
        yield _block(held)


def _block(held: list[Numbered]) -> _Block:
    sets = None
    if any(one.phase_sets is not None for one in held):
        nothing = np.zeros(len(held[0].calls.unphased), np.int64)
        sets = np.stack([nothing if one.phase_sets is None else one.phase_sets for one in held])
    return _Block(
        np.array([one.number for one in held]),
        np.stack([one.calls.alleles for one in held]),
        np.stack([one.calls.unphased for one in held]),
        sets,
    )


@dataclass
class _State:
    """What is known of the haplotypes of a region after some of its records."""

    samples: int
    unphased: int = 0
    kept: list[Carried] | None = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng()
        self.keys = np.zeros((self.samples, 1, 2), np.uint64)
        self.most, self.least = np.zeros(self.samples, np.int16), np.zeros(self.samples, np.int16)
        self.missing, self.called = np.zeros(self.samples, np.int64), np.zeros(self.samples, np.int64)
        self.ambiguous = np.zeros(self.samples, bool)
        # Of the heterozygous calls so far: 0 none, 1 of the phase set `phase_set`, 2 without phase.
        self.heterozygous, self.phase_set = np.zeros(self.samples, np.int8), np.zeros(self.samples, np.int64)
        self.count = 0

    def add(self, block: _Block) -> None:
        alleles = block.alleles
        samples, ploidy = alleles.shape[1:]
        self._widen(ploidy)
        self._count_calls(alleles)
        self._count_phases(block)
        flat = np.ascontiguousarray(alleles).reshape(-1)
        places = np.flatnonzero(flat > 0)
        allele = flat[places]
        at, haplotype = np.divmod(places, samples * ploidy)
        wide = self.keys.shape[1]
        if wide > ploidy:
            haplotype = haplotype // ploidy * wide + haplotype % ploidy
        weights = self.random.integers(0, 2**64, (len(block.numbers), int(allele.max(initial=0)) + 1, 2), np.uint64)
        keys = self.keys.reshape(-1, 2)
        for half in (0, 1):
            np.add.at(keys[:, half], haplotype, weights[at, allele, half])
        if self.kept is not None:
            self.count += len(at)
            self.kept.append(Carried(haplotype.astype(np.int32), block.numbers[at].astype(np.int32), allele))
            if self.count > _MOST_KEPT:
                self.kept = None

    def _widen(self, ploidy: int) -> None:
        old = self.keys.shape[1]
        if ploidy > old:
            self.keys = np.concatenate([self.keys, np.zeros((self.samples, ploidy - old, 2), np.uint64)], axis=1)
            if self.kept is not None:
                self.kept = [one._replace(haplotype=one.haplotype // old * ploidy + one.haplotype % old) for one in self.kept]

    def _count_calls(self, alleles: np.ndarray) -> None:
        records, samples, ploidy = alleles.shape
        if alleles.min(initial=0) >= 0:
            self.called += records * ploidy
            self.most = np.maximum(self.most, ploidy)
            self.least = np.where(self.least > 0, np.minimum(self.least, ploidy), ploidy)
            return
        # A sum over columns is many times faster than one over an axis of two.
        number, missing = (np.zeros((records, samples), np.int16) for _ in range(2))
        for one in range(ploidy):
            number += alleles[:, :, one] != NONE
            missing += alleles[:, :, one] == MISSING
        self.called += number.sum(axis=0)
        self.missing += missing.sum(axis=0)
        # A lone missing allele tells nothing of how many there are.
        number[(number == 1) & (missing == 1)] = 0
        self.most = np.maximum(self.most, number.max(axis=0))
        least = np.where(number > 0, number, np.iinfo(np.int16).max).min(axis=0)
        self.least = np.where(self.least > 0, np.minimum(self.least, least), least)

    def _count_phases(self, block: _Block) -> None:
        alleles = block.alleles
        if alleles.shape[2] == 1:
            return
        known, differ = alleles[:, :, 0], np.zeros(alleles.shape[:2], bool)
        for one in range(1, alleles.shape[2]):
            other = alleles[:, :, one]
            differ |= (other != known) & (other >= 0) & (known >= 0)
            known = np.where(known < 0, other, known)
        unphased = differ & block.unphased
        self.unphased += int(unphased.sum())
        if block.phase_sets is None and not unphased.any() and not (self.heterozygous == 2).any() and not self.phase_set.any():
            self.heterozygous[differ.any(axis=0) & (self.heterozygous == 0)] = 1
            return
        for at in np.flatnonzero(differ.any(axis=1)):
            own = np.zeros(self.samples, np.int64) if block.phase_sets is None else block.phase_sets[at]
            other = unphased[at] | (self.heterozygous == 2) | (own != self.phase_set)
            self.ambiguous |= differ[at] & (self.heterozygous > 0) & other
            first = differ[at] & (self.heterozygous == 0)
            self.phase_set[first] = own[first]
            self.heterozygous[first] = np.where(unphased[at][first], 2, 1)

    def carried(self) -> Carried:
        assert self.kept is not None
        if not self.kept:
            return Carried(*(np.empty(0, np.int32) for _ in range(3)))
        return Carried(*(np.concatenate(parts) for parts in zip(*self.kept, strict=True)))


def _again(read: Callable[[], Iterable[Numbered]], samples: int, haplotypes: np.ndarray, width: int) -> Carried:
    """The alleles of some haplotypes alone, by reading the records once more."""
    wanted = np.zeros((samples, width), bool)
    wanted.reshape(-1)[haplotypes] = True
    found = []
    for block in _blocks(read(), samples):
        ploidy = min(block.alleles.shape[2], width)
        at, subject, number = np.nonzero((block.alleles[:, :, :ploidy] > 0) & wanted[:, :ploidy])
        own = (subject * width + number).astype(np.int32), block.numbers[at].astype(np.int32), block.alleles[at, subject, number]
        found.append(Carried(*own))
    return Carried(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
