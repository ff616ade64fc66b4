"""The main job: a source into a store. Plans, encodes what is missing, audits, publishes, and says what it did."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from dnafeat import cluster, keyhash, pins, pipeline, plan, storage
from dnafeat import sequence as dna
from dnafeat.audit import audit
from dnafeat.config import EmbedConfig, EncodingConfig, Settings
from dnafeat.describe import cutting, describe
from dnafeat.errors import AuditError, DnafeatError, EncodingError, StoreError, StrictError, UsageError
from dnafeat.intake import Checks, Discretion, Intake, as_rejects, duplicate_ids, is_large, take_in, without
from dnafeat.models.adapter import Source
from dnafeat.observe import Job
from dnafeat.publish import Publication
from dnafeat.raytasks import over_tasks
from dnafeat.salvage import Salvage
from dnafeat.schema import PROJECTED_WIDTH, VECTORS, arrow_schema
from dnafeat.shardworkers import EncoderSettings, checked
from dnafeat.sources import ReadOptions, expand, look
from dnafeat.spread import here
from dnafeat.store import Store
from dnafeat.vectorfiles import Receipt
from dnafeat.version import FeatureVersion, digest_of, environment


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did. Sequences are distinct ones; entries are what the source names. Rates count the encoding alone.

    Of the sequences it encoded, `windowed` took several windows and `truncated` were encoded without their end. `stages` are the seconds
    that reading, planning, encoding, audit and publishing took; the rest of `seconds` is the beginning.
    """

    run_id: str
    run_number: int
    source_name: str
    feature_version: str
    store: str
    read: int
    rejected: int
    distinct: int
    already_stored: int
    salvaged: int
    encoded: int
    opened: int
    closed: int
    files: int
    bytes: int
    tokens: int
    windowed: int
    truncated: int
    seconds: float
    sequences_per_second: float
    tokens_per_second: float
    padding_share: float
    stages: dict[str, float]
    already_published: bool = False


def default_source_name(config: EmbedConfig) -> str:
    """Where the entries come from: the paths as absolute ones, and the tiling, since tiles are entries of their own."""
    names = [storage.absolute(pattern) for pattern in config.sources]
    name = " ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more {digest_of({'names': names})[:8]}"
    return name if config.tile is None else f"{name}#tile={config.tile},stride={config.stride or config.tile}"


def embed(config: EmbedConfig, *, show: bool = True) -> Summary:
    """Brings one source into a store under one feature version.

    Parameters
    ----------
    config : EmbedConfig
    show : bool
        Whether to draw progress on standard error.

    Raises
    ------
    UsageError
        Source, model, configuration or run id are wrong; nothing but rejects is stored.
    StrictError
        Entries were refused and the configuration is strict; nothing but the rejects is stored.
    StoreError, ConflictError
        The store cannot be read or written, or was being written by too many others. The same command continues.
    """
    return _Embedding(config, show).carry_out()


def new_run_id() -> str:
    """The time and a random part."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}-{secrets.token_hex(3)}"


class Run(ABC):
    """One run, from its source to its row in `runs`: `embed` has one kind, `project` another.

    Parameters
    ----------
    config : Settings
        With the `store`'s name, as it was asked for.
    store : Store
    version : FeatureVersion
        What it fills.
    source_name : str
    run_id : str | None
    vectors : sequence of str
        The columns that its files have.
    task : str
        What it is called in records.
    show : bool
    """

    mode = "replace"
    parent: str | None = None
    strict = False

    def __init__(
        self,
        config: Settings,
        store: Store,
        version: FeatureVersion,
        source_name: str,
        *,
        run_id: str | None,
        vectors: Sequence[str],
        task: str,
        show: bool,
    ) -> None:
        self.settings, self.store, self.version, self.vectors, self.show = config, store, version, vectors, show
        self.clock, self.started = time.monotonic(), datetime.now(UTC)
        # As it was asked for.
        self.place = str(config.to_dict()["store"])
        self.source_name = source_name
        self.run_id = run_id or new_run_id()
        self.job = Job(name=task, run_id=self.run_id, source=self.source_name)
        # Before the source is read: whoever is forgotten from now on is not brought back.
        self.publication = Publication(self.store, self.run_id, self.source_name)
        self.folder = tempfile.mkdtemp(prefix="dnafeat-")
        self.work = storage.join(self.store.uri, "work", f"{self.run_id}-{self.publication.attempt[:8]}")
        self.spills, self.each = self.folder, here
        self.stages: dict[str, float] = {}

    @property
    @abstractmethod
    def config_digest(self) -> str:
        """Of every setting that shapes the result."""

    @abstractmethod
    def read(self) -> Intake:
        """The source's entries."""

    @abstractmethod
    def encode(self, wanted: plan.Work) -> Encoded:
        """Writes files with the vectors that are missing, and those of a sample to compare."""

    def counts(self, encoded: Encoded, new: int) -> dict[str, Any]:
        """What the summary says of the vectors of `new` sequences."""
        return {
            "encoded": new,
            "tokens": encoded.tokens,
            "windowed": sum(receipt.windowed for receipt in encoded.receipts),
            "truncated": sum(receipt.truncated for receipt in encoded.receipts),
            "sequences_per_second": encoded.rate(new),
            "tokens_per_second": encoded.rate(encoded.tokens),
            "padding_share": round(encoded.padding_share, 5),
        }

    def carry_out(self) -> Summary:
        """All of it, once; what it left on disks and storage is taken away, however it ends."""
        try:
            with storage.reached(self.place):
                return self()
        except DnafeatError as error:
            self.job.record("run failed", level=logging.ERROR, error=str(error), kind=type(error).__name__)
            if not isinstance(error, StoreError | EncodingError | AuditError):
                raise
            # Whoever forgets a subject takes away what runs have read or cut before.
            with contextlib.suppress(StoreError):
                self.publication.check_forgotten()
            raise
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(*storage.STORAGE_ERRORS):
                # What cannot be removed now `maintain` removes.
                storage.remove_folder(self.work)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the seconds of a block."""
        began = time.monotonic()
        yield
        self.stages[name] = round(time.monotonic() - began, 3)
        self.job.record(f"{name} is done", seconds=self.stages[name])

    def __call__(self) -> Summary:
        self.job.record("run begins", store=self.store.uri, version=self.version.digest)
        before = self.store.published_run(self.run_id)
        with self.stage("reading"):
            intake = self.read()
        if before is not None:
            return self.as_before(before, intake)
        with self.stage("planning"):
            self.refuse_bad(intake)
            digest = self.version.digest
            planned = self.store.features.reload().version()
            salvage = Salvage(self.store, digest, self.vectors)
            wanted = plan.subtract(intake, self.store, digest, self.spills, salvage, self.each)
        with self.stage("encoding"):
            encoded = self.encode(wanted)
            intake = self.without_refused(intake, encoded)
            receipts = [*encoded.receipts, *salvage.whole(), *salvage.rewritten(self.run_id)]
            new = wanted.missing.rows - len(encoded.refused)
        with self.stage("audit"):
            if receipts:
                rows = new + wanted.salvaged
                precision, rounding = self.version.precision, self.version.rounding
                check, refused = encoded.check, encoded.refused
                audit(self.store, digest, precision, receipts, rows=rows, rounding=rounding, check=check, refused=refused)
        with self.stage("publishing"):
            lineage = self.version.lineage()
            self.store.record_version(digest, event="created", lineage=lineage, run_id=self.run_id, parent=self.parent)
            committed = self.publication.commit_features([receipt.file for receipt in receipts], digest, planned)
            self.publication.commit_rejects(intake.rejects)
            self.job.count("dnafeat_rejected", intake.rejects.rows)
            number, opened, closed = self.publication.commit_sequences(intake, self.spills, self.mode)
        summary = Summary(
            run_id=self.run_id,
            run_number=number,
            source_name=self.source_name,
            feature_version=digest,
            store=self.place,
            read=intake.read,
            rejected=intake.rejects.rows,
            distinct=wanted.distinct - len(encoded.refused),
            already_stored=wanted.stored,
            salvaged=wanted.salvaged,
            opened=opened,
            closed=closed,
            files=len(committed),
            bytes=sum(file.size for file in committed),
            seconds=round(time.monotonic() - self.clock, 3),
            stages=self.stages,
            **self.counts(encoded, new),
        )
        row = _run_row(summary, self.settings, self.store) | {
            "source_fingerprint": intake.fingerprint,
            "config_digest": self.config_digest,
            "started_at": self.started,
        }
        if not self.publication.commit_run(row):
            # The same run was sent twice and the other attempt was first: what it published is what this one would have.
            return self.as_before(cast(dict, self.store.published_run(self.run_id)), intake)
        told = (
            "run_number",
            "read",
            "rejected",
            "distinct",
            "already_stored",
            "salvaged",
            "encoded",
            "opened",
            "closed",
            "seconds",
        )
        # Ray may not have run yet when a stage ended, and does not serve for long what was set long ago.
        for stage, seconds in self.stages.items():
            self.job.set("dnafeat_stage_seconds", seconds, stage=stage)
        self.job.record("run is published", version=digest, **{name: getattr(summary, name) for name in told})
        return summary

    def spread(self) -> None:
        """Lets the plan's steps be tasks, which meet on the store's own storage."""
        cluster.start_ray()
        self.spills, self.each = storage.join(self.work, "plan"), over_tasks(self.show)
        self.publication.each = self.each

    def without_refused(self, intake: Intake, encoded: Encoded) -> Intake:
        """Entries whose sequences ended every worker that encoded them become rejects."""
        if not encoded.refused:
            return intake
        reason = "encoding it ended the worker process again and again"
        intake = without(intake, encoded.refused, reason, self.spills, self.each)
        if self.strict:
            self.refuse_bad(intake)
        return intake

    def refuse_bad(self, intake: Intake) -> None:
        """Ends the run, with its rejects stored, where ids are not unique or `strict` forbids any reject."""
        double = duplicate_ids(intake, self.each)
        if double:
            self.publication.commit_rejects(as_rejects(double, self.spills, intake.rejects.schema))
            name, file, row, other_file, other_row = double[0]
            more = f" (and {len(double) - 1} more such)" if len(double) > 1 else ""
            raise UsageError(
                f"sequence_id {name!r} stands twice, at {file}:{row} and at {other_file}:{other_row}{more}: make ids unique in the "
                f"source, or name another column with --id-column"
            )
        if self.strict and intake.rejects.rows:
            self.publication.commit_rejects(intake.rejects)
            first = next(intake.rejects.batches()).slice(0, 1).to_pylist()[0]
            raise StrictError(
                f"{intake.rejects.rows} of {intake.read} entries were refused and the run is strict, so only they were stored (table "
                f"rejects, run {self.run_id}): the first is {first['sequence_id']!r} at {first['file']}:{first['row']}: {first['reason']}"
            )

    def as_before(self, before: dict, intake: Intake) -> Summary:
        return _as_before(before, self.config_digest, intake.fingerprint, self.store)


class _Embedding(Run):
    """Sequences of a source's files through an encoder."""

    def __init__(self, config: EmbedConfig, show: bool) -> None:
        clock, started = time.monotonic(), datetime.now(UTC)
        self.config = config
        self.files = expand(config.sources)
        self.discretion = _discretion(config)
        self.model = Source.find(config)
        version = _version(config, self.model)
        self.tokenizer = self.model.tokenizer(config)
        store = Store(config.store)
        store.create()
        _check_vectors(store, version, config)
        name = config.source_name or default_source_name(config)
        super().__init__(config, store, version, name, run_id=config.run_id, vectors=config.vectors, task="embed", show=show)
        self.clock, self.started, self.mode, self.strict = clock, started, config.mode, config.strict

    @property
    def config_digest(self) -> str:
        return digest_of({**self.config.shaping(), "source_name": self.source_name, "version": self.version.digest})

    def read(self) -> Intake:
        """One pass over the source."""
        config = self.config
        options = ReadOptions(
            id_column=config.id_column, sequence_column=config.sequence_column, tile=config.tile, stride=config.stride
        )
        alphabet = dna.IUPAC if config.iupac else dna.UNAMBIGUOUS
        checks = Checks(alphabet=alphabet, max_n_share=config.max_n_share, min_bases=self.tokenizer.min_bases)
        layout = look(self.files, options)
        if is_large(layout):
            self.spread()
        return take_in(layout, checks, self.spills, discretion=self.discretion, each=self.each)

    def encode(self, wanted: plan.Work) -> Encoded:
        """Encodes the missing sequences, and a sample to compare; Ray is started only when there are any."""
        missing, config, version = wanted.missing, self.config, self.version
        if not missing.rows and not wanted.sample.rows:
            return Encoded([])
        cluster.start_ray()
        gpus = cluster.gpus(0 if config.precision == "int8" else config.gpus_per_actor, config.accelerator_type)
        actors = config.num_actors or cluster.default_actors(gpus, missing.rows)
        hidden = version.architecture["hidden_size"]
        width = sum(PROJECTED_WIDTH if name == "projected" else hidden for name in config.vectors)
        # zstd packs rounded numbers, whose last 16 bits are 0, into half of their bytes.
        rows = config.shard_rows or plan.shard_rows(missing.rows, actors, row_bytes=(2 if version.rounding else 4) * width)
        shards = plan.cut_shards(missing, rows, self.work, self.each, None if config.shard_rows else actors)
        check = plan.cut_check(shards, wanted.sample, self.work)
        self.model.projector(config)[1].keep(self.store.uri)
        settings = EncoderSettings(
            config=replace(_encoding(config), precision=version.precision),
            pins=self.model.pins,
            tokenizer=self.tokenizer,
            cutting=cutting(version, self.tokenizer),
            vectors=config.vectors,
            version=version.digest,
            job=self.job,
            packages=pins.installed(),
        )
        receipts = pipeline.encode_shards(
            # Not last: all other actors would wait for the one that has it.
            [*shards[: len(shards) // 2], check, *shards[len(shards) // 2 :]],
            settings,
            store=self.store.uri,
            run_id=self.run_id,
            actors=actors,
            gpus_per_actor=gpus,
            accelerator_type=config.accelerator_type,
            show=self.show,
        )
        done = list(receipts)
        return Encoded(done, checked(check.uri), receipts.refused)


@dataclass(frozen=True)
class Encoded:
    """The receipts of a run's shards, and the vectors of some that were encoded twice."""

    receipts: list[Receipt]
    check: str | None = None
    refused: list[str] = field(default_factory=list)
    """Digests of sequences that no worker survived."""

    @property
    def tokens(self) -> int:
        return sum(receipt.tokens for receipt in self.receipts)

    @property
    def seconds(self) -> float:
        """From the first shard begun to the last file written."""
        return max(r.ended for r in self.receipts) - min(r.began for r in self.receipts) if self.receipts else 0.0

    def rate(self, count: int) -> float:
        """Of something there are `count` of, per second."""
        return round(count / self.seconds, 3) if self.receipts else 0.0

    @property
    def padding_share(self) -> float:
        computed = sum(receipt.computed for receipt in self.receipts)
        return 1 - sum(receipt.needed for receipt in self.receipts) / computed if computed else 0.0


def _version(config: EmbedConfig, source: Source) -> FeatureVersion:
    """The run's feature version, its precision resolved against the machines that will encode and not against this one."""
    gpu = config.gpus_per_actor > 0 if config.gpus_per_actor is not None else None
    if gpu is None and os.environ.get("RAY_ADDRESS"):
        cluster.start_ray()
        gpu = cluster.default_gpus() > 0
    version = describe(source, config, gpu=gpu)
    return replace(version, names={**version.names, "vectors": list(config.vectors)})


def _discretion(config: EmbedConfig) -> Discretion:
    salt = keyhash.read_salt(config.salt_file, config.store) if config.salt_file else b""
    keep = config.salt_file is None if config.keep_rejected_text is None else config.keep_rejected_text
    return Discretion(columns=config.hash_keys, salt=salt, keep_text=keep, keyed_digests=config.keyed_digests)


def _run_row(summary: Summary, config: Settings, store: Store) -> dict[str, object]:
    """What the row in `runs` takes from the summary, the settings and the tables as they are now."""
    counted = {name: value for name, value in asdict(summary).items() if name in arrow_schema("runs").names}
    return counted | {
        "finished_at": datetime.now(UTC),
        "features_version": store.features.reload().version(),
        "sequences_version": store.sequences.reload().version(),
        "rejects_version": store.rejects.reload().version(),
        "config": json.dumps(config.to_dict(), sort_keys=True),
        "environment": json.dumps(environment(), sort_keys=True),
    }


def _as_before(before: dict, config_digest: str, fingerprint: str, store: Store) -> Summary:
    """The summary of a run that is published already. Raises UsageError when this is not the same run."""
    run_id = before["run_id"]
    for name, now, what in (
        ("config_digest", config_digest, "another configuration"),
        ("source_fingerprint", fingerprint, "another state of the source"),
    ):
        if before[name] != now:
            raise UsageError(f"run id {run_id} was published from {what}: give this run another --run-id")
    kept = {name: before[name] for name in Summary.__dataclass_fields__ if name in before}
    done = dict.fromkeys(("salvaged", "encoded", "opened", "closed", "files", "bytes", "tokens", "windowed", "truncated"), 0)
    done["already_stored"] = before["distinct"]
    rates = {"seconds": 0.0, "sequences_per_second": 0.0, "tokens_per_second": 0.0, "padding_share": 0.0}
    return Summary(**{**kept, **done, **rates, "store": store.uri, "stages": {}, "already_published": True})


def _encoding(config: EmbedConfig) -> EncodingConfig:
    return EncodingConfig(**config.encoding())


def _check_vectors(store: Store, version: FeatureVersion, config: EmbedConfig) -> None:
    """Raises UsageError where the store has the version with other vectors: a version's rows all have the same."""
    known = store.lineage(version.digest)
    kept = known.get("vectors", list(VECTORS)) if known else list(config.vectors)
    if set(kept) != set(config.vectors):
        raise UsageError(
            f"version {version.digest} of {store.uri} keeps {', '.join(kept)}, and this run would keep {', '.join(config.vectors)}: "
            f"give --vectors {','.join(kept)}"
        )
