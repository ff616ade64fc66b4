"""Subjects of files and rows: names of UK Biobank, BIDS and HCP taken apart, and ids as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dnafeat import keys, storage

# Bulk fields of UK Biobank are named <eid>_<field>_<instance>_<array>; 20227 is the resting scan, and instances 2 and 3 are imaging visits.
_UKB = re.compile(r"(?<![0-9A-Za-z])(?P<subject>\d+)_\d{3,6}_(?P<session>\d)_\d+(?![0-9A-Za-z])")
_BIDS = re.compile(r"(?<![0-9A-Za-z])sub-(?P<subject>[0-9A-Za-z]+)(?:_ses-(?P<session>[0-9A-Za-z]+))?")
_BIDS_RUN = re.compile(r"_(?P<run>run-[0-9A-Za-z]+)")
# 3T scans are named by phase encoding LR or RL, 7T scans by 7T and AP or PA. What follows names the file's kind.
_HCP = re.compile(
    r"(?<!\d)(?P<subject>\d{6})_[rt]fMRI_(?P<session>[0-9A-Z]+?(?:_7T)?(?:_(?:LR|RL|AP|PA))?)(?=_|-|\.|$)(?!_(?:7T|LR|RL|AP|PA)(?:_|$))"
)
_WINDOW = re.compile(r"[_-]win(?:dow)?[_-]?(\d+)(?!\d)")
_LAST_NUMBER = re.compile(r"(\d+)$")


class Unfit(Exception):
    """The reason why a file, an array or a row makes no vector: the words after its place and a colon, without any id or name."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason + detail)
        self.reason = reason
        self.detail = detail
        """What the words end with that may hold an id or a name."""


class Name(NamedTuple):
    """The parts of a name."""

    subject: str
    session: str | None = None
    window: int | None = None


def of_file(uri: str, id_from: str, pattern: str | None) -> Name:
    """Find the subject of a file, by its name or by its folder's; in a folder the number at the end of the file's own name is the window.

    Raises
    ------
    Unfit
        The pattern does not find a subject, or finds a window that is no number.
    """
    path = PurePosixPath(uri.removeprefix("file://"))
    if id_from == "name":
        return apart(path.stem, pattern)
    name = apart(path.parent.name, pattern)
    number = _LAST_NUMBER.search(path.stem)
    return name._replace(window=int(number[1])) if name.window is None and number else name


def apart(name: str, pattern: str | None) -> Name:
    """Subject, session and window of a name without its ending.

    `<eid>_<field>_<instance>_<array>` anywhere in it is of UK Biobank, and the instance is the session. `sub-X_ses-Y_run-Z` is BIDS,
    and the session is Y, `run-Z` or `Y_run-Z`. `<6 digits>_rfMRI_REST1_LR` is HCP, with session REST1_LR, and of 7T scans REST1_7T_PA.
    Any other name is the subject. `window-3` in a name is a window and no part of the subject.
    """
    if pattern is not None:
        return _by_pattern(name, pattern)
    found = _WINDOW.search(name)
    window = int(found[1]) if found else None
    if match := _UKB.search(name) or _HCP.search(name):
        return Name(match["subject"], match["session"], window)
    if match := _BIDS.search(name):
        run = _BIDS_RUN.search(name)
        session = "_".join(part for part in (match["session"], run and run["run"]) if part)
        return Name(match["subject"], session or None, window)
    return Name(_WINDOW.sub("", name), None, window)


def is_understood(name: str) -> bool:
    """Return whether a name is one of UK Biobank, BIDS or HCP."""
    return any(pattern.search(name) for pattern in (_UKB, _HCP, _BIDS))


def _by_pattern(name: str, pattern: str) -> Name:
    match = re.search(pattern, name)
    found: dict[str, str | None] = match.groupdict() if match else {}
    subject, window = found.get("subject"), found.get("window") or None
    if not subject:
        raise Unfit("its name does not match --id-pattern", f" ({name!r} and {pattern!r})")
    if window is not None and not window.isdecimal():
        raise Unfit("what --id-pattern takes for its window is no whole number", f" ({window!r})")
    return Name(subject, found.get("session") or None, None if window is None else int(window))


def of_ids(ids: Sequence[str | None], are_names: bool, pattern: str | None) -> list[Name | None]:
    """Whose rows are by their ids: file names are taken apart, ids stand as they are unless the whole of one is a name of UK Biobank."""
    names: list[Name | None] = []
    for text in ids:
        if text is None:
            names.append(None)
        elif are_names or pattern is not None:
            names.append(apart(storage.name(text).partition(".")[0] if are_names else text, pattern))
        elif match := _UKB.fullmatch(text):
            names.append(Name(match["subject"], match["session"]))
        else:
            names.append(Name(text))
    return names


def texts(values: Any, what: str) -> list[str | None]:
    """Ids as text, from an Arrow or NumPy array or a list; null for those that are missing.

    They are spelled by the rule of `dnafeat.keys`: 1000017.0 is 1000017, as a number and as text, and leading zeros stay.

    Raises
    ------
    Unfit
        A fraction, a float that stands for several whole numbers, or something that is neither text nor a number.
    """
    array = _arrow(values, what)
    if pa.types.is_floating(array.type):
        names, strange = keys.digits_of_floats(array)
        if strange.any():
            value = array[int(np.flatnonzero(strange)[0])].as_py()
            raise Unfit(f"{what} holds {value}, which is no id: name the one with ids")
        array = names
    try:
        text = array.cast(pa.string())
    except pa.ArrowInvalid:
        raise Unfit(f"{what} is not UTF-8 text: save it as UTF-8") from None
    except pa.ArrowException:
        raise Unfit(f"{what} holds {array.type}, which is no id: name another") from None
    if lossy := keys.lossy(text):
        raise Unfit(f"{what} holds {lossy}, a float that stands for several ids: keep ids as whole numbers or as text")
    named: list[str | None] = keys.named(text).to_pylist()
    return named


def whole_numbers(values: Any, what: str) -> list[int | None]:
    """Windows as whole numbers. Raises Unfit for others."""
    try:
        return [None if value is None else int(value) for value in texts(values, what)]
    except ValueError:
        raise Unfit(f"{what} holds what is no whole number; number the windows") from None


def _arrow(values: Any, what: str) -> pa.Array:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    try:
        if isinstance(values, np.ndarray):
            if values.ndim > 1 and values.size != len(values):
                raise Unfit(f"{what} is of shape {list(values.shape)}; one id a row is wanted")
            return pa.array(values.ravel().tolist())
        flat = list(values) if isinstance(values, list | tuple) else [values]
        # Arrow would follow a list that holds itself until the process dies.
        for value in flat:
            if isinstance(value, list | tuple | dict | set):
                raise Unfit(f"{what} holds a {type(value).__name__}, which is no id: name another")
            if not isinstance(value, str | bytes | int | float | np.generic | None):
                raise Unfit(f"{what} holds what is neither text nor a whole number; make it one")
        return pa.array(flat)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeDecodeError):
        raise Unfit(f"{what} holds what is neither text nor a whole number; make it one") from None
