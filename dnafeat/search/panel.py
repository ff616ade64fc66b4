"""Keys of subjects from a table beside the store, such as their populations."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from dnafeat import storage
from dnafeat.errors import UsageError, one_line
from dnafeat.keys import spelled

_SUBJECT = "subject_id"


def with_panel(table: pa.Table, uri: str) -> pa.Table:
    """A table of neighbours with further columns of a CSV or TSV, whose first column is compared with `subject_id`.

    Raises UsageError for a file that cannot be read or names a subject twice, a table without subjects, and columns that are there.
    """
    if _SUBJECT not in table.column_names:
        raise UsageError(f"the entries have no key {_SUBJECT}, so that --panel {uri} says nothing of them")
    panel = _read(uri)
    first, *others = panel.column_names
    if taken := [name for name in others if name in table.column_names]:
        raise UsageError(f"{uri} has a column {taken[0]!r}, which the table has, too: rename it")
    subjects = spelled(panel[first]).combine_chunks()
    if len(subjects.unique()) < len(subjects):
        raise UsageError(f"{uri} names a subject twice in column {first!r}: give each a row")
    place = pc.index_in(spelled(table[_SUBJECT]), subjects)
    for name in others:
        table = table.append_column(name, panel[name].combine_chunks().take(place.combine_chunks()))
    return table


def _read(uri: str) -> pa.Table:
    with storage.open_input(storage.absolute(uri)) as file:
        content = file.read()
    delimiter = "\t" if b"\t" in content.partition(b"\n")[0] else ","
    try:
        names = csv.read_csv(pa.BufferReader(content), parse_options=csv.ParseOptions(delimiter=delimiter)).column_names
        types = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
        return csv.read_csv(pa.BufferReader(content), parse_options=csv.ParseOptions(delimiter=delimiter), convert_options=types)
    except (pa.ArrowException, ValueError) as error:
        raise UsageError(f"{uri} cannot be read as a table: {one_line(error)}") from error
