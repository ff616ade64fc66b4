"""The Delta table that joins write, with what joins that died have left in its folder."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.storage import Listed
from dnafeat.store.replaced import ReplacedTable

WORK = "_work"  # what begins with an underscore is no part of a Delta table
_STEM = "join-"
# What a join writes below the table and below `WORK`; all else there is left alone.
_FILE = re.compile(rf"{_STEM}[0-9a-f]{{16}}/\d{{5,}}-[0-9a-f]{{32}}\.parquet")
_WORK_FILE = re.compile(r"[0-9a-f]{16}/.+")
# What a join left behind that died; one that lasts so long has lost its files.
_ABANDONED = timedelta(days=1)


class JoinedTable(ReplacedTable):
    """The table at a folder or prefix, whether it is there or not."""

    def last(self, version: int | None = None) -> dict[str, Any] | None:
        """What the last join up to a version was made of, with `output_version`, its own; None where there is no table.

        Raises UsageError for a table that joins have not written, or a version it does not have.
        """
        if not self.look():
            return None
        newest = self.table.version()
        if version is not None and not 0 <= version <= newest:
            raise UsageError(f"{self.uri} has no version {version}: its versions are 0 to {newest}")
        for number, about in self.commits():
            if "inputs_digest" in about and (version is None or number <= version):
                return {**about, "output_version": number}
        raise UsageError(f"{self.uri} is a Delta table that `dnafeat join` has not written: give another place with --output")

    @staticmethod
    def stem(attempt: str) -> str:
        """The folder of a join's files below the table."""
        return f"{_STEM}{attempt}"

    def give_up(self, attempt: str) -> None:
        """Remove what a failed join has written."""
        storage.remove_folder(storage.join(self.uri, self.stem(attempt)))

    def sweep(self) -> None:
        """Remove the files that dead joins have left more than a day ago."""
        now = storage.clock(self.uri)
        for root, one in self._left():
            if now - one.modified > _ABANDONED:
                with contextlib.suppress(*storage.STORAGE_ERRORS):
                    storage.remove(storage.join(root, one.path))

    def _left(self) -> Iterator[tuple[str, Listed]]:
        yield from ((self.uri, one) for one in self.table.reload().uncommitted(own=_is(_FILE)))
        work = storage.join(self.uri, WORK)
        yield from ((work, one) for one in storage.listing(work) if _is(_WORK_FILE)(one.path))


def _is(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda path: pattern.fullmatch(path) is not None
