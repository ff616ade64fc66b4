"""Conditions on entries: which a read chooses, and which stood as of a run."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat.errors import DnafeatWarning, StoreError, UsageError
from dnafeat.keys import forms, spelled, spelled_text
from dnafeat.store.cut import MEASURED
from dnafeat.store.table import Table
from dnafeat.text import did_you_mean

Where = Mapping[str, str | Sequence[str]]
"""Columns of entries, and the value or values that each may have."""

_ID = "sequence_id"
# Values that one that is not there is compared with.
_MOST_COMPARED = 10_000
# Values that are looked for one by one in statistics.
_MOST_RANGES = 50


def parse_where(conditions: Sequence[str]) -> dict[str, list[str]]:
    """`COLUMN=VALUE` texts as conditions: one column's values are alternatives. Raises UsageError for a text that is none."""
    where: dict[str, list[str]] = {}
    for text in conditions:
        column, equals, value = text.partition("=")
        if not (column and equals and value):
            raise UsageError(f"--where {text!r} is not COLUMN=VALUE: write for instance --where subject_id=S17")
        where.setdefault(column, []).append(value)
    return where


def listed(values: Any) -> Any:
    """Make a list of several values; one text, None and what is no iterable stay."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else values


def stood(source: str, number: int) -> pc.Expression:
    """The filter for the rows of `sequences` that a source had as of a run number."""
    where = (ds.field("source_name") == source) & (ds.field("from_run") <= number)
    return where & (ds.field("until_run").is_null() | (ds.field("until_run") > number))


def conditions(where: Where, keys: Sequence[str], store: str) -> pc.Expression | None:
    """The filter for entries that meet all conditions; None without any.

    Raises StoreError for a condition that names no key, or a value that is no text.
    """
    expression = None
    for column, values in where.items():
        if column not in (*keys, _ID):
            there = [_ID, *keys]
            hint = did_you_mean(column, there)
            raise StoreError(f"{store} has no key {column!r} to choose entries by: there are {', '.join(there)}{hint}")
        several = listed(values)
        wanted: list[Any] = several if isinstance(several, list) else [several]
        if strange := [value for value in wanted if not isinstance(value, str)]:
            hint = "leave it out" if strange[0] is None else f"ask for {str(strange[0])!r}"
            raise StoreError(f"key {column!r} is text and {strange[0]!r} is not: {hint}")
        # Stores that older releases have filled hold keys that are not spelled by the rule.
        one = spelled(ds.field(column)).isin(pa.array([form for value in wanted for form in forms(value)], pa.string()))
        one = _near(column, wanted) & one if column in MEASURED else one
        expression = one if expression is None else expression & one
    return expression


def _near(column: str, values: Sequence[str]) -> pc.Expression:
    """A filter that the rows with some values of a key meet, and that statistics of files and row groups can answer.

    What is spelled as a value begins with one of its forms, or with white space, which no other ASCII character comes before.
    """
    cells = ds.field(column)
    names = sorted({form for value in values for form in forms(value)}) or [""]
    ranges = [(name, name) for name in names] if len(names) <= _MOST_RANGES else [(names[0], names[-1])]
    near = (cells < "!") | (cells >= "\x80")
    for first, last in ranges:
        near |= (cells >= first) & (cells < f"{last}\U0010ffff")
    return near


def warn_of_unknown(
    sequences: Table, state: Mapping[str, int], column: str, values: Sequence[str], found: pa.ChunkedArray
) -> None:
    """Warn of values that no entry of a state has in a column; `found` are those of the entries that meet all conditions."""
    names = {value: spelled_text(value) for value in values}
    missing = set(names.values()).difference(spelled(pc.unique(found)).to_pylist())
    there: set[str] = set()
    for source, number in state.items() if missing else ():
        for batch in sequences.batches([column], stood(source, number), [("source_name", "=", source)], 131_072):
            there.update(name for name in spelled(pc.unique(batch[column])).to_pylist() if name is not None)
    for value in sorted(value for value, name in names.items() if name in missing - there):
        hint = did_you_mean(value, itertools.islice(there, _MOST_COMPARED))
        warnings.warn(f"no entry that is read has {column} {value!r}{hint}", DnafeatWarning, stacklevel=4)
