"""Feature versions: everything that can change a number of a vector, and the short digest that names it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dnafeat.provenance import digest_of

# Grows when the engine's own arithmetic changes what it stores beyond the stated tolerance (1e-5 in float32).
ENGINE = 1
_LATER = ("average_layers", "window_bases", "overlap_bases", "truncate", "rounding")


@dataclass(frozen=True, kw_only=True)
class FeatureVersion:
    """The identity of a version, and beside it the lineage that does not change a number."""

    architecture: Mapping[str, Any]
    """Family and the fields of config.json that shape the network."""
    weights_sha256: str
    """Of the weight file."""
    tokenizer_sha256: str
    """Of the tokenizer's canonical JSON."""
    adapter_sha256: str | None
    """Of the LoRA adapter's config and weights; None without one."""
    window_tokens: int
    """Longest window, special tokens counted; 0 where windows are cut in bases."""
    overlap_tokens: int
    """Tokens that neighbouring windows share; 0 where windows are cut in bases."""
    strands: str
    """`forward`, or `both`: forward and reverse complement averaged after pooling."""
    layer: int
    """Hidden layer pooled, counted from the last, which is -1."""
    special_tokens_pooled: bool
    """Whether [CLS] and [SEP] count in mean and max."""
    precision: str
    """`float32` or `bfloat16`, of the encoder's arithmetic; stored vectors are float32."""
    projector_sha256: str
    """The projection's fingerprint, of its steps and weights."""
    projector_input: str = "mean"
    """The vectors that it takes."""
    engine: int = ENGINE
    average_layers: int = 1
    """The mean of this many layers is pooled, `layer` being the last of them."""
    window_bases: int = 0
    """Length of windows that are cut in bases; 0 where they are cut in tokens."""
    overlap_bases: int = 0
    truncate: bool = False
    """Whether only the first window of a longer sequence was encoded."""
    rounding: str | None = None
    """`bfloat16` where vectors, which stay float32, are rounded to its 8 significant bits."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """Lineage only: model, adapter and projector as they were asked for, the revisions they were found at, the vectors stored."""

    def identity(self) -> dict[str, Any]:
        """The content of the digest. A field of `_LATER` is left out at its default, so that older versions keep their names."""
        later = {f.name: f.default for f in fields(self) if f.name in _LATER}
        return {
            key: value for key, value in asdict(self).items() if key != "names" and not (key in later and value == later[key])
        }

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the canonical identity."""
        return digest_of(self.identity())[:16]

    @classmethod
    def of_lineage(cls, lineage: Mapping[str, Any]) -> FeatureVersion:
        """The version of which `lineage` is the JSON's content."""
        own = {f.name for f in fields(cls)} - {"names"}
        names = {key: value for key, value in lineage.items() if key not in own}
        return cls(**{key: value for key, value in lineage.items() if key in own}, names=names)

    def lineage(self) -> str:
        """JSON of identity and names, as it stands in table `versions`."""
        return json.dumps({**self.identity(), **self.names}, sort_keys=True)
