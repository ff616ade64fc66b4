"""Commands that read or administer a store."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import asdict
from typing import IO, Any

from dnafeat.encoder.config import EncodingConfig


def _selected(options: argparse.Namespace) -> dict[str, Any]:
    """The same as arguments of `Store.read`."""
    from dnafeat.store.reading import parse_where

    return {
        "version": options.version,
        "columns": [name.strip() for name in options.columns.split(",") if name.strip()] if options.columns else None,
        "source": options.source,
        "as_of": options.as_of,
        "where": parse_where(options.where),
        "run": options.run_id,
    }


def _lineage(options: argparse.Namespace) -> int:
    from dnafeat.join.job import lineage

    print(json.dumps(lineage(options.table, options.table_version), indent=1))
    return 0


def _read(options: argparse.Namespace) -> int:
    import itertools

    import pyarrow.parquet as pq

    from dnafeat import storage
    from dnafeat.errors import StoreError, one_line
    from dnafeat.store.catalog import Store

    batches = Store(options.store).scan(**_selected(options))
    first = next(batches)
    rows = 0

    def write(file: IO[bytes]) -> None:
        nonlocal rows
        with pq.ParquetWriter(file, first.schema, compression="zstd", compression_level=1) as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)
                rows += len(batch)

    try:
        size = storage.write_whole(storage.absolute(options.output), write)
    except OSError as error:
        raise StoreError(f"{options.output} cannot be written: {one_line(error)}") from error
    print(f"{rows:,} rows with {', '.join(first.schema.names)} in {options.output} ({size / 1e6:,.1f} MB)")
    return 0


def _export(options: argparse.Namespace) -> int:
    from dnafeat.store.catalog import Store
    from dnafeat.store.export import export, format_summary

    summary = export(Store(options.store), options.output, **_selected(options))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def _files(options: argparse.Namespace) -> int:
    from dnafeat import storage
    from dnafeat.store.catalog import Store
    from dnafeat.store.file_list import file_list, format_files

    listed = file_list(Store(options.store), options.table, options.version)
    text = format_files(listed, options.json)
    if options.output is None:
        print(text)
    else:
        output = storage.absolute(options.output)
        with storage.reached(options.output):
            storage.write_whole(output, lambda file: file.write(f"{text}\n".encode()))
        print(f"{len(listed['files']):,} files of {listed['table']} listed in {options.output}")
    if listed["parent"] is not None:
        told = f"files that lack cls, mean and max have them in those of the version's parent: --version {listed['parent']}"
        print(f"dnafeat: {told}", file=sys.stderr)
    print(f"dnafeat: the list holds until {listed['holds_until']}, unless a subject is forgotten before", file=sys.stderr)
    return 0


def _versions(options: argparse.Namespace) -> int:
    from dnafeat.store.catalog import Store
    from dnafeat.store.listings import format_versions

    rows = Store(options.store).versions().to_pylist()
    if options.json:
        print(json.dumps(rows, default=str))
        return 0
    print(format_versions(rows))
    return 0


def _runs(options: argparse.Namespace) -> int:
    from dnafeat.store.catalog import Store
    from dnafeat.store.listings import format_runs

    rows = Store(options.store).history().listing()
    print(json.dumps(rows, default=str) if options.json else format_runs(rows))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from dnafeat.store.catalog import Store
    from dnafeat.store.drift import diff, format_drift

    drift = diff(Store(options.store), *options.versions)
    print(json.dumps(asdict(drift)) if options.json else format_drift(drift))
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from dnafeat.store.catalog import Store
    from dnafeat.store.rollback import format_rollback, rollback

    print(format_rollback(rollback(Store(options.store), options.run_id)))
    return 0


def _publish(options: argparse.Namespace) -> int:
    from dnafeat.store.catalog import Store
    from dnafeat.store.history import DEFAULT_CHANNEL

    store = Store(options.store)
    if options.name is not None:
        name, version = store.name(options.name, options.version)
        print(f"{name} is version {version}")
    if options.channel is not None or options.name is None:
        channel = options.channel if options.channel is not None else DEFAULT_CHANNEL
        print(f"channel {channel} points at version {store.point(channel, options.version)}")
    return 0


def _maintain(options: argparse.Namespace) -> int:
    from dnafeat.store.catalog import Store
    from dnafeat.store.maintain import format_summary, maintain

    summary = maintain(Store(options.store), dry_run=options.dry_run)
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def _forget(options: argparse.Namespace) -> int:
    from dnafeat.store.catalog import Store
    from dnafeat.store.forget import forget, format_summary, hidden, parse

    where = parse(options.where)
    if options.salt_file:
        where = hidden(where, options.salt_file, options.store)
    summary = forget(Store(options.store), where)
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def _models(options: argparse.Namespace) -> int:
    from dnafeat.encoder.info import format_families

    print(format_families())
    return 0


def _model_info(options: argparse.Namespace) -> int:
    from dnafeat.encoder.info import format_info, model_info

    info = model_info(EncodingConfig(model=options.name, adapter=options.adapter, projector=options.projector))
    print(json.dumps(asdict(info)) if options.json else format_info(info))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from dnafeat.demo.splice import demo

    demo(options.store)
    return 0


def _demo_align(options: argparse.Namespace) -> int:
    from dnafeat.demo.align import demo

    with contextlib.ExitStack() as left:
        from dnafeat.cluster.session import stop_ray

        left.callback(stop_ray)
        demo(options.folder)
    return 0
