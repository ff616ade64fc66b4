"""The encoder of a run: by its settings, or as a version of the store was made."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow.dataset as ds

from dnafeat.effects.config import EffectsConfig
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.job import version_of
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.source import Source
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import UsageError
from dnafeat.settings import declared
from dnafeat.store import Store
from dnafeat.store.lineages import vectors_of
from dnafeat.vectors import VECTORS


@dataclass(frozen=True)
class SequenceEncoder:
    """What encodes the sequences of a run.

    Attributes
    ----------
    config : EmbedConfig
        Encoder, vectors and workers, as embedding has them.
    source : Source
    version : FeatureVersion
    tokenizer : Tokenizer
    """

    config: EmbedConfig
    source: Source
    version: FeatureVersion
    tokenizer: Tokenizer

    @property
    def min_bases(self) -> int:
        """Bases that a sequence has at the least."""
        return self.tokenizer.min_bases


def find(config: EffectsConfig, store: Store) -> SequenceEncoder:
    """The encoder that settings name.

    Raises UsageError where the version of the store that is asked for cannot be made again here.
    """
    encoding = config.encoding.to_dict()
    wanted = None
    if config.version is not None:
        wanted = store.resolve(config.version)
        encoding = _settings_of(store, wanted)
    own = {**encoding, **config.actors.to_dict(), "store": config.store, "sources": (config.genome,)}
    asked = EmbedConfig.make({**own, "vectors": config.vectors or VECTORS})
    source = Source.find(asked.encoding)
    version = version_of(asked, source)
    if wanted is not None and version.digest != wanted:
        raise UsageError(
            f"version {wanted} of {store.uri} cannot be made here: with the settings of its last run this machine would make version "
            f"{version.digest}; look at its model and precision"
        )
    if config.vectors is None and (known := store.lineage(version.digest) if store.exists() else {}):
        asked = EmbedConfig.make({**own, "vectors": tuple(vectors_of(known))})
        version = version_of(asked, source)
    return SequenceEncoder(asked, source, version, source.tokenizer(asked.encoding))


def _settings_of(store: Store, version: str) -> dict[str, object]:
    """The encoder's settings of the last run of a version."""
    names = {d.name for d in declared(EncodingConfig)}
    rows = store.runs.reload().read(["run_number", "config"], ds.field("feature_version") == version).to_pylist()
    for row in sorted(rows, key=lambda row: row["run_number"], reverse=True):
        config = json.loads(row["config"] or "{}")
        if names <= config.keys() | {"round_vectors", "kmer"} and "projector" in config:
            return {name: config[name] for name in names & config.keys()}
    raise UsageError(
        f"version {version} of {store.uri} was not made by embedding: give the version that it reads its vectors from, or encoder settings"
    )
