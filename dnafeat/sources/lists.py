"""Files that list values, one a line or in a column: manifests of genes, lists of training entries."""

from __future__ import annotations

import csv
import io

from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.sources.content import open_text


def read_list(uri: str, column: str, noun: str) -> list[tuple[int, str]]:
    """Lines and values of a list: one a line, or a CSV or TSV with a column of that name; empty lines and `#` lines do not count.

    `noun` is what a value is called. Raises UsageError for a list that cannot be read, or is empty, or has a line without a value.
    """
    with open_text(storage.absolute(uri)) as file:
        try:
            text = io.TextIOWrapper(file, "utf-8-sig", newline="").read()
        except UnicodeDecodeError:
            raise UsageError(f"{uri} is not UTF-8 text; save the file as UTF-8") from None
    lines = [(at, line) for at, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    delimiter = next((one for one in "\t," if lines and one in lines[0][1]), None)
    cells = [(at, next(csv.reader([line], delimiter=delimiter or "\0"))) for at, line in lines]
    place = 0
    if cells and column in (header := [cell.strip() for cell in cells[0][1]]):
        place, cells = header.index(column), cells[1:]
    elif delimiter:
        raise UsageError(f"{uri} has no column {column!r}: name the {noun}s' column so, or give one {noun} a line")
    found = []
    for at, row in cells:
        value = row[place].strip() if place < len(row) else ""
        if not value:
            raise UsageError(f"{uri}, line {at}, names no {noun}: write one, or take the line out")
        found.append((at, value))
    if not found:
        raise UsageError(f"{uri} names no {noun}: give one a line")
    return found
