"""The encoder family: one entry for each architecture, and how a folder's own files tell which it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dnafeat.encoder.models.base import Config, PositionedConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture.

    Attributes
    ----------
    name : str
        Part of every feature version's identity.
    mark : str
        Part of a weight's name that each of its layers has and no other architecture's does.
    position_embedding : str | None
        What `position_embedding_type` of config.json has to say, where it says anything; None: it is not looked at.
    model_type : str | None
        The same of `model_type`, for architectures whose keys another one has, too.
    lora_targets : tuple of str
        Modules that a LoRA adapter can be put on.
    """

    name: str
    title: str
    config: type[Config]
    build: Callable[[Any], nn.Module]
    mark: str
    position_embedding: str | None
    model_type: str | None = None
    lora_targets: tuple[str, ...]
    models: tuple[str, ...]
    positions: str
    tokens: str
    tested: str


def _dnabert2(config: Config) -> nn.Module:
    from dnafeat.encoder.models.dnabert2 import DNABERT2

    return DNABERT2(config)


def _bert(config: PositionedConfig) -> nn.Module:
    # transformers takes seconds to import, which the other architectures need not wait for.
    from dnafeat.encoder.models.bert import BERT

    return BERT(config)


def _prokbert(config: PositionedConfig) -> nn.Module:
    from dnafeat.encoder.models.prokbert import ProkBERT

    return ProkBERT(config)


FAMILIES = (
    Family(
        name="dnabert2",
        title="DNABERT-2: post-LN BERT, ALiBi, gated GELU; own code",
        config=Config,
        build=_dnabert2,
        mark=".attention.self.Wqkv.",
        position_embedding=None,
        lora_targets=("Wqkv", "attention.output.dense", "mlp.gated_layers", "mlp.wo"),
        models=("zhihan1996/DNABERT-2-117M", "zhihan1996/DNABERT-S", "dnafeat-mini (bundled)"),
        positions="no limit",
        tokens="byte-pair encoding (tokenizer.json)",
        tested="published code's answers for a small random model (1e-5); float64 NumPy for 8, 12 and 16 heads, to 2,000 tokens",
    ),
    Family(
        name="bert",
        title="BERT: post-LN, absolute positions; transformers' BertModel",
        config=PositionedConfig,
        build=_bert,
        mark=".attention.self.query.",
        position_embedding="absolute",
        # RoBERTa, ELECTRA and others have the same keys and compute otherwise.
        model_type="bert",
        lora_targets=("query", "key", "value", "intermediate.dense", "output.dense"),
        models=(
            "zhihan1996/DNA_bert_3 to _6",
            "zhangtaolab/plant-dnabert-BPE",
            "zhangtaolab/plant-dnabert-6mer",
            "zhangtaolab/plant-dnabert-singlebase",
        ),
        positions="512",
        tokens="overlapping k-mers (vocab.txt); BPE; 6-mers or bases side by side (Plant DNABERT's vocab.txt)",
        tested="transformers' own BertModel on random models; float64 NumPy; vocabularies rebuilt from their definitions",
    ),
    Family(
        name="prokbert",
        title="ProkBERT: pre-LN MegatronBERT, relative_key_query positions; own code",
        config=PositionedConfig,
        build=_prokbert,
        mark=".attention.ln.",
        position_embedding="relative_key_query",
        lora_targets=("query", "key", "value", "intermediate.dense", "output.dense"),
        models=("neuralbioinfo/prokbert-mini", "neuralbioinfo/prokbert-mini-long", "neuralbioinfo/prokbert-mini-c"),
        positions="1,024 or 2,048",
        tokens="local context-aware k-mers with a shift (vocab.txt, tokenizer_config.json)",
        tested="transformers 4.49's answers for a small random model (1e-5); float64 NumPy; published token ids",
    ),
)


def recognise(keys: Iterable[str]) -> Family | None:
    """The family that most of the weights' names speak for; None when no family's mark is among them.

    This is a guess, and may be: the weights are checked key by key against the architecture it leads to.
    """
    names = list(keys)
    # BERT's projections have the same names in a MegatronBERT, whose own mark therefore comes first.
    counted = {family.name: sum(family.mark in name for name in names) for family in FAMILIES}
    if counted["prokbert"]:
        counted["bert"] = 0
    best = max(FAMILIES, key=lambda family: counted[family.name])
    return best if counted[best.name] else None
