"""Effects of variants: windows or haplotypes beside the genome's letters, encoded once in a store, and how far their vectors are apart.

Two commits: a run of embedding that brings the sequences into `features` and `sequences`, and one to `effects` that replaces the rows of
the same source, version, scope and window. A command that ended between the two is sent again, and encodes nothing.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.effects import distances, haplotypes
from dnafeat.effects.config import EffectsConfig
from dnafeat.effects.encoder import SequenceEncoder, find
from dnafeat.effects.intake import Described, take_in_variants
from dnafeat.effects.report import EffectsSummary, Quartiles
from dnafeat.embed import opening
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks, Intake, is_large
from dnafeat.embed.job import EncoderVectors, check_vectors, default_source_name
from dnafeat.embed.report import RunSummary
from dnafeat.embed.run import RunSpec, carry_out, new_run_id
from dnafeat.embed.workspace import Workspace
from dnafeat.errors import ForgottenError, UsageError, one_line
from dnafeat.provenance import digest_of
from dnafeat.sources.cohort import variants
from dnafeat.sources.cohort.variants import VariantLayout
from dnafeat.sources.regions import genome, load
from dnafeat.sources.regions.config import GenomeConfig
from dnafeat.sources.regions.genome import GenomeIndex
from dnafeat.sources.regions.region import Region
from dnafeat.spill import Spill
from dnafeat.store import Store
from dnafeat.store.digests import netstring
from dnafeat.store.effects import replace as replace_rows
from dnafeat.store.effects import rows_of
from dnafeat.store.names import EFFECTS
from dnafeat.store.retry import looking_again
from dnafeat.store.rewriting import forgotten
from dnafeat.store.schema import arrow_schema


def effects(config: EffectsConfig, *, show: bool = True) -> EffectsSummary:
    """Compare the variants of a VCF, or the haplotypes that a store has, with the genome's letters.

    Writes the rows to table `effects` of the store and, in the order of the genome, to the output, as Parquet.

    Parameters
    ----------
    config : EffectsConfig
    show : bool
        Whether to draw progress on standard error.

    Raises
    ------
    UsageError
        Settings, genome, variants or regions are wrong; nothing is stored.
    StoreError, ConflictError
        The store or the output cannot be written. The same command continues.
    """
    clock = time.monotonic()
    output = storage.absolute(config.output)
    _check_output(output, config)
    index = genome.look(config.genome)
    regions = _regions(config, index)
    layout = None
    if config.scope == "window":
        layout = variants.look(index, config.vcf, config.samples, regions, only_pass=config.pass_)
    store = Store(config.store)
    encoder = find(config, store)
    if config.scope == "window" and config.window < encoder.min_bases:
        raise UsageError(
            f"a window of {config.window} bases is too small for a token of this model, which takes {encoder.min_bases}: give a larger "
            f"--window"
        )
    source, number = _source(config, store, encoder)
    store.create()
    check_vectors(store, encoder.version, encoder.config)
    own = source if config.scope == "window" else f"{EFFECTS}{source}#haplotype"
    erasures = forgotten(store.sequences.reload())
    spec = RunSpec(
        settings=config,
        store=store,
        version=encoder.version,
        source_name=own,
        run_id=new_run_id(),
        vectors=encoder.config.vectors,
        task="effects",
        config_digest=digest_of({"source_name": own, "version": encoder.version.digest, "window": config.window}),
        checked=True,
        clock=clock,
    )
    checks = Checks(
        alphabet=dna.IUPAC if config.iupac else dna.UNAMBIGUOUS, max_n_share=config.max_n_share, min_bases=encoder.min_bases
    )
    # It outlives the run's own, since what was described is compared after it.
    with Workspace(store.uri, f"{spec.run_id}-{uuid.uuid4().hex[:8]}") as workspace:
        entries = _Entries(config, layout, index, regions, checks, store, source, number, workspace, show)
        run = carry_out(spec, entries, EncoderVectors(encoder.config, spec, encoder.source, encoder.tokenizer, show))
        assert entries.described is not None
        key: dict[str, Any] = {"source_name": source, "feature_version": encoder.version.digest, "scope": config.scope}
        key |= {"window": config.window if config.scope == "window" else None}
        table = _Table(store, key, spec.run_id, erasures)
        with storage.reached(config.store):
            found = looking_again(lambda: _compared(store, encoder, entries.found, table, workspace))
            table.commit(found)
        try:
            size = storage.write_whole(output, lambda file: _write(file, table.batches(found.rows)))
        except storage.STORAGE_ERRORS as error:
            raise storage.fault(error)(f"{config.output} cannot be written: {one_line(error)}") from error
        return _summary(config, run, entries.described, found, table, layout, size, time.monotonic() - clock)


def _check_output(output: str, config: EffectsConfig) -> None:
    if output in [storage.absolute(uri) for uri in (config.genome, config.regions, config.samples, *config.vcf) if uri]:
        raise UsageError(f"{output} is both input and output: give another --output")
    if storage.is_local(output) and Path(output).is_dir():
        raise UsageError(f"{output} is a folder: give --output the name of a file in it")


def _regions(config: EffectsConfig, index: GenomeIndex) -> list[Region] | None:
    if config.regions is None:
        return None
    found = load.load(GenomeConfig.make(config.reference()), index.lengths, config.tile, config.stride).regions
    index.check({region.contig for region in found})
    return found


def _source(config: EffectsConfig, store: Store, encoder: SequenceEncoder) -> tuple[str, int]:
    """The source of the rows, and for haplotypes the number of its last run."""
    if config.scope == "haplotype":
        about = {**config.reference(), "store": config.store, "tile": config.tile, "stride": config.stride}
        source = config.source_name or default_source_name(EmbedConfig.make(about))
        digest = encoder.version.digest
        return source, store.history().state(digest, None, source)[source]
    named = config.source_name
    if named is None:
        files = [config.genome, *([config.regions] if config.regions else []), *config.vcf]
        names = [storage.absolute(uri) for uri in files]
        named = " ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more {digest_of({'names': names})[:8]}"
        chosen = GenomeConfig.make(config.reference()).extent() if config.regions else {}
        chosen |= {"pass": "yes"} if config.pass_ else {}
        chosen |= {"samples": storage.absolute(config.samples)} if config.samples else {}
        named += "#" + ",".join(f"{name}={value}" for name, value in chosen.items()) if chosen else ""
    return f"{EFFECTS}{named}#window={config.window}", 0


@dataclass
class _Entries:
    """The sequences of a run: windows of variants, or the genome's letters of regions."""

    config: EffectsConfig
    layout: VariantLayout | None
    index: GenomeIndex
    regions: list[Region] | None
    checks: Checks
    store: Store
    source: str
    number: int
    workspace: Workspace
    show: bool
    described: Described | None = None

    @property
    def found(self) -> Described:
        assert self.described is not None
        return self.described

    def read(self, workspace: Workspace) -> Intake:
        """One pass over the variants, spread over a cluster where there are many."""
        soft_masked = self.config.soft_masked
        if self.layout is not None:
            if is_large(self.layout) and self.config.actors.runner != "local":
                workspace.spread(self.show)
                self.workspace.spread(self.show)
            self.described = take_in_variants(
                self.layout,
                self.config.window,
                self.checks,
                self.workspace.spills,
                soft_masked=soft_masked,
                each=self.workspace.each,
            )
        else:
            assert self.regions is not None
            self.described = haplotypes.take_in_haplotypes(
                self.store,
                self.source,
                self.number,
                self.index,
                self.regions,
                self.checks,
                self.workspace.spills,
                soft_masked,
            )
        return self.described.intake


@dataclass(frozen=True)
class _Found:
    """Rows of `effects` in the order of the genome, without the run; how many pairs were left out, and the quartiles."""

    rows: Spill
    fingerprint: str
    left_out: int
    quartiles: dict[str, dict[str, list[float]]]


def _compared(store: Store, encoder: SequenceEncoder, described: Described, table: _Table, workspace: Workspace) -> _Found:
    """Compare all pairs by what `features` has now."""
    store.features.reload().version()
    schema = arrow_schema("effects")
    spill = Spill(storage.join(workspace.folder, uuid.uuid4().hex), "effects", schema)
    quartiles, count, total = Quartiles(), 0, _Sum()
    parts = distances.compare(store, encoder.version.digest, None, encoder.config.vectors, described.rows, workspace.folder)
    for part in parts:
        count += len(part.rows)
        kinds = pc.fill_null(part.rows["kind"], "haplotype").to_numpy()
        for name, cosine in part.cosine.items():
            quartiles.add(kinds, name, cosine)
        for batch in _rows(part, table.key, table.run_id, schema):
            total.add(batch)
            spill.add(batch)
    spill.close()
    return _Found(spill, total.hexdigest(), described.rows.rows - count, quartiles.result())


def _rows(part: distances.Compared, key: dict[str, Any], run_id: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows of `effects`, all vectors of a pair after each other."""
    names, count = list(part.cosine), len(part.rows)
    if not count:
        return
    repeated = part.rows.take(pa.array(np.repeat(np.arange(count), len(names))))
    own: dict[str, Any] = {name: [value] * len(repeated) for name, value in {**key, "run_id": run_id}.items()}
    own["vector"] = names * count
    for at, side in enumerate(("reference_bases", "alternate_bases")):
        own[side] = np.repeat(part.bases[:, at], len(names))
    for name, found in (("cosine_distance", part.cosine), ("l2", part.l2)):
        own[name] = np.stack([found[one] for one in names], axis=1).reshape(-1).astype(np.float32)
    columns = [pa.array(own[f.name], f.type) if f.name in own else repeated[f.name] for f in schema]
    yield from pa.Table.from_arrays(columns, schema=schema).combine_chunks().to_batches(max_chunksize=16_384)


class _Sum:
    """The sum of the SHA-256 of rows without their run, the same in whatever order they stand."""

    def __init__(self) -> None:
        self.total = np.zeros(4, np.uint64)

    def add(self, batch: pa.RecordBatch) -> None:
        texts = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name == "variants":
                column = pc.binary_join(column.cast(pa.list_(pa.string())), ";")
            elif name in ("cosine_distance", "l2"):
                column = pa.array(column.to_numpy(zero_copy_only=False).view(np.int32))
            if name != "run_id":
                texts.append(netstring(column.cast(pa.string())))
        rows = pc.binary_join_element_wise(*texts, "").cast(pa.binary())
        hashed = b"".join(hashlib.sha256(row).digest() for row in rows.to_pylist())
        self.total += np.frombuffer(hashed, "<u8").reshape(-1, 4).sum(axis=0, dtype=np.uint64)

    def hexdigest(self) -> str:
        return self.total.tobytes().hex()


class _Table:
    """Table `effects`, and the rows of a run in it."""

    def __init__(self, store: Store, key: dict[str, Any], run_id: str, erasures: int) -> None:
        self.store, self.key, self.run_id, self.erasures = store, key, run_id, erasures
        self.unchanged = False

    def check(self) -> None:
        """Raise ForgottenError where something was erased after the variants were read."""
        if forgotten(self.store.sequences.reload()) != self.erasures:
            raise ForgottenError(
                f"something was forgotten in {self.store.uri} after run {self.run_id} had read its variants: take the subject out of "
                f"them, if it still stands there, and send the run again"
            )

    def commit(self, found: _Found) -> None:
        """Replace the rows of the same source, version, scope and window, unless they are the same."""
        table = self.store.effects
        table.create()
        before, runs = _Sum(), set[str]()
        for batch in rows_of(table.reload(), self.key):
            before.add(batch.select(arrow_schema("effects").names))
            runs.update(batch["run_id"].unique().to_pylist())
        if len(runs) == 1 and before.hexdigest() == found.fingerprint:
            self.run_id, self.unchanged = runs.pop(), True
            return
        tables = opening.in_files(opening.chunks(found.rows.every_batch()))
        files = [table.write(rows, stem=self.run_id) for rows in tables]
        replace_rows(table, self.key, files, self.check)

    def batches(self, rows: Spill) -> Iterator[pa.RecordBatch]:
        """Rows as the table has them, in the order of the genome."""
        at = rows.schema.get_field_index("run_id")
        for batch in rows.every_batch():
            yield batch.set_column(at, rows.schema.field(at), pa.array([self.run_id] * len(batch)))


def _write(file: IO[bytes], batches: Iterator[pa.RecordBatch]) -> None:
    with pq.ParquetWriter(file, arrow_schema("effects"), compression="zstd", write_page_checksum=True) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _summary(
    config: EffectsConfig,
    run: RunSummary,
    described: Described,
    found: _Found,
    table: _Table,
    layout: VariantLayout | None,
    size: int,
    seconds: float,
) -> EffectsSummary:
    counts = described.counts
    skipped = {
        name: counts[name] for name in ("star", "symbolic", "reference", "repeated", "refused", "elsewhere") if name in counts
    }
    skipped["refused"] += found.left_out
    return EffectsSummary(
        store=config.store,
        output=config.output,
        source_name=table.key["source_name"],
        feature_version=run.feature_version,
        run_id=table.run_id,
        scope=config.scope,
        window=table.key["window"],
        records=counts["records"],
        variants=counts["variants"],
        haplotypes=counts["haplotypes"],
        samples=len(layout.cohort.samples) if layout else 0,
        rows=found.rows.rows,
        windows=counts["windows"] or run.distinct,
        distinct=run.distinct,
        already_stored=run.already_stored,
        encoded=run.encoded,
        skipped=skipped,
        quartiles=found.quartiles,
        unchanged=table.unchanged,
        seconds=round(seconds, 3),
        bytes=size,
        runner=run.runner,
        runner_reason=run.runner_reason,
    )
