"""Measure speed beside limits and peers, and check it against targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.bench.config import BenchmarkConfig as BenchmarkConfig
    from dnafeat.bench.job import benchmark as benchmark

_PUBLIC = {
    "BenchmarkConfig": "dnafeat.bench.config",
    "benchmark": "dnafeat.bench.job",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
