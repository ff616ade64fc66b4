"""Where a run keeps what it does not hold in memory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile

from dnafeat import storage
from dnafeat.cluster.spread import Each, here


class Workspace:
    """A run's temporary places, and how its steps go over their parts. Both places are removed when it closes, however the run ends.

    Attributes
    ----------
    folder : str
        On the local disk.
    work : str
        Below the store, where workers of every node read and write: work shards, and what is compared with them.
    spills : str
        Where entries and sequences are spilled: `folder`, or below `work` once the steps are spread.
    each : Each
    """

    def __init__(self, store: str, name: str, each: Each = here) -> None:
        self.folder = tempfile.mkdtemp(prefix="dnafeat-")
        self.work = storage.join(store, "work", name)
        self.spills, self.each = self.folder, each

    def spread(self, show: bool) -> None:
        """Make the steps tasks of a Ray, which is started where none runs. They meet on the store's own storage."""
        from dnafeat.cluster.session import start_ray
        from dnafeat.cluster.tasks import over_tasks

        start_ray()
        self.spills, self.each = storage.join(self.work, "plan"), over_tasks(show)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(*storage.STORAGE_ERRORS):
            # What cannot be removed now `maintain` removes.
            storage.remove_folder(self.work)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
