"""FASTA, FASTQ, CSV, TSV and Parquet files into one stream of entries, as record batches. The letters are not judged here."""

from __future__ import annotations

import functools
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from dnafeat import keys as rule
from dnafeat import packing, storage
from dnafeat.errors import DnafeatWarning, UsageError
from dnafeat.sources import content
from dnafeat.sources.content import Content
from dnafeat.sources.delimited import Columns, columns, read_table
from dnafeat.sources.entries import FIXED, Piece, batches, schema, tiles, whole
from dnafeat.sources.fasta import read_fasta
from dnafeat.sources.fastq import read_fastq
from dnafeat.sources.folders import expand as expand
from dnafeat.sources.folders import partition
from dnafeat.text import count

# Names a key column cannot have: the store's own columns, and those of the batches that `read` yields.
RESERVED = (
    *FIXED,
    *("source_name", "sequence_digest", "from_run", "until_run", "feature_version", "run_id"),
    *("cls", "mean", "max", "projected", "bases", "tokens", "windows"),
)

_RECORDS = {"fasta": read_fasta, "fastq": read_fastq}
_UNPACKED = 4  # times the size of a packed file
_AT_ONCE = 16  # headers that are read at a time


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Settings by which files become entries. Raises UsageError for values that make no sense."""

    id_column: str | None = None
    """Table column with the ids. None: `sequence_id` or `id` when the table has one, else an id is `<file name>:<row>`."""

    sequence_column: str | None = None
    """Table column with the letters. None: `sequence` or `seq`, in upper or lower case."""

    tile: int | None = None
    """Bases. Records are cut into entries named `<record id>:<start>-<end>`, 0-based, half open. None: whole records."""

    stride: int | None = None
    """Bases from one tile's start to the next one's. None: `tile`, so that tiles neither overlap nor leave a gap."""

    keys: bool = True
    """Whether a table's other columns are read."""

    verbatim: tuple[str, ...] = ()
    """Of those, columns that are no keys, such as labels: their cells stay as they are written."""

    def __post_init__(self) -> None:
        for name, value in (("tile", self.tile), ("stride", self.stride)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it is a number of bases, 1 or more")
        if self.stride is not None and self.tile is None:
            raise UsageError(f"stride is {self.stride}, but no tile is given; give its length too")
        if self.id_column is not None and self.id_column == self.sequence_column:
            raise UsageError(f"the id column and the sequence column are both {self.id_column!r}; name two columns")


def key_columns(files: Sequence[str], options: ReadOptions) -> list[str]:
    """Names of the columns that tables have besides id and sequence, in order of first appearance; reads headers alone.

    Raises
    ------
    UsageError
        A column that was asked for is not there, a key has a name in `RESERVED`, or two differ in case alone: Delta and the
        SQL engines that read it do not tell such columns apart.
    """
    return look(files, options).keys


@dataclass(frozen=True)
class Layout:
    """The layout of files, known before their entries are read; can be sent to other processes.

    Attributes
    ----------
    options : ReadOptions
    kinds : dict of str to str
        fasta, fastq, csv, tsv or parquet, by file, in order.
    tables : dict of str to Columns
        Of the files that are tables.
    labels : dict of str to str
        What a file is called in the ids of rows without one.
    sizes : dict of str to int
        Bytes of each file as it lies.
    partitions : dict of str to dict
        Columns that stand in the names of a file's folders, where there are any.
    notes : tuple of str
        What the user should know of the files, a sentence each: files without anything in them, columns left out.
    """

    options: ReadOptions
    kinds: dict[str, str]
    tables: dict[str, Columns]
    labels: dict[str, str]
    sizes: dict[str, int]
    partitions: dict[str, dict[str, str | None]]
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def keys(self) -> list[str]:
        """As `key_columns`."""
        return _key_columns(self.tables, self.partitions)

    def warn(self) -> None:
        """Issue the notes as DnafeatWarning."""
        for note in self.notes:
            warnings.warn(note, DnafeatWarning, stacklevel=2)

    @functools.cached_property
    def unpacked(self) -> int:
        """Bytes of all files, unpacked and with every tile, about."""
        return sum(portion.bytes for part in portions(self, sys.maxsize) for portion in part)


class Portion(NamedTuple):
    """A file, or some of the row groups of a Parquet file, and how many bytes that is, unpacked and with every tile, about."""

    uri: str
    bytes: int
    groups: range | None = None


def look(files: Sequence[str], options: ReadOptions) -> Layout:
    """Read the headers. Raises UsageError for what cannot be read, and as `key_columns`.

    Files without anything in them are left out and noted, as long as there are others.
    """
    files = list(dict.fromkeys(files))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        contents = dict(zip(files, pool.map(_content, files), strict=True))
        blank = [uri for uri, found in contents.items() if found.blank]
        kinds = {uri: found.kind for uri, found in contents.items() if not found.blank or len(blank) == len(files)}
        tables = [uri for uri, kind in kinds.items() if kind not in _RECORDS]
        columns = dict(zip(tables, pool.map(lambda uri: _table(uri, kinds[uri], options), tables), strict=True))
        sizes = dict(zip(kinds, pool.map(storage.size, kinds), strict=True))
    partitions = (
        {uri: found for uri in kinds if (found := _partition(uri, columns.get(uri), options.verbatim))} if options.keys else {}
    )
    layout = Layout(options, kinds, columns, _labels(list(kinds)), sizes, partitions, _notes(blank, files, columns))
    layout.keys  # noqa: B018 - raises where they cannot be
    return layout


def _partition(uri: str, table: Columns | None, verbatim: Sequence[str]) -> dict[str, str | None]:
    """The columns that a file's folders have and the file itself has not."""
    own = () if table is None else (table.sequence_id, table.sequence, *table.keys)
    found = {name: value for name, value in partition(uri).items() if name not in own}
    return {name: value if name in verbatim else _key(value) for name, value in found.items()}


@functools.lru_cache(maxsize=1024)
def _key(value: str | None) -> str | None:
    name: str | None = rule.named(pa.array([value], pa.string()))[0].as_py()
    return name


def _notes(blank: Sequence[str], files: Sequence[str], tables: Mapping[str, Columns]) -> tuple[str, ...]:
    notes = []
    if blank and len(blank) < len(files):
        verb = "is" if len(blank) == 1 else "are"
        notes.append(f"{count(len(blank), 'file')} of {len(files):,} {verb} empty and left out, such as {blank[0]}")
    indexed = [uri for uri, table in tables.items() if table.left_out]
    if indexed:
        name = tables[indexed[0]].left_out[0]
        notes.append(f"column {name!r} of {indexed[0]} is an index that pandas wrote, and is left out: --id-column can name it")
    return tuple(notes)


def portions(layout: Layout, size: int) -> list[list[Portion]]:
    """The files in their order as parts of about `size` bytes that can be read side by side.

    Small files stand together, and the row groups of a Parquet file apart; a text file cannot be cut.
    """
    parts: list[list[Portion]] = [[]]
    held = 0
    for uri in layout.kinds:
        for one in _portions_of_file(layout, uri, size):
            if parts[-1] and held + one.bytes > size:
                parts.append([])
                held = 0
            parts[-1].append(one)
            held += one.bytes
    return parts


def _portions_of_file(layout: Layout, uri: str, size: int) -> Iterator[Portion]:
    packed, options = layout.sizes[uri], layout.options
    tiled = max(1, options.tile // options.stride) if options.tile and options.stride else 1
    if layout.kinds[uri] != "parquet":
        yield Portion(uri, packed * tiled * (_UNPACKED if packing.ending(uri) else 1))
        return
    groups = layout.tables[uri].groups
    first = held = 0
    for i, unpacked in enumerate(groups):
        # In memory a dictionary's values stand out in full.
        held += max(unpacked, _UNPACKED * packed // len(groups)) * tiled
        if held >= size or i == len(groups) - 1:
            yield Portion(uri, held, range(first, i + 1))
            first, held = i + 1, 0


def read(files: Sequence[str], options: ReadOptions) -> Iterator[pa.RecordBatch]:
    """Entries of all files, file by file, in their order.

    Yields
    ------
    pa.RecordBatch
        At most 8,192 entries and 16 MiB of letters, but at least one entry. Columns: `sequence_id` string; `sequence`
        large_binary, normalised letters; `file` string; `row` int64, 1-based, the line of a FASTA or FASTQ record's header or
        the data row of a table (blank lines not counted); `problem` string, null unless the entry cannot be read, when
        `sequence` is the beginning of what there is; then one nullable string for each of `key_columns`, spelled as `dnafeat.keys`
        says. A cell that counts as missing is null.

    Raises
    ------
    UsageError
        A file that cannot be read, or is of no known kind.
    """
    layout = look(files, options)
    layout.warn()
    yield from read_portions(layout, [Portion(uri, 0) for uri in layout.kinds])


def read_portions(layout: Layout, some: Sequence[Portion]) -> Iterator[pa.RecordBatch]:
    """The same of some portions of the files."""
    keys, options = layout.keys, layout.options
    columns = schema(keys)
    for uri, _, groups in some:
        kind = layout.kinds[uri]
        with content.reading(uri):
            records = kind in _RECORDS
            pieces = (
                _records(uri, kind) if records else read_table(uri, kind, layout.tables[uri], keys, layout.labels[uri], groups)
            )
            entries = whole(pieces) if options.tile is None else tiles(pieces, options.tile, options.stride or options.tile)
            yield from batches(entries, uri, columns, layout.partitions.get(uri))


def _records(uri: str, kind: str) -> Iterator[Piece]:
    with storage.open_input(uri) as file:
        yield from _RECORDS[kind](file, uri)


def _table(uri: str, kind: str, options: ReadOptions) -> Columns:
    with content.reading(uri):
        table = columns(uri, kind, options.id_column, options.sequence_column)
        return replace(table, keys=table.keys if options.keys else (), verbatim=options.verbatim)


def _key_columns(tables: Mapping[str, Columns], partitions: Mapping[str, Mapping[str, str | None]]) -> list[str]:
    first: dict[str, tuple[str, str]] = {}  # by lower-case name: the name and the file it was first seen in
    seen: set[tuple[str, ...]] = set()  # most files have the columns of the one before
    for uri in dict.fromkeys((*tables, *partitions)):
        names = (*(tables[uri].keys if uri in tables else ()), *partitions.get(uri, ()))
        if names in seen:
            continue
        seen.add(names)
        for key in dict.fromkeys(names):
            if key.lower() in RESERVED:
                raise UsageError(f"{uri}: the column name {key!r} is taken by the store's own columns; rename the column")
            known, where = first.setdefault(key.lower(), (key, uri))
            if known != key:
                place = "the same file" if where == uri else where
                raise UsageError(f"{uri}: column {key!r} and column {known!r} of {place} differ in case alone; rename one")
    return [name for name, _ in first.values()]


def _content(uri: str) -> Content:
    with content.reading(uri):
        return content.look(uri)


def _labels(files: Sequence[str]) -> dict[str, str]:
    """Each file's name, with as many of its folders as tell it from the other files."""
    parts = {uri: PurePosixPath(uri.removeprefix("file://")).parts for uri in files}
    labels: dict[str, str] = {}
    depth = 1
    while len(labels) < len(parts):
        tails = {uri: "/".join(p[-depth:]) for uri, p in parts.items()}
        counts = Counter(tails.values())
        for uri, tail in tails.items():
            if counts[tail] == 1:
                labels.setdefault(uri, tail)
        depth += 1
    return labels
