"""Folders, globs and Delta tables into files, and the columns that stand in the names of folders."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

from dnafeat import storage
from dnafeat.errors import DnafeatWarning, UsageError, one_line
from dnafeat.keys import is_missing, spelled_text
from dnafeat.text import count

_LOG = "_delta_log"
_MARKS = re.compile(r"[*?\[]")
_PARQUET = (".parquet", ".pq")
_PARTITION = re.compile(r"([^=/]+)=([^/]*)")
# What Hive, Spark and Arrow write for a null.
_NULL = "__HIVE_DEFAULT_PARTITION__"
# Features of Delta tables whose Parquet files do not hold the table's rows as they are.
_UNREAD = {"deletionVectors", "columnMapping"}


def expand(patterns: Sequence[str]) -> list[str]:
    """The files behind paths, folders, globs and Delta tables: in the order given, sorted within each, each file once.

    Files and folders whose names start with `.` or `_` (`_SUCCESS`, `.ipynb_checkpoints`) count only when they are named themselves.
    Of a Delta table its present version is read, by its folder or by a glob. A DnafeatWarning says which folders, and which files
    of older versions, were left out.

    Raises
    ------
    UsageError
        There is no file, one is a pipe or a device, a URL holds a secret, or a Delta table cannot be read.
    """
    files: dict[str, None] = {}
    for pattern in patterns:
        files.update(dict.fromkeys(_files(pattern)))
    return list(files)


def partition(uri: str) -> dict[str, str | None]:
    """The columns that stand in a file's folders as `name=value`, as Hive, Spark, pandas and polars write them.

    Those folders alone that follow each other down to the file: what stands higher is where the table lies. Values are spelled by the
    rule of `dnafeat.keys`.
    """
    found: dict[str, str | None] = {}
    for folder in PurePosixPath(uri).parents:
        match = _PARTITION.fullmatch(folder.name)
        if match is None:
            break
        name, value = unquote(match[1]), unquote(match[2])
        found = {name: None if value == _NULL or is_missing(value) else spelled_text(value), **found}
    return found


def _files(pattern: str) -> list[str]:
    fs, path = storage.filesystem(pattern)
    local = storage.is_local(pattern)
    if local and not fs.isdir(path):
        storage.check_regular(path)
    found = storage.expand(pattern)
    # A file by its own name, whatever its name is.
    if found == [path if local else fs.unstrip_protocol(path)]:
        return _of_version(pattern, found, named=True)
    mark = None if fs.isdir(path) else _MARKS.search(path)
    is_glob = mark is not None
    root = path if mark is None else path[: path.rfind("/", 0, mark.start()) + 1]
    root = (root if local else fs.unstrip_protocol(root)).rstrip("/") + "/"
    tables = sorted({uri[: uri.index(f"/{_LOG}/")] for uri in found if f"/{_LOG}/" in uri})
    if tables:
        found = [uri for uri in found if not any(uri.startswith(f"{table}/") for table in tables)]
        found = sorted([*found, *(file for table in tables for file in _version(table))])
    if is_glob and local and "**" not in path and (folders := sum(map(fs.isdir, fs.glob(path)))):
        _warn(
            f"{pattern} matches {count(folders, 'folder')}, whose files are left out: name folders without a glob, or use ** in it"
        )
    shown = [uri for uri in found if not any(map(_hidden, uri.removeprefix(root).split("/")))]
    if not shown:
        raise UsageError(f"{pattern} has no file but those whose names start with '.' or '_'")
    if inside := sum(any(map(_hidden, uri.removeprefix(root).split("/")[:-1])) for uri in found):
        _warn(
            f"{pattern}: {count(inside, 'file')} in folders whose names start with '.' or '_' left out: name such a folder itself"
        )
    if local:
        for uri in shown:
            storage.check_regular(uri)
    return _of_version(pattern, shown, named=False) if is_glob else shown


def _hidden(name: str) -> bool:
    # A column of a partitioned table may begin with an underscore.
    return name.startswith(".") or (name.startswith("_") and not _PARTITION.fullmatch(name))


def _of_version(pattern: str, files: list[str], *, named: bool) -> list[str]:
    """Files without those that older versions of a Delta table have left; one that is named itself stays, with a warning."""
    tables = {folder: None for folder in dict.fromkeys(map(_table, filter(_is_parquet, files))) if folder is not None}
    tables = dict.fromkeys(table for table in map(_with_log, tables) if table is not None)
    dead: set[str] = set()
    for table in tables:
        dead.update({uri for uri in files if uri.startswith(f"{table}/") and _is_parquet(uri)} - set(_version(table)))
    if not dead:
        return files
    of = f"{count(len(dead), 'file')} of {pattern} no longer part of the Delta table {next(iter(tables))}"
    if named:
        _warn(f"{of}: rows that were taken out of the table are read; name the table's folder for its present rows")
        return files
    _warn(f"{of}, and left out: name the table's folder")
    left = [uri for uri in files if uri not in dead]
    if not left:
        raise UsageError(f"{pattern} matches no file that is still part of the Delta table {next(iter(tables))}: name its folder")
    return left


def _is_parquet(uri: str) -> bool:
    return uri.lower().endswith(_PARQUET)


def _table(uri: str) -> str:
    """The folder in which a file would be part of a table: above the folders of its partition."""
    folder = uri.rpartition("/")[0]
    while _PARTITION.fullmatch(storage.name(folder)):
        folder = folder.rpartition("/")[0]
    return folder


def _with_log(folder: str) -> str | None:
    fs, path = storage.filesystem(storage.join(folder, _LOG))
    try:
        return folder if fs.isdir(path) else None
    except storage.STORAGE_ERRORS as error:
        raise storage.fault(error, UsageError)(f"{folder} cannot be listed: {one_line(error)}") from error


def _version(table: str) -> Iterator[str]:
    """The files of a Delta table's present version."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        opened = DeltaTable(table, storage_options=storage.delta_options(table))
        unread = _UNREAD & set(opened.protocol().reader_features or ())
        mapped = opened.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
        added = pa.table(opened.get_add_actions(flatten=True))
    except (DeltaError, OSError, ValueError) as error:
        raise storage.table_fault(error, table)(f"the Delta table {table} cannot be read: {one_line(error)}") from error
    if unread or mapped:
        raise UsageError(
            f"the Delta table {table} uses {', '.join(sorted(unread)) or 'columnMapping'}, which is not read here: write its rows to a "
            f"table without"
        )
    columns = opened.metadata().partition_columns
    for path in map(unquote, added["path"].to_pylist()):
        uri = path if "://" in path or path.startswith("/") else storage.join(table, path)
        if missing := [name for name in columns if name not in partition(uri)]:
            raise UsageError(f"{uri} does not name its partition of column {missing[0]!r}: write the Delta table {table} anew")
        yield uri


def _warn(text: str) -> None:
    warnings.warn(text, DnafeatWarning, stacklevel=2)
