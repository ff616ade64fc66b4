"""What fine-tuning reads and leaves, for tests of several modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dnafeat.encoder.models.adapter import attach, merge
from dnafeat.encoder.models.checkpoint import load_encoder
from dnafeat.encoder.source import Source
from dnafeat.errors import UsageError
from dnafeat.finetune import artifact
from dnafeat.finetune.network import FineTuned
from dnafeat.finetune.splits import read_split


def sentence(source: str, **options: Any) -> str:
    """What reading a file as the split `train` is refused with."""
    with pytest.raises(UsageError) as error:
        read_split("train", source, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def loaded(uri: str, *, merged: bool = True) -> FineTuned:
    """The trained network from nothing but its artifact."""
    found = artifact.load(uri)
    source = Source.find(found.encoding())
    encoder = load_encoder(source.checkpoint)
    if source.adapter is not None:
        encoder = (merge if merged else attach)(encoder, source.adapter)
    return FineTuned(encoder, found.head()).eval()


def answer(model: FineTuned, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """A network's logits for a batch."""
    with torch.no_grad():
        return model(inputs["input_ids"], inputs["attention_mask"], inputs["content"])
