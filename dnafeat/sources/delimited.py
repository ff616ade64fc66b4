"""CSV, TSV and Parquet tables into entries: one row, one entry."""

from __future__ import annotations

import heapq
import io
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from dnafeat import keys as rule
from dnafeat import storage
from dnafeat.errors import UsageError, one_line
from dnafeat.parquet import PAGED
from dnafeat.sequence import normalise, spelled_in_kmers
from dnafeat.sources import quotes
from dnafeat.sources.entries import MAX_BYTES, MAX_ENTRIES, RAW_KEPT, Piece
from dnafeat.text import did_you_mean
from dnafeat.untrusted import batches, no_stray_traceback

DELIMITERS = {"csv": ",", "tsv": "\t"}  # by kind of file; every other table is Parquet

# A row has to fit a block. The file is read again with the next size when one does not; few files have such rows.
BLOCKS = (1 << 20, 1 << 25, 1 << 28)

_NAMED = {",": "commas (,)", "\t": "tabs", ";": "semicolons (;)", "|": "bars (|)"}

# The names that pandas gives to an index without one, in Parquet and on reading it back from CSV.
_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+(_level_\d+)?")

_EMPTY = "Empty CSV file"  # pyarrow's words


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The roles of a table's columns; `keys` are all that are neither the id nor the sequence, in the table's order.

    Of a Parquet file `groups` are the bytes of its row groups, unpacked. `verbatim` are keys whose cells stay as they are written.
    `left_out` are indexes that pandas has written.
    """

    sequence_id: str | None
    sequence: str
    keys: tuple[str, ...]
    groups: tuple[int, ...] = ()
    verbatim: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def columns(uri: str, kind: str, id_column: str | None, sequence_column: str | None) -> Columns:
    """Read the header of a table. Raises UsageError for columns that are missing, named twice, without a name or of no use."""
    with storage.open_input(uri) as file:
        if kind in DELIMITERS:
            found = _csv_schema(file, uri, DELIMITERS[kind])
            _check_delimiter(found.names, DELIMITERS[kind], uri, sequence_column)
            return columns_of(found, uri, id_column, sequence_column)
        parquet = pq.ParquetFile(file)
    groups = (parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
    return replace(columns_of(parquet.schema_arrow, uri, id_column, sequence_column), groups=tuple(groups))


def read_table(
    uri: str, kind: str, here: Columns, keys: Sequence[str], label: str, groups: range | None = None
) -> Iterator[Piece]:
    """The rows of a table as entries, in order.

    A row with too few or too many fields, without an id, or with an id or key that is not UTF-8 is an entry with a problem. Keys
    are spelled by the rule of `dnafeat.keys`, and those that count as missing are null; ids stay as they are written.

    Parameters
    ----------
    here : Columns
        As `columns` found them.
    keys : sequence of str
        The key columns of the run; those the table lacks are null.
    label : str
        The file's name in `<label>:<row>`, the id of a row when the table has no id column.
    groups : range or None
        These row groups of a Parquet file alone.
    """
    return (
        _csv_rows(uri, DELIMITERS[kind], here, keys, label)
        if kind in DELIMITERS
        else _parquet_rows(uri, here, keys, label, groups)
    )


def columns_of(schema: pa.Schema, uri: str, id_column: str | None, sequence_column: str | None) -> Columns:
    names: list[str] = schema.names
    there = ", ".join(map(repr, names))
    counts = Counter(names)
    for at, name in enumerate(names):
        if "\0" in name:
            raise UsageError(f"{uri}: column {at + 1} has a null byte in its name; is it a table?")
        if not name.strip():
            raise UsageError(f"{uri}: column {at + 1} has no name; give it one, or take the column out (the columns are {there})")
        if counts[name] > 1:
            raise UsageError(f"{uri}: two columns are named {name!r}; rename one of them")
    sequence = _named(names, sequence_column, ("sequence", "seq"))
    if sequence is None:
        wanted = f"no column {sequence_column!r}" if sequence_column else "no column 'sequence' or 'seq'"
        hint = did_you_mean(sequence_column or "sequence", names)
        raise UsageError(f"{uri} has {wanted}; name the sequence column, which is one of {there}{hint}")
    row_id = _named([name for name in names if name != sequence], id_column, ("sequence_id", "id"))
    if id_column and row_id is None:
        raise UsageError(f"{uri} has no id column {id_column!r}; name one of {there}{did_you_mean(id_column, names)}")
    rest = [name for name in names if name not in (row_id, sequence)]
    left_out = tuple(filter(_INDEX.fullmatch, rest))
    for name in names:
        if name not in left_out:
            _check_type(schema.field(name).type, name, uri, is_sequence=name == sequence)
    keys = tuple(name for name in rest if name not in left_out)
    return Columns(sequence_id=row_id, sequence=sequence, keys=keys, left_out=left_out)


def _check_delimiter(names: list[str], delimiter: str, uri: str, sequence_column: str | None) -> None:
    """Raise UsageError where the header has the sequence column only if it is cut at another delimiter, or has Excel's line before it."""
    wanted = {sequence_column} if sequence_column else {"sequence", "seq"}
    kind = {",": "a CSV", "\t": "a TSV"}[delimiter]
    if names[0].lower().startswith("sep="):
        raise UsageError(
            f"{uri} begins with the line {delimiter.join(names)!r}, which is Excel's and no header: take the line out, and separate the "
            f"columns of {kind} file with {_NAMED[delimiter]}"
        )
    if any(name in wanted or (sequence_column is None and name.lower() in wanted) for name in names):
        return
    header = delimiter.join(names)
    for other, title in _NAMED.items():
        cells = [cell.strip().strip('"') for cell in header.split(other)]
        if (
            other != delimiter
            and len(cells) > 1
            and any(c in wanted or (not sequence_column and c.lower() in wanted) for c in cells)
        ):
            ending = {",": "; rename it to .csv", "\t": "; rename it to .tsv"}.get(other, ", or with tabs, as .tsv")
            remedy = ending if other in ",\t" else f": save it with commas, as .csv{ending}"
            raise UsageError(f"{uri} seems to have {title} between its columns, and {kind} file has {_NAMED[delimiter]}{remedy}")


def _named(names: list[str], asked: str | None, usual: tuple[str, ...]) -> str | None:
    """The column asked for, or the first of the usual names that is there: as it is written, else in any case."""
    if asked is not None:
        return asked if asked in names else None
    exact = [name for name in usual if name in names]
    loose = [name for wanted in usual for name in names if name.lower() == wanted]
    return next(iter(exact + loose), None)


def _check_type(kind: pa.DataType, name: str, uri: str, *, is_sequence: bool) -> None:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if is_sequence:
        if not (_is_text(value) or pa.types.is_null(value)):
            raise UsageError(f"{uri}: the sequence column {name!r} holds {kind}, not text; name another column")
    elif not _is_text(value):
        try:
            pa.array([], value).cast(pa.string())
        except pa.ArrowException:
            raise UsageError(f"{uri}: column {name!r} holds {kind}, which cannot be kept as text; take the column out") from None


def _is_text(kind: pa.DataType) -> bool:
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "fixed_size_binary")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _csv_schema(file: IO[bytes], uri: str, delimiter: str) -> pa.Schema:
    start = file.read(BLOCKS[0])
    end = max(start.rfind(b"\n"), start.rfind(b"\r")) + 1
    if len(start) == BLOCKS[0] and not end:
        raise UsageError(f"{uri} has a header line of more than {BLOCKS[0]:,} bytes; is it a table with line ends?")
    # Without the last line: a letter cut in two would not be UTF-8. A header needs its line end to be one.
    lines = start[:end] or start + b"\n"
    try:
        names = _open_csv(io.BytesIO(lines), delimiter, BLOCKS[0])[0].schema.names
        if any("\n" in name or "\r" in name for name in names) and quotes.holds_rows(lines, delimiter.encode(), len(names), 0):
            raise quotes.open_quote(uri, 0, names[-1][:30], names[-1].encode())
        return pa.schema([(name, pa.binary()) for name in names])
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _explained(error, uri) from None


def _open_csv(file: IO[bytes] | quotes.Watched, delimiter: str, block: int) -> tuple[pa.csv.CSVStreamingReader, deque[Any]]:
    """A reader of binary columns, and the queue in which it leaves the rows whose number of fields is wrong."""
    invalid: deque[Any] = deque()

    def skip(row: Any) -> str:
        invalid.append(row)
        return "skip"

    # One thread: only then does the reader know the numbers of the rows it skips.
    with no_stray_traceback():
        reader = pyarrow.csv.open_csv(
            file,
            pyarrow.csv.ReadOptions(use_threads=False, block_size=block),
            pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
            pyarrow.csv.ConvertOptions(default_column_type=pa.binary(), strings_can_be_null=False),
        )
    return reader, invalid


def _csv_rows(uri: str, delimiter: str, here: Columns, keys: Sequence[str], label: str) -> Iterator[Piece]:
    done = 0
    for block in BLOCKS:
        try:
            with storage.open_input(uri) as file:
                for piece in _csv_pieces(quotes.Watched(file), uri, delimiter, block, here, keys, label):
                    if piece.row > done:
                        done = piece.row
                        yield piece
            return
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            if _EMPTY in str(error):  # a header without a line end; that it is there `columns` has seen
                return
            if "straddl" not in str(error):  # what pyarrow says of a row that does not fit its block
                raise _explained(error, uri) from None
    raise UsageError(f"{uri} has a row of more than {BLOCKS[-1]:,} bytes; is a quote left open, or is it FASTA?")


def _csv_pieces(
    file: quotes.Watched, uri: str, delimiter: str, block: int, here: Columns, keys: Sequence[str], label: str
) -> Iterator[Piece]:
    reader, invalid = _open_csv(file, delimiter, block)
    mark, names = delimiter.encode(), reader.schema.names

    def refused() -> Piece:
        found = invalid.popleft()
        text = found.text.encode()
        if quotes.holds_rows(text, mark, len(names), names.index(here.sequence)):
            opened = next((part for part in text.split(mark) if part.startswith(b'"') and not part.endswith(b'"')), text)
            raise quotes.open_quote(uri, found.number - 1, names[0], opened.lstrip(b'"'))
        return _invalid_row(found, text)

    row = 1
    last: pa.RecordBatch | None = None
    for batch in batches(reader):
        rows: list[int] = []
        skipped: list[Piece] = []
        while len(rows) < batch.num_rows:
            # The reader counts the header as row 1, and may be ahead of this batch.
            if invalid and invalid[0].number - 1 == row:
                skipped.append(refused())
            else:
                rows.append(row)
            row += 1
        if file.quoted and rows:
            quotes.check_cells(batch, rows, delimiter, here.sequence, uri)
            last = batch.slice(len(batch) - 1)
        pieces = _pieces(batch, rows, here, keys, label)
        yield from heapq.merge(pieces, skipped, key=lambda piece: piece.row) if skipped else pieces
    if last is not None and not invalid:
        quotes.check_last(last, row - 1, file, uri)
    while invalid:
        yield refused()


def _invalid_row(row: Any, text: bytes) -> Piece:
    problem = f"{row.actual_columns} fields in a row where the header has {row.expected_columns}"
    return Piece(None, row.number - 1, text[:RAW_KEPT], problem)


def _explained(error: Exception, uri: str) -> UsageError:
    message = one_line(error)
    if _EMPTY in message:
        return UsageError(f"{uri} is empty: it has no header line")
    # A row with a wrong number of fields comes as an error only when it is no UTF-8 and cannot be handed over.
    if found := re.search(r"Row #(\d+): Expected \d+ columns", message):
        return UsageError(f"{uri}, row {int(found[1]) - 1}, is not UTF-8 text; save the file as UTF-8")
    if isinstance(error, UnicodeDecodeError):
        return UsageError(f"{uri}: the header line is not UTF-8 text; save the file as UTF-8")
    return UsageError(f"{uri} cannot be read as a table: {message}")


def _parquet_rows(uri: str, here: Columns, keys: Sequence[str], label: str, some: range | None) -> Iterator[Piece]:
    wanted = [here.sequence, *([here.sequence_id] if here.sequence_id else []), *here.keys]
    with storage.open_input(uri) as file:
        # Page by page: what is read ahead would be held until the file is closed.
        parquet = pq.ParquetFile(file, **PAGED)
        at = parquet.schema_arrow.names.index(here.sequence)
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        # Column chunks are numbered by leaf; with nested columns refused a leaf is a column.
        longest = max((g.column(at).total_uncompressed_size // max(g.num_rows, 1) for g in groups), default=0)
        size = max(1, min(MAX_ENTRIES, MAX_BYTES // max(longest, 1)))
        some = range(len(groups)) if some is None else some
        row = 1 + sum(g.num_rows for g in groups[: some.start])
        for batch in parquet.iter_batches(batch_size=size, row_groups=list(some), columns=wanted, use_threads=False):
            yield from _pieces(batch, range(row, row + batch.num_rows), here, keys, label)
            row += batch.num_rows


def _pieces(batch: pa.RecordBatch, rows: Sequence[int], here: Columns, keys: Sequence[str], label: str) -> Iterator[Piece]:
    problems: dict[int, str] = {}
    there = set(here.keys)
    values = [_keys(batch, key, here, problems) if key in there else [None] * len(rows) for key in keys]
    given = zip(*values, strict=True) if keys else ((),) * len(rows)
    if here.sequence_id is None:
        ids: list[str | None] = [f"{label}:{row}" for row in rows]
    else:
        ids = _ids(batch, here.sequence_id, problems)
    column = _plain(batch, here.sequence).cast(pa.large_binary())
    blanks, sequences = _holds_blanks(column), column.to_pylist()
    for at, (name, row, raw, cells) in enumerate(zip(ids, rows, sequences, given, strict=True)):
        problem = problems.get(at)
        if blanks and raw and problem is None:
            problem = spelled_in_kmers(raw)
        if problem is None:
            yield Piece(name, row, normalise(raw or b""), None, False, cells)
        else:
            yield Piece(name or None, row, (raw or b"")[:RAW_KEPT], problem, False, cells)


def _keys(batch: pa.RecordBatch, name: str, here: Columns, problems: dict[int, str]) -> list[str | None]:
    """The cells of a key column."""
    texts = _texts(batch, name, problems)
    if name in here.verbatim:
        return [value or None for value in texts.to_pylist()]
    names: list[str | None] = rule.named(texts).to_pylist()
    return names


def _ids(batch: pa.RecordBatch, name: str, problems: dict[int, str]) -> list[str | None]:
    """The cells of the id column as they are written: an entry's name is its own. Those that name no entry are a problem."""
    texts = _texts(batch, name, problems)
    if pa.types.is_floating(batch.column(name).type):
        texts = rule.named(texts)
    names: list[str | None] = texts.to_pylist()
    for at, cell in enumerate(names):
        if not cell or cell.isspace():
            problems.setdefault(at, f"the id column {name!r} is empty")
        elif pa.types.is_floating(batch.column(name).type) and rule.is_lossy(cell):
            problems.setdefault(at, f"the id column {name!r} holds {rule.no_key(float(cell))}")
    return names


def _holds_blanks(column: pa.LargeBinaryArray) -> bool:
    """Return whether there is a blank in any value."""
    _, ends, letters = column.buffers()
    if letters is None or not len(column):
        return False
    bounds = np.frombuffer(ends, np.int64)
    first, last = bounds[column.offset], bounds[column.offset + len(column)]
    return bool((np.frombuffer(letters, np.uint8)[first:last] == ord(" ")).any())


def _plain(batch: pa.RecordBatch, name: str) -> pa.Array:
    array = batch.column(name)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _texts(batch: pa.RecordBatch, name: str, problems: dict[int, str]) -> pa.Array:
    """A column as strings; cells that are not UTF-8 are null, and named in `problems` by their place in the batch."""
    array = _plain(batch, name)
    try:
        texts = pc.cast(array, pa.string())
        return pc.coalesce(rule.digits_of_floats(array)[0], texts) if pa.types.is_floating(array.type) else texts
    except pa.ArrowInvalid:
        cells = array.cast(pa.large_binary()).to_pylist()
    decoded: list[str | None] = []
    for at, cell in enumerate(cells):
        try:
            decoded.append(None if cell is None else cell.decode())
        except UnicodeDecodeError:
            decoded.append(None)
            problems[at] = f"column {name!r} is not UTF-8 text; save the file as UTF-8"
    return pa.array(decoded, pa.string())
