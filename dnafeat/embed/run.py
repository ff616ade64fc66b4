"""A run from its source to the row that publishes it."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from dnafeat import storage
from dnafeat.cluster import session as cluster
from dnafeat.cluster.observe import Job
from dnafeat.cluster.spread import here
from dnafeat.cluster.tasks import over_tasks
from dnafeat.embed import plan
from dnafeat.embed.audit import audit
from dnafeat.embed.intake import Intake, as_rejects, duplicate_ids, without
from dnafeat.embed.publish import Publication
from dnafeat.embed.salvage import Salvage
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import AuditError, DnafeatError, EncodingError, StoreError, StrictError, UsageError
from dnafeat.provenance import environment
from dnafeat.settings import Settings
from dnafeat.store.catalog import Store
from dnafeat.store.schema import arrow_schema
from dnafeat.store.vector_files import Receipt


def describe_run(summary: Summary) -> str:
    """The summary of a run in a few lines, and the next command to try."""
    s = summary
    if s.already_published:
        head = f"run {s.run_id} is published already, from the same source and configuration: nothing to do"
    elif s.encoded:
        head = f"run {s.run_id}: {s.encoded:,} sequences encoded in {s.seconds:.1f} s"
    else:
        head = f"run {s.run_id}: nothing to encode, every vector is there already ({s.seconds:.1f} s)"
    lines = [head, ""]
    lines.append(f"  source   {s.source_name}")
    lines.append(f"  entries  {s.read:,} read, {s.rejected:,} rejected, {s.opened:,} new or changed, {s.closed:,} closed")
    salvaged = f", {s.salvaged:,} taken from a run that had ended" if s.salvaged else ""
    lines.append(f"  distinct {s.distinct:,} sequences, {s.already_stored:,} already there{salvaged}, {s.encoded:,} encoded")
    if s.encoded:
        rate = f"{s.sequences_per_second:,.1f} sequences/s, {s.tokens_per_second:,.0f} tokens/s, {100 * s.padding_share:.1f} % padding"
        lines.append(f"  encoder  {rate}")
        lines.append(f"  written  {s.files:,} files, {s.bytes / 1e6:,.1f} MB")
    if s.seconds >= 60:
        lines.append(f"  time     {', '.join(f'{stage} {seconds:,.1f} s' for stage, seconds in s.stages.items())}")
    if s.windowed or s.truncated:
        lines.append(f"  long     {s.windowed:,} sequences in several windows, {s.truncated:,} truncated")
    if s.rejected:
        lines.append(f"  rejects  table rejects of the store, run_id {s.run_id}")
    lines.append(f"  version  {s.feature_version} in {s.store}")
    lines += ["", f"next: dnafeat read --store {s.store} --version {s.feature_version} --output vectors.parquet"]
    return "\n".join(lines)


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
