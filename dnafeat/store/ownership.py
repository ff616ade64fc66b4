"""Which files below a store dnafeat has made: the marker of a store's folder, and the names that deletion is confined to.

Whatever else lies there is left alone, however old it is: a name is taken for dnafeat's own only in the place where dnafeat makes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from dnafeat import storage
from dnafeat.errors import StoreError, one_line
from dnafeat.spill import SUFFIX
from dnafeat.store import durability
from dnafeat.store.schema import ON_DEMAND, TABLES, delta_schema
from dnafeat.urls import delta_uri

MARKER = "_dnafeat.json"
"""A file in the folder of a store, which says that it is one. Stores of earlier releases get theirs with the next run or `maintain`."""
README = "README.md"
"""A file beside it that says how a store is read; it is written once, with the marker."""
_ABOUT = """\
# A store of dnafeat

The folders here are Delta tables. Do not read their Parquet files as they lie: some are of runs that ended early, or of rows that
were replaced or erased since, and the log of each table (`_delta_log`) says which count.

    import dnafeat
    table = dnafeat.Store("this folder").read(columns=["mean"])     # pip install dnafeat

    from deltalake import DeltaTable                                # or anything else that reads Delta
    DeltaTable("this folder/sequences").to_pyarrow_table()

`dnafeat sql --store "this folder"` prints views for DuckDB, polars and Spark; `dnafeat export` writes plain Parquet files that never
change. `features` has a row of vectors for each distinct sequence and version, `sequences` the entries that have them, `runs` what is
published. Vectors of human DNA are personal genetic data.
"""
_TABLES = (*TABLES, *ON_DEMAND)
PARTS = (*_TABLES, "work", "projectors")

_HEX = "[0-9a-f]"
_TEMPORARY = rf"\.(clock|writable)-{_HEX}{{32}}"
# Of `storage.write_whole`: a file that is not renamed yet.
_HIDDEN = re.compile(rf"{_TEMPORARY}|\..+\.{_HEX}{{32}}")
_PROBE = re.compile(rf"\.?{_TEMPORARY}(\.{_HEX}{{32}})?|\.({re.escape(MARKER)}|README\.md)\.{_HEX}{{32}}")
_DATA = re.compile(rf".+-{_HEX}{{32}}\.parquet")
_PROJECTOR = re.compile(rf"{_HEX}{{64}}\.(json|safetensors)")
# What a new file system has at its root.
_OF_DISKS = ("lost+found",)
_RUN = re.compile(rf".+-{_HEX}{{8}}")
_SHARD = re.compile(r"(shard-\d{5,}|check|check-vectors)\.parquet")


def is_data_file(table: str, path: str) -> bool:
    """Return whether a path below a table's folder is one that `Table.write` gives a file."""
    folder, _, name = path.rpartition("/")
    return _is_place(table, folder) and _DATA.fullmatch(name) is not None


def is_leftover(path: str) -> bool:
    """Return whether a path below a store is that of a file which a killed process leaves: a probe, or one that is not renamed yet."""
    part, _, rest = path.partition("/")
    if not rest:
        return _PROBE.fullmatch(part) is not None
    folder, _, name = rest.rpartition("/")
    if part in _TABLES and not folder and _PROBE.fullmatch(name):
        return True
    place = _is_place(part, folder) if part in _TABLES else part == "projectors" and not folder
    return place and _HIDDEN.fullmatch(name) is not None


def is_projector(path: str) -> bool:
    """Return whether a path below a store is that of a projector's description or weights."""
    part, _, name = path.partition("/")
    return part == "projectors" and _PROJECTOR.fullmatch(name) is not None


def work_of(path: str) -> str | None:
    """The folder of the run that a work shard or a spill belongs to, `work/<run>-<attempt>`; None for every other path of a store."""
    part, _, rest = path.partition("/")
    run, _, inside = rest.partition("/")
    if part != "work" or not _RUN.fullmatch(run):
        return None
    folder, _, name = inside.rpartition("/")
    shard = not folder and (_SHARD.fullmatch(name) or _HIDDEN.fullmatch(name))
    spill = folder.partition("/")[0] == "plan" and name.endswith(SUFFIX)
    return f"work/{run}" if shard or spill else None


def foreign(paths: Iterable[str], known: Iterable[str]) -> list[str]:
    """Paths below a store that dnafeat has not made, sorted; `known` are those that the tables' logs name."""
    known = set(known)
    return sorted(path for path in paths if path not in known and not _is_own(path))


def _is_own(path: str) -> bool:
    part, _, rest = path.partition("/")
    if part in _TABLES and (rest.startswith("_delta_log/") or is_data_file(part, rest)):
        return True
    return path in (MARKER, README) or is_leftover(path) or is_projector(path) or work_of(path) is not None


def _is_place(table: str, folder: str) -> bool:
    """Return whether data files of a table lie in a folder below its own."""
    return folder.startswith("feature_version=") and "/" not in folder if table == "features" else not folder


def claim(uri: str) -> None:
    """Make a folder or prefix that of a store: an empty one, or one that is a store already.

    Two that do so at the same time both end well.

    Raises
    ------
    StoreError
        Something else lies there.
    """
    delta_uri(uri)
    try:
        there = [name for name in storage.names(uri) if name not in _OF_DISKS and not _PROBE.fullmatch(name)]
    except storage.STORAGE_ERRORS as error:
        raise storage.fault(error)(f"the store {uri} cannot be written: {one_line(error)}") from error
    if MARKER in there:
        return
    if there and not _is_older_store(uri, there) and not storage.is_empty(uri):
        example = next((name for name in sorted(there) if name not in PARTS), min(there))
        raise StoreError(
            f"{uri} holds other files, such as {example!r}, and is no store: name a new or an empty folder with --store, or the store "
            f"itself"
        )
    storage.check_writable(uri)
    about = {"format": 1, "about": "A dnafeat store. `dnafeat maintain` deletes files of its own below this folder."}
    with storage.reached(uri):
        storage.write_whole(storage.join(uri, MARKER), lambda file: file.write(f"{json.dumps(about)}\n".encode()))
        # After the marker: whoever finds it alone would take it for another's file. One that is there already stays.
        if README not in there:
            storage.write_whole(storage.join(uri, README), lambda file: file.write(_ABOUT.encode()))
    if storage.is_local(uri):
        durability.sync(str(Path(uri).parent), [f"{storage.name(uri)}/{MARKER}"])


def _is_older_store(uri: str, there: Iterable[str]) -> bool:
    """Return whether a folder without a marker is a store: it has tables of ours, all of them or nothing beside them.

    A run that ended while it made the store leaves some of the tables alone.
    """
    tables = [name for name in TABLES if name in there]
    complete = len(tables) == len(TABLES) or set(there) <= set(PARTS)
    return bool(tables) and complete and all(_is_table(uri, name) for name in tables)


def _is_table(uri: str, name: str) -> bool:
    """Return whether a folder is a Delta table with the columns that every row of ours has."""
    place = delta_uri(storage.join(uri, name))
    try:
        columns = {field.name for field in DeltaTable(place, storage_options=storage.delta_options(uri)).schema().fields}
    except TableNotFoundError:
        return False
    except (DeltaError, OSError) as error:
        raise storage.fault(error)(f"{storage.join(uri, name)} cannot be read: {one_line(error)}") from error
    return columns.issuperset(field.name for field in delta_schema(name).fields if not field.nullable)
