"""Nearest neighbours of sequences among the entries of a store, encoded by the model of the version that is searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.search.config import NeighboursConfig as NeighboursConfig
    from dnafeat.search.job import neighbours as neighbours

_PUBLIC = {
    "NeighboursConfig": "dnafeat.search.config",
    "neighbours": "dnafeat.search.job",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
