"""The feature store: Delta tables, reading, export, maintenance, erasure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.store.catalog import Store as Store
    from dnafeat.store.matrices import matrix as matrix
    from dnafeat.store.stream import VectorStream as VectorStream

_PUBLIC = {
    "Store": "dnafeat.store.catalog",
    "VectorStream": "dnafeat.store.stream",
    "matrix": "dnafeat.store.matrices",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
