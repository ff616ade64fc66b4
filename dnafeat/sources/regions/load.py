"""The regions of a run: read from their file, put on the genome's contigs, extended, cut into tiles and named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.keys import named
from dnafeat.sources.regions.annotation import read_annotation
from dnafeat.sources.regions.bed import read_bed
from dnafeat.sources.regions.config import GenomeConfig
from dnafeat.sources.regions.lines import read_lines
from dnafeat.sources.regions.names import same_contig
from dnafeat.sources.regions.region import Contig, Part, Region, flanked, promoter, tiles, wrapped

_KINDS = {
    **dict.fromkeys(("bed", "narrowpeak", "broadpeak"), "bed"),
    **dict.fromkeys(("gff", "gff3", "gtf"), "annotation"),
}
_PACKED = (".gz", ".bgz", ".bz2", ".xz")


@dataclass(frozen=True)
class LoadedRegions:
    """Regions in the order of contig and start.

    Attributes
    ----------
    regions : list of Region
    cut_flanks : int
        Regions whose promoter or flank left the contig and was cut.
    """

    regions: list[Region]
    cut_flanks: int


def load(config: GenomeConfig, lengths: dict[str, int], tile: int | None, stride: int | None) -> LoadedRegions:
    """Read the regions of a run.

    Parameters
    ----------
    config : GenomeConfig
    lengths : dict of str to int
        Bases of the genome's contigs, in its order.
    tile, stride : int or None
        Bases.

    Raises
    ------
    UsageError
        A file or line that cannot be read, a contig that the genome lacks, a region past the end, or two regions of one name.
    """
    assert config.genome is not None
    assert config.regions is not None
    uri = storage.absolute(config.regions)
    if _kind(uri) == "bed":
        if config.feature is not None:
            raise UsageError(f"{uri} is BED, which has no features: leave --feature out")
        found, circular = list(read_bed(read_lines(uri), config.splice)), set[str]()
        _check_names(found, joins=False)
    else:
        found, circular = read_annotation(uri, config.feature or "gene", config.splice)
    if not found:
        raise UsageError(f"{uri} has no region")
    contigs = _Contigs(config.genome, lengths, circular)
    extended, cut = [], 0
    for region in _once(_spelled(found)):
        placed, was_cut = _extended(contigs.placed(region), config, contigs)
        extended.append(placed)
        cut += was_cut
    regions = [one for region in extended for one in (tiles(region, tile, stride or tile) if tile else (region,))]
    _check_names(regions, joins=config.feature == "CDS" and not config.splice)
    order = {name: at for at, name in enumerate(lengths)}
    return LoadedRegions(sorted(regions, key=lambda one: (order[one.contig], one.first, one.name)), cut)


def _kind(uri: str) -> str:
    name = storage.name(uri).lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    kind = _KINDS.get(PurePosixPath(name).suffix[1:])
    if kind is None:
        raise UsageError(
            f"{uri} is of no kind of regions that is read here, which are {', '.join('.' + one for one in _KINDS)}: rename the file"
        )
    return kind


def _spelled(regions: Sequence[Region]) -> list[Region]:
    """Regions with their names spelled by the rule of keys. Raises UsageError for one whose name stands for a missing value."""
    columns = {}
    for key in ("name", "gene_id", "transcript_id", "gene_name", "biotype"):
        columns[key] = named(pa.array([getattr(region, key) for region in regions], pa.string())).to_pylist()
    if None in columns["name"]:
        lost = regions[columns["name"].index(None)]
        raise UsageError(f"{lost.place}: the region's name is {lost.name!r}, which stands for a missing value: give it another")
    rows = zip(*columns.values(), strict=True)
    return [replace(region, **dict(zip(columns, row, strict=True))) for region, row in zip(regions, rows, strict=True)]


def _once(regions: Iterable[Region]) -> Iterator[Region]:
    """Regions without those that are there already: the exon of several transcripts stands in several lines."""
    seen: dict[tuple[str, str, tuple[Part, ...]], None] = {}
    for region in regions:
        key = region.name, region.contig, region.parts
        if key not in seen:
            seen[key] = None
            yield region


def _check_names(regions: Sequence[Region], *, joins: bool) -> None:
    places: dict[str, Region] = {}
    for region in regions:
        first = places.setdefault(region.name, region)
        if first is not region:
            raise UsageError(
                f"two regions are named {region.name!r}, in {first.place} and in {region.place}: make their names unique"
                + (", or join the lines of one feature with --splice" if joins else "")
            )


class _Contigs:
    """The genome's contigs, found by the names that the regions' file has for them."""

    def __init__(self, genome: str, lengths: dict[str, int], circular: set[str]) -> None:
        self.genome, self.lengths = genome, lengths
        self.known: dict[str, str | None] = {}
        self.circular = {own for name in circular if (own := self.find(name)) is not None}

    def find(self, name: str) -> str | None:
        if name not in self.known:
            found = same_contig(name, self.lengths, self.genome)
            # GFF3 writes %7C for a bar in a name, and so on.
            self.known[name] = found or same_contig(unquote(name), self.lengths, self.genome)
        return self.known[name]

    def contig(self, name: str) -> Contig:
        return Contig(name, self.lengths[name], name in self.circular)

    def placed(self, region: Region) -> Region:
        """The region on its contig of the genome. Raises UsageError where it has none, or ends behind it."""
        name = self.find(region.contig)
        if name is None:
            raise UsageError(f"{region.place}: genome {self.genome} has no contig {region.contig} for region {region.name!r}")
        contig, parts = self.contig(name), list[Part]()
        for part in region.parts:
            if part.end <= contig.length:
                parts.append(part)
                continue
            try:
                if not contig.circular:
                    raise ValueError
                parts += wrapped(*part, contig.length)
            except ValueError:
                raise UsageError(
                    f"{region.place}: region {region.name!r} ends at base {part.end} of {region.contig}, which has {contig.length} in "
                    f"{self.genome}"
                ) from None
        return replace(region, contig=name, parts=tuple(parts))


def _extended(region: Region, config: GenomeConfig, contigs: _Contigs) -> tuple[Region, bool]:
    if config.promoter:
        return promoter(region, config.promoter[0], config.promoter[1], contigs.contig(region.contig))
    if config.flank:
        return flanked(region, config.flank[0], config.flank[-1], contigs.contig(region.contig))
    return region, False
