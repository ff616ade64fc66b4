"""Tables of vectors as other projects write them (Parquet, CSV, TSV) into items, a few thousand rows at a time."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from dnafeat import storage
from dnafeat.partners.config import PartnerConfig
from dnafeat.partners.items import COMPANIONS, IDS, VECTORS, Item, Problem, some
from dnafeat.partners.names import Name, Unfit, of_ids, texts, whole_numbers
from dnafeat.text import did_you_mean
from dnafeat.untrusted import batches, no_stray_traceback

NAMES = ("file", "filename", "file_name", "name")
_BATCH_BYTES = 16 * 2**20
_BATCH_ROWS = 4096
_NUMBERED = re.compile(r"\d+$", re.ASCII)
# Columns that describe a subject or a scan, and are no part of an embedding.
_COVARIATES = frozenset({
    *("age", "age_years", "sex", "gender", "site", "scanner", "center", "centre", "batch", "group", "diagnosis", "dx", "label"),
    *("target", "phenotype", "family", "family_id", "fid", "handedness", "ethnicity", "ancestry", "race", "education", "iq"),
    *("bmi", "height", "weight", "fd", "mean_fd", "motion", "tiv", "icv", "etiv", "visit", "wave"),
})  # fmt: skip
_CSV_BLOCK = 32 * 2**20  # bytes; a row has to fit
_MOST_INVALID = 100_000  # rows with another number of fields that wait for their turn


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Which columns are what.

    Attributes
    ----------
    ids : str
        Column with ids, or with file names if `are_names`.
    vector : str or None
        Column of lists; None: `numbers` are the vector.
    numbers : tuple of str
        Columns with one number each, in order.
    beside : tuple of str
        Those of session, window, shape, mask and ids_restore that are there.
    left_out : tuple of str
        Columns that describe subjects, beside numbered ones.
    """

    ids: str
    are_names: bool
    vector: str | None
    numbers: tuple[str, ...]
    beside: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """Which columns are the vector, in a sentence; None for a column of lists."""
        if self.vector is not None:
            return None
        count, first, last = len(self.numbers), self.numbers[0], self.numbers[-1]
        told = f"{count:,} columns, {first!r} to {last!r}" if count > 1 else f"the column {first!r}"
        return told + (
            f"; {' and '.join(map(repr, self.left_out))} left out, since not numbered as those" if self.left_out else ""
        )

    @property
    def columns(self) -> list[str]:
        return [self.ids, *self.beside, *([self.vector] if self.vector else self.numbers)]


def read_parquet(path: Path, uri: str, config: PartnerConfig) -> Iterator[Item | Problem]:
    """A Parquet file: an id column, and a column of lists (nested: tokens; flat with a column `shape`: of that shape) or of numbers."""
    # With its own default, pyarrow keeps every column chunk it has read until the file is closed.
    parquet = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    layout = _layout(parquet.schema_arrow, config)
    total = sum(parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
    size = max(1, min(_BATCH_ROWS, _BATCH_BYTES * parquet.metadata.num_rows // max(total, 1)))
    row = 1
    for batch in parquet.iter_batches(batch_size=size, columns=layout.columns, use_threads=False):
        yield from _Rows(batch, range(row, row + len(batch)), layout, uri, config).items()
        row += len(batch)
    if row == 1:
        raise Unfit("has no rows")


def read_csv(path: Path, uri: str, config: PartnerConfig) -> Iterator[Item | Problem]:
    """A CSV or TSV file: an id column, and columns with one number each. Rows are counted as the file has them, blank lines not."""
    invalid: deque[Any] = deque()

    def skip(row: Any) -> str:
        invalid.append(row)
        # An error, which names this row: whatever the file is, it is no such table.
        return "skip" if len(invalid) <= _MOST_INVALID else "error"

    def problem(one: Any) -> Problem:
        reason = f"has {one.actual_columns} fields where the header has {one.expected_columns}; mend the row"
        return Problem(place=f"{uri}, row {one.number - 1}", file=storage.name(uri), reason=reason, row=one.number - 1)

    with storage.open_input(str(path)) as file:
        with no_stray_traceback():
            reader = pyarrow.csv.open_csv(
                file,
                # One thread: only then does the reader know the numbers of the rows it skips.
                pyarrow.csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
                pyarrow.csv.ParseOptions(delimiter="\t" if ".tsv" in path.name.lower() else ",", invalid_row_handler=skip),
                # Text, so that leading zeros of ids stay and a cell that is no number can be named.
                pyarrow.csv.ConvertOptions(default_column_type=pa.string(), strings_can_be_null=False),
            )
        layout = _layout(reader.schema, config)
        row = 1
        for batch in batches(reader):
            numbers: list[int] = []
            while len(numbers) < len(batch):
                # The reader counts the header as row 1, and may be ahead of this batch.
                if invalid and invalid[0].number - 1 == row:
                    yield problem(invalid.popleft())
                else:
                    numbers.append(row)
                row += 1
            for start in range(0, len(batch), _BATCH_ROWS):
                some = slice(start, start + _BATCH_ROWS)
                yield from _Rows(batch.slice(start, _BATCH_ROWS), numbers[some], layout, uri, config).items()
        yield from map(problem, invalid)
        if row == 1:
            raise Unfit("has no rows")


def _layout(schema: pa.Schema, config: PartnerConfig) -> _Layout:
    names: list[str] = [name for name in schema.names if name != "__index_level_0__"]
    for at, name in enumerate(names):
        if not name.strip() or name == "Unnamed: 0":
            raise Unfit(f"column {at + 1} has no name; if it is the index that pandas writes, write the table with index=False")
        if names.count(name) > 1:
            raise Unfit(f"two columns are named {name!r}; rename one")
    usual = [found for wanted in (*IDS, *NAMES) if (found := _as_written(names, wanted)) is not None]
    ids = config.id_column or next(iter(usual), None)
    if ids is None or ids not in names:
        wanted = repr(ids) if ids else ", ".join((*IDS, *NAMES))
        hint = did_you_mean(ids, names) if ids else ""
        raise Unfit(f"has no column {wanted}; name the one with ids, --id-column, which is one of {some(names)}{hint}")
    beside = tuple(name for name in ("session", "window", "shape", *COMPANIONS) if name in names)
    rest = [name for name in names if name not in (ids, *beside, *usual)]
    lists = [name for name in rest if _depth(schema.field(name).type)]
    vector, numbers, left_out = _vectors(schema, rest, lists, config.vector_column)
    are_names = ids.lower() in NAMES
    return _Layout(ids=ids, are_names=are_names, vector=vector, numbers=numbers, beside=beside, left_out=left_out)


def _vectors(
    schema: pa.Schema, rest: list[str], lists: list[str], asked: str | None
) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """The column of lists, or the columns of numbers, that are the vector, and those left out beside them."""
    left_out: list[str] = []
    if asked is not None:
        chosen = [asked] if asked in schema.names else fnmatch.filter(rest, asked)
        if not chosen:
            raise Unfit(f"has no column {asked!r}; --vector-column is one of {some(rest)}, or a pattern")
    else:
        usual = [name for name in lists if name.lower() in VECTORS]
        chosen = usual if len(usual) == 1 else lists or rest
        if not lists:
            chosen, left_out = _without_covariates(rest)
    if not chosen:
        raise Unfit("has no column with vectors beside the ids")
    deep = [name for name in chosen if name in lists]
    if len(chosen) == 1 and deep:
        return chosen[0], (), ()
    if deep:
        raise Unfit(f"holds several columns of lists, {some(deep)}; say which with --vector-column")
    for name in chosen:
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind)):
            raise Unfit(f"column {name!r} holds {kind} and no numbers; say with --vector-column which columns are the vector")
    return None, tuple(chosen), tuple(left_out)


def _without_covariates(names: list[str]) -> tuple[list[str], list[str]]:
    """Columns of numbers that are the vector, and those that describe the subject: age, sex, site.

    Raises Unfit where that cannot be told.
    """
    counts = Counter(map(_prefix, names))
    numbered = [name for name in names if (prefix := _prefix(name)) is not None and counts[prefix] > 1]
    others = [name for name in names if (prefix := _prefix(name)) is None or counts[prefix] == 1]
    known = [name for name in others if name.lower() in _COVARIATES]
    if not known and (not numbered or len(others) >= len(numbered)):
        return names, []
    if numbered and len(known) == len(others):
        return numbered, others
    strange = known or others
    raise Unfit(
        f"has {some(strange)} beside {some(numbered or [name for name in names if name not in known])}, and it is not clear which are the "
        f"vector; say so with --vector-column, such as 'f*', or '*' for all"
    )


def _prefix(name: str) -> str | None:
    """What stands before the number at the end of a column's name; None where there is no number."""
    return _NUMBERED.sub("", name) if _NUMBERED.search(name) else None


def _as_written(names: Sequence[str], wanted: str) -> str | None:
    return wanted if wanted in names else next((name for name in names if name.lower() == wanted), None)


def _depth(kind: pa.DataType) -> int:
    """How many lists stand in each other: 1 for a vector, 2 for tokens of vectors."""
    if isinstance(kind, pa.BaseExtensionType):
        return _depth(kind.storage_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return 1 + _depth(kind.value_type) if is_list else 0


class _Rows:
    """Some rows of a table, and their numbers, 1-based."""

    def __init__(self, batch: pa.RecordBatch, numbers: Sequence[int], layout: _Layout, uri: str, config: PartnerConfig) -> None:
        self._batch, self._numbers = batch, numbers
        self._layout, self._uri = layout, uri
        ids = texts(batch.column(layout.ids), f"column {layout.ids!r}")
        self._names = self._with_sessions(of_ids(ids, layout.are_names, config.id_pattern))
        self._windows = whole_numbers(batch.column("window"), "column 'window'") if "window" in layout.beside else None

    def _with_sessions(self, names: list[Name | None]) -> list[Name | None]:
        if "session" not in self._layout.beside:
            return names
        sessions = texts(self._batch.column("session"), "column 'session'")
        return [name and name._replace(session=session) for name, session in zip(names, sessions, strict=True)]

    def items(self) -> Iterator[Item | Problem]:
        """All rows at once where they are of one width and lie one behind the other, else one by one."""
        if not len(self._batch):
            return
        whole = self._whole() if self._numbers[-1] - self._numbers[0] == len(self._batch) - 1 else None
        if whole is not None:
            yield self._item(whole, 0, len(self._batch))
            return
        for at in range(len(self._batch)):
            try:
                yield self._item(self._array(at)[None], at, 1)
            except Unfit as error:
                place, row = f"{self._uri}, row {self._numbers[at]}", self._numbers[at]
                yield Problem(place=place, file=storage.name(self._uri), reason=error.reason, detail=error.detail, row=row)

    def _item(self, array: np.ndarray, at: int, count: int) -> Item:
        companions = {
            name: _dense(_storage(self._batch.column(name)).slice(at, 1)) for name in self._layout.beside if name in COMPANIONS
        }
        return Item(
            array=array,
            place=self._uri,
            file=storage.name(self._uri),
            names=self._names[at : at + count],
            windows=None if self._windows is None else self._windows[at : at + count],
            batched=True,
            row=self._numbers[at],
            companions=companions,
            note=self._layout.note,
        )

    def _whole(self) -> np.ndarray | None:
        """(rows, width), or None where rows have to be looked at one by one."""
        if any(name in self._layout.beside for name in ("shape", *COMPANIONS)):
            return None
        try:
            if self._layout.vector is not None:
                column = _storage(self._batch.column(self._layout.vector))
                return _dense(column)
            columns = [self._batch.column(name).cast(pa.float64()) for name in self._layout.numbers]
        except (Unfit, pa.ArrowInvalid):
            return None
        if any(column.null_count for column in columns):
            return None
        return np.stack([column.to_numpy() for column in columns], axis=1)

    def _array(self, at: int) -> np.ndarray:
        """The vector, or tokens, of one row."""
        if self._layout.vector is None:
            return np.array([_number(self._batch.column(name)[at].as_py(), name) for name in self._layout.numbers], np.float64)
        column = _storage(self._batch.column(self._layout.vector)).slice(at, 1)
        if column.null_count:
            raise Unfit(f"column {self._layout.vector!r} is empty; leave the row out")
        array = _dense(column)[0]
        if "shape" not in self._layout.beside:
            return array
        shape = self._batch.column("shape")[at].as_py()
        if not shape or math.prod(shape) != array.size:
            raise Unfit(f"holds {array.size:,} numbers where its shape says {shape}; write the vectors again")
        return array.reshape(shape)


def _number(cell: object, column: str) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        fault = "is empty" if cell is None or not str(cell).strip() else f"holds {cell!r}, which is no number"
        raise Unfit(f"column {column!r} {fault}; mend it, or say with --vector-column which columns are the vector") from None


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _dense(array: pa.Array) -> np.ndarray:
    """Lists of equal lengths as an array with an axis for each level. Raises Unfit for ragged ones, and for nulls in them."""
    array = _storage(array)
    if array.null_count:
        raise Unfit("holds an empty value (null) among its numbers; write it again without")
    if not _depth(array.type):
        if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
            raise Unfit(f"holds lists of {array.type} and no numbers; say which column has the vectors with --vector-column")
        return array.to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(array).unique().to_pylist()
    if len(lengths) != 1:
        raise Unfit(
            "holds lists of several lengths, such as " + " and ".join(map(str, lengths[:2])) + "; all must be equally long"
        )
    inner = _dense(array.flatten())
    return inner.reshape(len(array), lengths[0], *inner.shape[1:])
