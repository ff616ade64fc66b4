"""Statements that read a store by name with DuckDB, polars or Spark, filled in with its own keys, vectors and names."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.store.lookup import Lookup
from dnafeat.store.reading import chosen
from dnafeat.vectors import VIEWS

if TYPE_CHECKING:
    from dnafeat.store.queries import Queries

Dialect = Literal["duckdb", "polars", "spark"]
DIALECTS: tuple[str, ...] = get_args(Dialect)
_TABLES = ("versions", "runs", "sequences", "features")


@dataclass(frozen=True)
class Named:
    """A version under a name, and what its entries have.

    Attributes
    ----------
    name : str
    version : str
    moves : bool
        Whether the name is a channel, to be looked up when it is read.
    parent : str | None
    keys : tuple of str
    widths : dict of str to int
        Of each vector that the version stores.
    """

    name: str
    version: str
    moves: bool
    parent: str | None
    keys: tuple[str, ...]
    widths: dict[str, int]


def named(store: Queries) -> list[Named]:
    """Every published version by the name that it has by itself, and every channel that points at one."""
    history = store.history()
    store.features.reload()
    store.sequences.reload()
    keys, published, found = tuple(store.keys()), history.versions(), []
    called = {name: (version, False) for name, version in history.names.own.items() if version in published}
    called |= {name: (version, True) for name, version in history.names.channels.items() if version in published}
    for name, (version, moves) in called.items():
        parent = history.parent(version)
        held = chosen(None, version, history.vectors(version))
        widths = Lookup(store.features, version, parent).widths(held)
        found.append(Named(name, version, moves, parent, keys, {one: widths[one] for one in held if one in widths}))
    return found


def statements(store: Queries, dialect: str) -> list[str]:
    """The statements of a dialect, in order: first the store's tables, then a view for each name.

    Raises UsageError for an unknown dialect, and StoreError where nothing is published.
    """
    if dialect not in DIALECTS:
        raise UsageError(f"dialect {dialect!r} is not known: use {', '.join(DIALECTS)}")
    store.history().resolve(next(iter(store.history().versions()), None))
    views = named(store)
    if dialect == "polars":
        return [_polars_head(store.uri), *(_polars(one) for one in views)]
    tables = [_table(store.uri, name, dialect) for name in _TABLES]
    return [*tables, *(_view(one, dialect) for one in views)]


def text(store: Queries, dialect: str) -> str:
    """The same as they are pasted."""
    if dialect == "polars":
        return "\n".join(statements(store, dialect))
    head = "install delta; load delta;\n" if dialect == "duckdb" else ""
    return head + "\n".join(f"{one};" for one in statements(store, dialect))


def literal(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str, dialect: str) -> str:
    """A name as the dialect quotes it; plain ones are left as they are."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return name
    return f"`{name.replace('`', '``')}`" if dialect == "spark" else '"' + name.replace('"', '""') + '"'


def _table(uri: str, name: str, dialect: str) -> str:
    place = storage.join(uri, name)
    if dialect == "spark":
        return f"create or replace temporary view {name} as select * from delta.{identifier(place.replace('s3://', 's3a://'), 'spark')}"
    return f"create or replace view {name} as select * from delta_scan({literal(place)})"


def _view(one: Named, dialect: str) -> str:
    kind = "create or replace temporary view" if dialect == "spark" else "create or replace view"
    version = literal(one.version)
    if one.moves:
        # In one row: `order by … limit 1` is no scalar everywhere.
        version = (
            f"(select max_by(feature_version, recorded_at) from versions where event = 'channel' and name = {literal(one.name)})"
        )
    columns = ["sequence_id", "source_name", *(identifier(key, dialect) for key in one.keys)]
    columns = [f"sequences.{name}" for name in columns]
    based = one.parent is not None and any(name in VIEWS for name in one.widths)
    for name, width in one.widths.items():
        value = f"coalesce(own.{name}, base.{name})" if based and name in VIEWS else f"own.{name}"
        columns.append(f"{value}::float[{width}] as {name}" if dialect == "duckdb" else f"{value} as {name}")
    base = (
        "\nleft join features base on base.sequence_digest = sequences.sequence_digest "
        f"and base.feature_version = {literal(one.parent)}"
        if based and one.parent is not None
        else ""
    )
    return (
        f"{kind} {identifier(one.name, dialect)} as\nselect {', '.join(columns)}\nfrom sequences\n"
        f"join (select source_name, max(run_number) as number from runs where feature_version = {version} group by source_name) last\n"
        f"    on last.source_name = sequences.source_name\n"
        f"join features own on own.sequence_digest = sequences.sequence_digest and own.feature_version = {version}{base}\n"
        f"where from_run <= number and (until_run is null or until_run > number)"
    )


def _polars_head(uri: str) -> str:
    return (
        "import polars as pl\n\n"
        f'versions, runs, sequences, features = (pl.scan_delta(f"{{{uri!r}}}/{{table}}") for table in {_TABLES!r})\n'
        "views = {}"
    )


def _polars(one: Named) -> str:
    version = repr(one.version)
    head = ""
    if one.moves:
        version = "version"
        where = f'pl.col("event") == "channel", pl.col("name") == {one.name!r}'
        head = f'version = versions.filter({where}).sort("recorded_at").last().collect()["feature_version"].item()\n'
    based = one.parent is not None and any(name in VIEWS for name in one.widths)
    last = f'runs.filter(pl.col("feature_version") == {version}).group_by("source_name").agg(number=pl.col("run_number").max())'
    columns = ["sequence_id", "source_name", *one.keys]
    own = [f"pl.coalesce({name!r}, {f'base_{name}'!r}).alias({name!r})" for name in one.widths if based and name in VIEWS]
    own += [repr(name) for name in one.widths if not (based and name in VIEWS)]
    vectors = ", ".join(["'sequence_digest'", *(repr(name) for name in one.widths)])
    lines = [
        f"{head}views[{one.name!r}] = (",
        f'    sequences.join({last}, on="source_name")',
        '    .filter(pl.col("from_run") <= pl.col("number"), pl.col("until_run").is_null() | (pl.col("until_run") > pl.col("number")))',
        f'    .join(features.filter(pl.col("feature_version") == {version}).select({vectors}), on="sequence_digest")',
    ]
    if based:
        renamed = ", ".join(f"pl.col({name!r}).alias({f'base_{name}'!r})" for name in one.widths if name in VIEWS)
        base = f'features.filter(pl.col("feature_version") == {one.parent!r}).select("sequence_digest", {renamed})'
        lines.append(f'    .join({base}, on="sequence_digest", how="left")')
    lines += [f"    .select({', '.join([*(repr(name) for name in columns), *own])})", ")"]
    return "\n".join(lines)


def duckdb_connection(store: Queries) -> Any:
    """`Store.duckdb`."""
    duckdb = _imported("duckdb")
    connection = duckdb.connect()
    views = statements(store, "duckdb")[len(_TABLES) :]
    for table in store.tables():
        if table.name in _TABLES:
            connection.register(table.name, table.reload().dataset())
    for view in views:
        # A view over what is registered lives as long as the connection.
        connection.execute(view.replace("create or replace view", "create or replace temporary view", 1))
    return connection


def polars_frame(store: Queries, version: str | None, columns: Sequence[str] | None) -> Any:
    """`Store.polars`."""
    pl = _imported("polars")
    history = store.history()
    digest = history.resolve(version)
    names = chosen(columns, digest, history.vectors(digest))
    if joined := [name for name in names if "+" in name]:
        raise UsageError(f"column {joined[0]!r} is put together by Store.read alone: ask for its parts")
    parent, keys = history.parent(digest), store.keys()
    options = storage.delta_options(store.uri) or None
    tables = {
        name: pl.scan_delta(storage.join(store.uri, name), storage_options=options) for name in ("runs", "sequences", "features")
    }
    own = tables["features"].filter(pl.col("feature_version") == digest).select(list(dict.fromkeys(["sequence_digest", *names])))
    last = (
        tables["runs"].filter(pl.col("feature_version") == digest).group_by("source_name").agg(number=pl.col("run_number").max())
    )
    rows = (
        tables["sequences"]
        .join(last, on="source_name")
        .filter(pl.col("from_run") <= pl.col("number"), pl.col("until_run").is_null() | (pl.col("until_run") > pl.col("number")))
    )
    rows = rows.join(own, on="sequence_digest")
    shared = [name for name in names if name in VIEWS] if parent is not None else []
    if shared:
        base = tables["features"].filter(pl.col("feature_version") == parent)
        base = base.select("sequence_digest", *(pl.col(name).alias(f"base_{name}") for name in shared))
        rows = rows.join(base, on="sequence_digest", how="left")
        rows = rows.with_columns(pl.coalesce(name, f"base_{name}").alias(name) for name in shared)
    return rows.select("sequence_id", "source_name", *keys, *names)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{name} is not installed: pip install {name}") from error
