"""What all training shares: run, checkpoints, batches, artifact files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.training.batches import Collate as Collate
    from dnafeat.training.batches import Examples as Examples
    from dnafeat.training.batches import MicroBatches as MicroBatches

_PUBLIC = {
    "Collate": "dnafeat.training.batches",
    "Examples": "dnafeat.training.batches",
    "MicroBatches": "dnafeat.training.batches",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
