"""Heads on an encoder: masked language modelling and sequence classification, keys as in the published files."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnafeat.encoder.models.base import initialise


class Logits(NamedTuple):
    """`logits`: (batch, tokens, vocab_size) of a masked-LM head, (batch, labels) of a classification head."""

    logits: Tensor


class Transform(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class MaskedLM(nn.Module):
    """An encoder with BERT's masked-LM head; the decoder's weight is the word embedding itself."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        config: Any = encoder.config
        self.bert = encoder
        self.cls = nn.ModuleDict({"predictions": Predictions(config)})
        self.cls.apply(functools.partial(initialise, std=config.initializer_range))
        self.cls["predictions"].decoder.weight = encoder.embeddings.word_embeddings.weight  # type: ignore[union-attr]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Logits:
        """`positions`, a boolean (batch, tokens), asks for the logits there only, as (chosen, vocab_size)."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        return Logits(self.cls["predictions"](hidden if positions is None else hidden[positions]))


class Pooler(nn.Module):
    """BERT's pooler: tanh of a dense layer on the state of [CLS]."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense(hidden[:, 0]).tanh()


class SequenceClassifier(nn.Module):
    """An encoder with BERT's classification head: [CLS], pooler, dropout, classifier."""

    def __init__(self, encoder: nn.Module, labels: int) -> None:
        super().__init__()
        config: Any = encoder.config
        self.bert = encoder
        self.pooler = Pooler(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, labels)
        for module in (self.pooler, self.classifier):
            module.apply(functools.partial(initialise, std=config.initializer_range))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None) -> Logits:
        """[CLS] has to stand first: pad on the right."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        return Logits(self.classifier(self.dropout(self.pooler(hidden))))


class WeightedClassifier(nn.Module):
    """An encoder with ProkBERT's classification head: the mean of the hidden states under learned weights, dropout, classifier.

    Padding has no weight here. In the published code it has, so that its answers depend on the padding where there is any.
    """

    def __init__(self, encoder: nn.Module, labels: int) -> None:
        super().__init__()
        config: Any = encoder.config
        self.bert = encoder
        self.weighting_layer = nn.Linear(config.hidden_size, 1)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, labels)
        for module in (self.weighting_layer, self.classifier):
            module.apply(functools.partial(initialise, std=config.initializer_range))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None) -> Logits:
        hidden = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        scores = self.weighting_layer(hidden)[:, :, 0]
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask == 0, -torch.inf)
        pooled = (scores.softmax(1)[:, :, None] * hidden).sum(1)
        return Logits(self.classifier(self.dropout(pooled)))
