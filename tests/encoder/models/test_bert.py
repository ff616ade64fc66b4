"""Stock BERT: against transformers' BertModel on the same weights, and against the architecture in slow float64."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import models
import pytest
import references
import torch
from transformers import BertConfig, BertModel

from dnafeat.encoder.models.base import PositionedConfig
from dnafeat.encoder.models.bert import BERT

VALUES = models.bert_config()
WEIGHTS = models.bert_state(VALUES)
HEADS = VALUES["num_attention_heads"]
LONGEST = VALUES["max_position_embeddings"]


def build(**changes: Any) -> tuple[BERT, models.State]:
    values = models.bert_config(**changes)
    weights = models.bert_state(values)
    model = BERT(
        PositionedConfig(**{field.name: values[field.name] for field in fields(PositionedConfig) if field.name in values})
    )
    model.load_state_dict(models.bare_encoder(weights))
    return model.eval(), weights


@pytest.fixture(scope="module")
def model() -> BERT:
    return build()[0]


def content(tokens: int, seed: int = 0) -> list[int]:
    return models.random_ids(tokens, models.KMER_VOCABULARY, seed)


# Against transformers.


@torch.inference_mode()
def test_states_and_attentions_are_those_of_transformers(model: BERT) -> None:
    stock = BertModel(BertConfig(**VALUES, attn_implementation="eager"), add_pooling_layer=False).eval()
    stock.load_state_dict(models.bare_encoder(WEIGHTS))
    rows = [content(tokens, tokens) for tokens in (5, 30, LONGEST - 3)]
    ids, mask = models.padded(rows)
    types = torch.arange(ids.shape[1]).expand_as(ids) % 2
    expected = stock(ids, mask, types, output_hidden_states=True, output_attentions=True)
    out = model(ids, mask, types, output_hidden_states=True, output_attentions=True)
    real = mask.bool()
    for found, wanted in zip(out.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(found[real], wanted[real], atol=1e-6, rtol=1e-5)
    for found, wanted in zip(out.attentions, expected.attentions, strict=True):
        of_real = (torch.movedim(x, 1, 2)[real] for x in (found, wanted))
        torch.testing.assert_close(*of_real, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.last_hidden_state[real], expected.last_hidden_state[real], atol=1e-6, rtol=1e-5)


def test_the_state_dict_has_the_published_keys_without_the_prefix(model: BERT) -> None:
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    published = {key.removeprefix("bert."): shape for key, shape in models.bert_shapes(VALUES).items() if key.startswith("bert.")}
    assert shapes == published
    assert len(shapes) == 5 + 16 * 2


# Against float64.


@torch.inference_mode()
@pytest.mark.parametrize("heads", [6, 8, 12, 16])
@pytest.mark.parametrize("left", [False, True])
def test_states_and_attentions_agree_with_float64_with_padding_on_either_side(heads: int, left: bool) -> None:
    model, weights = build(hidden_size=4 * heads, num_attention_heads=heads, num_hidden_layers=3)
    rows = [content(tokens, tokens) for tokens in (1, 2, 33, LONGEST - 3)]
    ids, mask = models.padded(rows, left=left)
    out = model(ids, mask, output_hidden_states=True, output_attentions=True)
    assert [layer.shape for layer in out.attentions] == [(4, heads, LONGEST, LONGEST)] * 3
    references.assert_answers(out, mask, rows, functools.partial(references.bert_forward64, weights, heads))


@torch.inference_mode()
@pytest.mark.parametrize("tokens", [1, 20, LONGEST])
@pytest.mark.parametrize("typed", [False, True])
def test_full_rows_agree_with_float64(model: BERT, tokens: int, typed: bool) -> None:
    row = content(tokens)
    types = [(i + 1) % 2 for i in range(tokens)] if typed else None
    ids = torch.tensor([row])
    given = torch.tensor([types]) if typed else None
    out = model(ids, token_type_ids=given, output_hidden_states=True, output_attentions=True)
    forward = functools.partial(references.bert_forward64, WEIGHTS, HEADS, types=types)
    references.assert_answers(out, torch.ones_like(ids), [row], forward)


@torch.inference_mode()
def test_the_norms_take_their_epsilon_from_the_config() -> None:
    model, weights = build(layer_norm_eps=0.1)
    row = content(20)
    out = model(torch.tensor([row]), output_hidden_states=True, output_attentions=True)
    forward = functools.partial(references.bert_forward64, weights, HEADS, eps=0.1)
    references.assert_answers(out, torch.ones(1, 20), [row], forward)


# Masks and lengths.


@torch.inference_mode()
@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32])
@pytest.mark.parametrize("left", [False, True])
def test_a_mask_of_any_kind_and_side_gives_the_vectors_of_single_sequences(model: BERT, kind: torch.dtype, left: bool) -> None:
    rows = [content(tokens, tokens) for tokens in (3, 17, 40)]
    ids, mask = models.padded(rows, left=left)
    hidden = model(ids, mask.to(kind)).last_hidden_state
    for i, row in enumerate(rows):
        alone = model(torch.tensor([row])).last_hidden_state[0]
        torch.testing.assert_close(hidden[i][mask[i] == 1], alone, atol=1e-5, rtol=1e-5)
    assert torch.all(hidden[mask == 0] == 0)


@torch.inference_mode()
def test_what_stands_under_the_mask_does_not_matter(model: BERT) -> None:
    ids, mask = models.padded([content(10), content(20)])
    other = ids.where(mask == 1, torch.arange(ids.shape[1]))
    assert torch.equal(model(ids, mask).last_hidden_state, model(other, mask).last_hidden_state)


@torch.inference_mode()
def test_a_mask_of_ones_is_no_mask(model: BERT) -> None:
    ids = torch.tensor([content(10), content(10, 1)])
    assert torch.equal(model(ids, torch.ones_like(ids)).last_hidden_state, model(ids).last_hidden_state)


@torch.inference_mode()
@pytest.mark.parametrize("left", [False, True])
def test_asking_for_attentions_changes_no_vector_nor_the_next_call(model: BERT, left: bool) -> None:
    ids, mask = models.padded([content(20), content(7)], left=left)
    for given in (mask, torch.ones_like(mask)):
        plain = model(ids, given)
        told = model(ids, given, output_attentions=True)
        assert plain.hidden_states is plain.attentions is told.hidden_states is None
        torch.testing.assert_close(told.last_hidden_state, plain.last_hidden_state, atol=1e-5, rtol=1e-5)
        after = model(ids, given, output_hidden_states=True)
        assert torch.equal(after.last_hidden_state, plain.last_hidden_state)
        assert torch.equal(after.hidden_states[-1], after.last_hidden_state)
        assert after.attentions is None


def test_more_tokens_than_positions_are_refused_with_both_numbers(model: BERT) -> None:
    with pytest.raises(ValueError, match=rf"^{LONGEST + 1} tokens are more than the {LONGEST} positions") as refused:
        model(torch.tensor([content(LONGEST + 1)]))
    assert "windows" in str(refused.value)


# Training and precision.


def test_every_parameter_learns_and_so_does_the_entry_with_number_zero() -> None:
    """A parameter that no gradient reaches is one that the forward pass forgot. Entry 0 is no padding in every vocabulary."""
    model, _ = build()
    row = [0, *content(LONGEST - 1)]
    weight = torch.randn(1, LONGEST, 48, generator=torch.Generator().manual_seed(0))
    hidden = model(torch.tensor([row]), token_type_ids=torch.tensor([[0, 1] * (LONGEST // 2)])).last_hidden_state
    (hidden * weight).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("key.bias"):  # it shifts all scores of a query alike, which the softmax takes out
            assert parameter.grad.abs().max() > 1e-6, name
    used = sorted(set(row))
    assert torch.all(model.embeddings.word_embeddings.weight.grad[used].abs().amax(1) > 0)


@pytest.mark.parametrize("field", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_each_dropout_acts_in_training_only(field: str) -> None:
    model, _ = build(**{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, field: 0.5})
    ids = torch.tensor([content(20)])
    assert torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
    model.train()
    assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)


@torch.inference_mode()
def test_bfloat16_runs_with_padding_and_stays_near_float32() -> None:
    model, _ = build()
    ids, mask = models.padded([content(40), content(10)])
    exact = model(ids, mask).last_hidden_state
    found = model.bfloat16()(ids, mask).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert torch.all(found[mask == 0] == 0)
    assert torch.cosine_similarity(found.float(), exact, dim=-1)[mask == 1].min() > 0.999
