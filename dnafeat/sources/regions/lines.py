"""The lines of text files that hold regions, each with its place."""

from __future__ import annotations

import contextlib
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from dnafeat import storage
from dnafeat.errors import UsageError, one_line


class Line(NamedTuple):
    """A line without its end, and where it stands."""

    text: str
    file: str
    row: int

    @property
    def place(self) -> str:
        """For a sentence: `genes.bed, line 3`."""
        return f"{self.file}, line {self.row}"


def read_lines(uri: str) -> Iterator[Line]:
    """Every line of a file, packed or not, but blank ones, comments, and the track and browser lines of BED.

    Raises UsageError for a file that cannot be read or is no text.
    """
    with reading(uri), storage.open_input(uri) as file:
        number = 0
        try:
            for number, raw in enumerate(io.TextIOWrapper(file, "utf-8-sig", newline="\n"), 1):
                text = raw.rstrip("\r\n")
                if text.startswith(("##FASTA", ">")):
                    return
                if text.strip() and not text.startswith("#") and text.split(maxsplit=1)[0] not in ("track", "browser"):
                    yield Line(text, uri, number)
        except UnicodeDecodeError:
            raise UsageError(f"{uri}, after line {number}, is not UTF-8 text: is it a file of regions?") from None


@contextlib.contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn what goes wrong inside a file (damaged, cut off, out of reach) into one sentence."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UsageError(f"{uri} cannot be read: {one_line(error)}") from error
