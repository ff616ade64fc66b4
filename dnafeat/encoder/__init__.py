"""Turn sequences into vectors: windows, packing, pooling, projection, version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.encoder.config import EncodingConfig as EncodingConfig
    from dnafeat.encoder.engine import Encoder as Encoder
    from dnafeat.encoder.models.checkpoint import load_model as load_model
    from dnafeat.encoder.models.checkpoint import load_tokenizer as load_tokenizer

_PUBLIC = {
    "Encoder": "dnafeat.encoder.engine",
    "EncodingConfig": "dnafeat.encoder.config",
    "load_model": "dnafeat.encoder.models.checkpoint",
    "load_tokenizer": "dnafeat.encoder.models.checkpoint",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
