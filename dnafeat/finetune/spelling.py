"""Spellings of labels: which texts are one class, which are missing, and which no label should be.

`0` and `0.0` are one class, as are `True` and `TRUE`. A class that has one spelling keeps it.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable

from dnafeat.errors import UsageError
from dnafeat.finetune.per_base import short
from dnafeat.keys import as_number, is_missing

_TRUTH = ("true", "false")
_log = logging.getLogger(__name__)
_PLAIN = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_CODE = re.compile(r"[+-]?0\d")
_LIST = re.compile(r"\[.*\]|\(.*,.*\)|\{.*,.*\}", re.DOTALL)


def canonical(name: str) -> str:
    """The one spelling of a class: whole numbers by their digits, other numbers as Python writes them, true and false in small letters.

    A number with leading zeros is a code and stays.
    """
    if name.casefold() in _TRUTH:
        return name.casefold()
    number = as_number(name) if _PLAIN.fullmatch(name) else None
    if number is None or _CODE.match(name) or abs(number) >= 2**53:
        return name
    return str(int(number)) if number.is_integer() else repr(number)


def fault(text: str, *, several: bool) -> str | None:
    """Say why a text is no label, because it counts as missing or is a list; None where it is one.

    Parameters
    ----------
    several : bool
        Whether names stand in the text with `;` between.
    """
    parts = text.split(";") if several else [text]
    if lacking := [part.strip() for part in parts if part.strip() and is_missing(part)]:
        return f"the label {lacking[0]!r} counts as missing; fill it in or take the row out, or write another name for a class"
    if _LIST.fullmatch(text.strip()):
        return (
            f"label {short(text)!r} is a list written as text; give --task multilabel and names with ; between, or a Parquet column "
            f"of lists"
        )
    return None


def joined(names: Iterable[str], place: str) -> dict[str, str]:
    """The class of each spelling. Where one has several, classes are named by `canonical`.

    Logs names that differ in case alone, and a code beside a number (`01` and `1`). Raises UsageError, which begins with `place`, for
    truth values beside numbers.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        spellings[canonical(name)].append(name)
    numbers = {as_number(one): one for one in spellings if as_number(one) is not None and not _CODE.match(one)}
    for name in spellings:
        if _CODE.match(name) and (other := numbers.get(as_number(name))) is not None:
            _log.warning(
                "%s: the labels %r and %r are one number and two classes: write one of them", place, name, spellings[other][0]
            )
    truth = [name for name in spellings if name in _TRUTH]
    if truth and {"0", "1"} & spellings.keys():
        other = next(name for name in ("0", "1") if name in spellings)
        raise UsageError(
            f"{place}: the labels {spellings[truth[0]][0]!r} and {spellings[other][0]!r} may mean the same: write true and false, or 1 "
            f"and 0"
        )
    by_case: dict[str, list[str]] = defaultdict(list)
    for name in spellings:
        by_case[name.casefold()].append(spellings[name][0])
    for pair in by_case.values():
        if len(pair) > 1:
            _log.warning(
                "the labels %r and %r differ in case alone and are two classes: write one of them if they are one", *pair[:2]
            )
    several = any(len(some) > 1 for some in spellings.values())
    return {name: one if several else name for one, some in spellings.items() for name in some}
