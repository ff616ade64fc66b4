"""Align two modalities in one space, and measure how well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.align.config import AlignConfig as AlignConfig
    from dnafeat.align.job import align as align

_PUBLIC = {
    "AlignConfig": "dnafeat.align.config",
    "align": "dnafeat.align.job",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
