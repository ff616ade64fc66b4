"""Damaged files of a store: noted, so that others are gone on with, and taken out of their tables where that is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa

from dnafeat.errors import DamagedError
from dnafeat.store.table import Table

T = TypeVar("T")
Rows = Iterable[pa.Table | pa.RecordBatch]

_SHOWN = 5


class Damage:
    """Damaged files that were met, each once.

    Attributes
    ----------
    files : dict of str to str
        What is wrong with each, by its URI or the words of the error.
    """

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.files)

    def note(self, error: DamagedError) -> None:
        """Remember a file by its error."""
        self.files.setdefault(str(error).partition(" is damaged")[0], str(error))

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """End the block where a file is damaged, and go on behind it."""
        try:
            yield
        except DamagedError as error:
            self.note(error)

    def pieces(self, table: Table, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of an unpartitioned table, file by file, without those of damaged files, however far they can be read."""
        for path in table.paths():
            with self.noted():
                # Slower than a scan; of what cannot be read to its end nothing is given.
                yield from [piece.select(columns) for piece in table.pieces(path)]

    def spared(self, table: Table, columns: Sequence[str], fast: Callable[[], Rows], use: Callable[[Rows], T]) -> T:
        """Return what `use` makes of the rows of a scan, or where that meets a damaged file, of the rows of all others."""
        try:
            return use(fast())
        except DamagedError as error:
            self.note(error)
            return use(self.pieces(table, columns))

    def listing(self) -> str:
        """The files with what is wrong with each, for use inside a sentence."""
        shown = [text.partition(";")[0] for text in list(self.files.values())[:_SHOWN]]
        more = len(self.files) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def damaged_paths(table: Table) -> list[str]:
    """Read all files of a table's newest snapshot to their ends, and list the damaged ones by path."""
    found = []
    for path in table.reload().paths():
        try:
            table.check_file(path)
        except DamagedError:
            found.append(path)
    return found


def way_out(store: str) -> str:
    """What can be done about damaged files, for the end of a sentence."""
    return (
        f"restore them from a copy, or take them out with `dnafeat maintain --store {store} --drop-damaged`, after which the next run of "
        f"each source brings back what they held, and send the same command again"
    )
