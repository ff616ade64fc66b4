"""The distinct haplotypes of a region: their letters, built once each, and who carries them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dnafeat import sequence as dna
from dnafeat.errors import UsageError
from dnafeat.sources.cohort import alleles as rules
from dnafeat.sources.cohort.alleles import Edit, Record, check_reference, record_of
from dnafeat.sources.cohort.calls import Calls, genotypes
from dnafeat.sources.cohort.files import CohortReader
from dnafeat.sources.cohort.groups import HaplotypeGroups, Numbered, group
from dnafeat.sources.regions.genome import Genome
from dnafeat.sources.regions.region import Part, Region

COUNTED = ("records", "missing", "unphased", "ambiguous", "mixed_ploidy", "left_out", "overlaps", "star", "symbolic")
# Letters, by eights, that are long.
_LONG_WORDS = 1000
_LOWER_TO_N = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz", b"N" * 26)


@dataclass(frozen=True, kw_only=True)
class CohortReading:
    """How a cohort is read: settings of `GenomeConfig`."""

    only_pass: bool = False
    unphased: str = "take"
    max_missing: float = 1.0
    soft_masked: str = "keep"


@dataclass
class RegionHaplotypes:
    """The distinct haplotypes of a region.

    Attributes
    ----------
    letters : list of bytes
        Of each, as its strand has them.
    codes : np.ndarray, shape=(samples, ploidy), int32
        Which of them a subject's haplotype is; -1 where the subject has none.
    variants : list of list of str
        Those that were applied, as `contig-position-ref-alt`: of several ways to the same letters the first.
    skipped : list of int
        Alleles that an earlier one overlaps.
    reference : bytes
        The region's letters without any variant.
    counts : Counter
        By the names of `COUNTED`.
    """

    letters: list[bytes]
    codes: np.ndarray
    variants: list[list[str]]
    skipped: list[int]
    reference: bytes
    counts: Counter[str] = field(default_factory=Counter)


def letters_of(genome: Genome, region: Region, soft_masked: str = "keep") -> list[bytes]:
    """The forward letters of each part of a region, in upper case."""
    found = [genome.letters(region.contig, part.start, part.end) for part in region.parts]
    return [normalised(one, soft_masked) for one in found]


def normalised(letters: bytes, soft_masked: str) -> bytes:
    """Letters of a genome in upper case, those in lower case as N where they are masked."""
    return dna.normalise(letters.translate(_LOWER_TO_N) if soft_masked == "n" else letters)


def joined(parts: Sequence[Part], forward: Sequence[bytes]) -> bytes:
    """The letters of a region of those of its parts."""
    if len(parts) == 1:
        return parts[0].read(forward[0])
    return b"".join(part.read(one) for part, one in zip(parts, forward, strict=True))


def read_region(cohort: CohortReader, genome: Genome, region: Region, how: CohortReading) -> RegionHaplotypes:
    """Read the records of a region, and build each distinct haplotype once.

    Raises
    ------
    UsageError
        REF of a record is not what the genome has, a call names an allele that its record lacks, or one is unphased and that is refused.
    """
    own = RegionRecords(cohort, genome, region, how)
    forward = letters_of(genome, region, how.soft_masked)
    return built_from(own.calls, len(cohort.samples), region, forward, own.records, how.max_missing)


def built_from(
    calls: Callable[[], Iterable[Numbered]],
    samples: int,
    region: Region,
    forward: list[bytes],
    records: list[Record],
    max_missing: float = 1.0,
) -> RegionHaplotypes:
    """Group people by the calls of a region's records, and build each distinct haplotype.

    Parameters
    ----------
    calls : callable
        As `groups.group` takes it.
    forward : list of bytes
        The letters of each part.
    records : list of Record
        Filled once the calls have been read.
    """
    return _Builder(region, forward, records).built(group(calls, samples, max_missing))


class RegionRecords:
    """The records of a region, in the order of the file, each once."""

    def __init__(self, cohort: CohortReader, genome: Genome, region: Region, how: CohortReading) -> None:
        self.cohort, self.genome, self.region, self.how = cohort, genome, region, how
        self.records: list[Record] = []

    def calls(self) -> Iterator[Numbered]:
        """Their calls; `records` has the records themselves afterwards."""
        self.records.clear()
        before: tuple[int, int] | None = None
        for span in rules.spans(self.region.parts):
            letters = self.genome.letters(self.region.contig, *span)
            for found in self.cohort.records(self.region.contig, *span):
                record = record_of(found, self.region.contig)
                # One that reaches over from the stretch before is there already.
                seen = before is not None and record.start < before[1] and record.end > before[0]
                if seen or not self._is_taken(found):
                    continue
                self._check(record, span[0], letters)
                yield self._numbered(record, found)
            before = (before[0] if before else span[0], span[1])

    def _is_taken(self, found: Any) -> bool:
        return not self.how.only_pass or passes(found)

    def _check(self, record: Record, first: int, letters: bytes) -> None:
        if record.start < 0:
            # Position 0 is the telomere before the first base.
            record = record._replace(start=0, ref=record.ref[-record.start :])
        start, end = record.start - first, record.start - first + len(record.ref)
        if start >= 0 and end <= len(letters):
            own = letters[start:end]
        else:
            length = self.genome.lengths[record.contig]
            own = self.genome.letters(record.contig, record.start, min(first + end, length))
        check_reference(record, own, "the cohort")

    def _numbered(self, record: Record, found: Any) -> Numbered:
        samples = len(self.cohort.samples)
        sets = _phase_sets(found, samples) if "PS" in found.format else None
        calls = calls_of(record, found, self.cohort.samples)
        if self.how.unphased == "refuse" and calls.unphased.any():
            known = np.where(calls.alleles >= 0, calls.alleles, calls.alleles.max(axis=1, keepdims=True))
            differ = (known.min(axis=1) != known.max(axis=1)) & calls.unphased
            if differ.any():
                name = self.cohort.samples[int(np.flatnonzero(differ)[0])]
                raise UsageError(
                    f"{record.place}: the call of sample {name} is unphased, and --unphased is refuse: phase the cohort, or take such "
                    f"calls as they are written"
                )
        self.records.append(record)
        return Numbered(len(self.records) - 1, calls, sets)


def passes(found: Any) -> bool:
    """Whether the FILTER of a pysam record is PASS or missing."""
    return set(found.filter.keys()) <= {"PASS"}


def calls_of(record: Record, found: Any, samples: Sequence[str]) -> Calls:
    """The calls of a pysam record. Raises UsageError where they cannot be read, or name an allele that the record lacks."""
    try:
        calls = genotypes(found, len(samples))
    except ValueError as error:
        raise UsageError(f"{record.place}: the genotypes cannot be read: {error}") from None
    if calls.alleles.max(initial=0) > len(record.alts):
        at = int(np.flatnonzero((calls.alleles > len(record.alts)).any(axis=1))[0])
        raise UsageError(
            f"{record.place}: sample {samples[at]} has allele {calls.alleles[at].max()}, and the record has {len(record.alts)} beside REF"
        )
    return calls


def _phase_sets(found: Any, samples: int) -> np.ndarray:
    values = [sample.get("PS") for sample in found.samples.values()]
    # 0 stands for the calls of no named set, and the position of a set is 1 or more.
    return np.fromiter((value if isinstance(value, int) else _named(value) for value in values), np.int64, samples)


def _named(value: object) -> int:
    return 0 if value in (None, ".", (None,)) else 1 + hash(str(value)) % 2**62


class _Allele(NamedTuple):
    """Why an allele is not applied, or None; what it does to each part, and what it is called."""

    why: str | None
    edits: list[Edit | None]
    variant: str


class _Numbers:
    """Numbers distinct letters in the order they come.

    Long ones are looked up by a sum of random weights, which is several times faster than Python's hash, and then compared.
    """

    def __init__(self) -> None:
        self._known: dict[object, int] = {}
        self._weights = np.empty(0, np.uint64)

    def of(self, letters: bytes, others: Sequence[bytes]) -> int:
        """The number of letters among those that have one; that of the next, `len(others)`, for new ones."""
        words = len(letters) // 8
        key: object = letters
        if words >= _LONG_WORDS:
            if len(self._weights) < words:
                more = np.random.default_rng().integers(0, 2**64, words - len(self._weights), np.uint64)
                self._weights = np.concatenate([self._weights, more])
            whole = np.frombuffer(letters, np.uint64, words)
            key = len(letters), int(np.dot(whole, self._weights[:words])), letters[8 * words :]
        code = self._known.setdefault(key, len(others))
        if code < len(others) and others[code] != letters:
            code = self._known.setdefault(letters, len(others))
        return code


class _Builder:
    """Builds the letters of haplotypes of one region; an allele's edit is made once."""

    def __init__(self, region: Region, forward: list[bytes], records: Sequence[Record]) -> None:
        self.region, self.forward, self.records = region, forward, records
        self._known: dict[tuple[int, int], _Allele] = {}
        # Whether any of them is not applied.
        self._some_apart = False

    def allele(self, pair: tuple[int, int]) -> _Allele:
        """What a record's allele does."""
        if pair not in self._known:
            record, number = self.records[pair[0]], pair[1]
            why, edits = rules.kind(record.alts[number - 1]), list[Edit | None]()
            if record.alts[number - 1] == rules.DELETION and record.end == record.start + 1:
                # Neither END nor SVLEN says what it takes.
                why = rules.SYMBOLIC
            if why is None:
                edits = [rules.edit(record, number, part, own) for part, own in zip(self.region.parts, self.forward, strict=True)]
            self._some_apart |= why is not None
            self._known[pair] = _Allele(why, edits, record.variant(number))
        return self._known[pair]

    def built(self, groups: HaplotypeGroups) -> RegionHaplotypes:
        """The distinct letters of all groups; several groups can have the same."""
        names = ("missing", "unphased", "ambiguous", "mixed_ploidy", "left_out")
        counts = Counter({name: getattr(groups, name) for name in names})
        counts["records"] = len(self.records)
        parts, known, number = self.region.parts, self._known, _Numbers()
        found = RegionHaplotypes([], groups.codes, [], [], joined(parts, self.forward), counts)
        code_of = np.empty(len(groups.alleles) + 1, np.int32)
        code_of[-1] = -1
        for at, (carried, copies) in enumerate(zip(groups.alleles, groups.carriers.tolist(), strict=True)):
            alleles = [known.get(pair) or self.allele(pair) for pair in carried]
            applied = alleles
            if self._some_apart:
                applied = [one for one in alleles if one.why is None]
                for one in alleles if len(applied) < len(alleles) else ():
                    if one.why:
                        counts[one.why] += copies
            done = [
                rules.apply(part, own, [one.edits[which] for one in applied])
                for which, (part, own) in enumerate(zip(parts, self.forward, strict=True))
            ]
            skipped = sum(len(one.skipped) for one in done)
            counts["overlaps"] += skipped * copies
            letters = joined(parts, [one.letters for one in done])
            code_of[at] = code = number.of(letters, found.letters)
            if code == len(found.letters):
                left_out = {one for part in done for one in part.skipped}
                found.letters.append(letters)
                variants = [one.variant for one in applied]
                found.variants.append([name for i, name in enumerate(variants) if i not in left_out] if left_out else variants)
                found.skipped.append(skipped)
        found.codes = code_of[groups.codes]
        return found
