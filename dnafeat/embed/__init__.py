"""Bring a source into a store: intake, plan, encoding, audit, publication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.embed.config import EmbedConfig as EmbedConfig
    from dnafeat.embed.config import NightlyConfig as NightlyConfig
    from dnafeat.embed.job import embed as embed
    from dnafeat.embed.schedule import nightly as nightly

_PUBLIC = {
    "EmbedConfig": "dnafeat.embed.config",
    "NightlyConfig": "dnafeat.embed.config",
    "embed": "dnafeat.embed.job",
    "nightly": "dnafeat.embed.schedule",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
