"""The label column of tables: which one it is, and its cells beside the entries. In Parquet it, and no other column, may hold lists."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from dnafeat import storage
from dnafeat.errors import UsageError, one_line
from dnafeat.finetune.labels import Label
from dnafeat.keys import is_missing
from dnafeat.parquet import PAGED
from dnafeat.sources import delimited
from dnafeat.sources import reader as sources
from dnafeat.sources.entries import MAX_ENTRIES, batches, schema, whole
from dnafeat.text import did_you_mean

_LABEL, _ALSO = "label", ("labels", "target", "y")
_PARQUET = b"PAR1"
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def find(files: Sequence[str], options: sources.ReadOptions, asked: str | None) -> str:
    """The name of the label column of some tables.

    Parameters
    ----------
    asked : str | None
        None: `label`, else the only one there is of `labels`, `target` and `y`, in upper or lower case.

    Raises
    ------
    UsageError
        It is missing in one of them, or could be any of several; or a table is refused as by `sources.reader.read`.
    """
    lists = {file: [name for name in list_columns(file) if _may_be(name, asked)] for file in files}
    tables = [file for file in files if not lists[file]]
    sources.key_columns(tables, options)  # all at once: their columns may not differ in case alone
    here = {file: sources.key_columns([file], options) for file in tables}
    for file in files:
        if lists[file]:
            here[file] = [*lists[file], *_columns(file, lists[file], options).keys]
    names = list(dict.fromkeys(name for file in files for name in here[file] if _may_be(name, asked)))
    found = [name for name in names if name.lower() == _LABEL] or names
    if len(found) > 1:
        raise UsageError(f"{files[0]} could have its labels in {_listed(found)}; name the label column, or call it {_LABEL!r}")
    for file in files:
        if not found or found[0] not in here[file]:
            wanted = found[0] if found else asked or _LABEL
            there = f"whose further columns are {_listed(here[file])}" if here[file] else "which has no further column"
            raise UsageError(
                f"{file} has no column {wanted!r} for labels besides ids and sequences, {there}; "
                f"give a CSV, TSV or Parquet table that has one, or name its label column{did_you_mean(wanted, here[file])}"
            )
    return found[0]


def _may_be(name: str, asked: str | None) -> bool:
    """Whether a column may have the labels, by its name."""
    return name == asked if asked else name.lower() in (_LABEL, *_ALSO)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def read(
    files: Sequence[str], options: sources.ReadOptions, label: str, also: Sequence[str] = ()
) -> Iterator[tuple[pa.RecordBatch, list[Label]]]:
    """The entries of tables, file by file.

    Parameters
    ----------
    also : sequence of str
        Further columns that batches have, as text.

    Yields
    ------
    pa.RecordBatch
        As `sources.reader.read` does. A row whose list of labels cannot be used is an entry with a problem.
    list of str, tuple of str, or None
        The label of each entry: a text without white space around it, None for an empty cell; of a list column the distinct names, as
        they stand there, in order, numbers as text.

    Raises
    ------
    UsageError
        A file cannot be read, or has none of the further columns.
    """
    options = replace(options, verbatim=(label,))
    for of_lists, together in itertools.groupby(files, lambda file: label in list_columns(file)):
        some = list(together)
        if of_lists:
            yield from itertools.chain.from_iterable(_read_lists(file, options, label, also) for file in some)
        else:
            for file in some if also else ():
                _check_columns(file, sources.key_columns([file], options), also)
            for batch in sources.read(some, options):
                yield batch, [(text.strip() or None) if text else None for text in batch[label].to_pylist()]


def list_columns(uri: str) -> list[str]:
    """Columns of a Parquet file that hold lists of texts or whole numbers; none for any other file, or one that cannot be read."""
    # What cannot be read is said where the file is read.
    with contextlib.suppress(OSError, EOFError, pa.ArrowException), storage.open_input(uri) as file:
        if file.read(len(_PARQUET)) == _PARQUET:
            return [field.name for field in pq.ParquetFile(file).schema_arrow if _holds_names(field.type)]
    return []


def _holds_names(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    value = kind.value_type.value_type if pa.types.is_dictionary(kind.value_type) else kind.value_type
    return pa.types.is_integer(value) or any(test(value) for test in _TEXT)


def _columns(uri: str, left_out: Sequence[str], options: sources.ReadOptions) -> delimited.Columns:
    """Which of a Parquet file's other columns are what."""
    with storage.open_input(uri) as file:
        there = pa.schema([field for field in pq.ParquetFile(file).schema_arrow if field.name not in left_out])
    return delimited.columns_of(there, uri, options.id_column, options.sequence_column)


def _check_columns(uri: str, there: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise UsageError for the first of the wanted columns that a table does not have."""
    for name in (name for name in wanted if name not in there):
        raise UsageError(f"{uri} has no column {name!r} for groups: there are {_listed(there)}{did_you_mean(name, there)}")


def _read_lists(
    uri: str, options: sources.ReadOptions, label: str, also: Sequence[str]
) -> Iterator[tuple[pa.RecordBatch, list[Label]]]:
    found = _columns(uri, [label], options)
    _check_columns(uri, found.keys, also)
    here = delimited.Columns(sequence_id=found.sequence_id, sequence=found.sequence, keys=tuple(also))
    try:
        cells = _lists(uri, label)
        for batch in batches(whole(delimited.read_table(uri, "parquet", here, also, storage.name(uri))), uri, schema(also)):
            values = list(itertools.islice(cells, len(batch)))
            problems = [known or _problem(value) for known, value in zip(batch["problem"].to_pylist(), values, strict=True)]
            at = batch.schema.get_field_index("problem")
            batch = batch.set_column(at, batch.schema.field(at), pa.array(problems, pa.string()))
            yield batch, [tuple(sorted({str(name) for name in value or ()})) for value in values]
    except (EOFError, pa.ArrowException, OSError, *storage.SERVER_ERRORS) as error:
        raise storage.fault(error, UsageError)(f"{uri} cannot be read: {one_line(error)}") from error


def _lists(uri: str, label: str) -> Iterator[list[str | int | None] | None]:
    with storage.open_input(uri) as file:
        parquet = pq.ParquetFile(file, **PAGED)
        for batch in parquet.iter_batches(batch_size=MAX_ENTRIES, columns=[label], use_threads=False):
            yield from batch.column(0).to_pylist()


def _problem(value: Sequence[str | int | None] | None) -> str | None:
    """Why a list of labels cannot be used; None where it can."""
    if value is None:
        return "the label is null, and where there is none the list should be empty"
    if missing := [name for name in value if name is None or is_missing(str(name))]:
        what = (
            "a null or an empty name"
            if missing[0] is None or not str(missing[0]).strip()
            else f"{missing[0]!r}, which counts as missing"
        )
        return f"the list of labels holds {what}"
    if value and isinstance(value[0], int) and len(set(value)) < len(value):
        # A list with a 0 or 1 for every label there is, by position, would otherwise be read as the labels '0' and '1'.
        return "the list of labels repeats a number, and should have the number of each label of the row, once"
    return None
