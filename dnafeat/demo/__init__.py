"""The two demonstrations that run on bundled data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.demo.cohort import Cohort as Cohort
    from dnafeat.demo.cohort import simulate as simulate

_PUBLIC = {
    "Cohort": "dnafeat.demo.cohort",
    "simulate": "dnafeat.demo.cohort",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
