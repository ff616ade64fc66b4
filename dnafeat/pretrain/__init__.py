"""Pretrain a small encoder by masked-language modelling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.pretrain.config import PretrainConfig as PretrainConfig
    from dnafeat.pretrain.job import pretrain as pretrain

_PUBLIC = {
    "PretrainConfig": "dnafeat.pretrain.config",
    "pretrain": "dnafeat.pretrain.job",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
