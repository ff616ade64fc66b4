"""How far each variant of a VCF moves the vectors of the genome around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.effects.config import EffectsConfig as EffectsConfig
    from dnafeat.effects.job import effects as effects

_PUBLIC = {"EffectsConfig": "dnafeat.effects.config", "effects": "dnafeat.effects.job"}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
