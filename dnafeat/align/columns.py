"""Columns of subjects beside their vectors (age, site, family, phenotype), one value a subject, from any table that has its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import pyarrow as pa

from dnafeat import pseudonyms as keyhash
from dnafeat import storage
from dnafeat.errors import UsageError, one_line
from dnafeat.join.modalities import as_text, read_columns
from dnafeat.keys import as_number, is_missing, spelled_text
from dnafeat.text import did_you_mean

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


def read(
    uri: str, key: str, columns: Sequence[str], *, what: str, version: int | None = None, salt: bytes | None = None
) -> dict[str, dict[str, str]]:
    """For each column, the value of each key that has one, as text.

    What `dnafeat.keys` counts as missing is no value; several rows of a key may leave a value out, but not contradict each other.

    Parameters
    ----------
    uri : str
        CSV or TSV (packed or not), Parquet, or a Delta table.
    what : str
        The table in words, for errors.
    version : int | None
        Of a Delta table.
    salt : bytes | None
        Under which keys are hashed, those that are hashed already staying.

    Raises
    ------
    UsageError
        It cannot be read, lacks a column, or gives a subject two values.
    """
    wanted = list(dict.fromkeys([key, *columns]))
    table = _delimited(uri, wanted, what) if _delimiter(uri) else read_columns(what, uri, wanted, version)[0]
    keys = as_text(table[key].combine_chunks(), f"{what}, column {key!r}")
    if salt is not None:
        keys = keyhash.hashed(keys, salt)
    names = keys.to_pylist()
    found: dict[str, dict[str, str]] = {}
    for column in columns:
        own: dict[str, str] = {}
        for name, value in zip(names, _texts(table[column], what, column), strict=True):
            if name is None or value is None:
                continue
            if own.setdefault(name, value) != value:
                raise UsageError(
                    f"{what} gives {key} {name!r} the values {own[name]!r} and {value!r} in column {column!r}, and a subject has one: "
                    f"leave one, or give a table of subjects with --subjects"
                )
        found[column] = own
    return found


def _texts(column: pa.ChunkedArray, what: str, name: str) -> list[str | None]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind):
        raise UsageError(f"{what} holds {kind} in column {name!r}, and a subject has one value: name another column")
    if pa.types.is_floating(kind):
        # Whole numbers that pandas has made floats of, because some are missing, are written as such.
        return [None if one is None or one != one else f"{one:.17g}" for one in column.to_pylist()]
    texts = [None if one is None or is_missing(text := str(one).strip()) else text for one in column.to_pylist()]
    return _one_spelling(texts)


def _one_spelling(texts: list[str | None]) -> list[str | None]:
    """Values of a column of which some are written as floats (`1.0`) and others are not (`1`), as the latter."""
    there = {text for text in texts if text is not None}
    spelled = {text: name for text in there if text.endswith("0") and "." in text and (name := spelled_text(text)) in there}
    return [None if text is None else spelled.get(text, text) for text in texts]


def half_numbers(columns: Mapping[str, Sequence[str | None]], names: Sequence[str]) -> list[str]:
    """Say of columns that hold numbers for the most part, and so count as classes, what in them is none."""
    told = []
    for name in names:
        values = [value for value in columns[name] if value is not None]
        words = [value for value in values if as_number(value) is None]
        if words and 2 * len(words) < len(values):
            told.append(
                f"{name} is taken as {len(set(values)):,} classes, since {len(words):,} of its {len(values):,} values are no numbers, such "
                f"as {words[0]!r}: mend them, or leave those cells empty"
            )
    return told


def _delimiter(uri: str) -> str | None:
    suffixes = [f".{part}" for part in storage.name(uri).lower().split(".")[1:]]
    return next((_DELIMITERS[one] for one in suffixes if one in _DELIMITERS), None)


def _delimited(uri: str, columns: Sequence[str], what: str) -> pa.Table:
    with storage.open_input(storage.absolute(uri)) as file:
        try:
            frame = pd.read_csv(file, sep=_delimiter(uri), dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (ValueError, EOFError, *storage.STORAGE_ERRORS) as error:
            raise storage.fault(error, UsageError)(f"{what} cannot be read: {one_line(error)}") from error
    for name in columns:
        if name not in frame.columns:
            hint = did_you_mean(name, map(str, frame.columns))
            raise UsageError(f"{what} has no column {name!r}: there are {', '.join(map(repr, frame.columns))}{hint}")
    return pa.table({name: pa.array(frame[name].tolist(), pa.string()) for name in columns})
