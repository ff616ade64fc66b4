"""The state of a store during one maintenance."""

from __future__ import annotations

from datetime import datetime

from dnafeat import storage
from dnafeat.store.catalog import Store
from dnafeat.store.damage import Damage
from dnafeat.store.data_file import DataFile
from dnafeat.store.retention import ABANDONED_AFTER, RETENTION
from dnafeat.store.schema import ON_DEMAND, TABLES
from dnafeat.store.table import Table


class Upkeep:
    """The state that the steps of one maintenance share.

    Attributes
    ----------
    store : Store
    dry_run : bool
        Whether the steps only carry the state on and leave the store as it is.
    tables : dict of str to Table
    files : dict of str to list of (DataFile, datetime)
        Of each table its files after the steps so far, and when each was added.
    now : datetime
        The time that ages are counted to, by the clock of the storage.
    keeps_replaced : bool
        Whether what this maintenance replaces is too young to be deleted by it.
    listed : dict of str to storage.Listed
        Files below the store as they were at the start, by path.
    replaced : dict of str to set of str
        Of each table the files that the steps so far have replaced.
    damage : Damage
        Files that the steps so far could not read, and left as they are.
    """

    def __init__(self, store: Store, dry_run: bool, now: datetime | None) -> None:
        self.store, self.dry_run = store, dry_run
        tables = [Table(store.uri, name) for name in (*TABLES, *ON_DEMAND)]
        self.tables = {table.name: table for table in tables if table.name in TABLES or table.exists()}
        self.files: dict[str, list[tuple[DataFile, datetime]]] = {name: table.files() for name, table in self.tables.items()}
        clock = storage.clock(store.uri)
        self.now = now or clock
        self.keeps_replaced = self.now - clock < RETENTION
        self.listed = {one.path: one for one in storage.listing(store.uri)}
        self.replaced: dict[str, set[str]] = {name: set() for name in self.tables}
        self.damage = Damage()

    def is_old(self, file: storage.Listed) -> bool:
        """Return whether a file is old enough to be abandoned, if no commit names it."""
        return self.now - file.modified > ABANDONED_AFTER
