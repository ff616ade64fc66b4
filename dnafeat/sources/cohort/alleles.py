"""What the allele of a record does to the letters of a part of a region: rules R1 to R13 of bcftools' consensus within a region."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dnafeat.errors import UsageError
from dnafeat.sources.regions.region import Part

_REFERENCE = ("<NON_REF>", "<*>", ".", "<X>")
STAR, SYMBOLIC, DELETION = "star", "symbolic", "<DEL>"
# The first base in alphabetical order of what an IUPAC code stands for, which VCF 4.3 writes for it in REF.
_FIRST_BASE = bytes.maketrans(b"RYSWKMBDHVU", b"ACCAGACAAAT")


class Record(NamedTuple):
    """A record without its calls: `start` and `end` are 0-based and half open, to END for a deletion that is no letters."""

    contig: str
    start: int
    end: int
    ref: str
    alts: tuple[str, ...]

    @property
    def place(self) -> str:
        """For a sentence: `chr1:71`."""
        return f"{self.contig}:{self.start + 1}"

    def variant(self, allele: int) -> str:
        """An allele as `contig-position-ref-alt`, without the bases that both have at their ends."""
        alt = self.alts[allele - 1]
        if not is_letters(alt):
            return f"{self.contig}-{self.start + 1}-{self.ref[0].upper()}-{alt}{self.end if alt == DELETION else ''}"
        start, ref, alt = self.trimmed(allele)
        return f"{self.contig}-{start + 1}-{ref}-{alt}"

    def trimmed(self, allele: int) -> tuple[int, str, str]:
        """Start (0-based), REF and ALT of letters without the bases that both have at their ends; one base of each stays."""
        ref, alt, start = self.ref.upper(), self.alts[allele - 1].upper(), self.start
        while len(ref) > 1 and len(alt) > 1 and ref[-1] == alt[-1]:
            ref, alt = ref[:-1], alt[:-1]
        while len(ref) > 1 and len(alt) > 1 and ref[0] == alt[0]:
            ref, alt, start = ref[1:], alt[1:], start + 1
        return start, ref, alt


class Edit(NamedTuple):
    """An allele's replacement of forward letters within a part.

    Attributes
    ----------
    position : int
        First base of the record on the contig, which may lie before the part.
    start, end : int
        What is replaced, on the contig, within the part.
    letters : bytes
    longer : bool
        Whether it lengthens the sequence.
    anchored : Edit or None
        What it does behind its first base, where that is only an anchor.
    """

    position: int
    start: int
    end: int
    letters: bytes
    longer: bool
    anchored: Edit | None = None


def record_of(found: Any, contig: str) -> Record:
    """A pysam record's fields. `contig` is the genome's name."""
    alts = tuple(found.alts or ())
    return Record(contig, int(found.start), max(int(found.stop), int(found.start) + len(found.ref)), found.ref, alts)


def is_letters(alt: str) -> bool:
    """Whether an ALT is letters, and neither a symbol nor a breakend."""
    return alt.isalpha()


def kind(alt: str) -> str | None:
    """Why an ALT is not applied: `STAR`, `SYMBOLIC`, or empty where it stands for the reference; None for one that is."""
    if alt in _REFERENCE:
        return ""
    if alt == "*":
        return STAR
    if is_letters(alt) or alt == DELETION:
        return None
    return SYMBOLIC


def check_reference(record: Record, genome: bytes, where: str) -> None:
    """Raise UsageError where REF is not what the genome has there, (len(REF),) letters, in any case.

    For an IUPAC code of the genome REF may have its first base in alphabetical order.
    """
    ref, own = record.ref.upper().encode(), genome.upper()
    if ref == own:
        return
    first = own.translate(_FIRST_BASE)
    if len(ref) != len(own) or any(a not in (b, c) for a, b, c in zip(ref, own, first, strict=True)):
        shown = [text if len(text) <= 50 else f"{text[:50]}…" for text in (record.ref, genome.decode())]
        raise UsageError(
            f"{record.place}: REF of {where} is {shown[0]}, and the genome has {shown[1]}: the cohort is of another genome"
        )


def edit(record: Record, allele: int, part: Part, genome: bytes) -> Edit | None:
    """What an allele does to a part; None where it overlaps none of it.

    Parameters
    ----------
    allele : int
        Number of an ALT that is letters, or <DEL>.
    genome : bytes
        The letters of the part, forward.
    """
    alt = record.alts[allele - 1]
    if alt == DELETION:
        # The base at POS stays; a deletion that begins before the part has no anchor in it.
        size, letters, is_indel = record.end - record.start, record.ref[:1].upper().encode(), True
    else:
        size, letters = len(record.ref), alt.upper().encode()
        is_indel = _is_indel(record.ref.upper(), alt.upper())
    start, end = record.start, record.start + size
    if end <= part.start or start >= part.end:
        return None
    if start < part.start:
        letters, start = letters[part.start - start :], part.start
    if end > part.end:
        end = part.end
        letters = letters[: end - start]
    longer = len(letters) > end - start
    behind = None
    if is_indel and record.start == start:
        behind = Edit(record.start, start + 1, end, letters[1:], longer)
    return Edit(record.start, start, end, letters, longer, behind)


def _is_indel(ref: str, alt: str) -> bool:
    """Whether both begin with the same base, and one has nothing that the other lacks."""
    if ref[0] != alt[0] or len(ref) == len(alt):
        return False
    short, long = sorted((ref, alt), key=len)
    same = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return long.endswith(short[same:])


@dataclass(frozen=True)
class Applied:
    """The letters of a part with alleles applied, forward, and which of the edits were skipped because an earlier one overlaps them."""

    letters: bytes
    skipped: tuple[int, ...]


def apply(part: Part, genome: bytes, edits: Iterable[Edit | None]) -> Applied:
    """Apply edits in the order of the file: the first one wins where two overlap.

    Parameters
    ----------
    genome : bytes
        The letters of the part, forward.
    edits : iterable of Edit or None
        None does nothing.
    """
    pieces: list[bytes] = []
    skipped: list[int] = []
    # Letters are done up to `at`; bases up to `last` are occupied. Position 0 of a VCF is base -1 here.
    first = at = part.start
    last, longer = -2, False
    for number, one in enumerate(edits):
        if one is None:
            continue
        position, start, end, letters, lengthens, anchored = one
        if position <= last:
            if anchored is None or position != last or longer:
                skipped.append(number)
                continue
            _, start, end, letters, lengthens, _ = anchored
        pieces.append(genome[at - first : start - first])
        pieces.append(letters)
        at, longer = end, lengthens
        if end > last:
            last = end - 1
    pieces.append(genome[at - first :])
    return Applied(b"".join(pieces), tuple(skipped))


def spans(parts: Sequence[Part]) -> list[tuple[int, int]]:
    """The stretches of the contig that parts cover, rising and apart."""
    found: list[tuple[int, int]] = []
    for start, end in sorted((part.start, part.end) for part in parts):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found
