"""Fine-tune an encoder on labelled sequences, and predict with the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.finetune.config import FinetuneConfig as FinetuneConfig
    from dnafeat.finetune.config import PredictConfig as PredictConfig
    from dnafeat.finetune.job import finetune as finetune
    from dnafeat.finetune.prediction import predict as predict

_PUBLIC = {
    "FinetuneConfig": "dnafeat.finetune.config",
    "PredictConfig": "dnafeat.finetune.config",
    "finetune": "dnafeat.finetune.job",
    "predict": "dnafeat.finetune.prediction",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
