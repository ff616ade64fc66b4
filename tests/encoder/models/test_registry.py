"""The encoder family: which architecture the names of some weights speak for, and that its entries say what is so."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import models
import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnafeat.encoder.models.registry import FAMILIES, Family, recognise

VALUES = {"dnabert2": models.config(), "bert": models.bert_config(), "prokbert": models.prokbert_config()}
KEYS = {
    "dnabert2": list(models.shapes(VALUES["dnabert2"])),
    "bert": list(models.bert_shapes(VALUES["bert"])),
    "prokbert": list(models.prokbert_shapes(VALUES["prokbert"])),
}


def named(keys: list[str]) -> str | None:
    found = recognise(keys)
    return found.name if found else None


def build(family: Family) -> Any:
    values = VALUES[family.name]
    return family.build(family.config(**{f.name: values[f.name] for f in fields(family.config) if f.name in values}))


every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def test_every_family_has_a_name_of_its_own_and_published_models() -> None:
    assert [family.name for family in FAMILIES] == list(VALUES)
    listed = [model for family in FAMILIES for model in family.models]
    assert len(listed) == len(set(listed))
    assert {"zhihan1996/DNABERT-2-117M", "zhihan1996/DNABERT-S", "neuralbioinfo/prokbert-mini-long"} < set(listed)


@every_family
@pytest.mark.parametrize("prefix", ["bert.", "base_model.", ""])
def test_an_architecture_is_recognised_in_any_order_and_under_any_prefix(family: Family, prefix: str) -> None:
    keys = [key.replace("bert.", prefix) for key in KEYS[family.name]]
    assert named(keys) == family.name
    random.Random(0).shuffle(keys)
    assert named(keys) == family.name


@every_family
@given(data=st.data())
def test_a_few_keys_less_or_of_another_architecture_do_not_make_it_another(family: Family, data: st.DataObject) -> None:
    keys = KEYS[family.name]
    lost = data.draw(st.sets(st.sampled_from(keys), max_size=1))
    # BERT's own projections are in a MegatronBERT too, whose single norm therefore decides.
    strange = [key for name in VALUES if name != family.name for key in KEYS[name] if family.name != "bert" or ".ln." not in key]
    more = data.draw(st.sets(st.sampled_from(strange), max_size=1))
    assert named([key for key in keys if key not in lost] + sorted(more)) == family.name


@pytest.mark.parametrize(
    "keys", [[], ["transformer.h.0.attn.c_attn.weight"], ["cls.predictions.bias", "bert.pooler.dense.weight"]]
)
def test_other_names_are_recognised_as_nothing(keys: list[str]) -> None:
    assert recognise(keys) is None


@every_family
def test_what_is_built_has_the_published_keys_and_its_own_mark_in_every_layer(family: Family) -> None:
    keys = list(build(family).state_dict())
    assert sorted(keys) == sorted(key.removeprefix("bert.") for key in KEYS[family.name] if key.startswith("bert."))
    for i in range(VALUES[family.name]["num_hidden_layers"]):
        assert any(family.mark in key for key in keys if f".layer.{i}." in key)


@every_family
def test_every_lora_target_that_is_named_is_there_and_none_is_left_out(family: Family) -> None:
    wrapped = peft.get_peft_model(build(family), peft.LoraConfig(target_modules=list(family.lora_targets)))
    put_on = {key.removesuffix(".lora_A.default.weight") for key in wrapped.state_dict() if "lora_A" in key}
    for target in family.lora_targets:
        assert any(key.endswith(f".{target}") for key in put_on)
    linear = {f"base_model.model.{name}" for name, module in build(family).named_modules() if type(module).__name__ == "Linear"}
    assert put_on == linear
