"""Files that others have made, read within bounds: no device, no pipe, no size or nesting that a few bytes can claim."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path
from typing import Any

_MOST_JSON = 64 * 2**20  # bytes; the largest published tokenizer.json has 20 MB
# An archive whose members unpack to more than this, and to so many times its own size, is made to fill memory.
_MOST_UNPACKED, _MOST_RATIO = 256 * 2**20, 20


def check_regular(path: Path) -> None:
    """Raise ValueError for a device, pipe or socket: reading it may never end. Links are followed; OSError where there is nothing."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")


def read_bytes(path: Path, most: int = _MOST_JSON) -> bytes:
    """The content of a small file. Raises ValueError for a larger one and as `check_regular`."""
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, in words that follow the file's name and a colon, for anything else."""
    return parse_object(read_bytes(path))


def parse_object(content: bytes) -> dict[str, Any]:
    """The object in a JSON text. Raises ValueError as `read_object`."""
    try:
        values = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {_KINDS.get(type(values), 'value')} where an object, {{…}}, belongs")
    return values


_KINDS = {list: "list", str: "text", int: "number", float: "number", bool: "truth value", type(None): "null"}


def check_archive(path: Path) -> None:
    """Raise ValueError for a ZIP archive whose members unpack to a large multiple of its size; any other file passes."""
    if not zipfile.is_zipfile(path):
        return
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > max(_MOST_UNPACKED, _MOST_RATIO * size):
                raise ValueError(f"{member.filename!r} in it would unpack to {member.file_size:,} bytes, of a file of {size:,}")


def check_held(count: int, item_bytes: int, held: int) -> None:
    """Raise ValueError for a tensor that claims more numbers than its file holds, such as an expanded one.

    Parameters
    ----------
    count, item_bytes : int
        Numbers of the tensor, and bytes of each.
    held : int
        Bytes that the file holds of it.
    """
    if count * item_bytes > max(held, 0):
        raise ValueError(f"claims {count:,} numbers and holds {held // max(item_bytes, 1):,}: save it with .contiguous()")
