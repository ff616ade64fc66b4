"""How keys are spelled and which texts stand for a missing value: one rule for sources, subjects, partners, joins, labels and erasure.

A key is a text. White space around it is no part of it. A whole number is its digits, also where another tool has made a float of it:
`1000017.0` is `1000017`, and `1e+10`, as R and Arrow write it, is `10000000000`. Leading zeros stay: `007` is not `7`. A float from
2^53 on names several whole numbers at once, and is no key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISSING = ("", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "Null", "null", "None", "NaT")
"""Texts that stand for a missing value, white space around them aside; nulls and float NaN are missing, too."""

# Digits of a whole number that every float64 tells from its neighbours, and the zeros that a float is written with.
_AS_FLOAT = r"^(-?(?:0|[1-9][0-9]{0,14}|[1-8][0-9]{15}))\.0+$"
# What Arrow, pandas and R write of large floats. With its sign it is no name of a well.
_SCIENTIFIC = re.compile(r"-?\d(?:\.\d+)?e\+\d{2,3}")
_WHOLE = re.compile(r"-?[1-9]\d{1,15}", re.ASCII)
_LONG_FLOAT = re.compile(r"-?\d{16,}\.0+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DIGITS = re.compile(r"(\d+)", re.ASCII)
# Whole numbers below it differ as floats of so many bits.
_EXACT = {16: 2**11, 32: 2**24, 64: 2**53}


def spelled(column: Any) -> Any:
    """Spell keys by the rule: an Arrow array, chunked array or expression of strings; nulls stay.

    An expression leaves `1e+10` as it is, which `forms` finds.
    """
    names = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), _AS_FLOAT, r"\1")
    if isinstance(names, pc.Expression):
        return names
    large = pc.fill_null(pc.match_substring_regex(names, f"^{_SCIENTIFIC.pattern}$"), False)
    if not pc.any(large).as_py():
        return names
    found = pa.array([name and _digits(name) for name in names.to_pylist()], pa.string())
    return pa.chunked_array([found]) if isinstance(column, pa.ChunkedArray) else found


def _digits(text: str) -> str:
    """A whole number that stands there with an exponent, by its digits; any other text as it is."""
    if not _SCIENTIFIC.fullmatch(text):
        return text
    value = float(text)
    return str(int(value)) if value.is_integer() and abs(value) < _EXACT[64] else text


def spelled_text(text: str) -> str:
    """Spell one key."""
    return spelled(pa.array([text], pa.string()))[0].as_py()


def forms(text: str) -> list[str]:
    """The spelling of a key, and what stands for it in stores that were filled before there was a rule and an expression leaves alone."""
    name = spelled_text(text)
    if not _WHOLE.fullmatch(name) or abs(int(name)) >= _EXACT[64]:
        return [name]
    sign, digits = ("-", name[1:]) if name.startswith("-") else ("", name)
    fraction = digits[1:].rstrip("0")
    return [name, f"{sign}{digits[0]}{'.' * bool(fraction)}{fraction}e+{len(digits) - 1:02d}"]


def is_missing(text: str | None) -> bool:
    """Return whether a text stands for a missing value."""
    return text is None or text.strip() in MISSING


def missing(column: pa.Array | pa.ChunkedArray) -> Any:
    """Find the values of a column of strings that are missing: an array of booleans without nulls."""
    found = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(MISSING, pa.string()))
    return pc.or_(pc.is_null(column), pc.fill_null(found, False))


def named(column: pa.Array | pa.ChunkedArray) -> Any:
    """Keys as `spelled`, with nulls for those that are missing."""
    return pc.if_else(missing(column), pa.scalar(None, pa.string()), spelled(column))


def is_lossy(text: str | None) -> bool:
    """Return whether a key was a float that stands for several whole numbers, so that nobody can tell whose it is."""
    if text is None or not (_SCIENTIFIC.fullmatch(text) or _LONG_FLOAT.fullmatch(text)):
        return False
    value = float(text)
    return abs(value) >= _EXACT[64]


def lossy(column: pa.Array | pa.ChunkedArray) -> str | None:
    """The first key of a column for which `is_lossy` holds; None where there is none."""
    suspects = column.filter(pc.fill_null(pc.match_substring_regex(column, r"^-?\d[\d.]*(e\+\d+|\.0+)$"), False))
    return next((text for text in suspects.unique().to_pylist() if is_lossy(text)), None)


def digits_of_floats(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Floats as keys, and which of them are none: strings of the whole numbers, NaN as null, and (n,) bool for the others.

    Others are fractions, infinities, and numbers from which on neighbouring whole numbers are the same float.
    """
    limit = _EXACT[column.type.bit_width]
    numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    empty = np.isnan(numbers)
    with np.errstate(invalid="ignore"):
        whole = (numbers == np.trunc(numbers)) & (np.abs(numbers) < limit)
    text = pc.cast(pa.array(np.where(whole, numbers, 0).astype(np.int64), mask=~whole), pa.string())
    return text, ~(whole | empty)


def no_key(value: float) -> str:
    """Say why a float is no key, after a place and `holds`."""
    if np.isfinite(value) and value == np.trunc(value):
        return f"{value}, a float that stands for several whole numbers: keep ids as whole numbers or as text"
    return f"{value}, which is no name of anybody: keys are texts or whole numbers"


def as_number(text: str) -> float | None:
    """The finite number that a text is, None for any other text."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if np.isfinite(value) else None


def natural(text: str) -> tuple[Any, ...]:
    """The place of a text in natural order, as a sort key: numbers by value, then texts with the digits in them by value."""
    if (value := as_number(text)) is not None:
        return (0, value)
    parts = [part.lstrip("0") if i % 2 else part for i, part in enumerate(_DIGITS.split(text))]
    # Of two numbers without leading zeros the longer one is larger.
    return (1, [(len(part) if i % 2 else -1, part) for i, part in enumerate(parts)])


def ranks(values: Iterable[str | None]) -> dict[str, int]:
    """The place of each distinct text in natural order, equal ones (`1` and `1.0`) sharing one."""
    places = {text: natural(text) for text in values if text is not None}
    found: dict[str, int] = {}
    place, before = -1, None
    for text in sorted(places, key=lambda text: (places[text], text)):
        place += places[text] != before
        found[text], before = place, places[text]
    return found
