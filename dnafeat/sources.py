"""FASTA, FASTQ, CSV, TSV and Parquet files into one stream of entries, as record batches. The letters are not judged here."""

from __future__ import annotations

import contextlib
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pyarrow as pa

from dnafeat import storage
from dnafeat.delimited import Columns, columns, read_table
from dnafeat.entries import FIXED, Piece, batches, schema, tiles, whole
from dnafeat.errors import UsageError, one_line
from dnafeat.fasta import read_fasta, read_fastq

# Names a key column cannot have: the store's own columns, and those of the batches that `read` yields.
RESERVED = (
    *FIXED,
    *("source_name", "sequence_digest", "from_run", "until_run", "feature_version", "run_id"),
    *("cls", "mean", "max", "projected", "bases", "tokens", "windows"),
)

_KINDS = {
    "fasta": ("fa", "fasta", "fna", "ffn", "frn", "fas", "fsa", "mpfa"),
    "fastq": ("fq", "fastq"),
    "csv": ("csv",),
    "tsv": ("tsv", "tab", "txt"),
    "parquet": ("parquet", "pq"),
}
_BY_EXTENSION = {extension: kind for kind, extensions in _KINDS.items() for extension in extensions}
_BY_FIRST_BYTES = {b">": "fasta", b"@": "fastq", b"PAR1": "parquet"}
_RECORDS = {"fasta": read_fasta, "fastq": read_fastq}
_PACKED = (".gz", ".bz2", ".xz")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files become entries. Raises UsageError for values that make no sense."""

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

    def __post_init__(self) -> None:
        for name, value in (("tile", self.tile), ("stride", self.stride)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it is a number of bases, 1 or more")
        if self.stride is not None and self.tile is None:
            raise UsageError(f"stride is {self.stride}, but no tile is given; give its length too")
        if self.id_column is not None and self.id_column == self.sequence_column:
            raise UsageError(f"the id column and the sequence column are both {self.id_column!r}; name two columns")


def expand(patterns: Sequence[str]) -> list[str]:
    """The files behind paths, folders and globs: in the order given, sorted within each, each file once.

    Files whose name starts with `.` or `_` (`_SUCCESS`, `.DS_Store`) count only when they are named themselves.
    """
    files: dict[str, None] = {}
    for pattern in patterns:
        found = storage.expand(pattern)
        shown = [uri for uri in found if storage.name(uri)[0] not in "._" or storage.name(uri) == storage.name(pattern)]
        if not shown:
            raise UsageError(f"{pattern} has no file but those whose names start with '.' or '_'")
        files.update(dict.fromkeys(shown))
    return list(files)


def key_columns(files: Sequence[str], options: ReadOptions) -> list[str]:
    """Names of the columns that tables have besides id and sequence, in order of first appearance; reads headers alone.

    Raises
    ------
    UsageError
        A column that was asked for is not there, a key has a name in `RESERVED`, or two differ in case alone: Delta and the
        SQL engines that read it do not tell such columns apart.
    """
    return _key_columns(_tables(_kinds(files), options))


def read(files: Sequence[str], options: ReadOptions) -> Iterator[pa.RecordBatch]:
    """Entries of all files, file by file, in their order.

    Yields
    ------
    pa.RecordBatch
        At most 8,192 entries and 16 MiB of letters, but at least one entry. Columns: `sequence_id` string; `sequence`
        large_binary, normalised letters; `file` string; `row` int64, 1-based, the line of a FASTA or FASTQ record's header or
        the data row of a table (blank lines not counted); `problem` string, null unless the entry cannot be read, when
        `sequence` is the beginning of what there is; then one nullable string for each of `key_columns`. An empty cell is null.

    Raises
    ------
    UsageError
        A file that cannot be read, or is of no known kind.
    """
    kinds = _kinds(files)
    tables = _tables(kinds, options)
    keys = _key_columns(tables)
    labels = _labels(files)
    for uri, kind in kinds.items():
        with _reading(uri):
            records = kind in _RECORDS
            pieces = _records(uri, kind) if records else read_table(uri, kind, tables[uri], keys, labels[uri])
            entries = whole(pieces) if options.tile is None else tiles(pieces, options.tile, options.stride or options.tile)
            yield from batches(entries, uri, schema(keys))


def _records(uri: str, kind: str) -> Iterator[Piece]:
    with storage.open_input(uri) as file:
        yield from _RECORDS[kind](file, uri)


def _kinds(files: Sequence[str]) -> dict[str, str]:
    return {uri: _kind(uri) for uri in files}


def _tables(kinds: dict[str, str], options: ReadOptions) -> dict[str, Columns]:
    found = {}
    for uri, kind in kinds.items():
        if kind not in _RECORDS:
            with _reading(uri):
                table = columns(uri, kind, options.id_column, options.sequence_column)
                found[uri] = table if options.keys else replace(table, keys=())
    return found


def _key_columns(tables: dict[str, Columns]) -> list[str]:
    first: dict[str, tuple[str, str]] = {}  # by lower-case name: the name and the file it was first seen in
    for uri, table in tables.items():
        for key in table.keys:
            if key.lower() in RESERVED:
                raise UsageError(f"{uri}: the column name {key!r} is taken by the store's own columns; rename the column")
            known, where = first.setdefault(key.lower(), (key, uri))
            if known != key:
                place = "the same file" if where == uri else where
                raise UsageError(f"{uri}: column {key!r} and column {known!r} of {place} differ in case alone; rename one")
    return [name for name, _ in first.values()]


def _kind(uri: str) -> str:
    """Which reader a file is for: by its extension, else by its first bytes."""
    name = storage.name(uri).lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    kind = _BY_EXTENSION.get(PurePosixPath(name).suffix[1:])
    if kind is not None:
        return kind
    with _reading(uri), storage.open_input(uri) as file:
        start = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, kind in _BY_FIRST_BYTES.items():
        if start.startswith(mark):
            return kind
    known = "; ".join(f"{kind} ({', '.join('.' + e for e in extensions)})" for kind, extensions in _KINDS.items())
    raise UsageError(
        f"{uri} is of no kind that is read here, which are {known}, packed or not ({', '.join(_PACKED)}); rename the file"
    )


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


@contextlib.contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Turns what goes wrong inside a file (damaged, cut off, out of reach) into one sentence."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise UsageError(f"{uri} cannot be read: {one_line(error)}") from error
