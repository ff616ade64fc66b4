"""The main job: a source into a store. Plan, encode what is missing, audit, publish."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa

from dnafeat import pseudonyms as keyhash
from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.cluster import packages
from dnafeat.cluster.config import on_cluster
from dnafeat.cluster.observe import Job
from dnafeat.embed import plan, runner
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks, Discretion, Intake, check_names, is_large, take_in
from dnafeat.embed.regions import take_in_regions
from dnafeat.embed.report import RunSummary
from dnafeat.embed.run import Encoded, RunSpec, carry_out, new_run_id
from dnafeat.embed.worker import EncoderSettings, EncodeShards, checked
from dnafeat.embed.workspace import Workspace
from dnafeat.encoder.describe import cutting, describe
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.source import Source, portable
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import UsageError
from dnafeat.provenance import digest_of
from dnafeat.sources.cohort.layout import RegionLayout
from dnafeat.sources.cohort.layout import look as look_regions
from dnafeat.sources.reader import ReadOptions, expand, look
from dnafeat.store import Store
from dnafeat.store.lineages import vectors_of
from dnafeat.store.monitor import Gate
from dnafeat.store.vector_files import Receipt
from dnafeat.vectors import PROJECTED_WIDTH


def default_source_name(config: EmbedConfig) -> str:
    """Where the entries come from: the paths as absolute ones, and what cuts them, since tiles are entries of their own."""
    over = config.reference
    own = [over.genome, over.regions, *over.vcf] if over.genome and over.regions else config.sources
    names = [storage.absolute(pattern) for pattern in own if pattern]
    name = " ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more {digest_of({'names': names})[:8]}"
    tiling = {} if config.tile is None else {"tile": config.tile, "stride": config.stride or config.tile}
    chosen = over.extent() | tiling
    return name + ("#" + ",".join(f"{one}={value}" for one, value in chosen.items()) if chosen else "")


def embed(config: EmbedConfig, *, show: bool = True, gate: Gate | None = None) -> RunSummary:
    """Bring one source into a store under one feature version.

    Parameters
    ----------
    config : EmbedConfig
    show : bool
        Whether to draw progress on standard error.
    gate : Gate | None
        What may hold the run before it is published.

    Raises
    ------
    UsageError
        Source, model, configuration or run id are wrong; nothing but rejects is stored.
    StrictError
        Entries were refused and the configuration is strict; nothing but the rejects is stored.
    MassCloseError
        The source lacks more of its entries than `max_closed` allows; nothing is published.
    StoreError, ConflictError
        The store cannot be read or written, or was being written by too many others. The same command continues.
    HeldError
        The gate holds the run: nothing is published.
    """
    clock, started = time.monotonic(), datetime.now(UTC)
    files = expand(config.sources)
    regions = look_regions(config.reference, config.tile, config.stride) if config.reference.genome is not None else None
    discretion = _discretion(config)
    model = Source.find(config.encoding)
    version = version_of(config, model)
    tokenizer = model.tokenizer(config.encoding)
    store = Store(config.store)
    store.create()
    check_vectors(store, version, config)
    name = config.source_name or default_source_name(config)
    spec = RunSpec(
        settings=config,
        store=store,
        version=version,
        source_name=name,
        run_id=config.run_id or new_run_id(),
        vectors=config.vectors,
        task="embed",
        config_digest=digest_of({**config.shaping(), "source_name": name, "version": version.digest}),
        mode=config.mode,
        max_closed=config.max_closed,
        strict=config.strict,
        gate=gate,
        clock=clock,
        started=started,
    )
    entries = _Entries(config, files, regions, discretion, tokenizer.min_bases, show)
    return carry_out(spec, entries, EncoderVectors(config, spec, model, tokenizer, show))


@dataclass(frozen=True)
class _Entries:
    """The entries of a source: of its files, or of regions of a genome."""

    config: EmbedConfig
    files: list[str]
    regions: RegionLayout | None
    discretion: Discretion
    min_bases: int
    show: bool

    def read(self, workspace: Workspace) -> Intake:
        """One pass over the source, spread over a cluster where it is large."""
        config = self.config
        alphabet = dna.IUPAC if config.iupac else dna.UNAMBIGUOUS
        checks = Checks(alphabet=alphabet, max_n_share=config.max_n_share, min_bases=self.min_bases)
        if self.regions is not None:
            if is_large(self.regions) and config.actors.runner != "local":
                workspace.spread(self.show)
            return take_in_regions(self.regions, checks, workspace.spills, discretion=self.discretion, each=workspace.each)
        options = ReadOptions(
            id_column=config.id_column, sequence_column=config.sequence_column, tile=config.tile, stride=config.stride
        )
        layout = look(self.files, options)
        check_names(layout.keys, Store(config.store).sequences.schema().names)
        layout.warn()
        if is_large(layout) and config.actors.runner != "local":
            workspace.spread(self.show)
        return take_in(layout, checks, workspace.spills, discretion=self.discretion, each=workspace.each)


@dataclass(frozen=True)
class EncoderVectors:
    """Vectors that an encoder makes."""

    config: EmbedConfig
    spec: RunSpec
    model: Source
    tokenizer: Tokenizer
    show: bool

    def encode(self, wanted: plan.Work, workspace: Workspace, job: Job) -> Encoded:
        """Encode the missing sequences, and a sample to compare. Without any, no encoder is loaded and no Ray is started."""
        missing, config, version = wanted.missing, self.config, self.spec.version
        if not missing.rows and not wanted.sample.rows:
            return Encoded([])
        cuts = cutting(version, self.tokenizer)
        flops = runner.expected_flops(version.architecture, missing, self.tokenizer, cuts)
        chosen = runner.choose(
            config.actors, sequences=missing.rows, flops=flops, cpu_only=version.precision == "int8", show=self.show
        )
        job.record("runner chosen", runner=chosen.name, reason=chosen.reason)
        hidden = version.architecture["hidden_size"]
        width = sum(PROJECTED_WIDTH if name == "projected" else hidden for name in config.vectors)
        # zstd packs rounded numbers, whose last 16 bits are 0, into half of their bytes.
        row_bytes = (2 if version.rounding else 4) * width
        rows = config.shard_rows or plan.shard_rows(missing.rows, chosen.workers, row_bytes=row_bytes)
        ending = None if config.shard_rows else chosen.workers
        shards = plan.cut_shards(missing, rows, workspace.work, workspace.each, ending)
        check = plan.cut_check(shards, wanted.sample, workspace.work)
        self.model.projector(config.encoding)[1].keep(self.spec.store.uri)
        settings = EncoderSettings(
            config=portable(config.encoding).replace(precision=version.precision),
            pins=self.model.pins,
            tokenizer=self.tokenizer,
            cutting=cuts,
            vectors=config.vectors,
            version=version.digest,
            job=job,
            packages=packages.installed(),
        )
        # Not last: all other workers would wait for the one that has it.
        in_order = [*shards[: len(shards) // 2], check, *shards[len(shards) // 2 :]]
        receipts, refused = gathered(chosen.run(in_order, settings, EncodeShards, (self.spec.store.uri, self.spec.run_id)))
        return Encoded(receipts, checked(check.uri), refused, runner=chosen.name, runner_reason=chosen.reason)


def gathered(rows: Iterable[pa.Table]) -> tuple[list[Receipt], list[str]]:
    """The receipts in the shards' order, and the digests that ended every worker process that encoded them, of rows of `EncodeShards`.

    A file that a dying worker left behind has another name and no receipt. The shard of `plan.cut_check` has none either, nor has one of
    which nothing but refused sequences are left.
    """
    receipts, refused = [], []
    for batch in rows:
        refused += batch["refused"].combine_chunks().flatten().to_pylist()
        receipts += [Receipt.from_json(text) for text in batch["receipt"].to_pylist() if text]
    return sorted(receipts, key=lambda one: one.shard), refused


def version_of(config: EmbedConfig, source: Source) -> FeatureVersion:
    """The run's feature version, its precision resolved against the machines that will encode and not against this one."""
    gpu = config.actors.gpus_per_actor > 0 if config.actors.gpus_per_actor is not None else None
    if gpu is None and on_cluster() and config.actors.runner != "local":
        from dnafeat.cluster import session

        session.start_ray()
        gpu = session.default_gpus() > 0
    version = describe(source, config.encoding, gpu=gpu)
    return replace(version, names={**version.names, "vectors": list(config.vectors)})


def _discretion(config: EmbedConfig) -> Discretion:
    salt = keyhash.read_salt(config.salt_file, config.store) if config.salt_file else b""
    keep = config.salt_file is None if config.keep_rejected_text is None else config.keep_rejected_text
    return Discretion(columns=config.hash_keys, salt=salt, keep_text=keep, keyed_digests=config.keyed_digests)


def check_vectors(store: Store, version: FeatureVersion, config: EmbedConfig) -> None:
    """Raises UsageError where the store has the version with other vectors: a version's rows all have the same."""
    known = store.lineage(version.digest)
    kept = vectors_of(known) if known else list(config.vectors)
    if set(kept) != set(config.vectors):
        raise UsageError(
            f"version {version.digest} of {store.uri} keeps {', '.join(kept)}, and this run would keep {', '.join(config.vectors)}: "
            f"give --vectors {','.join(kept)}"
        )
