"""What has to hold after a loss of power and beside a wrong clock: files flushed to the disk, and the time by the storage's own clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from dnafeat import storage

# Between two looks at the clock of a storage.
_CLOCK_SECONDS = 600.0
# By URI: the time by the storage's clock, and the reading then of a clock of this machine's that nobody sets.
_clocks: dict[str, tuple[datetime, float]] = {}


def now(uri: str) -> datetime:
    """The time by the clock that stamps files below `uri`: as it was at most ten minutes ago, and the time since."""
    # Counts while the machine sleeps, where there is such a clock.
    passed = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
    if uri not in _clocks or passed - _clocks[uri][1] > _CLOCK_SECONDS:
        _clocks[uri] = storage.clock(uri), passed
    when, then = _clocks[uri]
    return when + timedelta(seconds=passed - then)


def sync(uri: str, paths: Iterable[str]) -> None:
    """Flush files below a local folder to the disk, and the folders that name them, from the innermost up to `uri`.

    Files that are not there are left out. An object storage has done so when it answers.
    """
    if not storage.is_local(uri):
        return
    root = Path(uri)
    files = [root / path for path in paths]
    folders = {parent for file in files for parent in file.parents if parent == root or root in parent.parents}
    for path in (*files, *sorted(folders, key=lambda one: len(one.parts), reverse=True)):
        try:
            opened = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
