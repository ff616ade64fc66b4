"""Files that others have made, read within bounds: no device, no pipe, no size or nesting that a few bytes can claim."""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_MOST_JSON = 64 * 2**20  # bytes; the largest published tokenizer.json has 20 MB
# An archive whose members unpack to more than this, and to so many times its own size, is made to fill memory.
_MOST_UNPACKED, _MOST_RATIO = 256 * 2**20, 20
# Seconds until something comes through a pipe, such as `<(…)` of a shell. One into which nobody writes would be waited for without end.
_PIPE_SECONDS = 10.0


def check_regular(path: Path) -> None:
    """Raise ValueError for a device, pipe or socket: reading it may never end. Links are followed; OSError where there is nothing."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")


def open_file(path: str | Path) -> IO[bytes]:
    """A file for reading, or a pipe that somebody writes into.

    Raises OSError where it cannot be opened, or no byte comes within seconds: it is a device, a socket, or a pipe that nobody fills.
    """
    mode = Path(path).stat().st_mode
    if not stat.S_ISFIFO(mode):
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError("it is a device or a socket and no file")
        return Path(path).open("rb")
    # Opened once: a writer that is done already has left its bytes in this pipe.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not select.select([number], [], [], _PIPE_SECONDS)[0]:
        os.close(number)
        raise OSError("it is a pipe into which nobody writes")
    os.set_blocking(number, True)
    return os.fdopen(number, "rb")


@contextlib.contextmanager
def no_stray_traceback() -> Iterator[None]:
    """A block of pyarrow's CSV reader: of a row with too many fields that is no UTF-8, Python would print a traceback of its own.

    The reader raises ArrowInvalid for that row all the same.
    """
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = before


def batches(reader: Any) -> Iterator[Any]:
    """The record batches of a reader of CSV, each read in `no_stray_traceback`."""
    while True:
        with no_stray_traceback():
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
        yield batch


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
