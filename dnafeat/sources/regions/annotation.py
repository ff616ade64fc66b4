"""GFF3 and GTF files as regions: genes, transcripts, exons, coding sequences, or any other type of their third column.

Coordinates there are 1-based and closed. The phase changes no letter, and what the file calls a coding sequence is one: GTF leaves the stop
codon out, GFF3 has it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from dnafeat.errors import UsageError
from dnafeat.sources.regions.attributes import attributes
from dnafeat.sources.regions.lines import Line, read_lines
from dnafeat.sources.regions.region import Part, Region

_GENES = ("gene", "pseudogene", "ncRNA_gene", "transposable_element_gene")
_TRANSCRIPTS = (
    *("mRNA", "transcript", "primary_transcript", "pseudogenic_transcript", "processed_transcript", "unconfirmed_transcript"),
    *(
        "lnc_RNA",
        "lncRNA",
        "ncRNA",
        "nc_primary_transcript",
        "rRNA",
        "tRNA",
        "tmRNA",
        "snRNA",
        "snoRNA",
        "scRNA",
        "scaRNA",
        "miRNA",
    ),
    *(
        "pre_miRNA",
        "piRNA",
        "siRNA",
        "Y_RNA",
        "vault_RNA",
        "RNase_P_RNA",
        "RNase_MRP_RNA",
        "SRP_RNA",
        "telomerase_RNA",
        "antisense_RNA",
    ),
    *(
        "guide_RNA",
        "three_prime_overlapping_ncrna",
        "processed_pseudogene",
        "pseudogenic_tRNA",
        "pseudogenic_rRNA",
        "circular_RNA",
    ),
    *("V_gene_segment", "D_gene_segment", "J_gene_segment", "C_gene_segment"),
)
_COLUMNS = 9
_PREFIX = re.compile(r"^(?:gene|transcript|CDS|exon|rna|cds)[:-]")


@dataclass(frozen=True, slots=True)
class _Feature:
    """A line: `start` and `end` are 0-based and half open, `strand` is +, -, . or ?, `attributes` lists of values by name."""

    type: str
    contig: str
    start: int
    end: int
    strand: str
    attributes: dict[str, list[str]]
    line: Line

    @property
    def place(self) -> str:
        return self.line.place

    @property
    def whole(self) -> Part:
        """From its first base to its last."""
        return Part(self.start, self.end, "-" if self.strand == "-" else "+")

    def first(self, *names: str) -> str | None:
        """The first value of the first of some attributes that is there."""
        return next((values[0] for name in names if (values := self.attributes.get(name)) and values[0]), None)

    @property
    def id(self) -> str | None:
        return self.first("ID")

    @property
    def plain_id(self) -> str | None:
        """The ID without a prefix such as `transcript:`."""
        return _PREFIX.sub("", self.id) if self.id else None

    @property
    def part(self) -> int | None:
        """The place of a part of what is spliced from several transcripts."""
        found = re.match(r"\d+", self.first("part") or "")
        return int(found[0]) if found else None


def read_annotation(uri: str, feature: str, splice: bool) -> tuple[list[Region], set[str]]:
    """The regions of one type, and the names of circular contigs.

    Parameters
    ----------
    feature : str
        gene, transcript, exon, CDS, or any type of the third column.
    splice : bool
        Whether the exons of transcripts, or the lines of coding sequences, are joined in order of transcription.

    Raises
    ------
    UsageError
        A line that cannot be read, no feature of the type, or a transcript without exons.
    """
    if splice and feature not in ("transcript", "CDS"):
        raise UsageError(
            f"--splice joins the exons of a transcript or the lines of a CDS, not of a {feature}: give --feature transcript or CDS"
        )
    wanted = {"gene": ("gene",), "transcript": ("exon", *_TRANSCRIPTS), "exon": ("exon",)}.get(feature, (feature,))
    parents = () if feature == "gene" else (*_GENES, *_TRANSCRIPTS)
    lines, circular = _features(uri, {*wanted, *parents})
    gtf = not any(line.id or line.first("Parent") for line in lines)
    if feature == "gene" and not any(line.type == "gene" for line in lines):
        lines, circular = _features(uri, {"exon"})
        regions = list(_genes_of_exons(lines))
    else:
        tree = _Tree(lines)
        regions = list(tree.transcripts(splice) if feature == "transcript" else tree.others(feature, splice, gtf))
    if not regions:
        raise UsageError(f"{uri} has no feature of type {feature}: name a type of its third column with --feature")
    return regions, circular


def _features(uri: str, types: set[str]) -> tuple[list[_Feature], set[str]]:
    found, circular = [], set()
    for line in read_lines(uri):
        cells = line.text.split("\t")
        if len(cells) != _COLUMNS:
            raise UsageError(f"{line.place}: {len(cells)} columns, and GFF3 and GTF have 9, with tabs between them")
        if "is_circular=true" in cells[8].lower():
            circular.add(cells[0])
        if cells[2] not in types:
            continue
        start, end = _coordinate(cells[3], line), _coordinate(cells[4], line)
        if not 1 <= start <= end:
            raise UsageError(
                f"{line.place}: the feature starts at {start} and ends at {end}: both are counted from 1, and the start is not the larger"
            )
        if cells[6] not in ("+", "-", ".", "?"):
            raise UsageError(f"{line.place}: the strand is {cells[6]!r}: write +, - or .")
        found.append(_Feature(cells[2], cells[0], start - 1, end, cells[6], attributes(cells[8]), line))
    return found, circular


def _coordinate(text: str, line: Line) -> int:
    if not text.isdecimal():
        raise UsageError(f"{line.place}: {text[:100]!r} is no coordinate: write whole numbers, counted from 1")
    return int(text)


class _Tree:
    """Features with those that they belong to."""

    def __init__(self, lines: Sequence[_Feature]) -> None:
        self.lines = lines
        self.by_id = {line.id: line for line in reversed(lines) if line.id}

    def up(self, line: _Feature) -> Iterator[_Feature]:
        """A feature and what it belongs to, first parents alone."""
        seen: set[str] = set()
        now: _Feature | None = line
        while now is not None:
            yield now
            parent = now.first("Parent")
            now = self.by_id.get(parent) if parent and parent not in seen else None
            seen.add(parent or "")

    def gene(self, line: _Feature) -> dict[str, str | None]:
        """The names of the gene that a feature belongs to."""
        above = list(self.up(line))
        gene = next((one for one in above if one.type in _GENES), None)
        named = next((one for one in above if one.first("gene_id")), None)
        return {
            "gene_id": gene_name(gene) if gene else named.first("gene_id") if named else None,
            "gene_name": (gene or line).first("gene_name", "gene", *(["Name"] if gene else [])),
            "biotype": (gene or line).first("gene_biotype", "gene_type", "biotype"),
        }

    def transcripts(self, splice: bool) -> Iterator[Region]:
        exons: dict[str, list[_Feature]] = defaultdict(list)
        for line in self.lines:
            if line.type == "exon":
                for owner in line.attributes.get("Parent") or [line.first("transcript_id") or ""]:
                    exons[owner].append(line)
        own = [line for line in self.lines if line.type in _TRANSCRIPTS]
        if not own:
            # A GTF may leave transcripts to be told from their exons.
            for name, parts in exons.items():
                if name:
                    whole = self._region(name, parts, name)
                    yield whole if splice else replace(whole, parts=(_span(parts).whole,))
            return
        for lines in _together(own, lambda one: one.id if one.part is not None else None):
            first = lines[0]
            name = first.first("transcript_id") or first.plain_id or _unnamed(first)
            if not splice:
                yield self._region(name, lines, name)
                continue
            parts = exons.get(first.id or name, [])
            if not parts:
                raise UsageError(f"{first.place}: transcript {name} has no exon to splice: leave it out, or leave out --splice")
            unstranded = dict.fromkeys((".", "?"), first.strand)
            yield self._region(name, [replace(one, strand=unstranded.get(one.strand, one.strand)) for one in parts], name)

    def others(self, feature: str, splice: bool, gtf: bool) -> Iterator[Region]:
        own = [line for line in self.lines if line.type == feature]
        if splice and not gtf:
            own = self._of_transcripts(own)

        def joined(line: _Feature) -> str | None:
            if splice:
                return line.first("transcript_id") if gtf else line.id or line.first("Parent")
            return line.id if line.part is not None else None

        for lines in _together(own, joined):
            first = lines[0]
            transcript = next((one for one in self.up(first) if one.type in _TRANSCRIPTS), None)
            of = first.first("transcript_id")
            if of is None and transcript is not None:
                of = transcript.first("transcript_id") or transcript.plain_id
            name: str | None
            if feature in _GENES:
                name = gene_name(first)
            elif feature == "exon":
                name = first.first("exon_id", "ID")
            elif feature == "CDS":
                # Other names are often those of a gene, and so of several coding sequences.
                name = first.plain_id or (of if splice else None)
                name = name or first.first("transcript_id", "protein_id", "locus_tag", "Name")
            else:
                name = first.plain_id or first.first("Name", "locus_tag", "gene_id", "transcript_id")
            parts = [self._stranded(line) for line in lines] if splice else lines
            # An exon can be one of several transcripts.
            yield self._region(name or _unnamed(first), parts, of if feature != "exon" else None)

    def _of_transcripts(self, lines: list[_Feature]) -> list[_Feature]:
        """Lines of coding sequences, once for each transcript and without their IDs where these do not say which lines are one.

        Those are lines without an ID, and all lines of a file whose every line has an ID of its own, though transcripts have several.
        """
        parents = {place: [one for one in line.attributes.get("Parent", ()) if one] for place, line in enumerate(lines)}
        ids = Counter(line.id for line in lines if line.id)
        named = Counter(
            one for own in parents.values() for one in own if one in self.by_id and self.by_id[one].type in _TRANSCRIPTS
        )
        segments = max(ids.values(), default=1) == 1 and max(named.values(), default=1) > 1
        found = []
        for place, line in enumerate(lines):
            own = [one for one in parents[place] if one in named or not line.id]
            if line.part is not None or not own or (line.id and not segments):
                found.append(line)
                continue
            rest = {name: values for name, values in line.attributes.items() if name != "ID"}
            found += [replace(line, attributes={**rest, "Parent": [one]}) for one in own]
        return found

    def _stranded(self, line: _Feature) -> _Feature:
        """A part of what is spliced, on the strand of what it belongs to where it has none itself."""
        strand = next((one.strand for one in self.up(line) if one.strand in ("+", "-")), ".")
        return replace(line, strand=strand)

    def _region(self, name: str, lines: Sequence[_Feature], transcript: str | None) -> Region:
        first = lines[0]
        if strange := next((line for line in lines if line.contig != first.contig), None):
            raise UsageError(
                f"{strange.place}: {name} is on {strange.contig}, and in {first.place} on {first.contig}: a region is on one contig"
            )
        if all(line.part is not None for line in lines):
            lines = sorted(lines, key=lambda line: (line.part or 0, -line.start if line.strand == "-" else line.start))
        else:
            strands = {line.whole.strand for line in lines}
            if len(strands) > 1:
                raise UsageError(
                    f"{first.place}: the lines of {name} are on both strands, and no attribute `part` gives their order"
                )
            lines = sorted(lines, key=lambda line: line.start, reverse=strands == {"-"})
        parts = tuple(dict.fromkeys(line.whole for line in lines))
        keys: dict[str, Any] = self.gene(first)
        return Region(
            name=name,
            contig=first.contig,
            parts=parts,
            file=first.line.file,
            row=first.line.row,
            transcript_id=transcript,
            **keys,
        )


def gene_name(line: _Feature) -> str:
    """What a gene is called: gene_id, NCBI's Name, its ID without a prefix, or locus_tag."""
    ncbi = line.first("Name") if (line.id or "").startswith("gene-") else None
    return line.first("gene_id") or ncbi or line.plain_id or line.first("locus_tag") or _unnamed(line)


def _unnamed(line: _Feature) -> NoReturn:
    raise UsageError(f"{line.place}: the {line.type} has no name: give it an ID, or a gene_id or transcript_id")


def _together(lines: Iterable[_Feature], name: Any) -> Iterator[list[_Feature]]:
    """Lines of one name, in the order of the first; those without a name each by itself."""
    groups: dict[Any, list[_Feature]] = {}
    for number, line in enumerate(lines):
        groups.setdefault(name(line) or number, []).append(line)
    yield from groups.values()


def _span(lines: Sequence[_Feature]) -> _Feature:
    """One feature from the first base of some to the last."""
    first = lines[0]
    low, high = min(line.start for line in lines), max(line.end for line in lines)
    return _Feature(first.type, first.contig, low, high, first.strand, first.attributes, first.line)


def _genes_of_exons(lines: Sequence[_Feature]) -> Iterator[Region]:
    """Genes of a GTF that has no line for them: from the first exon of a gene_id on a contig and strand to the last."""
    for exons in _together(
        lines, lambda line: (line.first("gene_id"), line.contig, line.whole.strand) if line.first("gene_id") else None
    ):
        gene = _span(exons)
        name = gene.first("gene_id")
        if name is None:
            continue
        yield Region(
            name=name,
            contig=gene.contig,
            parts=(gene.whole,),
            file=gene.line.file,
            row=gene.line.row,
            gene_id=name,
            gene_name=gene.first("gene_name"),
            biotype=gene.first("gene_biotype", "gene_type"),
        )
