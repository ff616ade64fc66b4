"""A table's Delta log beyond what deltalake tells of it: entries that a loss of power has cut, and when files were removed.

deltalake takes an empty entry for an empty commit, and judges the age of removed files by the clock of the machine that asks.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow.parquet as pq

from dnafeat import storage
from dnafeat.errors import StoreError
from dnafeat.store import durability

FOLDER = "_delta_log"
ACTIONS = "dnafeatActions"
"""The key under which the first line of an entry says how many others there are."""

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\.\d{10}\.\d{10})?\.parquet")
_REMEDY = (
    "restore it from a backup; or, if it is the newest of its folder, delete it, and withdraw the runs that name it "
    "(`dnafeat rollback`) and send them again"
)
# By URI of a log: entries that were found whole, by name, with size and time of their last change.
_whole: dict[str, set[tuple[str, int, int]]] = {}


class Removal(NamedTuple):
    """A file that came into a table or went from it."""

    path: str
    when: datetime | None
    """When it was removed, by the clock of whoever did; None: it was added."""


def sync(table: str, version: int) -> None:
    """Flush a table's entry of a version, a checkpoint that came with it and the folder of its log to the disk."""
    names = [f"{version:020}.json", f"{version:020}.checkpoint.parquet", "_last_checkpoint"]
    durability.sync(table, [f"{FOLDER}/{one}" for one in names])


def check(table: str, version: int) -> None:
    """Look at the entries that a snapshot of a local table is made of; those that were found whole are not read again.

    Raises
    ------
    StoreError
        One of them is empty or cut off. An object is whole or not there, so that other storages are not looked at.
    """
    if not storage.is_local(table):
        return
    folder = Path(table, FOLDER)
    entries, checkpoint = {}, -1
    for one in folder.iterdir() if folder.is_dir() else ():
        if found := _ENTRY.fullmatch(one.name):
            entries[int(found[1])] = one
        elif (found := _CHECKPOINT.fullmatch(one.name)) and int(found[1]) <= version:
            checkpoint = max(checkpoint, int(found[1]))
    known, seen = _whole.get(table, set()), set()
    for number in sorted(number for number in entries if checkpoint < number <= version):
        # Old entries are deleted by whoever writes a checkpoint, which then stands for them.
        with contextlib.suppress(FileNotFoundError):
            about = entries[number].stat()
            state = (entries[number].name, about.st_size, about.st_mtime_ns)
            if state not in known and (fault := _fault(entries[number].read_bytes())):
                raise StoreError(f"{entries[number]} {fault}, as a loss of power leaves it, and rows may be missing: {_REMEDY}")
            seen.add(state)
    _whole[table] = seen


def _fault(content: bytes) -> str:
    """Describe what is wrong with an entry; empty where nothing is."""
    lines = content.split(b"\n")
    lines = lines[:-1] if not lines[-1] else lines
    if not lines:
        return "is empty"
    try:
        first, _ = json.loads(lines[0]), json.loads(lines[-1])
    except ValueError:
        return "is cut off"
    about = first.get("commitInfo", {}) if isinstance(first, dict) else {}
    return "is cut off" if len(lines) <= int(about.get(ACTIONS, 0)) else ""


def removed(table: str, version: int) -> dict[str, datetime]:
    """Files that were part of a table and are not any more, for as long as the log knows them, and when each was removed.

    Raises
    ------
    StoreError
        The log lacks an entry.
    """
    log = storage.join(table, FOLDER)
    listed = {one.path: one for one in storage.listing(log)}
    checkpoints: dict[int, list[str]] = {}
    for name in sorted(listed):
        if (found := _CHECKPOINT.fullmatch(name)) and int(found[1]) <= version:
            checkpoints.setdefault(int(found[1]), []).append(name)
    last = max(checkpoints, default=-1)
    entries = [f"{number:020}.json" for number in range(last + 1, version + 1)]
    if lacking := [name for name in entries if name not in listed]:
        raise StoreError(f"{storage.join(log, lacking[0])} is missing: restore it from a backup")
    gone: dict[str, datetime] = {}
    for name in checkpoints.get(last, ()):
        gone.update((one.path, one.when) for one in _in_checkpoint(storage.join(log, name)) if one.when)
    for one in _in_entries([(storage.join(log, name), 0, listed[name].size) for name in entries]):
        if one.when is None:
            gone.pop(one.path, None)
        else:
            gone[one.path] = one.when
    return gone


def _in_checkpoint(uri: str) -> Iterator[Removal]:
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file:
        opened = pq.ParquetFile(file)
        # A log without removed files has no such column.
        there = "remove" in opened.schema_arrow.names
        rows = opened.read(["remove.path", "remove.deletionTimestamp"])["remove"].to_pylist() if there else []
    yield from (_removal(action) for action in rows if action and action["path"] is not None)


def _in_entries(ranges: Sequence[tuple[str, int, int]]) -> Iterator[Removal]:
    for content in storage.read_ranges(ranges) if ranges else ():
        for line in content.splitlines():
            # Most lines of a long entry are neither, and need not be parsed.
            if line.startswith((b'{"remove"', b'{"add"')) or not line.startswith(b'{"'):
                action = json.loads(line)
                if "remove" in action:
                    yield _removal(action["remove"])
                elif "add" in action:
                    yield Removal(unquote(action["add"]["path"]), None)


def _removal(action: dict[str, Any]) -> Removal:
    return Removal(unquote(action["path"]), datetime.fromtimestamp((action.get("deletionTimestamp") or 0) / 1000, UTC))
