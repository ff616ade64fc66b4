"""The heads on each encoder: their logits in slow float64, their keys, and what is tied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import models
import numpy as np
import pytest
import references
import torch
from torch import nn

from dnafeat.encoder.models.base import Config, PositionedConfig
from dnafeat.encoder.models.bert import BERT
from dnafeat.encoder.models.dnabert2 import DNABERT2
from dnafeat.encoder.models.heads import MaskedLM, SequenceClassifier, WeightedClassifier
from dnafeat.encoder.models.prokbert import ProkBERT

LABELS = 3


@dataclass(frozen=True)
class Kind:
    """One architecture: how it is built, and what the references say of it."""

    encoder: Callable[..., nn.Module]
    config: type[Config]
    values: dict[str, Any]
    shapes: models.Shapes
    weights: models.State
    forward64: Callable[..., list[np.ndarray]]

    def bare(self, **changes: Any) -> nn.Module:
        values = self.values | changes
        return self.encoder(
            self.config(**{field.name: values[field.name] for field in fields(self.config) if field.name in values})
        )

    def masked_lm(self) -> MaskedLM:
        model = MaskedLM(self.bare())
        # The files of BERT and ProkBERT have the decoder's bias under two names.
        model.load_state_dict({key: value for key, value in self.weights.items() if key != "cls.predictions.bias"})
        return model.eval()

    def hidden64(self, row: list[int], types: list[int] | None = None) -> np.ndarray:
        return self.forward64(self.weights, self.values["num_attention_heads"], row, types)[-1]

    def rows(self) -> list[list[int]]:
        return [models.random_ids(tokens, self.values["vocab_size"], tokens) for tokens in (5, 20, 2)]


KINDS = {
    "dnabert2": Kind(
        DNABERT2,
        Config,
        models.config(),
        models.shapes(models.config()),
        models.state(models.config()),
        references.forward64,
    ),
    "bert": Kind(
        BERT,
        PositionedConfig,
        models.bert_config(),
        models.bert_shapes(models.bert_config()),
        models.bert_state(models.bert_config()),
        references.bert_forward64,
    ),
    "prokbert": Kind(
        ProkBERT,
        PositionedConfig,
        models.prokbert_config(),
        models.prokbert_shapes(models.prokbert_config()),
        models.prokbert_state(models.prokbert_config()),
        references.prokbert_forward64,
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


# Masked language modelling.


@torch.inference_mode()
@pytest.mark.parametrize("left", [False, True])
def test_masked_lm_logits_agree_with_float64(kind: Kind, left: bool) -> None:
    rows = kind.rows()
    ids, mask = models.padded(rows, left=left)
    logits = kind.masked_lm()(ids, mask).logits
    assert logits.shape == (*ids.shape, kind.values["vocab_size"])
    for found, real, row in zip(logits, mask == 1, rows, strict=True):
        np.testing.assert_allclose(
            found[real].numpy(), references.logits64(kind.weights, kind.hidden64(row)), atol=1e-5, rtol=1e-4
        )


@torch.inference_mode()
def test_masked_lm_logits_take_token_types(kind: Kind) -> None:
    row = kind.rows()[1]
    types = [i % 2 for i in range(len(row))]
    logits = kind.masked_lm()(torch.tensor([row]), token_type_ids=torch.tensor([types])).logits
    wanted = references.logits64(kind.weights, kind.hidden64(row, types))
    np.testing.assert_allclose(logits[0].numpy(), wanted, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_logits_of_chosen_positions_come_in_the_order_of_rows_and_tokens(kind: Kind) -> None:
    ids, mask = models.padded(kind.rows())
    model = kind.masked_lm()
    chosen = torch.zeros_like(mask, dtype=torch.bool)
    chosen[0, 3] = chosen[1, 0] = chosen[1, 19] = True
    some, every = model(ids, mask, positions=chosen).logits, model(ids, mask).logits
    assert some.shape == (3, kind.values["vocab_size"])
    torch.testing.assert_close(some, torch.stack([every[0, 3], every[1, 0], every[1, 19]]), atol=1e-5, rtol=1e-5)
    assert model(ids, mask, positions=torch.zeros_like(chosen)).logits.shape == (0, kind.values["vocab_size"])


def test_a_masked_lm_model_has_the_published_keys_and_shapes(kind: Kind) -> None:
    own = {key: tuple(value.shape) for key, value in MaskedLM(kind.bare()).state_dict().items()}
    assert own == {key: shape for key, shape in kind.shapes.items() if key != "cls.predictions.bias"}


def test_the_decoder_is_the_word_embedding(kind: Kind) -> None:
    model = kind.masked_lm()
    words, decoder = model.bert.embeddings.word_embeddings.weight, model.cls.predictions.decoder.weight
    assert decoder is words
    assert sum(parameter is words for parameter in model.parameters()) == 1
    assert "cls.predictions.decoder.weight" not in dict(model.named_parameters())
    with torch.no_grad():
        words[7, 7] = 42.0
    assert decoder[7, 7] == 42.0


def test_the_word_embedding_learns_from_both_its_uses(kind: Kind) -> None:
    """The logit of entry 9 teaches that entry as an answer, and those in the input as input; entry 0 is no exception."""
    model = kind.masked_lm()
    words = model.bert.embeddings.word_embeddings.weight
    ids = torch.tensor([[5, 0, 6, 5]])
    logits = model(ids).logits
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (of_answer,) = torch.autograd.grad((logits[..., 9] * weight[..., 9]).sum(), words, retain_graph=True)
    moved = of_answer.abs().amax(1) > 1e-6
    assert moved.nonzero()[:, 0].tolist() == [0, 5, 6, 9]
    (whole,) = torch.autograd.grad((logits * weight).sum(), words)
    assert torch.all(whole.abs().amax(1) > 1e-6)


def test_every_parameter_learns_but_absolute_positions_of_prokbert(kind: Kind) -> None:
    """A parameter that no gradient reaches is one that the forward pass forgot."""
    model = kind.masked_lm()
    logits = model(torch.tensor([kind.rows()[1]]), token_type_ids=torch.tensor([[0, 1] * 10])).logits
    logits.square().sum().backward()
    unused = {"bert.embeddings.position_embeddings.weight"} if kind.encoder is ProkBERT else set()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == unused
    for name, parameter in model.named_parameters():
        if name not in unused:
            assert parameter.grad.abs().max() > 0, name


# Classification.


def dense64(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def classifier(kind: Kind, head: type[nn.Module], **changes: Any) -> Any:
    model: Any = head(kind.bare(**changes), LABELS)
    model.bert.load_state_dict(models.bare_encoder(kind.weights))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("bert."):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@torch.inference_mode()
def test_sequence_logits_are_those_of_cls_behind_the_pooler(kind: Kind) -> None:
    rows = kind.rows()
    ids, mask = models.padded(rows)
    model = classifier(kind, SequenceClassifier)
    logits = model(ids, mask).logits
    assert logits.shape == (len(rows), LABELS)
    for found, row in zip(logits, rows, strict=True):
        pooled = np.tanh(dense64(model.pooler.dense, kind.hidden64(row)[0]))
        np.testing.assert_allclose(found.numpy(), dense64(model.classifier, pooled), atol=1e-5, rtol=1e-4)
    types = [[(i + 1) % 2 for i in range(20)]]
    typed = model(torch.tensor(rows[1:2]), token_type_ids=torch.tensor(types)).logits[0]
    pooled = np.tanh(dense64(model.pooler.dense, kind.hidden64(rows[1], types[0])[0]))
    np.testing.assert_allclose(typed.numpy(), dense64(model.classifier, pooled), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("left", [False, True])
def test_weighted_logits_are_those_of_the_weighted_mean_of_real_tokens(kind: Kind, left: bool) -> None:
    rows = kind.rows()
    ids, mask = models.padded(rows, left=left)
    model = classifier(kind, WeightedClassifier)
    logits = model(ids, mask).logits
    assert logits.shape == (len(rows), LABELS)
    for found, row in zip(logits, rows, strict=True):
        hidden = kind.hidden64(row)
        share = np.exp(dense64(model.weighting_layer, hidden))
        wanted = dense64(model.classifier, (hidden * share).sum(0) / share.sum())
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5, rtol=1e-4)
        alone = model(torch.tensor([row])).logits[0]
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


OWN = {SequenceClassifier: ("pooler.dense", (48, 48)), WeightedClassifier: ("weighting_layer", (1, 48))}


@pytest.mark.parametrize("head", OWN)
def test_a_classifier_has_the_encoder_under_bert_and_its_own_keys_beside_it(kind: Kind, head: type[nn.Module]) -> None:
    own = {key: tuple(value.shape) for key, value in classifier(kind, head).state_dict().items()}
    encoder = {key: shape for key, shape in kind.shapes.items() if key.startswith("bert.")}
    name, shape = OWN[head]
    assert own == encoder | {
        f"{name}.weight": shape,
        f"{name}.bias": shape[:1],
        "classifier.weight": (LABELS, 48),
        "classifier.bias": (LABELS,),
    }


@pytest.mark.parametrize("head", OWN)
def test_a_classifier_drops_out_in_training_only_and_all_of_its_head_learns(kind: Kind, head: type[nn.Module]) -> None:
    model = classifier(kind, head, hidden_dropout_prob=0.5)
    ids, mask = models.padded(kind.rows())
    assert torch.equal(model(ids, mask).logits, model(ids, mask).logits)
    model.bert.eval()
    model.dropout.train()
    assert not torch.equal(model(ids, mask).logits, model(ids, mask).logits)
    model.eval()
    weight = torch.randn(len(ids), LABELS, generator=torch.Generator().manual_seed(0))
    (model(ids, mask).logits * weight).sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("bert.") and name != "weighting_layer.bias":  # which the softmax takes out
            assert parameter.grad.abs().max() > 1e-6, name
    assert model.bert.embeddings.word_embeddings.weight.grad.isfinite().all()


@pytest.mark.parametrize("head", [MaskedLM, SequenceClassifier, WeightedClassifier])
def test_a_new_head_starts_with_small_weights_and_zero_biases(kind: Kind, head: Any) -> None:
    encoder = kind.bare(initializer_range=0.05)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    model = head(encoder) if head is MaskedLM else head(encoder, LABELS)
    for name, module in model.named_modules():
        if not name.startswith("bert") and isinstance(module, nn.Linear):
            assert 0.025 < module.weight.std() < 0.075, name
            assert torch.all(module.bias == 0), name
    assert all(torch.equal(value, before[key]) for key, value in model.bert.state_dict().items())
