"""Join DNA vectors with the vectors of other modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.join.config import JoinConfig as JoinConfig
    from dnafeat.join.job import join as join
    from dnafeat.join.job import lineage as lineage

_PUBLIC = {
    "JoinConfig": "dnafeat.join.config",
    "join": "dnafeat.join.job",
    "lineage": "dnafeat.join.job",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
