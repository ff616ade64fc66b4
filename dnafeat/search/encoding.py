"""Sequences encoded as those of a version were: by the model, adapter and settings that its lineage names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnafeat import storage
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.describe import describe
from dnafeat.encoder.engine import Encoder
from dnafeat.encoder.models.adapter import merge
from dnafeat.encoder.models.checkpoint import load_encoder
from dnafeat.encoder.projection import DESCRIPTION_FILE, KEPT, PROJECTOR_FILE, Projection, load_projector, read_projector
from dnafeat.encoder.source import Source
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import StoreError, UsageError

# What `projected` alone depends on.
_OF_PROJECTOR = ("projector_sha256", "projector_input")


def encode(store: str, version: str, lineage: Mapping[str, Any], column: str, sequences: Sequence[str]) -> np.ndarray:
    """Vectors of sequences under a version, (n, width) float32.

    Raises
    ------
    StoreError
        The lineage cannot be read.
    UsageError
        The model is not there, or is another one by now; a sequence is too short for it.
    """
    try:
        spec = FeatureVersion.of_lineage(lineage)
        config = _config(spec)
    except (TypeError, KeyError, UsageError) as error:
        raise StoreError(
            f"version {version} of {store} has no lineage that can be read, so no query can be encoded: ask by ids"
        ) from error
    source = Source.find(config, (spec.names.get("revision"), spec.names.get("adapter_revision")))
    _check_same(spec, describe(source, config), version, source)
    projector = _projector(store, spec) if column == "projected" else source.projector(config)[1]
    network = load_encoder(source.checkpoint)
    if source.adapter is not None:
        network = merge(network, source.adapter)
    vectors = Encoder(network, source.tokenizer(config), spec, projector).encode(sequences)
    return np.ascontiguousarray(getattr(vectors, column), np.float32)


def _config(spec: FeatureVersion) -> EncodingConfig:
    bases = spec.window_bases > 0
    return EncodingConfig.make(
        model=spec.names["model"],
        adapter=spec.names.get("adapter"),
        projector="random@0",
        kmer=spec.names.get("kmer"),
        precision=spec.precision,
        window_tokens=None if bases else spec.window_tokens,
        overlap_tokens=None if bases else spec.overlap_tokens,
        window_bases=spec.window_bases if bases else None,
        overlap_bases=spec.overlap_bases if bases else None,
        truncate=spec.truncate,
        strands=spec.strands,
        layer=spec.layer,
        average_layers=spec.average_layers,
        special_tokens=spec.special_tokens_pooled,
        round_vectors=spec.rounding,
    )


def _check_same(spec: FeatureVersion, found: FeatureVersion, version: str, source: Source) -> None:
    """Raise UsageError where the model of this name gives other vectors than the version's."""
    then, now = (json.loads(json.dumps(one.identity())) for one in (spec, found))
    other = [name for name in {**then, **now} if name not in _OF_PROJECTOR and then.get(name) != now.get(name)]
    if other:
        raise UsageError(
            f"{source.checkpoint.name} differs in {', '.join(sorted(other))} from the model of version {version}: queries would not be "
            f"comparable; put back the model that the version was made with, or ask by ids"
        )


def _projector(store: str, spec: FeatureVersion) -> Projection:
    name, hidden = str(spec.names.get("projector")), spec.architecture["hidden_size"]
    stem = storage.join(store, KEPT, spec.projector_sha256)
    if storage.exists(f"{stem}.json"):
        with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
            for ending, file in (("json", DESCRIPTION_FILE), ("safetensors", PROJECTOR_FILE)):
                with storage.open_input(f"{stem}.{ending}") as content:
                    Path(folder, file).write_bytes(content.read())
            found = read_projector(Path(folder), hidden)
    else:
        found = load_projector(name, hidden)
    if found.fingerprint() != spec.projector_sha256:
        raise UsageError(f"projector {name} is not the one that the version was made with: ask by ids, or compare another column")
    return found
