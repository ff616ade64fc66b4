"""Settings of `dnafeat embed` and `dnafeat nightly`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dnafeat.cluster.config import ActorsConfig
from dnafeat.encoder.config import EncodingConfig
from dnafeat.settings import Settings, option, part, require
from dnafeat.sources.regions.config import GenomeConfig
from dnafeat.urls import refuse_secrets
from dnafeat.vectors import VECTORS, Vector


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Settings, section="input"):
    """Settings of `dnafeat embed` and `jobs/embed.py`. Lengths are in bases unless a name says tokens."""

    sources: tuple[str, ...] = option(
        "FASTA, FASTQ, CSV, TSV or Parquet files, folders, globs or s3:// URIs", unless="genome", positional=True
    )
    store: str = option("feature store: folder or s3:// prefix", section="output", env="DNAFEAT_STORE")
    encoding: EncodingConfig = part(EncodingConfig)
    vectors: tuple[Vector, ...] = option("vectors to store, with commas", VECTORS, section="output")
    source_name: str | None = option(
        "name of the source in the store; a later run with the same name replaces its entries (default: the paths)",
        None,
        section="output",
    )
    mode: Literal["replace", "merge"] = option(
        "replace: close entries that are no longer in the source; merge: keep them", "replace", section="output", shapes=True
    )
    max_closed: float = option(
        "refuse a run that would take away a larger share of the source's entries, and a source without any; 1 allows all",
        0.5,
        section="output",
        ge=0,
        le=1,
    )
    id_column: str | None = option(
        "column of a table with the names of its entries (default: sequence_id or id, else file name and row)", None, shapes=True
    )
    sequence_column: str | None = option("column of a table with the sequences (default: sequence or seq)", None, shapes=True)
    tile: int | None = option(
        "split records into entries of this many bases, named <id>:<start>-<end>, 0-based half-open", None, shapes=True, ge=1
    )
    stride: int | None = option("bases from the start of one tile to the next (default: --tile)", None, shapes=True, ge=1)
    iupac: bool = option("accept all IUPAC codes, not only A C G T N", False, shapes=True)
    max_n_share: float = option("refuse entries with a larger share of N", 0.5, shapes=True, ge=0, le=1)
    strict: bool = option("store only the rejects when an entry is refused", False, shapes=True)
    reference: GenomeConfig = part(GenomeConfig)
    hash_keys: tuple[str, ...] = option(
        "columns with personal ids, with commas, whose values are hashed with the salt of --salt-file before they are stored; "
        "sequence_id can be one",
        (),
        section="privacy",
    )
    keyed_digests: bool = option(
        "make digests of sequences with that salt, so that a digest reveals no sequence to readers without the salt",
        False,
        section="privacy",
    )
    salt_file: str | None = option(
        "file with the salt; keep it where readers of the store cannot read it", None, section="privacy"
    )
    keep_rejected_text: bool | None = option(
        "keep the text of refused entries in the rejects table (default: only if no keys are hashed)", None, section="privacy"
    )
    run_id: str | None = option(
        "name of the run; a published run is not repeated (default: the time and a random part)", None, section="output"
    )
    actors: ActorsConfig = part(ActorsConfig)
    shard_rows: int | None = option(
        "sequences per work shard (default: enough shards to keep all actors busy, files up to 128 MiB)",
        None,
        section="advanced",
        ge=1,
    )

    def check(self) -> None:
        over = self.reference.genome is not None
        require(bool(self.sources) or over, "name at least one source to embed")
        for uri in (*self.sources, self.store, self.source_name or "", *self.reference.uris()):
            refuse_secrets(uri)
        require(
            not (self.sources and over), "sources and genome exclude each other: regions of a genome are a source of their own"
        )
        columns = [name for name in ("id_column", "sequence_column") if getattr(self, name) is not None]
        require(
            not (columns and over), f"{' and '.join(columns)} is for tables, and the source is regions of a genome: leave it out"
        )
        require(bool(self.vectors) and len(set(self.vectors)) == len(self.vectors), "vectors names none, or one twice")
        require(
            bool(self.hash_keys or self.keyed_digests) == (self.salt_file is not None),
            "salt_file is for hash_keys (the columns to hash) and keyed_digests: give it with one of them, and neither without it",
        )
        require(self.stride is None or self.tile is not None, "stride is given without tile: give the length of the tiles")
        gpus = self.actors.gpus_per_actor
        require(
            self.encoding.precision != "int8" or not gpus,
            f"precision int8 is for CPUs, and gpus_per_actor is {gpus}: leave one of them out",
        )
        check_run_id(self.run_id)


@dataclass(frozen=True, kw_only=True)
class NightlyConfig(Settings, section="output"):
    """Settings of `dnafeat nightly` and `jobs/nightly.py`: those of `EmbedConfig`, and the channel to move."""

    embed: EmbedConfig = part(EmbedConfig)
    channel: str = option(
        "channel that moves to the version once the version covers every source of the channel's present one", "production"
    )
    gate: bool = option(
        "hold the channel (exit code 8) where statistics of the run moved against earlier runs of its source; see dnafeat monitor",
        False,
    )
    accept: str | None = option(
        "let this held run pass the gate, now and as history; also names the run unless --run-id does", None
    )
    report: str | None = option("folder or s3:// prefix for a page about the run, RUN_ID.html; see dnafeat report", None)
    alarm_rate: float = option("false alarms of the gate per run, over all statistics", 1e-3, gt=0, le=0.5)

    def check(self) -> None:
        require(bool(self.channel.strip()), "channel has no name: give one, such as production")
        check_run_id(self.accept)


def check_run_id(run_id: str | None) -> None:
    """Raise UsageError for a run id that cannot name a folder everywhere, or would hide its files from what lists them."""
    require(
        run_id is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}", run_id) is not None,
        f"run_id {run_id!r} is no name: begin it with a letter or a digit, and use up to 128 letters, digits, '.', '_', ':' and '-'",
    )
