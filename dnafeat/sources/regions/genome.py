"""A reference genome: FASTA, plain or packed by bgzip, through its index; local or on S3."""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pysam

from dnafeat import storage
from dnafeat.errors import UsageError, one_line
from dnafeat.sources.regions.htslib import address, is_bgzf, modified, packed_range

_NAME_BYTES = 1000  # of the line before a contig's letters: longer descriptions are cut


@dataclass(frozen=True)
class GenomeIndex:
    """What is known of a genome before its letters are read; can be sent to other processes.

    Attributes
    ----------
    uri : str
    fai : bytes
        The index as samtools writes it.
    gzi : bytes
        That of a genome packed by bgzip; empty for a plain one.
    """

    uri: str
    fai: bytes
    gzi: bytes = b""

    @property
    def lengths(self) -> dict[str, int]:
        """Bases of each contig, in order."""
        found = {}
        for name, *numbers in self._rows():
            length, _, bases, width = (int(one) for one in numbers[:4])
            if not all(0 <= int(one) < 2**63 for one in numbers) or bases > width:
                raise ValueError(f"numbers of {name} are out of bounds")
            found[name] = length
        return found

    def _rows(self) -> Iterator[list[str]]:
        return (line.split("\t") for line in self.fai.decode().splitlines())

    def check(self, contigs: set[str]) -> None:
        """Raise UsageError where the genome has another line than `>name` before the letters of one of these contigs."""
        for name, _, offset, *_ in (cells for cells in self._rows() if cells[0] in contigs):
            start = max(0, int(offset) - _NAME_BYTES)
            try:
                before = self._text(start, int(offset))
            except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
                raise storage.fault(error, UsageError)(f"{self.uri} cannot be read: {one_line(error)}") from error
            lines = before.split(b"\n")
            # The offset is behind a line's end; a description longer than what was read hides the name.
            whole = len(lines) > 1 and not lines[-1] and (len(lines) > 2 or start == 0)
            named = lines[-2].removeprefix(b">").split()[:1] if len(lines) > 1 else []
            if len(lines) < 2 or lines[-1] or (whole and (not lines[-2].startswith(b">") or named != [name.encode()])):
                raise UsageError(
                    f"{self.uri} has no contig {name} where its index says: make the index again with `samtools faidx {self.uri}`"
                )

    def _text(self, start: int, end: int) -> bytes:
        if self.gzi:
            return packed_range(self.uri, self.gzi, start, end)
        return storage.read_ranges([(self.uri, start, end)])[0]


def look(uri: str) -> GenomeIndex:
    """Read a genome's index, or make it where there is none.

    Raises UsageError for a genome that cannot be read, is packed by gzip, or is newer than its index.
    """
    uri = storage.absolute(uri)
    storage.size(uri)
    packed = is_bgzf(uri)
    if packed is None:
        name = storage.name(uri).removesuffix(".gz")
        raise UsageError(
            f"{uri} is packed by gzip, in which no place can be found: pack it by bgzip, with `gunzip -c {storage.name(uri)} | bgzip > "
            f"{name}.bgz && mv {name}.bgz {name}.gz`"
        )
    wanted = [f"{uri}.fai", *([f"{uri}.gzi"] if packed else [])]
    if not all(storage.exists(one) for one in wanted):
        return _made(uri, packed)
    if old := next((one for one in wanted if modified(one) < modified(uri)), None):
        raise UsageError(f"{old} is older than the genome: make it again with `samtools faidx {uri}`")
    found = [_whole(one) for one in wanted]
    return _sound(GenomeIndex(uri, *found))


def _whole(uri: str) -> bytes:
    storage.check_regular(uri)
    fs, path = storage.filesystem(uri)
    with storage.reached(uri):
        return fs.cat_file(path)


def _made(uri: str, packed: bool) -> GenomeIndex:
    """The index of a local genome, made beside a link to it: nothing is written into a folder of the user's."""
    if not storage.is_local(uri):
        raise UsageError(
            f"{uri} has no index beside it: make it with `samtools faidx`, and put {storage.name(uri)}.fai there, too"
        )
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        link = Path(folder) / ("genome.fa.gz" if packed else "genome.fa")
        link.symlink_to(uri)
        try:
            pysam.faidx(str(link))
        except (pysam.SamtoolsError, OSError) as error:
            raise UsageError(
                f"{uri} cannot be indexed: give a genome in FASTA, whose contigs each have lines of one length but for the last"
            ) from error
        gzi = Path(f"{link}.gzi").read_bytes() if packed else b""
        return _sound(GenomeIndex(uri, Path(f"{link}.fai").read_bytes(), gzi))


def _sound(index: GenomeIndex) -> GenomeIndex:
    try:
        lengths = index.lengths
    except (ValueError, IndexError):
        raise UsageError(f"{index.uri}.fai is no index of a genome: make it again with `samtools faidx {index.uri}`") from None
    if not lengths:
        raise UsageError(f"{index.uri} has no contig: give a genome in FASTA")
    return index


class Genome:
    """The letters of a genome."""

    def __init__(self, index: GenomeIndex) -> None:
        self.index, self.uri = index, index.uri
        self.lengths = index.lengths
        self._folder = tempfile.TemporaryDirectory(prefix="dnafeat-")
        files = {"genome.fai": index.fai, **({"genome.gzi": index.gzi} if index.gzi else {})}
        for name, data in files.items():
            (Path(self._folder.name) / name).write_bytes(data)
        named = {"filepath_index": f"{self._folder.name}/genome.fai"}
        if index.gzi:
            named["filepath_index_compressed"] = f"{self._folder.name}/genome.gzi"
        try:
            self._file = pysam.FastaFile(address(index.uri), **named)
        except (OSError, ValueError) as error:
            self._folder.cleanup()
            raise UsageError(f"{index.uri} cannot be read: {one_line(error)}") from error

    def letters(self, contig: str, start: int, end: int) -> bytes:
        """The letters of a stretch as they are written there."""
        try:
            found = self._file.fetch(contig, start, end).encode()
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.uri} cannot be read: {one_line(error)}") from error
        if len(found) != end - start:
            raise UsageError(
                f"{self.uri} gives {len(found)} letters for {contig}, bases {start + 1} to {end}: it is cut off, or its index is of "
                f"another file"
            )
        return found

    def close(self) -> None:
        self._file.close()
        self._folder.cleanup()

    def __enter__(self) -> Genome:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
