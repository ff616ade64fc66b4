"""One run, from its source to the row in `runs` that publishes it: what `embed` and `project` have in common.

A run is put together from what it fills (`RunSpec`), where its entries come from (`EntrySource`) and where its vectors come from
(`VectorSource`). `carry_out` takes the steps in their order: read, plan, encode, audit, publish.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from dnafeat import storage
from dnafeat.cluster.observe import Job
from dnafeat.cluster.spread import Each, here
from dnafeat.embed import plan
from dnafeat.embed.audit import audit
from dnafeat.embed.changes import Difference
from dnafeat.embed.haplotypes import commit_haplotypes
from dnafeat.embed.intake import Intake, as_rejects, duplicate_ids, without
from dnafeat.embed.publish import Publication
from dnafeat.embed.report import RunSummary
from dnafeat.embed.salvage import Salvage
from dnafeat.embed.workspace import Workspace
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import AuditError, DnafeatError, EncodingError, MassCloseError, StoreError, StrictError, UsageError
from dnafeat.provenance import environment
from dnafeat.settings import Settings
from dnafeat.sources.content import unique_ids
from dnafeat.store import Store
from dnafeat.store.monitor import Gate
from dnafeat.store.profiles import Profile, total
from dnafeat.store.refusals import reasons_of
from dnafeat.store.retry import looking_again
from dnafeat.store.schema import arrow_schema
from dnafeat.store.vector_files import Receipt


def new_run_id() -> str:
    """The time and a random part."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}-{secrets.token_hex(3)}"


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run fills, known before anything is read.

    Attributes
    ----------
    settings : Settings
        Stored with the run; its `store` is the store's name as it was asked for.
    store : Store
    version : FeatureVersion
        What it fills.
    source_name, run_id : str
    vectors : tuple of str
        The columns of its files.
    task : str
        Its name in records and metrics.
    config_digest : str
        Of every setting that shapes the result.
    mode : str
        `replace` or `merge`.
    max_closed : float
        Share of the source's entries that the run may end without another in their place.
    parent : str | None
        Version that has the vectors this one lacks.
    strict : bool
        Whether a reject ends the run.
    checked : bool
        Whether an earlier run has checked the entries already.
    each : Each
        How steps go over their parts as long as they are not spread.
    gate : Gate | None
        Holds the run where its profile differs from those of earlier ones.
    clock : float
        `time.monotonic` when the command began.
    started : datetime
    """

    settings: Settings
    store: Store
    version: FeatureVersion
    source_name: str
    run_id: str
    vectors: tuple[str, ...]
    task: str
    config_digest: str
    mode: str = "replace"
    max_closed: float = 1.0
    parent: str | None = None
    strict: bool = False
    checked: bool = False
    each: Each = here
    gate: Gate | None = None
    clock: float = field(default_factory=time.monotonic)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def place(self) -> str:
        """The store's name as it was asked for."""
        return str(self.settings.to_dict()["store"])


class EntrySource(Protocol):
    """Where a run's entries come from."""

    def read(self, workspace: Workspace) -> Intake:
        """Read all of them once."""


class VectorSource(Protocol):
    """Where a run's vectors come from."""

    def encode(self, wanted: plan.Work, workspace: Workspace, job: Job) -> Encoded:
        """Write files with the vectors that are missing, and those of a sample to compare."""


@dataclass(frozen=True)
class Encoded:
    """The receipts of a run's shards, and the vectors of some that were made twice.

    Attributes
    ----------
    receipts : list of Receipt
    check : str | None
        Parquet file with the vectors of a sample, made another time.
    refused : list of str
        Digests of sequences that no worker survived.
    by_encoder : bool
        False where vectors were made of stored ones, and nothing is counted as encoded.
    runner, runner_reason : str
    """

    receipts: list[Receipt]
    check: str | None = None
    refused: list[str] = field(default_factory=list)
    by_encoder: bool = True
    runner: str = ""
    runner_reason: str = ""

    @property
    def seconds(self) -> float:
        """From the first shard begun to the last file written."""
        return max(r.ended for r in self.receipts) - min(r.began for r in self.receipts) if self.receipts else 0.0

    def counts(self, new: int) -> dict[str, Any]:
        """What the summary says of the encoding of `new` sequences."""
        receipts = self.receipts if self.by_encoder else []
        total = {name: sum(getattr(one, name) for one in receipts) for name in ("tokens", "windowed", "truncated")}
        computed, needed = sum(one.computed for one in receipts), sum(one.needed for one in receipts)
        rated = {"sequences_per_second": new, "tokens_per_second": total["tokens"]}
        return {
            "encoded": new if self.by_encoder else 0,
            **total,
            **{name: round(count / self.seconds, 3) if receipts else 0.0 for name, count in rated.items()},
            "padding_share": round(1 - needed / computed, 5) if computed else 0.0,
        }


def carry_out(spec: RunSpec, entries: EntrySource, vectors: VectorSource) -> RunSummary:
    """Carry out a run, once: nothing is published unless all of it is, and temporary files go however it ends.

    Raises
    ------
    UsageError, StrictError, MassCloseError
        The entries cannot be taken as they are; nothing but rejects is stored.
    EncodingError, AuditError, StoreError, ConflictError
        Nothing is published. The same command continues.
    """
    job = Job(name=spec.task, run_id=spec.run_id, source=spec.source_name)
    attempt = uuid.uuid4().hex
    try:
        with storage.reached(spec.place):
            publication = Publication(spec.store, spec.run_id, spec.source_name, attempt)
            with Workspace(spec.store.uri, f"{spec.run_id}-{attempt[:8]}", spec.each) as workspace:
                try:
                    with storage.reached(spec.place):
                        return _Steps(spec, job, workspace, publication).all(entries, vectors)
                except (StoreError, EncodingError, AuditError):
                    # An erasure takes away what runs have read or cut before, which shows as one of these.
                    with contextlib.suppress(StoreError):
                        publication.check_forgotten()
                    raise
    except DnafeatError as error:
        job.record("run failed", level=logging.ERROR, error=str(error), kind=type(error).__name__)
        raise


@dataclass(frozen=True)
class _Steps:
    """The steps of one run, and the seconds they took."""

    spec: RunSpec
    job: Job
    workspace: Workspace
    publication: Publication
    stages: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of a block."""
        began = time.monotonic()
        yield
        self.stages[name] = round(time.monotonic() - began, 3)
        self.job.record(f"{name} is done", seconds=self.stages[name])

    def all(self, entries: EntrySource, vectors: VectorSource) -> RunSummary:
        spec, workspace, publication = self.spec, self.workspace, self.publication
        store, version, digest = spec.store, spec.version, spec.version.digest
        self.job.record("run begins", store=store.uri, version=digest)
        before = store.published_run(spec.run_id)
        with self.stage("reading"):
            intake = entries.read(workspace)
        if before is not None:
            return _as_before(before, spec, intake.fingerprint)
        with self.stage("planning"):
            self.refuse_bad(intake)
            self.refuse_mass_close(intake)
            planned, salvage, wanted = looking_again(lambda: self.planned(intake))
        with self.stage("encoding"):
            encoded = vectors.encode(wanted, workspace, self.job)
            intake = self.without_refused(intake, encoded)
            receipts = [*encoded.receipts, *salvage.whole(), *salvage.rewritten(spec.run_id)]
            new = wanted.missing.rows - len(encoded.refused)
        with self.stage("audit"):
            if receipts:
                rows, rounding = new + wanted.salvaged, version.rounding
                check, refused = encoded.check, encoded.refused
                audit(store, digest, version.precision, receipts, rows=rows, rounding=rounding, check=check, refused=refused)
        with self.stage("publishing"):
            store.record_version(digest, event="created", lineage=version.lineage(), run_id=spec.run_id, parent=spec.parent)
            committed = publication.commit_features([receipt.file for receipt in receipts], digest, planned)
            publication.commit_rejects(intake.rejects)
            self.job.count("dnafeat_rejected", intake.rejects.rows)
            profile = _profile(intake, wanted, receipts)

            def judge(difference: Difference) -> None:
                nonlocal profile
                profile = profile.with_counts(**difference.returning())
                if spec.gate is not None:
                    spec.gate.before(spec.run_id, spec.source_name, digest, profile)

            number, opened, closed = publication.commit_sequences(
                intake, committed, workspace.spills, spec.mode, workspace.each, spec.max_closed, judge
            )
            commit_haplotypes(store, spec.source_name, intake, number, spec.run_id, workspace.spills)
        summary = RunSummary(
            run_id=spec.run_id,
            run_number=number,
            source_name=spec.source_name,
            feature_version=digest,
            store=spec.place,
            read=intake.read,
            rejected=intake.rejects.rows,
            distinct=wanted.distinct - len(encoded.refused),
            already_stored=wanted.stored,
            salvaged=wanted.salvaged,
            opened=opened,
            closed=closed,
            files=len(committed.files),
            bytes=sum(file.size for file in committed.files),
            seconds=round(time.monotonic() - spec.clock, 3),
            stages=self.stages,
            runner=encoded.runner,
            runner_reason=encoded.runner_reason,
            missing=intake.missing,
            reject_reasons=reasons_of(intake.rejects.batches()),
            cohort=_counted(intake, wanted),
            **encoded.counts(new),
        )
        row = _run_row(summary, spec) | {"source_fingerprint": intake.fingerprint, "profile": profile.to_json()}
        if not publication.commit_run(row):
            # The same run was sent twice and the other attempt was first: what it published is what this one would have.
            return _as_before(cast(dict, store.published_run(spec.run_id)), spec, intake.fingerprint)
        self.report(summary)
        return summary

    def planned(self, intake: Intake) -> tuple[int, Salvage, plan.Work]:
        """The version of `features` that was looked at, what dead runs have left, and the work."""
        store, digest, workspace = self.spec.store, self.spec.version.digest, self.workspace
        version = store.features.reload().version()
        salvage = Salvage(store, digest, self.spec.vectors)
        return version, salvage, plan.subtract(intake, store, digest, workspace.spills, salvage, workspace.each)

    def report(self, summary: RunSummary) -> None:
        """Set the gauges of the run's stages and log that it is published."""
        # Ray may not have run yet when a stage ended, and does not serve for long what was set long ago.
        for stage, seconds in self.stages.items():
            self.job.set("dnafeat_stage_seconds", seconds, stage=stage)
        names = (
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
        self.job.record("run is published", version=summary.feature_version, **{name: getattr(summary, name) for name in names})

    def without_refused(self, intake: Intake, encoded: Encoded) -> Intake:
        """EntrySource whose sequences ended every worker that encoded them become rejects."""
        if not encoded.refused:
            return intake
        reason = "encoding it ended the worker process again and again"
        intake = without(intake, encoded.refused, reason, self.workspace.spills, self.workspace.each)
        if self.spec.strict:
            self.refuse_bad(intake)
        return intake

    def refuse_bad(self, intake: Intake) -> None:
        """End the run, with its rejects stored, where ids are not unique or `strict` forbids any reject."""
        if self.spec.checked:
            return
        double = duplicate_ids(intake, self.workspace.each)
        if double:
            self.publication.commit_rejects(as_rejects(double, self.workspace.spills, intake.rejects.schema))
            name, file, row, other_file, other_row = double[0]
            more = f" (and {len(double) - 1} more such)" if len(double) > 1 else ""
            raise UsageError(
                f"sequence_id {name!r} stands twice, at {file}:{row} and at {other_file}:{other_row}{more}: "
                f"{unique_ids(file, other_file)}"
            )
        if self.spec.strict and intake.rejects.rows:
            self.publication.commit_rejects(intake.rejects)
            first = next(intake.rejects.batches()).slice(0, 1).to_pylist()[0]
            raise StrictError(
                f"{intake.rejects.rows} of {intake.read} entries were refused and the run is strict, so only they were stored (table "
                f"rejects, run {self.spec.run_id}): the first is {first['sequence_id']!r} at {first['file']}:{first['row']}: "
                f"{first['reason']}"
            )

    def refuse_mass_close(self, intake: Intake) -> None:
        """End the run, with its rejects stored, where even by their number the entries are too few; their ids are compared later."""
        if self.spec.mode == "merge" or self.spec.max_closed >= 1:
            return
        before = self.spec.store.count_current(self.spec.source_name)
        try:
            about = "at least " if intake.entries.rows else ""
            self.publication.check_closed(before, before - intake.entries.rows, intake, self.spec.max_closed, about)
        except MassCloseError:
            self.publication.commit_rejects(intake.rejects)
            raise


def _profile(intake: Intake, wanted: plan.Work, receipts: Sequence[Receipt]) -> Profile:
    """What `monitor` compares: of all accepted entries, and of the vectors that this run brings."""
    vectors = [Profile.from_json(receipt.profile) for receipt in receipts if receipt.profile]
    whole = intake.profile + total(one for one in vectors if one is not None)
    counts = {"entries": intake.entries.rows, "rejected": intake.rejects.rows}
    return whole.discreet().with_counts(**counts, distinct=wanted.distinct, known=wanted.stored)


def _counted(intake: Intake, wanted: plan.Work) -> dict[str, int]:
    """What a summary says of regions and people; nothing where those are not the source."""
    if intake.cohort is None:
        return {}
    return {**intake.cohort, "haplotypes": intake.read, "distinct": wanted.distinct, "saved": intake.read - wanted.distinct}


def _run_row(summary: RunSummary, spec: RunSpec) -> dict[str, object]:
    """The row in `runs`: counts of the summary, the settings, and the tables' versions as they are now."""
    counted = {name: value for name, value in asdict(summary).items() if name in arrow_schema("runs").names}
    return counted | {
        "config_digest": spec.config_digest,
        "started_at": spec.started,
        "finished_at": datetime.now(UTC),
        "features_version": spec.store.features.reload().version(),
        "sequences_version": spec.store.sequences.reload().version(),
        "rejects_version": spec.store.rejects.reload().version(),
        "config": json.dumps(spec.settings.to_dict(), sort_keys=True),
        "environment": json.dumps(environment(), sort_keys=True),
    }


def _as_before(before: dict, spec: RunSpec, fingerprint: str) -> RunSummary:
    """The summary of a run that is published already. Raises UsageError when this is not the same run."""
    run_id = before["run_id"]
    for name, now, what in (
        ("config_digest", spec.config_digest, "another configuration"),
        ("source_fingerprint", fingerprint, "another state of the source"),
    ):
        if before[name] != now:
            raise UsageError(f"run id {run_id} was published from {what}: give this run another --run-id")
    kept = {name: before[name] for name in RunSummary.__dataclass_fields__ if name in before}
    done = dict.fromkeys(("salvaged", "encoded", "opened", "closed", "files", "bytes", "tokens", "windowed", "truncated"), 0)
    done["already_stored"] = before["distinct"]
    rates = {"seconds": 0.0, "sequences_per_second": 0.0, "tokens_per_second": 0.0, "padding_share": 0.0}
    return RunSummary(**{**kept, **done, **rates, "store": spec.store.uri, "stages": {}, "already_published": True})
