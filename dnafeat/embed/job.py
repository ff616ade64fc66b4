"""The main job: a source into a store. Plans, encodes what is missing, audits, publishes, and says what it did."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime

from dnafeat import pseudonyms as keyhash
from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.cluster import packages as pins
from dnafeat.cluster import session as cluster
from dnafeat.embed import pipeline, plan
from dnafeat.embed.actors import EncoderSettings, checked
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks, Discretion, Intake, is_large, take_in
from dnafeat.embed.run import Encoded, Run, Summary
from dnafeat.encoder.describe import cutting, describe
from dnafeat.encoder.source import Source
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import UsageError
from dnafeat.provenance import digest_of
from dnafeat.sources.reader import ReadOptions, expand, look
from dnafeat.store.store import Store
from dnafeat.vectors import PROJECTED_WIDTH, VECTORS


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


class _Embedding(Run):
    """Sequences of a source's files through an encoder."""

    def __init__(self, config: EmbedConfig, show: bool) -> None:
        clock, started = time.monotonic(), datetime.now(UTC)
        self.config = config
        self.files = expand(config.sources)
        self.discretion = _discretion(config)
        self.model = Source.find(config.encoding)
        version = _version(config, self.model)
        self.tokenizer = self.model.tokenizer(config.encoding)
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
        workers = config.actors
        if not missing.rows and not wanted.sample.rows:
            return Encoded([])
        cluster.start_ray()
        gpus = cluster.gpus(0 if config.encoding.precision == "int8" else workers.gpus_per_actor, workers.accelerator_type)
        actors = workers.num_actors or cluster.default_actors(gpus, missing.rows)
        hidden = version.architecture["hidden_size"]
        width = sum(PROJECTED_WIDTH if name == "projected" else hidden for name in config.vectors)
        # zstd packs rounded numbers, whose last 16 bits are 0, into half of their bytes.
        rows = config.shard_rows or plan.shard_rows(missing.rows, actors, row_bytes=(2 if version.rounding else 4) * width)
        shards = plan.cut_shards(missing, rows, self.work, self.each, None if config.shard_rows else actors)
        check = plan.cut_check(shards, wanted.sample, self.work)
        self.model.projector(config.encoding)[1].keep(self.store.uri)
        settings = EncoderSettings(
            config=config.encoding.replace(precision=version.precision),
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
            accelerator_type=workers.accelerator_type,
            show=self.show,
        )
        done = list(receipts)
        return Encoded(done, checked(check.uri), receipts.refused)


def _version(config: EmbedConfig, source: Source) -> FeatureVersion:
    """The run's feature version, its precision resolved against the machines that will encode and not against this one."""
    gpus = config.actors.gpus_per_actor
    gpu = gpus > 0 if gpus is not None else None
    if gpu is None and os.environ.get("RAY_ADDRESS"):
        cluster.start_ray()
        gpu = cluster.default_gpus() > 0
    version = describe(source, config.encoding, gpu=gpu)
    return replace(version, names={**version.names, "vectors": list(config.vectors)})


def _discretion(config: EmbedConfig) -> Discretion:
    salt = keyhash.read_salt(config.salt_file, config.store) if config.salt_file else b""
    keep = config.salt_file is None if config.keep_rejected_text is None else config.keep_rejected_text
    return Discretion(columns=config.hash_keys, salt=salt, keep_text=keep, keyed_digests=config.keyed_digests)


def _check_vectors(store: Store, version: FeatureVersion, config: EmbedConfig) -> None:
    """Raises UsageError where the store has the version with other vectors: a version's rows all have the same."""
    known = store.lineage(version.digest)
    kept = known.get("vectors", list(VECTORS)) if known else list(config.vectors)
    if set(kept) != set(config.vectors):
        raise UsageError(
            f"version {version.digest} of {store.uri} keeps {', '.join(kept)}, and this run would keep {', '.join(config.vectors)}: "
            f"give --vectors {','.join(kept)}"
        )
