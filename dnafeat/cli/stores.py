"""Commands that read or administer a store: from settings to the library's functions."""

from __future__ import annotations

import itertools
import json
from typing import IO, TYPE_CHECKING, Any

from dnafeat.cli import config as settings
from dnafeat.cli.output import Report, agreed
from dnafeat.cli.stdio import STANDARD, format_of, write_delimited, written
from dnafeat.errors import StoreError, one_line
from dnafeat.text import human_bytes

if TYPE_CHECKING:
    from dnafeat.search.config import NeighboursConfig

_DELIMITERS = {"csv": ",", "tsv": "\t"}


def _selected(selection: settings.SelectionConfig) -> dict[str, Any]:
    """The same as arguments of `Store.read`."""
    from dnafeat.store.conditions import parse_where

    chosen = selection.to_dict()
    return {**chosen, "columns": list(chosen["columns"]) if chosen["columns"] else None, "where": parse_where(selection.where)}


def read(config: settings.ReadConfig, *, stdout: IO[str]) -> Report:
    """`dnafeat read`: write the vectors of a version to a file, a pipe or standard output."""
    import pyarrow.parquet as pq

    from dnafeat import Store, storage

    kind = format_of(config.output, config.format, stdout)
    batches = Store(config.place.store).scan(**_selected(config.selection))
    first = next(batches)
    rows = 0

    def write(file: IO[bytes]) -> None:
        nonlocal rows
        every = itertools.chain([first], batches)
        if kind != "parquet":
            rows = write_delimited(file, every, "," if kind == "csv" else "\t")
            return
        with pq.ParquetWriter(file, first.schema, compression="zstd", compression_level=1, write_page_checksum=True) as writer:
            for batch in every:
                writer.write_batch(batch)
                rows += len(batch)

    try:
        with written(config.output, stdout) as place:
            size = storage.write_whole(storage.absolute(place), write)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise StoreError(f"{config.output} cannot be written: {one_line(error)}") from error
    about = {"output": config.output, "rows": rows, "columns": first.schema.names, "bytes": size, "format": kind}
    done = f"{rows:,} rows with {', '.join(first.schema.names)} in {config.output} ({human_bytes(size)})"
    return Report(document=about, text="" if config.output == STANDARD else done)


def neighbours(config: NeighboursConfig, *, stdout: IO[str]) -> Report:
    """`dnafeat neighbours`: print a summary, or write the table."""
    import pyarrow.parquet as pq

    from dnafeat import storage
    from dnafeat.search.job import run
    from dnafeat.search.show import format_neighbours

    kind = format_of(config.output, config.format, stdout) if config.output is not None else ""
    table = run(config)
    if config.output is None:
        return Report(document=table.to_pylist(), text=format_neighbours(table))

    def write(file: IO[bytes]) -> None:
        if kind != "parquet":
            write_delimited(
                file, iter(table.combine_chunks().to_batches() or table.schema.empty_table().to_batches()), _DELIMITERS[kind]
            )
        else:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)

    with storage.reached(config.output), written(config.output, stdout) as place:
        size = storage.write_whole(storage.absolute(place), write)
    about = {"output": config.output, "rows": len(table), "columns": table.column_names, "bytes": size, "format": kind}
    done = f"{len(table):,} rows with {', '.join(table.column_names)} in {config.output} ({human_bytes(size)})"
    return Report(document=about, text="" if config.output == STANDARD else done)


def export(config: settings.ExportConfig) -> Any:
    """`dnafeat export`."""
    from dnafeat import Store
    from dnafeat.store.export import export

    return export(Store(config.place.store), config.output, **_selected(config.selection))


def files(config: settings.FilesConfig, *, stdout: IO[str], as_json: bool) -> Report:
    """`dnafeat files`."""
    from dnafeat import Store, storage
    from dnafeat.store.file_list import file_list, format_files

    listed = file_list(Store(config.place.store), config.table, config.version)
    remarks = [f"the list holds until {listed['holds_until']}, unless a subject is forgotten before"]
    if listed["parent"] is not None:
        told = f"files that lack cls, mean and max have them in those of the version's parent: --version {listed['parent']}"
        remarks.insert(0, told)
    if config.output in (None, STANDARD):
        return Report(document=listed, text=format_files(listed, as_json=False), remarks=tuple(remarks))
    text = format_files(listed, as_json)
    with storage.reached(config.output), written(config.output, stdout) as place:
        storage.write_whole(storage.absolute(place), lambda file: file.write(f"{text}\n".encode()))
    done = f"{len(listed['files']):,} files of {listed['table']} listed in {config.output}"
    # `--json` is the format of the file, and what was done is said in words either way.
    return Report(document=None, text=done, remarks=tuple(remarks))


def sql(config: settings.SqlConfig) -> Report:
    """`dnafeat sql`."""
    from dnafeat import Store
    from dnafeat.store.sql import statements, text

    store = Store(config.place.store)
    return Report(document=statements(store, config.dialect), text=text(store, config.dialect))


def versions(config: settings.StoreConfig) -> list[dict[str, Any]]:
    """`dnafeat versions`."""
    from dnafeat import Store

    return Store(config.store).versions().to_pylist()


def runs(config: settings.StoreConfig) -> list[dict[str, Any]]:
    """`dnafeat runs`."""
    from dnafeat import Store

    return Store(config.store).history().listing()


def monitor(config: settings.MonitorConfig) -> Any:
    """`dnafeat monitor`."""
    from dnafeat import Store
    from dnafeat.store.monitor import monitor

    return monitor(Store(config.place.store), config.run, level=config.alarm_rate)


def rejects(config: settings.RejectsConfig) -> Any:
    """`dnafeat rejects`."""
    from dnafeat import Store
    from dnafeat.store.refusals import refusals

    return refusals(Store(config.place.store), config.run, config.limit)


def diff(config: settings.DiffConfig) -> Any:
    """`dnafeat diff`."""
    from dnafeat import Store
    from dnafeat.store.drift import diff

    return diff(Store(config.place.store), *config.versions)


def rollback(config: settings.RollbackConfig) -> Any:
    """`dnafeat rollback`."""
    from dnafeat import Store
    from dnafeat.store.rollback import check_last, format_rollback, rollback

    store, later = Store(config.place.store), config.and_later
    if not later:
        check_last(store, config.run_id)
    if config.dry_run:
        return rollback(store, config.run_id, and_later=later, dry_run=True)
    if not config.yes:
        agreed(lambda: format_rollback(rollback(store, config.run_id, and_later=later, dry_run=True)), "Withdraw")
    return rollback(store, config.run_id, and_later=later)


def publish(config: settings.PublishConfig) -> Report:
    """`dnafeat publish`."""
    from dnafeat import Store
    from dnafeat.store.history import DEFAULT_CHANNEL

    store = Store(config.place.store)
    about, lines = {"version": "", "name": None, "channel": None}, []
    if config.name is not None:
        about["name"], about["version"] = store.name(config.name, config.version)
        lines.append(f"{about['name']} is version {about['version']}")
    if config.channel is not None or config.name is None:
        channel = config.channel if config.channel is not None else DEFAULT_CHANNEL
        about["channel"], about["version"] = channel, store.point(channel, config.version)
        lines.append(f"channel {channel} points at version {about['version']}")
    return Report(document=about, text="\n".join(lines))


def maintain(config: settings.MaintainConfig) -> Any:
    """`dnafeat maintain`."""
    from dnafeat import Store
    from dnafeat.store.maintain import maintain

    return maintain(Store(config.place.store), dry_run=config.dry_run, drop_damaged=config.drop_damaged)


def forget(config: settings.ForgetConfig) -> Any:
    """`dnafeat forget`."""
    from dnafeat import Store
    from dnafeat.store.erasure import format_summary
    from dnafeat.store.forget import forget, hidden, parse
    from dnafeat.store.reading import Where

    asked = parse(config.where)
    where: Where = hidden(asked, config.salt_file, config.place.store) if config.salt_file else asked
    store = Store(config.place.store)
    if config.dry_run:
        return forget(store, where, dry_run=True)
    if not config.yes:
        agreed(lambda: format_summary(forget(store, where, dry_run=True)), "Erase for good")
    return forget(store, where)


def lineage(config: settings.LineageConfig) -> dict[str, Any]:
    """`dnafeat lineage`."""
    from dnafeat.join.job import lineage

    return lineage(config.table, config.table_version)


def format_lineage(told: dict[str, Any]) -> str:
    """What a joined table was made of, as indented JSON."""
    return json.dumps(told, indent=1)
