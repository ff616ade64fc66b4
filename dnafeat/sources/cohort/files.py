"""The VCF and BCF files of a cohort: their headers, samples and indexes, checked before a record is read."""

from __future__ import annotations

import contextlib
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pysam

from dnafeat import storage
from dnafeat.errors import UsageError, one_line
from dnafeat.sources.cohort import index
from dnafeat.sources.lists import read_list
from dnafeat.sources.regions.htslib import address, read_range
from dnafeat.sources.regions.names import same_contig


@dataclass(frozen=True)
class CohortFiles:
    """What is known of a cohort's files before their records are read; can be sent to other processes.

    Attributes
    ----------
    uris : tuple of str
    indexes : tuple of str
        Of each file.
    samples : tuple of str
        Those that are taken, in the order of the files.
    every_sample : bool
        Whether the files have no others.
    contigs : dict of str to str
        The genome's contigs that the cohort has, and what its files call them.
    sizes : tuple of int
        Bytes of the files as they lie.
    """

    uris: tuple[str, ...]
    indexes: tuple[str, ...]
    samples: tuple[str, ...]
    every_sample: bool
    contigs: dict[str, str]
    sizes: tuple[int, ...]


def look(
    vcf: Sequence[str], samples: str | None, lengths: dict[str, int], wanted: Sequence[str] | None, *, sites: bool = False
) -> CohortFiles:
    """Read the headers and indexes of a cohort.

    Parameters
    ----------
    vcf : sequence of str
    samples : str or None
        A list of samples to take.
    lengths : dict of str to int
        Bases of the genome's contigs.
    wanted : sequence of str or None
        The genome's contigs that have regions; None: all, of which the files must have no others with records.
    sites : bool
        Whether files without samples are taken, too.

    Raises
    ------
    UsageError
        A file that cannot be read in places, has no samples or no genotypes, has other samples than the first, an index of another file,
        or contigs of another assembly.
    """
    uris = [storage.absolute(uri) for uri in vcf]
    indexes = [index.find(uri) for uri in uris]
    own: list[str] = []
    known: dict[str, int | None] = {}
    for uri, at in zip(uris, indexes, strict=True):
        with opened(uri, at.uri) as file:
            names = list(file.header.samples)
            _check_header(uri, file, names, sites)
            with damaged(uri):
                if not at.has_records and next(iter(file), None) is not None:
                    raise UsageError(f"{at.uri} knows of no record, and {uri} has some: make it again with `bcftools index -f`")
            own = own or names
            if names != own:
                raise UsageError(
                    f"{uri}: {_difference(names, own)} in {uris[0]}: files of one cohort have the same samples in the same order"
                )
            for name in [*file.header.contigs, *index.contigs(file)]:
                known[name] = file.header.contigs[name].length if name in file.header.contigs else known.get(name)
    contigs = _contigs(uris[0] if len(uris) == 1 else "the cohort's files", known, lengths, wanted)
    if wanted is None:
        for uri, at in zip(uris, indexes, strict=True):
            _check_contigs(uri, at.uri, frozenset(contigs.values()))
    taken = own if samples is None else _taken(samples, own, uris[0])
    sizes = tuple(storage.size(uri) for uri in uris)
    return CohortFiles(tuple(uris), tuple(one.uri for one in indexes), tuple(taken), len(taken) == len(own), contigs, sizes)


def _check_header(uri: str, file: Any, names: list[str], sites: bool) -> None:
    if not names and sites:
        return
    if not names:
        raise UsageError(f"{uri} has no samples: give a file with genotypes, not one of sites alone")
    if "GT" not in file.header.formats:
        raise UsageError(f"{uri} has no genotypes (FORMAT GT)")
    if strange := next((name for name in names if not name.strip()), None):
        raise UsageError(f"{uri} has a sample whose name is {strange!r}")


def _difference(names: list[str], others: list[str]) -> str:
    for at, (name, other) in enumerate(zip(names, others, strict=False), 1):
        if name != other:
            return f"sample {at} is {name!r}, and {other!r}"
    return f"it has {len(names)} samples, and there are {len(others)}"


def _taken(uri: str, own: list[str], of: str) -> list[str]:
    wanted = read_list(uri, "sample", "sample")
    known = set(own)
    if strange := next(((at, name) for at, name in wanted if name not in known), None):
        raise UsageError(f"{uri}, line {strange[0]}: {of} has no sample {strange[1]!r}")
    names = {name for _, name in wanted}
    return [name for name in own if name in names]


def _check_contigs(uri: str, index_uri: str, taken: frozenset[str]) -> None:
    """Raise UsageError for a file that has records on another contig."""
    with opened(uri, index_uri) as file:
        for name in index.contigs(file):
            if name not in taken and next(_fetched(uri, file, name, None, None), None) is not None:
                raise UsageError(
                    f"{uri} has records on contig {name}, which the genome does not have: give the genome that they are of, or --regions "
                    f"to take some contigs alone"
                )


def _contigs(where: str, known: dict[str, int | None], lengths: dict[str, int], wanted: Sequence[str] | None) -> dict[str, str]:
    found, whose = {}, "genome's" if wanted is None else "regions'"
    wanted = list(lengths) if wanted is None else wanted
    for name in dict.fromkeys(wanted):
        own = same_contig(name, known, where)
        if own is None:
            continue
        length = known[own]
        if length is not None and length != lengths[name]:
            raise UsageError(
                f"contig {own} of {where} has {length} bases, and {name} of the genome has {lengths[name]}: they are of "
                f"different assemblies"
            )
        found[name] = own
    if not found:
        first, own_first = (", ".join(list(names)[:5]) for names in (dict.fromkeys(wanted), known))
        raise UsageError(f"{where} has none of the {whose} contigs ({first}): it has {own_first or 'none'}")
    return found


@contextlib.contextmanager
def opened(uri: str, index_uri: str) -> Iterator[Any]:
    """A VCF or BCF file by htslib, with its index by name: htslib would take one of that name from the working directory."""
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        local = Path(folder) / f"index{Path(storage.name(index_uri)).suffix}"
        local.write_bytes(read_range(index_uri, 0, storage.size(index_uri)))
        with damaged(uri):
            file = pysam.VariantFile(address(uri), index_filename=str(local))
        try:
            yield file
        except BaseException:
            # What went wrong in the file is said again when it is closed.
            with contextlib.suppress(OSError):
                file.close()
            raise
        with damaged(uri):
            file.close()


@contextlib.contextmanager
def damaged(uri: str) -> Iterator[None]:
    """Turn what htslib says of a file into one sentence."""
    try:
        yield
    except (OSError, ValueError, NotImplementedError, EOFError) as error:
        raise UsageError(f"{uri} cannot be read: {one_line(error)}") from error


class CohortReader:
    """The records of a cohort, by region."""

    def __init__(self, files: CohortFiles) -> None:
        self.files, self.samples = files, files.samples
        self._stack = contextlib.ExitStack()
        self._files = []
        with contextlib.ExitStack() as stack:
            for uri, at in zip(files.uris, files.indexes, strict=True):
                file = stack.enter_context(opened(uri, at))
                if not files.every_sample:
                    file.subset_samples(files.samples)
                self._files.append((uri, file, frozenset(index.contigs(file))))
            self._stack = stack.pop_all()

    def records(self, contig: str, start: int, end: int | None) -> Iterator[Any]:
        """The records that overlap a stretch of one of the genome's contigs, in the files' order; None: up to the last one."""
        name = self.files.contigs.get(contig)
        if name is None:
            return iter(())
        found = [_fetched(uri, file, name, start, end) for uri, file, contigs in self._files if name in contigs]
        return found[0] if len(found) == 1 else heapq.merge(*found, key=lambda record: record.start)

    def __enter__(self) -> CohortReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def _fetched(uri: str, file: Any, contig: str, start: int | None, end: int | None) -> Iterator[Any]:
    with damaged(uri):
        records = file.fetch(contig, start, end)
    while True:
        with damaged(uri):
            record = next(records, None)
        if record is None:
            return
        yield record
