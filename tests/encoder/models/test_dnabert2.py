"""The network is DNABERT-2's: against what the published code answered, and against the architecture in slow float64."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import references
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.dnabert2 import DNABERT2, FusedMLP, alibi_slopes
from dnafeat.encoder.models.heads import MaskedLM
from dnafeat.encoder.models.prepare import prepared
from dnafeat.encoder.models.products import packs

GOLDEN = Path(__file__).parents[2] / "data" / "dnabert2_tiny_reference.safetensors"
FIELDS = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}


def build(values: dict[str, Any], weights: models.State) -> MaskedLM:
    model = MaskedLM(DNABERT2(Config(**{key: values[key] for key in FIELDS}))).eval()
    model.load_state_dict(weights)
    return model


def encoder(**changes: Any) -> tuple[DNABERT2, models.State, int]:
    values = models.config(**changes)
    weights = models.state(values)
    return build(values, weights).bert, weights, values["num_attention_heads"]


def content(tokens: int, seed: int = 0) -> list[int]:
    return [1, *np.random.default_rng(seed).integers(5, models.VOCABULARY, tokens - 2).tolist(), 2]


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def published(golden: dict[str, torch.Tensor]) -> MaskedLM:
    with safe_open(GOLDEN, "pt") as file:
        values = json.loads(file.metadata()["config"])
    weights = {key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")}
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    return build(values, weights)


# Against the published code.


@torch.inference_mode()
def test_hidden_states_are_those_of_the_published_code_and_zero_where_masked(
    golden: dict[str, torch.Tensor], published: MaskedLM
) -> None:
    mask = golden["attention_mask"].bool()
    assert 0 < mask.sum() < mask.numel()
    hidden = published.bert(golden["input_ids"], golden["attention_mask"]).last_hidden_state
    torch.testing.assert_close(hidden[mask], golden["last_hidden_state"][mask], atol=1e-5, rtol=0)
    assert torch.all(hidden[~mask] == 0)
    torch.testing.assert_close(hidden[:, 0], golden["cls"], atol=1e-5, rtol=0)
    mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(mean, golden["mean_all_tokens"], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_token_types_are_added_as_in_the_published_code(golden: dict[str, torch.Tensor], published: MaskedLM) -> None:
    ids, mask = golden["input_ids"], golden["attention_mask"]
    types = (torch.arange(ids.shape[1]) >= ids.shape[1] // 2).long().expand_as(ids)
    hidden = published.bert(ids, mask, types).last_hidden_state
    real = mask.bool()
    torch.testing.assert_close(hidden[real], golden["last_hidden_state_token_type_half"][real], atol=1e-5, rtol=0)
    without = published.bert(ids, mask).last_hidden_state
    assert torch.equal(published.bert(ids, mask, torch.zeros_like(ids)).last_hidden_state, without)


@torch.inference_mode()
def test_masked_lm_logits_are_those_of_the_published_code(golden: dict[str, torch.Tensor], published: MaskedLM) -> None:
    ids, mask = golden["input_ids"], golden["attention_mask"]
    logits = published(ids, mask).logits
    assert logits.shape == (*ids.shape, 4096)
    torch.testing.assert_close(logits[0, :3], golden["mlm_logits_row0_first3"], atol=1e-5, rtol=0)
    chosen = torch.zeros_like(mask, dtype=torch.bool)
    chosen[0, :3] = chosen[4, 7] = True
    some = published(ids, mask, positions=chosen).logits
    assert some.shape == (4, 4096)
    torch.testing.assert_close(some, logits[chosen], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32])
def test_left_padding_gives_the_same_states_of_real_tokens(
    golden: dict[str, torch.Tensor], published: MaskedLM, kind: torch.dtype
) -> None:
    ids, mask = golden["input_ids"], golden["attention_mask"]
    shifts = (mask.shape[1] - mask.sum(1)).tolist()
    turned = [torch.stack([row.roll(shift) for row, shift in zip(x, shifts, strict=True)]) for x in (ids, mask)]
    assert turned[1][1, 0] == 0
    hidden = published.bert(turned[0], turned[1].to(kind)).last_hidden_state
    back = torch.stack([row.roll(-shift, 0) for row, shift in zip(hidden, shifts, strict=True)])
    torch.testing.assert_close(back[mask.bool()], golden["last_hidden_state"][mask.bool()], atol=1e-5, rtol=0)
    assert torch.all(hidden[turned[1] == 0] == 0)


# End to end, without padding, and with packed products: what encoding runs.

LENGTHS = [2000, 300, 300, 97, 96, 66, 66, 66, 18, 18, 3, 1]


def runs(lengths: list[int]) -> list[tuple[int, int]]:
    return [(len(list(same)), length) for length, same in itertools.groupby(lengths)]


def end_to_end(lengths: list[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    rows = [torch.tensor(content(length + 2, seed)[:length]) for seed, length in enumerate(lengths)]
    return torch.cat(rows), rows


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("heads", [8, 12])
def test_sequences_end_to_end_have_the_states_each_has_alone(heads: int, ready: bool, dtype: torch.dtype) -> None:
    model = encoder(num_attention_heads=heads)[0].to(dtype)
    ids, rows = end_to_end(LENGTHS)
    wanted = torch.cat([model(row[None]).last_hidden_state[0] for row in rows])
    if ready:
        model = prepared(model, int8=False)
    found = model.ragged(ids, runs(LENGTHS))
    assert found.dtype == dtype
    torch.testing.assert_close(
        found, wanted, atol={torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype], rtol=0
    )


@torch.inference_mode()
def test_means_of_layers_end_to_end_are_those_of_the_states() -> None:
    model = encoder(num_hidden_layers=3)[0]
    ids, rows = end_to_end([40, 7, 7])
    states = [model(row[None], output_hidden_states=True).hidden_states for row in rows]
    for first, last in [(0, 0), (0, 3), (1, 1), (1, 2), (2, 3), (3, 3), (-1, -1)]:
        chosen = slice(first, last + 1) if first >= 0 else slice(3, 4)
        wanted = torch.cat([torch.stack([state[0] for state in of_row[chosen]]).mean(0) for of_row in states])
        torch.testing.assert_close(model.ragged(ids, runs([40, 7, 7]), first, last), wanted, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_packed_products_give_the_published_states(golden: dict[str, torch.Tensor], published: MaskedLM) -> None:
    model = prepared(copy.deepcopy(published.bert), int8=False)
    mask = golden["attention_mask"].bool()
    hidden = model(golden["input_ids"], golden["attention_mask"]).last_hidden_state
    torch.testing.assert_close(hidden[mask], golden["last_hidden_state"][mask], atol=1e-5, rtol=0)
    if packs():
        assert isinstance(model.encoder.layer[0].mlp, FusedMLP)
    for row, real, wanted in zip(golden["input_ids"], mask, golden["last_hidden_state"], strict=True):
        torch.testing.assert_close(model.ragged(row[real], [(1, int(real.sum()))]), wanted[real], atol=1e-5, rtol=0)


# ALiBi.


def test_slopes_of_twelve_heads_are_the_published_ones() -> None:
    powers = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    rest = [0.70710677, 0.35355338, 0.17677669, 0.08838835]
    np.testing.assert_allclose(alibi_slopes(12), powers + rest, rtol=1e-7)


@pytest.mark.parametrize("heads", [8, 12, 16])
def test_slopes_follow_their_formula(heads: int) -> None:
    np.testing.assert_allclose(alibi_slopes(heads), references.SLOPES[heads], rtol=1e-12)


@pytest.mark.parametrize("heads", range(1, 33))
def test_every_head_count_has_that_many_different_slopes_from_zero_to_one(heads: int) -> None:
    slopes = alibi_slopes(heads)
    assert len(set(slopes)) == heads
    assert all(0 < slope < 1 for slope in slopes)


# Against float64.


@torch.inference_mode()
@pytest.mark.parametrize("heads", [8, 12, 16])
@pytest.mark.parametrize("tokens", [3, 50, 200])
def test_all_hidden_states_agree_with_float64(heads: int, tokens: int) -> None:
    model, weights, _ = encoder(hidden_size=4 * heads, num_attention_heads=heads, num_hidden_layers=3)
    ids = content(tokens)
    types = [i % 2 for i in range(tokens)]
    out = model(torch.tensor([ids]), token_type_ids=torch.tensor([types]), output_hidden_states=True)
    expected = references.forward64(weights, heads, ids, types)
    assert out.hidden_states is not None
    assert len(out.hidden_states) == len(expected) == 4
    for found, wanted in zip(out.hidden_states, expected, strict=True):
        np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-5, rtol=1e-4)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)


@torch.inference_mode()
@pytest.mark.parametrize("heads", [8, 16])
def test_two_thousand_tokens_agree_with_float64(heads: int) -> None:
    model, weights, _ = encoder(hidden_size=2 * heads, num_attention_heads=heads, num_hidden_layers=1)
    ids = content(2000)
    hidden = model(torch.tensor([ids])).last_hidden_state
    np.testing.assert_allclose(hidden[0].numpy(), references.forward64(weights, heads, ids)[-1], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("heads", [8, 12, 16])
@pytest.mark.parametrize("left", [False, True])
def test_batch_mates_and_padding_change_no_state_and_no_attention_of_real_tokens(heads: int, left: bool) -> None:
    model, weights, _ = encoder(hidden_size=4 * heads, num_attention_heads=heads, num_hidden_layers=3)
    rows = [content(tokens, seed=tokens) for tokens in (2, 3, 17, 40)]
    ids, mask = models.padded(rows, left=left)
    out = model(ids, mask, output_hidden_states=True, output_attentions=True)
    assert [layer.shape for layer in out.attentions] == [(4, heads, 43, 43)] * 3
    references.assert_answers(out, mask, rows, functools.partial(references.forward64, weights, heads))


@torch.inference_mode()
@pytest.mark.parametrize("left", [False, True])
def test_asking_for_attentions_changes_no_vector(left: bool) -> None:
    model, _, _ = encoder()
    ids, mask = models.padded([content(20), content(7)], left=left)
    for given in (mask, torch.ones_like(mask)):
        plain = model(ids, given, output_hidden_states=True)
        told = model(ids, given, output_attentions=True)
        assert plain.attentions is told.hidden_states is None
        torch.testing.assert_close(told.last_hidden_state, plain.last_hidden_state, atol=1e-5, rtol=1e-5)
        assert torch.equal(plain.hidden_states[-1], plain.last_hidden_state)
        assert torch.equal(model(ids, given).last_hidden_state, plain.last_hidden_state)


@torch.inference_mode()
def test_the_norms_take_their_epsilon_from_the_config() -> None:
    values = models.config()
    weights = models.state(values)
    model = DNABERT2(Config(**{key: values[key] for key in FIELDS}, layer_norm_eps=0.1)).eval()
    model.load_state_dict(models.bare_encoder(weights))
    ids = content(20)
    expected = references.forward64(weights, 12, ids, eps=0.1)[-1]
    np.testing.assert_allclose(model(torch.tensor([ids])).last_hidden_state[0].numpy(), expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_what_stands_under_the_mask_does_not_matter() -> None:
    values = models.config()
    # Weights so large that some scores pass a thousand: a mask that only makes a token unlikely would show.
    model = build(values, models.state(values, std=2.0)).bert
    ids = torch.tensor([content(10) + [3] * 5])
    mask = torch.tensor([[1] * 10 + [0] * 5])
    other = ids.clone()
    other[0, 10:] = torch.tensor([5, 6, 7, 8, 1])
    assert torch.equal(model(ids, mask).last_hidden_state, model(other, mask).last_hidden_state)


@torch.inference_mode()
def test_bfloat16_runs_with_padding_and_stays_near_float32() -> None:
    model, _, _ = encoder()
    ids = torch.tensor([content(40), content(10) + [3] * 30])
    mask = torch.tensor([[1] * 40, [1] * 10 + [0] * 30])
    exact = model(ids, mask).last_hidden_state
    found = model.bfloat16()(ids, mask).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert torch.all(found[mask == 0] == 0)
    assert torch.cosine_similarity(found.float(), exact, dim=-1)[mask == 1].min() > 0.999


@torch.inference_mode()
def test_a_mask_of_ones_is_no_mask() -> None:
    model, _, _ = encoder()
    ids = torch.tensor([content(10), content(10, 1)])
    assert torch.equal(model(ids, torch.ones_like(ids)).last_hidden_state, model(ids).last_hidden_state)


# The state dict.


def test_a_twelve_layer_model_has_the_142_published_keys_and_shapes() -> None:
    values = models.config(num_hidden_layers=12)
    model = MaskedLM(DNABERT2(Config(**{key: values[key] for key in FIELDS})))
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == models.shapes(values)
    assert len(model.state_dict()) == 142


def test_dropout_acts_in_training_only() -> None:
    model, _, _ = encoder()
    ids = torch.tensor([content(20)])
    first = model(ids).last_hidden_state
    assert torch.equal(model(ids).last_hidden_state, first)
    model.train()
    assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)


def test_every_parameter_of_the_masked_lm_model_learns() -> None:
    """A parameter that no gradient reaches is one that the forward pass forgot."""
    values = models.config()
    model = build(values, models.state(values))
    ids = torch.tensor([content(12)])
    model(ids, token_type_ids=torch.tensor([[0, 1] * 6])).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
