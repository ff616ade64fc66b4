"""ProkBERT: against what transformers 4.49 answered, and against the architecture in slow float64."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import models
import pytest
import references
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dnafeat.encoder.models.base import PositionedConfig
from dnafeat.encoder.models.prokbert import ProkBERT, ProkBERTSelfAttention

GOLDEN = Path(__file__).parents[2] / "data" / "prokbert_tiny_reference.safetensors"
VALUES = models.prokbert_config()
LONGEST = VALUES["max_position_embeddings"]


def config(values: dict[str, Any]) -> PositionedConfig:
    return PositionedConfig(**{field.name: values[field.name] for field in fields(PositionedConfig) if field.name in values})


def build(**changes: Any) -> tuple[ProkBERT, models.State]:
    values = models.prokbert_config(**changes)
    weights = models.prokbert_state(values)
    model = ProkBERT(config(values))
    model.load_state_dict(models.bare_encoder(weights))
    return model.eval(), weights


@pytest.fixture(scope="module")
def model() -> ProkBERT:
    return build()[0]


def content(tokens: int, seed: int = 0) -> list[int]:
    return models.random_ids(tokens, models.KMER_VOCABULARY, seed)


# Against transformers 4.49.


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def published(golden: dict[str, torch.Tensor]) -> ProkBERT:
    with safe_open(GOLDEN, "pt") as file:
        model = ProkBERT(config(json.loads(file.metadata()["config"]))).eval()
    model.load_state_dict({key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")})
    return model


@torch.inference_mode()
@pytest.mark.parametrize("left", [False, True])
def test_hidden_states_are_those_of_transformers_4_49_with_padding_on_either_side(
    golden: dict[str, torch.Tensor], published: ProkBERT, left: bool
) -> None:
    real = golden["attention_mask"].bool()
    assert 0 < real.sum() < real.numel()
    rows = [row[keep].tolist() for row, keep in zip(golden["input_ids"], real, strict=True)]
    ids, mask = models.padded(rows, left=left)
    hidden = published(ids, mask).last_hidden_state
    torch.testing.assert_close(hidden[mask == 1], golden["last_hidden_state"][real], atol=1e-5, rtol=0)
    assert torch.all(hidden[mask == 0] == 0)


@torch.inference_mode()
def test_the_golden_batch_as_it_stands(golden: dict[str, torch.Tensor], published: ProkBERT) -> None:
    ids, mask = golden["input_ids"], golden["attention_mask"]
    for attentions in (False, True):
        hidden = published(ids, mask, output_attentions=attentions).last_hidden_state
        torch.testing.assert_close(hidden[mask == 1], golden["last_hidden_state"][mask == 1], atol=1e-5, rtol=0)


def test_the_state_dict_has_the_published_keys_without_the_prefix(model: ProkBERT, golden: dict[str, torch.Tensor]) -> None:
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    whole = models.prokbert_shapes(VALUES)
    assert shapes == {key.removeprefix("bert."): shape for key, shape in whole.items() if key.startswith("bert.")}
    assert set(shapes) == {key.removeprefix("weights/") for key in golden if key.startswith("weights/")}


# Against float64.


@torch.inference_mode()
@pytest.mark.parametrize("heads", [1, 6, 8, 16])
@pytest.mark.parametrize("left", [False, True])
def test_states_and_attentions_agree_with_float64_with_padding_on_either_side(heads: int, left: bool) -> None:
    model, weights = build(hidden_size=3 * heads if heads > 1 else 12, num_attention_heads=heads, num_hidden_layers=3)
    rows = [content(tokens, tokens) for tokens in (1, 2, 33, LONGEST - 3)]
    ids, mask = models.padded(rows, left=left)
    out = model(ids, mask, output_hidden_states=True, output_attentions=True)
    assert [layer.shape for layer in out.attentions] == [(4, heads, LONGEST, LONGEST)] * 3
    references.assert_answers(out, mask, rows, functools.partial(references.prokbert_forward64, weights, heads))


@torch.inference_mode()
@pytest.mark.parametrize(("longest", "tokens"), [(64, 1), (64, 2), (64, 31), (64, 63), (64, 64), (7, 1), (7, 6), (7, 7), (1, 1)])
@pytest.mark.parametrize("typed", [False, True])
def test_every_length_up_to_the_last_position_agrees_with_float64(longest: int, tokens: int, typed: bool) -> None:
    model, weights = build(max_position_embeddings=longest)
    row = content(tokens)
    types = [(i + 1) % 2 for i in range(tokens)] if typed else None
    ids = torch.tensor([row])
    given = torch.tensor([types]) if typed else None
    out = model(ids, token_type_ids=given, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == len(out.attentions) + 1 == 3
    forward = functools.partial(references.prokbert_forward64, weights, 6, types=types)
    references.assert_answers(out, torch.ones_like(ids), [row], forward)


@torch.inference_mode()
@pytest.mark.parametrize("heads", [8, 16])
def test_a_thousand_positions_agree_with_float64(heads: int) -> None:
    model, weights = build(hidden_size=2 * heads, num_attention_heads=heads, num_hidden_layers=1, max_position_embeddings=1024)
    row = content(1024)
    hidden = model(torch.tensor([row])).last_hidden_state[0].double().numpy()
    expected = references.prokbert_forward64(weights, heads, row)[-1]
    assert abs(hidden - expected).max() < 1e-5


@torch.inference_mode()
def test_the_norms_take_their_epsilon_from_the_config() -> None:
    model, weights = build(layer_norm_eps=0.1)
    row = content(20)
    out = model(torch.tensor([row]), output_hidden_states=True, output_attentions=True)
    forward = functools.partial(references.prokbert_forward64, weights, 6, eps=0.1)
    references.assert_answers(out, torch.ones(1, 20), [row], forward)


@torch.inference_mode()
def test_the_table_of_absolute_positions_has_no_effect_and_that_of_distances_has() -> None:
    model, _ = build()
    ids = torch.tensor([content(LONGEST)])
    before = model(ids).last_hidden_state
    model.embeddings.position_embeddings.weight.add_(1000.0)
    assert torch.equal(model(ids).last_hidden_state, before)
    model.encoder.layer[1].attention.self.distance_embedding.weight[0] += 1.0  # of the first token as seen from the last
    assert not torch.equal(model(ids).last_hidden_state, before)


# Masks and lengths.


@torch.inference_mode()
@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32])
@pytest.mark.parametrize("left", [False, True])
def test_a_mask_of_any_kind_and_side_gives_the_vectors_of_single_sequences(
    model: ProkBERT, kind: torch.dtype, left: bool
) -> None:
    rows = [content(tokens, tokens) for tokens in (3, 17, 40)]
    ids, mask = models.padded(rows, left=left)
    hidden = model(ids, mask.to(kind)).last_hidden_state
    for i, row in enumerate(rows):
        alone = model(torch.tensor([row])).last_hidden_state[0]
        torch.testing.assert_close(hidden[i][mask[i] == 1], alone, atol=1e-5, rtol=1e-5)
    assert torch.all(hidden[mask == 0] == 0)


@torch.inference_mode()
def test_what_stands_under_the_mask_does_not_matter(model: ProkBERT) -> None:
    ids, mask = models.padded([content(10), content(20)])
    other = ids.where(mask == 1, torch.arange(ids.shape[1]))
    assert torch.equal(model(ids, mask).last_hidden_state, model(other, mask).last_hidden_state)


@torch.inference_mode()
def test_a_mask_of_ones_is_no_mask(model: ProkBERT) -> None:
    ids = torch.tensor([content(10), content(10, 1)])
    assert torch.equal(model(ids, torch.ones_like(ids)).last_hidden_state, model(ids).last_hidden_state)


@torch.inference_mode()
@pytest.mark.parametrize("left", [False, True])
def test_asking_for_attentions_changes_no_vector(model: ProkBERT, left: bool) -> None:
    ids, mask = models.padded([content(20), content(7)], left=left)
    for given in (mask, torch.ones_like(mask)):
        plain = model(ids, given, output_hidden_states=True)
        told = model(ids, given, output_attentions=True)
        assert plain.attentions is told.hidden_states is None
        torch.testing.assert_close(told.last_hidden_state, plain.last_hidden_state, atol=1e-5, rtol=1e-5)
        assert torch.equal(plain.hidden_states[-1], plain.last_hidden_state)
        assert torch.equal(model(ids, given).last_hidden_state, plain.last_hidden_state)


def test_more_tokens_than_positions_are_refused_with_both_numbers(model: ProkBERT) -> None:
    with pytest.raises(ValueError, match=rf"^{LONGEST + 1} tokens are more than the {LONGEST} positions") as refused:
        model(torch.tensor([content(LONGEST + 1)]))
    assert "windows" in str(refused.value)


# Gradients, training, precision.


def gathered(q: torch.Tensor, k: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The relative scores as the formula has them, one embedding a pair of tokens."""
    tokens, size = q.shape[2:]
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
    embedded = table[distance + len(table) // 2]
    scores = torch.einsum("bhid,ijd->bhij", q, embedded) + torch.einsum("bhjd,ijd->bhij", k, embedded)
    return scores / math.sqrt(size)


@pytest.mark.parametrize("tokens", [1, 2, 5, 9])
@pytest.mark.parametrize("laid_out", ["contiguous", "as a transposed view"])
def test_skewed_scores_and_their_gradients_are_those_of_plain_gathering(tokens: int, laid_out: str) -> None:
    attention = ProkBERTSelfAttention(
        config(models.prokbert_config(hidden_size=8, num_attention_heads=2, max_position_embeddings=9))
    ).double()
    table = attention.distance_embedding.weight
    generator = torch.Generator().manual_seed(tokens)
    q, k = (torch.randn(3, 2, tokens, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    if laid_out != "contiguous":
        q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k))
    q.requires_grad_()
    k.requires_grad_()
    weight = torch.randn(3, 2, tokens, tokens, dtype=torch.float64, generator=generator)
    found, wanted = attention.relative(q, k), gathered(q, k, table)
    torch.testing.assert_close(found, wanted, atol=1e-14, rtol=1e-12)
    for mine, plain in zip(
        torch.autograd.grad((found * weight).sum(), (q, k, table)),
        torch.autograd.grad((wanted * weight).sum(), (q, k, table)),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, atol=1e-14, rtol=1e-12)


def test_skewed_scores_pass_gradcheck() -> None:
    attention = ProkBERTSelfAttention(
        config(models.prokbert_config(hidden_size=6, num_attention_heads=2, max_position_embeddings=4))
    ).double()
    q, k = (torch.randn(2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(2))
    assert torch.autograd.gradcheck(attention.relative, (q.requires_grad_(), k.requires_grad_()))


def test_every_parameter_but_the_absolute_positions_learns() -> None:
    """A parameter that no gradient reaches is one that the forward pass forgot."""
    model, _ = build()
    weight = torch.randn(1, LONGEST, 48, generator=torch.Generator().manual_seed(0))
    hidden = model(torch.tensor([content(LONGEST)]), token_type_ids=torch.tensor([[0, 1] * (LONGEST // 2)])).last_hidden_state
    (hidden * weight).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == [
        "embeddings.position_embeddings.weight"
    ]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.abs().max() > 1e-6, name
    for layer in model.encoder.layer:
        assert torch.all(layer.attention.self.distance_embedding.weight.grad.abs().amax(1) > 0)


@pytest.mark.parametrize("field", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
@pytest.mark.parametrize("attentions", [False, True])
def test_each_dropout_acts_in_training_only(field: str, attentions: bool) -> None:
    model, _ = build(**{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, field: 0.5})
    ids = torch.tensor([content(20)])
    answer = functools.partial(model, ids, output_attentions=attentions)
    assert torch.equal(answer().last_hidden_state, answer().last_hidden_state)
    model.train()
    assert not torch.equal(answer().last_hidden_state, answer().last_hidden_state)


@torch.inference_mode()
def test_bfloat16_runs_with_padding_and_stays_near_float32() -> None:
    model, _ = build()
    ids, mask = models.padded([content(LONGEST - 3), content(10)])
    exact = model(ids, mask).last_hidden_state
    found = model.bfloat16()(ids, mask).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert torch.all(found[mask == 0] == 0)
    assert torch.cosine_similarity(found.float(), exact, dim=-1)[mask == 1].min() > 0.999


@torch.inference_mode()
def test_autocast_to_bfloat16_stays_near_float32(model: ProkBERT) -> None:
    ids, mask = models.padded([content(LONGEST - 3), content(10)], left=True)
    exact = model(ids, mask).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        found = model(ids, mask).last_hidden_state
    assert torch.all(found[mask == 0] == 0)
    assert torch.cosine_similarity(found.float(), exact, dim=-1)[mask == 1].min() > 0.999
