"""Prediction: what an artifact of fine-tuning says of every sequence of some files, by embedding's pipeline, as one Parquet file.

Every distinct sequence goes through encoder and head once. Its logits come back to the driver and are joined to the entries in their
order, a batch of rows at a time.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.cluster import packages
from dnafeat.cluster.observe import Job
from dnafeat.embed import plan, runner
from dnafeat.embed.intake import Checks, Intake, take_in
from dnafeat.embed.regions import take_in_regions
from dnafeat.errors import AuditError, StrictError, UsageError, one_line
from dnafeat.finetune.config import PredictConfig
from dnafeat.finetune.labels import Labels
from dnafeat.finetune.predictor import Predictor, PredictShards
from dnafeat.sources.cohort.layout import look as look_regions
from dnafeat.sources.reader import ReadOptions, expand, look
from dnafeat.spill import Spill
from dnafeat.store import digests
from dnafeat.text import human_bytes

_ROWS_OF_A_FILE = 1 << 40


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """What a run did. Rows are entries; sequences are distinct ones, and counted so are `truncated` and `windowed`."""

    artifact: str
    output: str
    rows: int
    refused: int
    first_refused: str | None
    sequences: int
    truncated: int
    windowed: int
    tokens: int
    window_tokens: int
    precision: str
    bytes: int
    seconds: float
    sequences_per_second: float
    runner: str = ""
    runner_reason: str = ""

    def __repr__(self) -> str:
        return format_summary(self)


def predict(config: PredictConfig, *, show: bool = True) -> PredictSummary:
    """Writes a row for every entry of the input, in its order.

    Columns: `sequence_id`; `predicted`, text, or float64 for a regression; for tasks with classes `probability_<label>`, float64, for
    each. Task token has the text `start-end=label` with `;` between instead of probabilities, 0-based and half open; bases that no
    token covers, such as those beyond a truncated window, are in no interval. An entry that is refused has nulls.

    float32 gives the artifact's measures again, which are computed in it; bfloat16, the default on GPUs where training used it, agrees
    within about 1e-2.

    Parameters
    ----------
    config : PredictConfig
    show : bool
        Whether to draw progress on standard error.

    Raises
    ------
    UsageError
        Artifact, input or settings are wrong.
    StrictError
        Entries were refused and the configuration is strict.
    StoreError
        The output cannot be written.
    EncodingError, AuditError
        The workers failed, or did not return what they should. Whatever is raised, nothing is written.
    """
    clock = time.monotonic()
    output = storage.absolute(config.output)
    regions = look_regions(config.reference).as_in_file() if config.reference.genome is not None else None
    files = expand(config.input) if regions is None else regions.files
    _check_output(output, files)
    predictor = Predictor.find(config.artifact, windows=config.windows, model=config.model)
    folder = Path(tempfile.mkdtemp(prefix="dnafeat-"))
    work = f"{output}.work-{secrets.token_hex(4)}"
    try:
        alphabet = dna.IUPAC if config.iupac else dna.UNAMBIGUOUS
        min_bases = predictor.source.tokenizer(predictor.encoding).min_bases
        checks = Checks(alphabet=alphabet, max_n_share=config.max_n_share, min_bases=min_bases)
        if regions is not None:
            intake = take_in_regions(regions, checks, folder, by_id=False)
        else:
            options = ReadOptions(id_column=config.id_column, sequence_column=config.sequence_column, keys=False)
            layout = look(files, options)
            layout.warn()
            intake = take_in(layout, checks, folder, by_id=False)
        refused = _first_refused(intake)
        if config.strict and refused is not None:
            raise StrictError(
                f"{intake.rejects.rows} of {intake.read} entries were refused and the run is strict, so nothing was written: the first "
                f"is {refused}"
            )
        distinct = plan.distinct(intake, folder)
        answers = _answers(config, predictor, distinct, work, show)
        with _writing(config.output):
            size = storage.write_whole(output, lambda file: _write(file, answers, intake, files))
        return PredictSummary(
            artifact=config.artifact,
            output=config.output,
            rows=intake.read,
            refused=intake.rejects.rows,
            first_refused=refused,
            sequences=distinct.rows,
            truncated=answers.truncated,
            windowed=answers.windowed,
            tokens=answers.tokens,
            window_tokens=predictor.version.window_tokens,
            precision=answers.precision,
            runner=answers.runner,
            runner_reason=answers.runner_reason,
            bytes=size,
            seconds=round(time.monotonic() - clock, 3),
            sequences_per_second=round(distinct.rows / answers.seconds, 3) if answers.seconds else 0.0,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # What went wrong before is what should be told, and not that the place cannot be tidied up either.
        with contextlib.suppress(UsageError, *storage.STORAGE_ERRORS):
            storage.remove_folder(work)


def format_summary(summary: PredictSummary) -> str:
    """A run's summary in a few lines."""
    s = summary
    lines = [f"{s.output}: {s.rows:,} rows, {s.sequences:,} distinct sequences, {human_bytes(s.bytes)} in {s.seconds:.1f} s"]
    if s.sequences:
        lines.append(f"  rate     {s.sequences_per_second:,.1f} sequences/s, {s.tokens:,} tokens, {s.precision}")
        lines.append(f"  runner   {s.runner}: {s.runner_reason}")
    if s.truncated:
        lines.append(
            f"  long     {s.truncated:,} sequences have more than {s.window_tokens} tokens, as many as training saw, and lost their end"
        )
    if s.windowed:
        lines.append(f"  long     {s.windowed:,} sequences took several windows of {s.window_tokens} tokens")
    if s.refused:
        lines.append(f"  refused  {s.refused:,} entries, whose rows are null: the first is {s.first_refused}")
    return "\n".join(lines)


def _check_output(output: str, files: Sequence[str]) -> None:
    if output in [storage.absolute(file) for file in files]:
        raise UsageError(f"{output} is both input and output: give another --output")
    if storage.is_local(output) and Path(output).is_dir():
        raise UsageError(f"{output} is a folder: give --output the name of a file in it")


def _first_refused(intake: Intake) -> str | None:
    for batch in intake.rejects.batches():
        first = batch.slice(0, 1).to_pylist()[0]
        return f"{first['sequence_id']!r} at {first['file']}:{first['row']}: {first['reason']}"
    return None


@dataclass(frozen=True)
class Answers:
    """What the actors found, by digest.

    Attributes
    ----------
    names : np.ndarray, shape=(n,), S35
        Digests.
    order : np.ndarray, shape=(n,), int64
        That sorts them.
    logits : np.ndarray, shape=(n, width), float32
        Not for task token.
    texts : pa.LargeStringArray, length n
        For task token alone.
    """

    labels: Labels
    names: np.ndarray
    order: np.ndarray
    logits: np.ndarray
    texts: pa.Array
    tokens: int = 0
    truncated: int = 0
    windowed: int = 0
    seconds: float = 0.0
    precision: str = "float32"
    runner: str = ""
    runner_reason: str = ""

    @property
    def schema(self) -> pa.Schema:
        """Of the file."""
        regression = self.labels.task == "regression"
        named = () if self.labels.task == "token" else self.labels.names
        return pa.schema(
            [("sequence_id", pa.string()), ("predicted", pa.float64() if regression else pa.string())]
            + [(f"probability_{name}", pa.float64()) for name in named]
        )

    def columns(self, wanted: pa.Array) -> list[pa.Array]:
        """`predicted` and probabilities for digests, nulls for nulls."""
        there = pc.is_valid(wanted).to_numpy(zero_copy_only=False)
        place = self.order[np.searchsorted(self.names, digests.to_numpy(wanted.drop_null()), sorter=self.order)]
        if self.labels.task == "token":
            found = [self.texts.take(pa.array(place)).cast(pa.string())]
        else:
            logits = self.logits[place]
            found = [pa.array(self.labels.predicted(logits), self.schema.field("predicted").type)]
            if self.labels.task != "regression":
                found += [pa.array(np.ascontiguousarray(column)) for column in self.labels.probabilities(logits).T]
        back = pa.array(np.cumsum(there) - 1, mask=~there)
        return [column.take(back) for column in found]


def _answers(config: PredictConfig, predictor: Predictor, distinct: Spill, work: str, show: bool) -> Answers:
    """Predicts the distinct sequences; Ray is started only when there are any."""
    labels, rows = predictor.labels, distinct.rows
    per_base = labels.task == "token"
    names, logits = np.empty(rows, digests.DTYPE), np.empty((0 if per_base else rows, labels.width), np.float32)
    texts: list[pa.Array] = [pa.array([], pa.large_string())]
    if not rows:
        return Answers(labels, names, np.empty(0, np.int64), logits, texts[0])
    chosen = runner.choose(
        config.actors,
        sequences=rows,
        flops=predictor.expected_flops(distinct),
        cpu_only=False,
        show=show,
    )
    about = Job(name="predict", run_id=storage.name(config.output))
    settings = replace(predictor.settings(config.precision, gpu=chosen.gpu), job=about, packages=packages.installed())
    with _writing(config.output):
        shards = plan.cut_shards(distinct, plan.shard_rows(rows, chosen.workers, row_bytes=4 * labels.width), work)
    at, receipts = 0, []
    batches = chosen.run(shards, settings, PredictShards, (predictor.head, labels))
    for batch in batches:
        for i in range(len(batch)):
            found, answer = (batch.slice(i, 1)[name].combine_chunks().flatten() for name in ("digests", "answer"))
            end = at + len(found)
            if end > rows:
                raise AuditError(
                    f"the audit failed and nothing was written: more than the {rows} sequences that were sent came back"
                )
            names[at:end] = digests.to_numpy(found)
            if per_base:
                texts.append(answer)
            else:
                logits[at:end] = answer.to_numpy().reshape(len(found), labels.width)
            at = end
        receipts += batch.drop_columns(["digests", "answer"]).to_pylist()
    total = {name: sum(receipt[name] for receipt in receipts) for name in ("tokens", "truncated", "windowed", "not_finite")}
    order = np.argsort(names[:at], kind="stable")
    if at < rows or (names[order[1:]] == names[order[:-1]]).any():
        raise AuditError(f"the audit failed and nothing was written: {rows} sequences were sent and not each came back once")
    if strange := total.pop("not_finite"):
        raise AuditError(f"the audit failed and nothing was written: the logits of {strange} sequences hold a NaN or an infinity")
    seconds = max(receipt["ended"] for receipt in receipts) - min(receipt["began"] for receipt in receipts)
    found = Answers(labels, names, order, logits, pa.concat_arrays(texts), **total, seconds=seconds)
    return replace(found, precision=settings.config.precision, runner=chosen.name, runner_reason=chosen.reason)


def _write(file: IO[bytes], answers: Answers, intake: Intake, files: Sequence[str]) -> None:
    with pq.ParquetWriter(file, answers.schema, compression="zstd", write_page_checksum=True) as writer:
        for rows in _in_order(intake, files):
            columns = [rows["sequence_id"], *answers.columns(rows["sequence_digest"])]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=answers.schema))


def _in_order(intake: Intake, files: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """`sequence_id` and `sequence_digest`, null for refused entries, of all entries as they stand in the files."""
    streams = [_placed(spill.batches(), files) for spill in (intake.entries, intake.rejects)]
    held = [next(stream, None) for stream in streams]
    while live := [batch for batch in held if batch is not None]:
        # Both streams rise: up to the lower of their present ends nothing can come between.
        edge = min(batch["place"][-1].as_py() for batch in live)
        parts = []
        for i, batch in enumerate(held):
            if batch is not None:
                count = int(np.searchsorted(batch["place"].to_numpy(), edge, side="right"))
                parts.append(batch.slice(0, count))
                held[i] = batch.slice(count) if count < len(batch) else next(streams[i], None)
        both = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
        yield both if len(parts) == 1 else both.sort_by("place")


def _placed(batches: Iterator[pa.RecordBatch], files: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Entries with the place at which they stand, as one rising number, for file and row."""
    for batch in batches:
        if len(batch):
            file = pc.index_in(batch["file"], value_set=pa.array(files)).cast(pa.int64())
            place = pc.add(pc.multiply(file, _ROWS_OF_A_FILE), batch["row"])
            entry = "sequence_digest" in batch.schema.names
            names = batch["sequence_digest"] if entry else pa.nulls(len(batch), pa.string())
            yield pa.record_batch([place, batch["sequence_id"], names], ["place", "sequence_id", "sequence_digest"])


@contextlib.contextmanager
def _writing(output: str) -> Iterator[None]:
    try:
        yield
    except storage.STORAGE_ERRORS as error:
        raise storage.fault(error)(f"{output} cannot be written: {one_line(error)}") from error
