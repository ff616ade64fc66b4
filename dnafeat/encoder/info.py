"""Architectures and one model in numbers, for `dnafeat models` and `dnafeat model-info`."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import torch

from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.describe import describe, fast_in_bfloat16
from dnafeat.encoder.models.adapter import attach
from dnafeat.encoder.models.checkpoint import load_encoder
from dnafeat.encoder.models.registry import FAMILIES
from dnafeat.encoder.source import Source
from dnafeat.vectors import describe_projection

_WIDTH = 110


def format_families(width: int | None = None) -> str:
    """The registry as text, as wide as a terminal or 110 columns."""
    blocks = []
    for family in FAMILIES:
        rows = {
            "models": ", ".join(family.models),
            "positions": family.positions,
            "tokens": family.tokens,
            "tested": family.tested,
            "LoRA": ", ".join(family.lora_targets),
        }
        blocks.append("\n".join([family.name, f"  {family.title}", *(_row(name, text, width) for name, text in rows.items())]))
    note = (
        "Fine-tuned and LoRA-adapted descendants load as well. No weights of these models could be downloaded where dnafeat was built: "
        "loading is tested on folders laid out as the hub lays them out, with random weights."
    )
    return "\n\n".join([*blocks, textwrap.fill(note, width or _WIDTH)])


def _row(name: str, text: str, width: int | None) -> str:
    # A path or a digest stays in one piece, to be copied.
    return textwrap.fill(
        text,
        width or _WIDTH,
        initial_indent=f"  {name:<10} ",
        subsequent_indent=" " * 13,
        break_long_words=False,
        break_on_hyphens=False,
    )


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One model, its weights checked key by key."""

    name: str
    revision: str | None
    adapter: str | None
    architecture: str
    layers: int
    hidden_size: int
    heads: int
    vocab_size: int
    positions: int | None
    parameters: int
    """Of the encoder alone."""
    file_heads: list[str]
    """What else the weight file holds."""
    tokenizer: str
    special_tokens: dict[str, int | None]
    shortest_sequence: int
    weights: str
    weights_sha256: str
    tokenizer_sha256: str
    adapter_sha256: str | None
    special_tokens_pooled: bool
    window_tokens: int
    projection: str
    """What makes `projected`."""
    projection_sha256: str
    precision: str
    """What `auto` takes on this machine."""
    precision_reason: str
    feature_version: str
    """With all settings at their defaults on this machine."""
    lora_targets: list[str]

    def __repr__(self) -> str:
        return format_info(self)


def model_info(config: EncodingConfig) -> ModelInfo:
    """Load, check and describe a model. Raises UsageError as `Encoder.load` does."""
    source = Source.find(config)
    found, version = source.checkpoint, describe(source, config)
    model, tokenizer, shape = load_encoder(found), source.tokenizer(config), found.config()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if source.adapter is not None:
        attach(model, source.adapter)
    heads = found.state()[1]
    return ModelInfo(
        name=found.name,
        revision=found.revision,
        adapter=source.adapter.name if source.adapter else None,
        architecture=found.family.title,
        layers=shape.num_hidden_layers,
        hidden_size=shape.hidden_size,
        heads=shape.num_attention_heads,
        vocab_size=shape.vocab_size,
        positions=shape.positions,
        parameters=parameters,
        file_heads=_heads(heads),
        tokenizer=tokenizer.kind,
        special_tokens={"cls": tokenizer.cls_id, "sep": tokenizer.sep_id, "pad": tokenizer.pad_id, "unk": tokenizer.unk_id},
        shortest_sequence=tokenizer.min_bases,
        weights=str(found.weights),
        weights_sha256=version.weights_sha256,
        tokenizer_sha256=version.tokenizer_sha256,
        adapter_sha256=version.adapter_sha256,
        special_tokens_pooled=version.special_tokens_pooled,
        window_tokens=version.window_tokens,
        projection=describe_projection(version.names["projection"]),
        projection_sha256=version.projector_sha256,
        precision=version.precision,
        precision_reason=precision_reason(),
        feature_version=version.digest,
        lora_targets=list(found.family.lora_targets),
    )


def _heads(heads: dict[str, torch.Tensor]) -> list[str]:
    names = []
    if any(key.startswith("cls.predictions.") for key in heads):
        names.append("masked-LM")
    if any(key.startswith("pooler.") for key in heads):
        names.append("pooler")
    if "classifier.weight" in heads:
        names.append(f"classifier of {len(heads['classifier.weight'])}")
    return names


def precision_reason() -> str:
    """Explain the precision that `auto` takes on this machine."""
    if fast_in_bfloat16():
        return f"{torch.cuda.get_device_name()} computes bfloat16 in hardware"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} has no bfloat16 in hardware"
    features: dict[str, Any] = dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {}
    if features.get("amx_bf16") or features.get("avx512_bf16"):
        return (
            "no GPU; this CPU computes bfloat16 in hardware, and does so with --precision bfloat16, which makes another version"
        )
    return "no GPU, and this CPU computes bfloat16 without the instructions for it, many times slower"


def format_info(info: ModelInfo, width: int | None = None) -> str:
    """The same as text, as wide as a terminal or 110 columns."""
    name = info.name + (f" at {info.revision}" if info.revision else "")
    ids = ", ".join(f"{token} {number}" for token, number in info.special_tokens.items() if number is not None)
    limit = f"{info.positions:,} tokens at most" if info.positions else "no limit of length"
    rows = {
        "encoder": info.architecture,
        "shape": f"{info.layers} layers of {info.hidden_size}, {info.heads} heads, {limit}",
        "parameters": f"{info.parameters:,} in the encoder; the file also holds: {', '.join(info.file_heads) or 'nothing'}",
        "tokenizer": f"{info.tokenizer}; ids {ids}; sequences of {info.shortest_sequence} bases or more",
        "pooling": f"mean and max {'count' if info.special_tokens_pooled else 'leave out'} [CLS] and [SEP]",
        "windows": f"{info.window_tokens} tokens" if info.window_tokens else "cut in bases",
        "projected": f"{info.projection}; sha256 {info.projection_sha256}",
        "precision": f"{info.precision} here: {info.precision_reason}",
        "weights": f"{info.weights}, sha256 {info.weights_sha256}",
        "tokens": f"sha256 {info.tokenizer_sha256}",
        "LoRA": f"targets {', '.join(info.lora_targets)}",
        "version": f"{info.feature_version} with these settings on this machine",
    }
    if info.adapter:
        rows["adapter"] = f"{info.adapter}, sha256 {info.adapter_sha256}"
    return "\n".join(
        [name, "every key of the weight file fits the architecture", "", *(_row(key, text, width) for key, text in rows.items())]
    )
