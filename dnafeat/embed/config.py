"""The configuration of a night: that of embedding, and the channel that follows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dnafeat.encoder.config import EncodingConfig
from dnafeat.settings import option, require
from dnafeat.vectors import VECTORS


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(EncodingConfig):
    """What `dnafeat embed` and `jobs/embed.py` do. Lengths are in bases unless a name says tokens."""

    sources: tuple[str, ...] = option("FASTA, FASTQ, CSV, TSV or Parquet files, folders, globs or s3:// URIs", positional=True)
    store: str = option("folder or s3:// prefix of the feature store")
    vectors: tuple[str, ...] = option("vectors to store, with commas", VECTORS)
    source_name: str | None = option("name of the source in the store; a later run under it replaces its entries", None)
    mode: str = option("replace: entries that are gone from the source are closed; merge: they stay", "replace", shapes=True)
    id_column: str | None = option(
        "column of a table that names its entries (else sequence_id or id, else file name and row)", None, shapes=True
    )
    sequence_column: str | None = option("column of a table that holds the sequences (else sequence or seq)", None, shapes=True)
    tile: int | None = option(
        "cut records into entries of this many bases, named <id>:<start>-<end>, 0-based half-open", None, shapes=True
    )
    stride: int | None = option("bases from the start of one tile to the next (else the tile's length)", None, shapes=True)
    iupac: bool = option("accept all IUPAC codes and not only A C G T N", False, shapes=True)
    max_n_share: float = option("refuse entries with a larger share of N, 0 to 1", 0.5, shapes=True)
    strict: bool = option("store nothing but the rejects when an entry is refused", False, shapes=True)
    hash_keys: tuple[str, ...] = option(
        "columns of ids of people, with commas, whose values are hashed under the salt of --salt-file before anything is stored; "
        "sequence_id may be one",
        (),
    )
    keyed_digests: bool = option(
        "digest sequences under that salt, too, so that nobody without it can tell which sequence a digest is of", False
    )
    salt_file: str | None = option("file with that salt; keep it where readers of the store cannot read it", None)
    keep_rejected_text: bool | None = option("keep the text of refused entries in rejects (else unless keys are hashed)", None)
    run_id: str | None = option(
        "name of the run (else the time and a random part); a published one is not run again", None, shapes=False
    )
    num_actors: int | None = option("encoder actors (else one a GPU, or one a CPU)", None)
    gpus_per_actor: float | None = option(
        "GPUs an encoder actor holds; 0: encode on CPUs (else 1 where the cluster has GPUs)", None
    )
    accelerator_type: str | None = option(
        "kind of GPU that an actor's node must have, as Ray names it: L4, A100, … (else any)", None
    )
    shard_rows: int | None = option(
        "sequences a work shard holds (else as many as keep all actors busy, files up to 128 MiB)", None, shapes=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.sources), "name at least one source to embed")
        strange = [name for name in self.vectors if name not in VECTORS]
        require(not strange, f"vectors names {', '.join(strange)}: there are {', '.join(VECTORS)}")
        require(bool(self.vectors) and len(set(self.vectors)) == len(self.vectors), "vectors names none, or one twice")
        require(
            bool(self.hash_keys or self.keyed_digests) == (self.salt_file is not None),
            "salt_file is for hash_keys (the columns to hash) and keyed_digests: give it with one of them, and neither without it",
        )
        require(self.mode in ("replace", "merge"), f"mode {self.mode!r} is neither replace nor merge")
        require(self.tile is None or self.tile >= 1, f"tile {self.tile} is no length: give 1 or more bases")
        require(self.stride is None or self.stride >= 1, f"stride {self.stride} is no step: give 1 or more bases")
        require(self.stride is None or self.tile is not None, "stride is given without tile: say how long the tiles are")
        require(0 <= self.max_n_share <= 1, f"max_n_share {self.max_n_share} is no share: give a number from 0 to 1")
        require(self.num_actors is None or self.num_actors >= 1, f"num_actors {self.num_actors} is too few: give 1 or more")
        require(
            self.gpus_per_actor is None or self.gpus_per_actor >= 0, f"gpus_per_actor {self.gpus_per_actor} is less than none"
        )
        require(
            self.precision != "int8" or not self.gpus_per_actor,
            f"precision int8 is for CPUs, and gpus_per_actor is {self.gpus_per_actor}: leave one of them out",
        )
        require(self.shard_rows is None or self.shard_rows >= 1, f"shard_rows {self.shard_rows} is too few: give 1 or more")
        require(
            self.run_id is None or re.fullmatch(r"[A-Za-z0-9_.:-]{1,128}", self.run_id) is not None,
            f"run_id {self.run_id!r} is no name: use letters, digits, '.', '_', ':' and '-', 128 at most",
        )


@dataclass(frozen=True, kw_only=True)
class NightlyConfig(EmbedConfig):
    """What `dnafeat nightly` and `jobs/nightly.py` do: settings of `EmbedConfig`, and `channel`."""

    channel: str = option(
        "channel that is pointed at the version once it covers all that the channel's present one does", "production"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.channel.strip()), "channel has no name: give one, such as production")
