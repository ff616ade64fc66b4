"""Everything that knows Ray: session, tasks, datasets, progress, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.cluster.session import start_ray as start_ray
    from dnafeat.cluster.session import stop_ray as stop_ray

_PUBLIC = {
    "start_ray": "dnafeat.cluster.session",
    "stop_ray": "dnafeat.cluster.session",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
