"""Turn files of brain-imaging embeddings into a table that join reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.partners.config import PartnerConfig as PartnerConfig
    from dnafeat.partners.job import partner as partner

_PUBLIC = {
    "PartnerConfig": "dnafeat.partners.config",
    "partner": "dnafeat.partners.job",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
