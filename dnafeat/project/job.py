"""`dnafeat project`: a version's vectors under another projection, as a version of its own that has the first one for a parent.

The child's rows have `projected` and what the table needs; `cls`, `mean` and `max` stay with the parent, where readers take them from.
Nothing is encoded. For each source of the parent there is a run, planned, salvaged, audited and published as those of `embed` are: it
brings the child to what the parent has of the source. Sent again it goes on, and does what is new since.

The child's digest is made of the same fields as any version's, encoding and projection, so that it is the one that `embed --projector`
with the same artifact fills. So a night under the child needs no way of its own: either `dnafeat nightly` fills the parent and
`dnafeat project` follows, or `dnafeat nightly --projector ARTIFACT` encodes what is new under the child, in rows that are whole. A version
that was filled so before becomes a child when it is projected into, and its whole rows stay as they are.

A version has one parent, and a parent has none: one join reads any version. What is projected may be a child itself. Then both have one
parent, and of rows that are whole in the first the new ones are whole too, in files of their own.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dnafeat import parquet, storage
from dnafeat.cluster.config import on_cluster
from dnafeat.cluster.counter import counter
from dnafeat.cluster.observe import Job, told_in_records
from dnafeat.cluster.spread import Each
from dnafeat.embed import plan
from dnafeat.embed.intake import SEQUENCE_SCHEMA, Intake, entry_sums
from dnafeat.embed.plan import CHECK, Shard
from dnafeat.embed.report import RunSummary
from dnafeat.embed.run import Encoded, RunSpec, carry_out, new_run_id
from dnafeat.embed.worker import checked
from dnafeat.embed.workspace import Workspace
from dnafeat.encoder.projection import Projection, load_projector
from dnafeat.encoder.rounding import rounded
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import StoreError, UsageError
from dnafeat.parquet import write_parquet
from dnafeat.project.config import ProjectConfig
from dnafeat.provenance import digest_of
from dnafeat.spill import Spill
from dnafeat.store import Store, digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.conditions import stood
from dnafeat.store.digests import id_partition
from dnafeat.store.history import DEFAULT_CHANNEL, History
from dnafeat.store.lineages import vectors_of
from dnafeat.store.lookup import Lookup
from dnafeat.store.matrices import as_lists, matrix
from dnafeat.store.names import split
from dnafeat.store.reading import chosen
from dnafeat.store.retry import looking_again
from dnafeat.store.schema import arrow_schema
from dnafeat.store.table import Table
from dnafeat.store.vector_files import Receipt
from dnafeat.text import human_bytes
from dnafeat.vectors import PROJECTED_WIDTH, VECTORS, describe_projection, parts

_COLUMNS = ("bases", "tokens", "windows")
_PARTITION_ROWS = 131_072
_REJECTS = ("file", "row", "sequence_id", "reason", "text")


@dataclass(frozen=True, kw_only=True)
class Projected:
    """What was done.

    Attributes
    ----------
    store, feature_version, parent : str
    name : str | None
        What the version is called now, where a name was asked for.
    projection : str
        In a line.
    projected : int
        Distinct sequences whose vectors were projected.
    runs : list of RunSummary
        One for each source that the parent has more of than the child had.
    up_to_date : list of str
        Sources of which the child has what the parent has.
    seconds : float
    """

    store: str
    feature_version: str
    parent: str
    name: str | None
    projection: str
    projected: int
    runs: list[RunSummary]
    up_to_date: list[str]
    seconds: float

    def __repr__(self) -> str:
        return format_summary(self)


def project(config: ProjectConfig, *, show: bool = True) -> Projected:
    """Projects what a version has and its child with this projection lacks, source by source.

    A source counts as up to date where the child's last run of it came after that of the version that is projected. Without a version
    named, and without the channel `production`, that is the only one which has no parent.

    Raises
    ------
    UsageError
        Projector, version, source or run id are wrong.
    StoreError
        The child has another parent already, or is one; the store cannot be read or written.
    AuditError, ConflictError
        As `embed`. The same command continues.
    """
    began = time.monotonic()
    store = Store(config.store)
    history = store.history()
    origin, version, projection = _planned(store, history, config)
    parent = history.parent(origin) or origin
    state, filled = history.state(origin, source=config.source), history.filled_by(version.digest)
    todo = {source: number for source, number in state.items() if source not in filled or filled[source]["run_number"] < number}
    runs = []
    for source, number in sorted(todo.items()):
        run_id = config.run_id or new_run_id()
        if len(state) > 1:
            run_id = f"{run_id}-{digest_of({'source': source})[:8]}"
        lookup = Lookup(Table(store.uri, "features"), origin, history.parent(origin))
        spec = RunSpec(
            settings=config,
            store=store,
            version=version,
            source_name=source,
            run_id=run_id,
            vectors=("projected",),
            task="project",
            config_digest=digest_of({"of": origin, "source_name": source, "version": version.digest}),
            parent=parent,
            checked=True,
            each=_with_bar(show),
        )
        entries = _Entries(store, origin, source, number, show)
        runs.append(carry_out(spec, entries, _Projecting(spec, projection, lookup, config.shard_rows)))
    name = store.name(config.name, version.digest)[0] if config.name is not None else None
    return Projected(
        store=config.store,
        feature_version=version.digest,
        parent=parent,
        name=name,
        projection=describe_projection(projection.lineage()),
        projected=sum(one.distinct - one.already_stored - one.salvaged for one in runs),
        runs=runs,
        up_to_date=sorted(set(state) - set(todo)),
        seconds=round(time.monotonic() - began, 3),
    )


def child_version(lineage: dict[str, Any], projection: Projection, asked: str) -> FeatureVersion:
    """The version that the encoding of another has with another projection. `asked` is what the projector was called."""
    parent = FeatureVersion.of_lineage(lineage)
    held = vectors_of(lineage)
    vectors = [name for name in VECTORS if name in held or name == "projected"]
    names = {**parent.names, "projector": asked, "projection": projection.lineage(), "vectors": vectors}
    return replace(parent, projector_sha256=projection.fingerprint(), projector_input=projection.view, names=names)


def _planned(store: Store, history: History, config: ProjectConfig) -> tuple[str, FeatureVersion, Projection]:
    """The version that is projected, what it becomes, and the projection. Raises UsageError or StoreError where that cannot be."""
    origin = _origin(history, config.version)
    lineage = history.lineage(origin)
    try:
        width = int(lineage["architecture"]["hidden_size"])
        FeatureVersion.of_lineage(lineage)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"version {origin} of {store.uri} has no lineage that can be read, so nothing can be projected from it"
        ) from error
    projection = load_projector(config.projector, width)
    version = child_version(lineage, projection, config.projector)
    if version.digest == origin:
        # The channel may point at the child by now, and the command is the same as before.
        if (own := history.parent(origin)) is None:
            raise UsageError(f"version {origin} of {store.uri} is made with {projection.name} already: give another projector")
        origin = own
    chosen(parts(projection.view), origin, vectors_of(lineage))
    store.takes_parent(version.digest, history.parent(origin) or origin)
    if config.name is not None:
        split(config.name)
    known = history.lineage(version.digest)
    kept, own_kept = vectors_of(known) if known else version.names["vectors"], version.names["vectors"]
    if "projected" not in kept or not set(kept) <= set(own_kept):
        raise UsageError(
            f"version {version.digest} of {store.uri} is there and keeps {', '.join(kept)}, and from {origin} it would have "
            f"{', '.join(own_kept)}: fill it with `dnafeat embed --projector`, as it was"
        )
    return origin, version, projection


def _origin(history: History, asked: str | None) -> str:
    if asked is None and DEFAULT_CHANNEL not in history.names.channels:
        without = [version for version in history.versions() if history.parent(version) is None]
        if len(without) == 1:
            return without[0]
    return history.resolve(asked)


@dataclass(frozen=True)
class _Entries:
    """The entries of a source of the version that is projected, as of a run of it. Their sequences have no letters."""

    store: Store
    version: str
    source: str
    number: int
    show: bool

    def read(self, workspace: Workspace) -> Intake:
        if on_cluster():
            workspace.spread(self.show)
        store = self.store
        sequences = store.sequences.reload()
        own = arrow_schema("sequences").names
        keys = [name for name in sequences.schema().names if name not in own]
        partitions = min(digests.MAX_PARTITIONS, 1 + store.count_entries({self.source: self.number}) // _PARTITION_ROWS)
        fields = [("sequence_id", pa.string()), ("sequence_digest", pa.string()), ("file", pa.string()), ("row", pa.int64())]
        entries = Spill(workspace.spills, "entries", pa.schema([*fields, *((key, pa.string()) for key in keys)]), partitions)
        letters = Spill(workspace.spills, "sequences", SEQUENCE_SCHEMA, partitions)
        rejects = Spill(workspace.spills, "rejects", pa.schema([arrow_schema("rejects").field(name) for name in _REJECTS]))
        total, rows = np.zeros(4, np.uint64), 0
        columns = ["sequence_id", "sequence_digest", *keys]
        place = [("source_name", "=", self.source)]
        for batch in sequences.batches(columns, stood(self.source, self.number), place, 65_536):
            names = batch["sequence_digest"].cast(pa.string())
            total += entry_sums(batch, keys, names.to_pylist())
            file, row = pa.array([self.version] * len(batch), pa.string()), pa.array(np.arange(rows, rows + len(batch)))
            arrays = [batch["sequence_id"], names, file, row, *(batch[key] for key in keys)]
            entries.add(pa.RecordBatch.from_arrays(arrays, schema=entries.schema), id_partition(batch["sequence_id"], partitions))
            nothing = pa.array([b""] * len(batch), pa.large_binary())
            letters.add(
                pa.RecordBatch.from_arrays([names, nothing], schema=SEQUENCE_SCHEMA),
                digests.partition(digests.to_numpy(names), partitions),
            )
            rows += len(batch)
        for spill in (entries, letters, rejects):
            spill.close()
        return Intake(entries, letters, rejects, keys, digest_of({"keys": keys, "sums": total.tolist()}))


@dataclass(frozen=True)
class _Projecting:
    """Vectors that are made of stored ones."""

    spec: RunSpec
    projection: Projection
    lookup: Lookup
    shard_rows: int | None

    def encode(self, wanted: plan.Work, workspace: Workspace, job: Job) -> Encoded:
        if not wanted.missing.rows and not wanted.sample.rows:
            return Encoded([])
        version = self.spec.version
        workers = 1
        if on_cluster():
            from dnafeat.cluster.session import most

            workers = int(most("CPU"))
        rows = self.shard_rows or plan.shard_rows(wanted.missing.rows, workers, row_bytes=4 * PROJECTED_WIDTH)
        shards = plan.cut_shards(wanted.missing, rows, workspace.work, workspace.each)
        check = plan.cut_check(shards, wanted.sample, workspace.work)
        self.projection.keep(self.spec.store.uri)
        held = [name for name in version.names["vectors"] if name != "projected"]

        def projected() -> list[list[str]]:
            # At one snapshot, which has what the published runs name.
            self.lookup.features.reload().version()
            make = _Rows(self.lookup, self.projection, version.rounding, self.spec.run_id)
            return workspace.each(functools.partial(_project_shard, make, held, version.digest), [*shards, check], "projecting")

        done = looking_again(projected)
        return Encoded([Receipt.from_json(text) for some in done for text in some], checked(check.uri), by_encoder=False)


@dataclass(frozen=True)
class _Rows:
    """How rows of `features` are made of stored vectors."""

    lookup: Lookup
    projection: Projection
    rounding: str | None
    run_id: str

    def of(self, names: np.ndarray, held: Sequence[str]) -> Iterator[pa.Table]:
        """Rows a chunk at a time: `projected`, the vectors `held` as they are, and what the table needs."""
        views = parts(self.projection.view)
        wanted = ("sequence_digest", *held, "projected", *_COLUMNS, "run_id")
        schema = pa.schema([field for field in arrow_schema("features") if field.name in wanted])
        for _, batch in self.lookup.in_chunks(names, list(dict.fromkeys(["sequence_digest", *held, *views, *_COLUMNS]))):
            pooled = {view: torch.from_numpy(matrix(batch[view]).copy()) for view in views}
            with torch.inference_mode():
                projected = rounded(self.projection.of(pooled), self.rounding).numpy()
            columns = {"projected": as_lists(projected), **{name: as_lists(matrix(batch[name])) for name in held}}
            columns |= {"run_id": pa.array([self.run_id] * len(batch))}
            columns |= {name: batch[name] for name in ("sequence_digest", *_COLUMNS)}
            yield pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)


def _project_shard(make: _Rows, held: Sequence[str], version: str, shard: Shard) -> list[str]:
    """Writes a shard's projected vectors as a file below `features`, and returns its receipt; of what is compared, beside the shard.

    Sequences whose vectors stand in their own rows of a version that has a parent have them in another file, with the vectors `held`.
    """
    names = digests.to_numpy(parquet.read(shard.uri, ["sequence_digest"])["sequence_digest"])
    name = storage.name(shard.uri)
    if name == CHECK:
        # With the other vectors, which some of the files have.
        write_parquet(checked(shard.uri), make.of(names, held))
        return []
    lookup = make.lookup
    whole = lookup.own(names, held[0]) if lookup.parent is not None and held else np.zeros(len(names), bool)
    features = Table(lookup.features.uri.rpartition("/")[0], "features")
    receipts = []
    for some, vectors, suffix in ((names[~whole], (), ""), (names[whole], held, "-whole")):
        if len(some):
            about = functools.partial(_about, time.time(), name + suffix)
            stem = f"{make.run_id}-{name.removesuffix('.parquet').removeprefix('shard-')}{suffix}"
            receipts.append(
                vectorfiles.write(features, make.of(some, vectors), stem=stem, version=version, about=about).to_json()
            )
    pa.default_memory_pool().release_unused()
    return receipts


def _about(began: float, shard: str) -> dict[str, Any]:
    return {"shard": shard, "began": began, "ended": time.time()}


def _with_bar(show: bool) -> Each:
    """`Each` in this process, with a bar on standard error while projecting."""

    def each(function: Any, items: Any, what: str) -> list[Any]:
        hidden = not show or told_in_records() or what != "projecting"
        found = []
        with counter(total=len(items), desc=what, unit="shards", disable=hidden) as bar:
            for item in items:
                found.append(function(item))
                bar.update()
        return found

    return each


def format_summary(done: Projected) -> str:
    """What was done, in a few lines, and the next command to try."""
    d = done
    head = f"{d.projected:,} sequences projected in {d.seconds:.1f} s"
    lines = [head if d.runs else "nothing to project: the version has all that its parent has", ""]
    lines.append(f"  version  {d.feature_version} in {d.store}" + (f", {d.name}" if d.name else ""))
    lines.append(f"  parent   {d.parent}, which has its cls, mean and max")
    lines.append(f"  steps    {d.projection}")
    for one in d.runs:
        there = f"{one.already_stored:,} already there" + (f", {one.salvaged:,} of a run that had ended" if one.salvaged else "")
        lines.append(f"  source   {one.source_name}: {one.read:,} entries, {one.distinct:,} sequences, {there}")
        lines.append(f"           run {one.run_id}, {one.files:,} files, {human_bytes(one.bytes)}")
    for source in d.up_to_date:
        lines.append(f"  source   {source}: up to date")
    return "\n".join([*lines, "", f"next: dnafeat read --store {d.store} --version {d.feature_version} --output vectors.parquet"])
