"""An encoder with a head on its pooled vector, as fine-tuning trains it; pooling is embedding's own, so that the head moves over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dnafeat.encoder.models.adapter import wrap
from dnafeat.encoder.models.checkpoint import Checkpoint, load_encoder
from dnafeat.encoder.models.heads import Pooler
from dnafeat.encoder.pooling import pool
from dnafeat.encoder.projection import Projector
from dnafeat.encoder.source import Source
from dnafeat.errors import UsageError, one_line
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.labels import Labels
from dnafeat.vectors import PROJECTED_WIDTH, check_view

HEADS = ("linear", "pooler", "projector")


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """The shape of a head.

    Attributes
    ----------
    kind : str
        `linear`: one layer on the pooled vector. `pooler`: BERT's dense and tanh on [CLS] before it, the published DNABERT-2 head.
        `projector`: the map to 512 dimensions before it, which embedding then takes for `projected`.
    views : str
        Vectors the head takes, end to end: cls, mean, max, with plus signs between.
    width : int
        Outputs.
    """

    kind: str
    views: str
    hidden_size: int
    width: int
    dropout: float

    def __post_init__(self) -> None:
        if self.kind not in HEADS:
            raise UsageError(f"head {self.kind!r} is none of {', '.join(HEADS)}")
        check_view(self.views, "pooling")
        if self.kind == "pooler" and self.views != "cls":
            raise UsageError(f"head pooler is for pooling cls, and pooling is {self.views}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Head(nn.Module):
    """Pooled vectors (n, size) float32, size being views · hidden_size, to logits (n, width)."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.hidden_size * len(shape.views.split("+"))
        self.pooler = Pooler(size) if shape.kind == "pooler" else None
        self.projector = Projector(size, shape.dropout) if shape.kind == "projector" else None
        self.dropout = nn.Dropout(shape.dropout)
        self.size = size
        self.classifier = nn.Linear(PROJECTED_WIDTH if self.projector else size, shape.width)
        for module in (*(self.pooler.children() if self.pooler else ()), self.classifier):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        if self.pooler is not None:
            pooled = self.pooler.dense(pooled).tanh()
        if self.projector is not None:
            pooled = self.projector(pooled)
        return self.classifier(self.dropout(pooled))


class FineTuned(nn.Module):
    """Encoder, pooling and head. A frozen encoder stays in eval mode, its dropout off."""

    def __init__(self, encoder: nn.Module, head: Head | TokenHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def train(self, mode: bool = True) -> FineTuned:
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor, content: Tensor) -> Tensor:
        """Logits (rows, width), or with a head for each token (rows, tokens, width)."""
        return self.head(self.features(input_ids, attention_mask, content))

    def features(self, input_ids: Tensor, attention_mask: Tensor, content: Tensor) -> Tensor:
        """What the head takes: pooled vectors (rows, views · hidden_size), or for a head for each token (rows, tokens, hidden_size)."""
        hidden = self.encoder(input_ids, attention_mask).last_hidden_state.float()
        return hidden if isinstance(self.head, TokenHead) else pool(hidden, content, self.head.shape.views)

    def trainable(self) -> dict[str, Tensor]:
        """The parameters that training changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        own = self.trainable()
        if own.keys() != state.keys():
            raise ValueError(f"the checkpoint holds {len(state)} trained tensors and the model {len(own)}, under other names")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])


def build(source: Source, config: FinetuneConfig, labels: Labels) -> FineTuned:
    """The network a run trains, in float32 on the CPU, its head fresh from torch's random numbers.

    Raises
    ------
    UsageError
        LoRA's targets are not there or its settings do not go together.
    """
    found = source.checkpoint
    encoder = load_encoder(found, dropout=config.encoder_dropout, initialise=True)
    if config.method == "lora":
        encoder = add_lora(encoder, found, config)
    else:
        for name, parameter in encoder.named_parameters():
            # ProkBERT holds a table of absolute positions that nothing reads: data-parallel training would wait for its gradient.
            idle = found.family.name == "prokbert" and "position_embeddings" in name
            parameter.requires_grad = config.method == "full" and not idle
    hidden = found.config().hidden_size
    if labels.task == "token":
        head: Head | TokenHead = TokenHead(hidden, labels.width, config.dropout)
    else:
        head = Head(head_shape(config, hidden, labels.width))
    return FineTuned(encoder, head)


def head_shape(config: FinetuneConfig, hidden_size: int, width: int) -> HeadShape:
    views = config.pooling or ("cls" if config.head == "pooler" else "mean")
    return HeadShape(kind=config.head, views=views, hidden_size=hidden_size, width=width, dropout=config.dropout)


class TokenHead(nn.Module):
    """Hidden states (rows, tokens, hidden_size) to logits of every token (rows, tokens, width)."""

    def __init__(self, hidden_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.size = hidden_size
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.classifier(self.dropout(hidden))


def lora_config(found: Checkpoint, config: FinetuneConfig) -> Any:
    import peft

    targets = list(config.lora_targets or found.family.lora_targets)
    options = config.lora_options or {}
    for name in ("modules_to_save", "task_type", "inference_mode"):
        if name in options:
            raise UsageError(f"lora_options has {name}, which is not for LoRA on an encoder with a head beside it: leave it out")
    try:
        return peft.LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
            **options,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"peft does not take these LoRA settings: {one_line(error)}") from error


def add_lora(encoder: nn.Module, found: Checkpoint, config: FinetuneConfig) -> nn.Module:
    """The encoder with fresh LoRA matrices, which alone are trained."""

    settings = lora_config(found, config)
    linear = sorted({_ending(name) for name, module in encoder.named_modules() if isinstance(module, nn.Linear)})
    lost = [
        target
        for target in settings.target_modules
        if not any(name == target or name.endswith("." + target) for name, _ in encoder.named_modules())
    ]
    if lost:
        raise UsageError(f"LoRA target {lost[0]!r} matches no module of {found.name}: there are {', '.join(linear)}")
    try:
        return wrap(encoder, settings)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(f"LoRA does not fit {found.name}: {one_line(error)}; there are {', '.join(linear)}") from error


def _ending(name: str) -> str:
    """A module's name within its layer."""
    parts = name.split(".")
    return ".".join(parts[3:]) if parts[:2] == ["encoder", "layer"] else name
