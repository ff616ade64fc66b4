"""Model folders: every layout the hub has loads to the same numbers, and what does not fit is refused in one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import references
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from dnafeat.encoder.models import checkpoint as checkpoints
from dnafeat.encoder.models.base import TRAINING_FIELDS
from dnafeat.encoder.models.checkpoint import find, load_encoder, load_model, load_tokenizer
from dnafeat.encoder.models.registry import FAMILIES
from dnafeat.errors import CheckpointError, UsageError

IDS = [1, 5, 14, 0, 9, 8, 16, 2]


@dataclasses.dataclass(frozen=True)
class Kind:
    values: dict[str, Any]
    weights: models.State
    forward64: Callable[..., list[np.ndarray]]

    def hidden64(self, ids: list[int] = IDS) -> np.ndarray:
        return self.forward64(self.weights, self.values["num_attention_heads"], ids)[-1]

    @property
    def encoder(self) -> models.State:
        return models.bare_encoder(self.weights)

    @property
    def prefixed(self) -> models.State:
        return {key: value for key, value in self.weights.items() if key.startswith("bert.")}

    def one_of_each(self) -> list[str]:
        """Every key of a layer, each from another layer, and those outside the layers."""
        names = dict.fromkeys(re.sub(r"layer\.\d+", "layer.{}", key) for key in self.encoder)
        return [name.format(i % self.values["num_hidden_layers"]) for i, name in enumerate(names)]


# The published DNABERT-2's 12 layers and 142 keys, narrower; the others with 3 layers.
_DNABERT2 = models.config(hidden_size=24, intermediate_size=32, num_hidden_layers=12)
_BERT = models.bert_config(hidden_size=24, intermediate_size=32, num_hidden_layers=3)
_PROKBERT = models.prokbert_config(hidden_size=24, intermediate_size=32, num_hidden_layers=3)
KINDS = {
    "dnabert2": Kind(_DNABERT2, models.state(_DNABERT2), references.forward64),
    "bert": Kind(_BERT, models.bert_state(_BERT), references.bert_forward64),
    "prokbert": Kind(_PROKBERT, models.prokbert_state(_PROKBERT), references.prokbert_forward64),
}
VALUES, WEIGHTS = KINDS["dnabert2"].values, KINDS["dnabert2"].weights
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def states(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(str(folder))(torch.tensor([IDS])).last_hidden_state


def refusal(folder: Path, *named: str, head: str | None = None) -> str:
    """The sentence a folder is refused with; it must say each of `named`."""
    with pytest.raises(CheckpointError) as error:
        load_model(str(folder), head)
    assert error.value.exit_code == 2
    sentence = str(error.value)
    assert "\n" not in sentence
    assert [name for name in named if name not in sentence] == []
    return sentence


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return models.write(tmp_path / "model", VALUES, WEIGHTS)


# Layouts.

POOLER = {"pooler.dense.weight": torch.ones(24, 24), "pooler.dense.bias": torch.ones(24)}
CLASSIFIER = {"classifier.weight": torch.ones(2, 24), "classifier.bias": torch.ones(2)}
WEIGHTING = {"weighting_layer.weight": torch.ones(1, 24), "weighting_layer.bias": torch.ones(1)}
COUNTED = {"embeddings.position_ids": torch.arange(64)[None], "embeddings.token_type_ids": torch.zeros(1, 64, dtype=torch.int64)}


def under(prefix: str, state: models.State) -> models.State:
    return {prefix + key: value for key, value in state.items()}


LAYOUTS: dict[str, Callable[[Kind], models.State]] = {
    "as published": lambda kind: kind.weights,
    "without the masked-LM head": lambda kind: kind.prefixed,
    "DNABERT-S: no prefix, a pooler": lambda kind: kind.encoder | POOLER,
    "DNABERT 6-mer: masked-LM head and pooler": lambda kind: kind.weights | under("bert.", POOLER),
    "Plant DNABERT: classifier and pooler": lambda kind: kind.prefixed | under("bert.", POOLER) | CLASSIFIER,
    "ProkBERT's older classifiers": lambda kind: under("base_model.", kind.encoder | POOLER) | WEIGHTING | CLASSIFIER,
    "ProkBERT's newer classifiers": lambda kind: kind.prefixed | WEIGHTING | CLASSIFIER,
    "heads first": lambda kind: CLASSIFIER | WEIGHTING | dict(reversed(kind.weights.items())),
    "counting numbers": lambda kind: kind.weights | under("bert.", COUNTED),
    "counting numbers, no prefix": lambda kind: COUNTED | kind.encoder,
}


@pytest.mark.parametrize("form", ["safetensors", "pickled", "pickled as before 2020"])
@pytest.mark.parametrize("layout", LAYOUTS)
@every_kind
def test_every_published_layout_loads_to_the_same_vectors(tmp_path: Path, kind: Kind, layout: str, form: str) -> None:
    stored = LAYOUTS[layout](kind)
    folder = models.write(tmp_path / "one", kind.values, stored, pickled=form != "safetensors")
    if form == "pickled as before 2020":
        torch.save(stored, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = states(folder)
    np.testing.assert_allclose(found[0].numpy(), kind.hidden64(), atol=1e-5, rtol=1e-4)
    assert torch.equal(found, states(models.write(tmp_path / "as published", kind.values, kind.weights)))


def test_the_layouts_have_as_many_keys_as_the_published_files() -> None:
    assert len(WEIGHTS) == 142
    assert len(LAYOUTS["DNABERT-S: no prefix, a pooler"](KINDS["dnabert2"])) == 138


@pytest.mark.parametrize("pickled", [True, False], ids=["pickled", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@every_kind
def test_weights_stored_in_another_precision_run_in_float32(
    tmp_path: Path, kind: Kind, dtype: torch.dtype, pickled: bool
) -> None:
    stored = {key: value.to(dtype) for key, value in kind.weights.items()}
    model = load_model(str(models.write(tmp_path, kind.values, stored, pickled=pickled)))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert not model.training
    encoder = models.bare_encoder(stored)
    assert all(torch.equal(value, encoder[key].float()) for key, value in model.state_dict().items())


@pytest.mark.parametrize("model_type", ["bert", None, "megatron-bert", "prokbert"])
@every_kind
def test_the_keys_and_not_the_config_say_which_architecture_it_is(tmp_path: Path, kind: Kind, model_type: str | None) -> None:
    """Stock BertModel would load DNABERT-2 silently, with a random encoder."""
    name = next(name for name in KINDS if KINDS[name] is kind)
    values = {key: value for key, value in kind.values.items() if key != "model_type"}
    folder = models.write(tmp_path, values | ({"model_type": model_type} if model_type else {}), kind.weights)
    if name == "bert" and model_type not in ("bert", None):
        refusal(folder, str(folder / "config.json"), f"model_type {model_type!r}")
        return
    model = load_model(str(folder))
    assert find(str(folder)).family.name == name
    assert type(model).__module__ == f"dnafeat.encoder.models.{name}"
    assert set(model.state_dict()) == set(kind.encoder)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in kind.encoder.items())


@pytest.mark.parametrize(
    "field", ["type_vocab_size", "layer_norm_eps", "hidden_act", "position_embedding_type", *TRAINING_FIELDS]
)
@every_kind
def test_fields_that_have_a_default_may_be_left_out(tmp_path: Path, kind: Kind, field: str) -> None:
    values = {key: value for key, value in kind.values.items() if key != field}
    found = states(models.write(tmp_path, values, kind.weights))
    np.testing.assert_allclose(found[0].numpy(), kind.hidden64(), atol=1e-5, rtol=1e-4)


@every_kind
def test_the_epsilon_of_the_norms_is_the_configs(tmp_path: Path, kind: Kind) -> None:
    found = states(models.write(tmp_path, kind.values | {"layer_norm_eps": 0.1}, kind.weights))
    assert np.abs(found[0].numpy() - kind.hidden64()).max() > 0.01


def test_a_vocabulary_of_more_rows_than_the_tokenizer_has_entries_loads(tmp_path: Path) -> None:
    values = _PROKBERT | {"vocab_size": 96}
    folder = models.write(tmp_path, values, models.prokbert_state(values))
    assert load_tokenizer(str(folder)).vocab_size < 96 == find(str(folder)).config().vocab_size
    assert states(folder).isfinite().all()


def test_the_digest_of_the_weights_is_that_of_the_file_that_is_loaded(folder: Path) -> None:
    other = models.state(VALUES, seed=1)
    torch.save(other, folder / "pytorch_model.bin")
    for name, stored in (("model.safetensors", WEIGHTS), ("pytorch_model.bin", other)):
        checkpoint = find(str(folder))
        assert checkpoint.weights == folder / name
        assert checkpoint.weights_sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        loaded = load_encoder(checkpoint).state_dict()["embeddings.word_embeddings.weight"]
        assert torch.equal(loaded, stored["bert.embeddings.word_embeddings.weight"])
        (folder / name).unlink()


# Weights that do not fit.

EACH = [pytest.param(kind, key, id=f"{name}-{key}") for name, kind in KINDS.items() for key in kind.one_of_each()]


@pytest.mark.parametrize(("kind", "key"), EACH)
def test_a_missing_key_is_refused_and_named(tmp_path: Path, kind: Kind, key: str) -> None:
    for i, (prefix, stored) in enumerate([("bert.", dict(kind.weights)), ("", kind.encoder | POOLER)]):
        del stored[prefix + key]
        folder = models.write(tmp_path / str(i), kind.values, stored)
        sentence = refusal(folder, f"missing {key}", str(folder / "model.safetensors"))
        assert "unexpected" not in sentence


@pytest.mark.parametrize(("kind", "key"), EACH)
def test_a_renamed_key_is_refused_under_both_names(tmp_path: Path, kind: Kind, key: str) -> None:
    weights = dict(kind.weights)
    renamed = key.replace("weight", "gamma").replace("bias", "beta")
    weights[f"bert.{renamed}"] = weights.pop(f"bert.{key}")
    folder = models.write(tmp_path, kind.values, weights, pickled=True)
    refusal(folder, f"missing {key}", f"unexpected {renamed}", str(tmp_path / "pytorch_model.bin"))


@pytest.mark.parametrize(("kind", "key"), EACH)
def test_a_key_of_another_shape_is_refused_with_both_shapes(tmp_path: Path, kind: Kind, key: str) -> None:
    value = kind.encoder[key]
    stored = torch.cat([value, value])
    folder = models.write(tmp_path, kind.values, kind.weights | {f"bert.{key}": stored})
    refusal(folder, f"{key} is {tuple(stored.shape)} and should be {tuple(value.shape)}")


def test_a_transposed_matrix_is_refused(tmp_path: Path) -> None:
    key = "bert.encoder.layer.2.mlp.wo.weight"
    refusal(models.write(tmp_path, VALUES, WEIGHTS | {key: WEIGHTS[key].T.contiguous()}), "encoder.layer.2.mlp.wo.weight")


@every_kind
def test_another_number_of_layers_is_refused(tmp_path: Path, kind: Kind) -> None:
    layers = kind.values["num_hidden_layers"]
    for more, named in ((-1, f"unexpected encoder.layer.{layers - 1}."), (1, f"missing encoder.layer.{layers}.")):
        refusal(models.write(tmp_path / named[0], kind.values | {"num_hidden_layers": layers + more}, kind.weights), named)


@pytest.mark.parametrize("field", ["vocab_size", "intermediate_size"])
@every_kind
def test_a_size_beyond_all_memory_is_refused_like_any_other(tmp_path: Path, kind: Kind, field: str) -> None:
    refusal(models.write(tmp_path, kind.values | {field: 10**13}, kind.weights), "should be (", "10000000000000")


def test_dnabert2_with_the_projections_of_bert_is_neither(tmp_path: Path) -> None:
    weights = dict(WEIGHTS)
    for i in range(12):
        for kind in ("weight", "bias"):
            parts = weights.pop(f"bert.encoder.layer.{i}.attention.self.Wqkv.{kind}").chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                weights[f"bert.encoder.layer.{i}.attention.self.{name}.{kind}"] = part.clone()
    weights["bert.embeddings.position_embeddings.weight"] = torch.zeros(512, 24)
    refusal(models.write(tmp_path, VALUES, weights), "not a bert checkpoint", "missing encoder.layer.0.intermediate.dense.weight")


def test_a_megatron_bert_with_absolute_positions_is_refused_for_what_it_lacks(tmp_path: Path) -> None:
    weights = {key: value for key, value in KINDS["prokbert"].weights.items() if "distance" not in key}
    name = "missing encoder.layer.0.attention.self.distance_embedding.weight"
    values = {key: value for key, value in _PROKBERT.items() if key != "position_embedding_type"}
    refusal(models.write(tmp_path / "silent", values, weights), "not a prokbert checkpoint", name)
    refusal(models.write(tmp_path / "said", _PROKBERT | {"position_embedding_type": "absolute"}, weights), "'absolute'")


def test_a_bert_with_relative_positions_is_refused_for_what_it_has_too_much(tmp_path: Path) -> None:
    key = "encoder.layer.1.attention.self.distance_embedding.weight"
    weights = KINDS["bert"].weights | {f"bert.{key}": torch.zeros(127, 4)}
    refusal(models.write(tmp_path, _BERT, weights), f"unexpected {key}")


@pytest.mark.parametrize("model_type", ["roberta", "electra", "camembert", 7])
def test_models_with_the_keys_of_bert_and_another_arithmetic_are_refused(tmp_path: Path, model_type: Any) -> None:
    """A RoBERTa saved without its head has BERT's keys, all of them, and counts its positions from 2."""
    folder = models.write(tmp_path, _BERT | {"model_type": model_type}, KINDS["bert"].encoder)
    refusal(folder, str(folder / "config.json"), f"model_type {model_type!r}")


def test_weights_of_no_known_architecture_are_refused(tmp_path: Path) -> None:
    weights = {"transformer.h.0.attn.c_attn.weight": torch.zeros(3, 3)}
    refusal(models.write(tmp_path, VALUES, weights), "transformer.h.0.attn", *(family.name for family in FAMILIES))


def test_many_faults_are_counted_and_not_all_told(tmp_path: Path) -> None:
    weights = {key: value for key, value in WEIGHTS.items() if "mlp" not in key}
    assert "and 55 more" in refusal(models.write(tmp_path, VALUES, weights))


@pytest.mark.parametrize("prefix", ["", "base_model."])
def test_half_prefixed_keys_are_refused_and_one_is_named(tmp_path: Path, prefix: str) -> None:
    weights = {(key.replace("bert.", prefix) if "layer.7.mlp.wo." in key else key): value for key, value in WEIGHTS.items()}
    refusal(models.write(tmp_path, VALUES, weights), "encoder.layer.7.mlp.wo.", str(tmp_path / "model.safetensors"))


def test_a_pooler_stored_twice_is_refused(tmp_path: Path) -> None:
    """One of the two would silently win."""
    refusal(models.write(tmp_path, VALUES, WEIGHTS | POOLER | under("bert.", POOLER)), "pooler.dense.", "twice")


# Weight files that are none.


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.marker,))


def _by_torch(value: Any, file: Path) -> None:
    torch.save(value, file)


def _by_torch_legacy(value: Any, file: Path) -> None:
    torch.save(value, file, _use_new_zipfile_serialization=False)


def _by_pickle(value: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("save", [_by_torch, _by_torch_legacy, _by_pickle])
@pytest.mark.parametrize("within", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, save: Callable[[Any, Path], None], within: bool
) -> None:
    folder = models.write(tmp_path / "model", VALUES, WEIGHTS, pickled=True)
    marker = tmp_path / "ran"
    file = folder / "pytorch_model.bin"
    save(WEIGHTS | {"bert.extra": Bomb(marker)} if within else Bomb(marker), file)
    refusal(folder, str(file), "cannot be read as plain weights")
    assert not marker.exists()
    # Trusted, the same file does run; a plain pickle does so before torch finds that it is none of its own.
    with contextlib.suppress(RuntimeError):
        torch.load(file, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", b"\x80\x02]q\x00e.", b"not weights", bytes(64), b"PK\x03\x04", b"\x80\x02h\x07."]
)
def test_a_broken_weight_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    models.write(tmp_path, VALUES, WEIGHTS)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path, str(tmp_path / name))


@pytest.mark.parametrize("pickled", [True, False], ids=["pickled", "safetensors"])
def test_a_weight_file_cut_short_is_refused(tmp_path: Path, pickled: bool) -> None:
    models.write(tmp_path, VALUES, WEIGHTS, pickled=pickled)
    file = tmp_path / ("pytorch_model.bin" if pickled else "model.safetensors")
    whole = file.read_bytes()
    for share in (0.01, 0.5, 0.99):
        file.write_bytes(whole[: int(len(whole) * share)])
        refusal(tmp_path, str(file))


@pytest.mark.parametrize(
    "value",
    [[torch.zeros(1)], torch.zeros(1), {"state_dict": WEIGHTS}, WEIGHTS | {"bert.embeddings.LayerNorm.bias": [0.0] * 24}, {3: 4}],
    ids=["list", "tensor", "nested", "list for a tensor", "numbers"],
)
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path: Path, value: Any) -> None:
    models.write(tmp_path, VALUES, WEIGHTS, pickled=True)
    torch.save(value, tmp_path / "pytorch_model.bin")
    refusal(tmp_path, str(tmp_path / "pytorch_model.bin"))


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refusal(folder, str(folder), "model.safetensors", "pytorch_model.bin")


# Config and tokenizer.


@pytest.mark.parametrize("text", ["", "{", "{'hidden_size': 24}", "[]", "null", '"bert"', "\x00"])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refusal(folder, str(folder / "config.json"))


def test_a_config_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    refusal(folder, str(folder / "config.json"))


def test_a_missing_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    refusal(folder, str(folder), "config.json")


REQUIRED = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
POSITIONED = [*REQUIRED, "max_position_embeddings"]
FIELDS = [
    pytest.param(kind, field, id=f"{name}-{field}")
    for name, kind in KINDS.items()
    for field in (REQUIRED if name == "dnabert2" else POSITIONED)
]


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_size_that_is_missing_or_cannot_be_is_refused_and_named(tmp_path: Path, kind: Kind, field: str) -> None:
    file = models.write(tmp_path, kind.values, kind.weights) / "config.json"
    file.write_text(json.dumps({key: value for key, value in kind.values.items() if key != field}))
    refusal(tmp_path, str(file), f"lacks {field}")
    for value in ("24", 0, -3, 2.5, 24.0, True, None, [24]):
        file.write_text(json.dumps(kind.values | {field: value}))
        refusal(tmp_path, str(file), f"{field} is {value!r}")


@pytest.mark.parametrize("field", ["layer_norm_eps", "hidden_dropout_prob", "initializer_range", "attention_probs_dropout_prob"])
def test_a_share_that_cannot_be_is_refused_and_named(tmp_path: Path, field: str) -> None:
    file = models.write(tmp_path, _BERT, KINDS["bert"].weights) / "config.json"
    for value in ("0.1", True, None, -0.1, 1, float("nan"), float("inf")):
        file.write_text(json.dumps(_BERT | {field: value}))
        refusal(tmp_path, str(file), f"{field} is {value!r}")


def test_the_positions_of_dnabert2_are_not_looked_at(tmp_path: Path) -> None:
    """Its published config says 512 and absolute, and neither is so."""
    odd = VALUES | {"max_position_embeddings": "none", "position_embedding_type": "alibi"}
    found = find(str(models.write(tmp_path, odd, WEIGHTS)))
    assert found.config().positions is None
    load_encoder(found)


@pytest.mark.parametrize("act", ["relu", "gelu_new", "gelu_fast", None, 3])
@every_kind
def test_another_activation_than_is_computed_is_refused(tmp_path: Path, kind: Kind, act: Any) -> None:
    refusal(models.write(tmp_path, kind.values | {"hidden_act": act}, kind.weights), "config.json", f"hidden_act {act!r}")


@pytest.mark.parametrize(
    ("name", "position"),
    [("bert", "relative_key"), ("bert", "relative_key_query"), ("prokbert", "absolute"), ("prokbert", "relative_key")],
)
def test_other_positions_than_are_computed_are_refused(tmp_path: Path, name: str, position: str) -> None:
    kind = KINDS[name]
    refusal(
        models.write(tmp_path, kind.values | {"position_embedding_type": position}, kind.weights), "config.json", repr(position)
    )


def test_heads_that_do_not_divide_the_hidden_size_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(VALUES | {"num_attention_heads": 5}))
    refusal(folder, str(folder / "config.json"), "hidden_size 24", "5 attention heads")


def test_a_missing_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json") as error:
        load_tokenizer(str(folder))
    assert str(folder) in str(error.value)


def test_the_tokenizer_of_a_folder_cuts_into_k_mers_on_request(folder: Path) -> None:
    assert load_tokenizer(str(folder)).encode("ACGT") == [1, 14, 2]
    assert load_tokenizer(str(folder), kmer=3).encode("ACGT") == [1, 9, 7, 6, 10, 2]


@pytest.mark.parametrize(("name", "shift"), [("prokbert-mini", 1), ("prokbert-mini-long", 2)])
def test_prokbert_mini_longs_shift_is_known_where_its_files_do_not_say_it(tmp_path: Path, name: str, shift: int) -> None:
    folder = models.write(tmp_path / name, _PROKBERT, KINDS["prokbert"].weights)
    (folder / "tokenizer.json").unlink()
    words = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    (folder / "vocab.txt").write_text("\n".join([*models.KMER_SPECIAL, *words]))
    assert len(load_tokenizer(str(folder)).encode("ACGTACG")) - 2 == 4 // shift + 1
    (folder / "tokenizer_config.json").write_text(json.dumps({"kmer": 3, "shift": 1}))
    assert len(load_tokenizer(str(folder)).encode("ACGTACG")) - 2 == 5


def test_dnabert_s_alone_counts_special_tokens_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zhihan1996/DNABERT-S", "dnabert-s/"):
        assert find(str(models.write(tmp_path / name, VALUES, WEIGHTS))).special_tokens_pooled
    for name in ("DNABERT-2-117M", "DNABERT-S-of-mine"):
        assert not find(str(models.write(tmp_path / name, VALUES, WEIGHTS))).special_tokens_pooled
    other = models.write(tmp_path / "other", VALUES | {"_name_or_path": "zhihan1996/DNABERT-S"}, WEIGHTS)
    assert find(str(other)).special_tokens_pooled
    plain = models.write(tmp_path / "plain", VALUES, WEIGHTS)
    assert not find(str(plain)).special_tokens_pooled
    monkeypatch.setattr(checkpoints, "_DNABERT_S", hashlib.sha256((plain / "model.safetensors").read_bytes()).hexdigest())
    assert find(str(plain)).special_tokens_pooled


# Heads.

DECODER, TWO_BIASES = "cls.predictions.decoder.weight", ("cls.predictions.bias", "cls.predictions.decoder.bias")


@pytest.mark.parametrize("decoder", [True, False], ids=["decoder", "tied"])
@pytest.mark.parametrize("biases", [TWO_BIASES[:1], TWO_BIASES[1:], TWO_BIASES], ids=["bias", "decoder bias", "both"])
@every_kind
def test_masked_lm_logits_agree_with_float64(tmp_path: Path, kind: Kind, biases: tuple[str, ...], decoder: bool) -> None:
    bias = kind.weights[TWO_BIASES[1]]
    stored = {key: value for key, value in kind.weights.items() if key not in (DECODER, *TWO_BIASES)}
    stored |= dict.fromkeys(biases, bias) | ({DECODER: kind.weights[DECODER]} if decoder else {})
    stored |= under("cls.", {"seq_relationship.weight": torch.ones(2, 24)}) | under("bert.", POOLER)
    model = load_model(str(models.write(tmp_path, kind.values, stored)), head="masked-lm")
    assert not model.training
    with torch.inference_mode():
        found = model(torch.tensor([IDS])).logits
    np.testing.assert_allclose(found[0].numpy(), references.logits64(kind.weights, kind.hidden64()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("key", [DECODER, TWO_BIASES[0]])
def test_a_decoder_or_bias_that_is_stored_twice_and_differs_is_refused(tmp_path: Path, key: str) -> None:
    weights = KINDS["bert"].weights
    refusal(models.write(tmp_path, _BERT, weights | {key: weights[key] + 1e-3}), "cls.predictions.decoder", head="masked-lm")


@pytest.mark.parametrize("key", ["transform.dense.bias", "transform.LayerNorm.weight", "decoder.bias"])
def test_a_masked_lm_head_short_of_a_key_is_refused(tmp_path: Path, key: str) -> None:
    weights = {name: value for name, value in WEIGHTS.items() if name != f"cls.predictions.{key}"}
    refusal(models.write(tmp_path, VALUES, weights), "masked-LM head", f"missing predictions.{key}", head="masked-lm")
    assert states(tmp_path).isfinite().all()


@pytest.mark.parametrize(
    ("head", "named"), [("masked-lm", "missing predictions.transform"), ("classifier", "missing classifier")]
)
@every_kind
def test_a_missing_head_is_one_sentence(tmp_path: Path, kind: Kind, head: str, named: str) -> None:
    refusal(models.write(tmp_path, kind.values, kind.prefixed), str(tmp_path / "model.safetensors"), named, head=head)


def test_an_unknown_head_is_one_sentence(folder: Path) -> None:
    with pytest.raises(UsageError, match="'regression' is not known: use masked-lm or classifier"):
        load_model(str(folder), head="regression")


def random_head(seed: int, **shapes: tuple[int, ...]) -> models.State:
    generator = torch.Generator().manual_seed(seed)
    return {key.replace("__", "."): torch.randn(shape, generator=generator) * 0.3 for key, shape in shapes.items()}


POOLED = random_head(1, pooler__dense__weight=(24, 24), pooler__dense__bias=(24,))
LABELLED = random_head(2, classifier__weight=(3, 24), classifier__bias=(3,))
WEIGHTED = random_head(3, weighting_layer__weight=(1, 24), weighting_layer__bias=(1,))


def padded_logits(model: nn.Module) -> torch.Tensor:
    """Logits of a long and a short sequence in one batch, padded on the right."""
    ids, mask = models.padded([IDS, IDS[:5]])
    with torch.inference_mode():
        return model(ids, mask).logits


def test_a_bert_classifier_answers_as_transformers_own(tmp_path: Path) -> None:
    stored = KINDS["bert"].prefixed | under("bert.", POOLED) | LABELLED
    stock = BertForSequenceClassification(BertConfig(**_BERT, num_labels=3)).eval()
    stock.load_state_dict(stored)
    model = load_model(str(models.write(tmp_path, _BERT, stored, pickled=True)), head="classifier")
    torch.testing.assert_close(padded_logits(model), padded_logits(stock), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["bert.", "base_model.", ""])
@every_kind
def test_a_classifier_on_the_pooler_agrees_with_float64(tmp_path: Path, kind: Kind, prefix: str) -> None:
    stored = under(prefix, kind.encoder | POOLED) | LABELLED
    model = load_model(str(models.write(tmp_path, kind.values, stored)), head="classifier")
    w = {key: value.double().numpy() for key, value in (POOLED | LABELLED).items()}
    for found, ids in zip(padded_logits(model), (IDS, IDS[:5]), strict=True):
        pooled = np.tanh(w["pooler.dense.weight"] @ kind.hidden64(ids)[0] + w["pooler.dense.bias"])
        wanted = w["classifier.weight"] @ pooled + w["classifier.bias"]
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooler", [True, False], ids=["unused pooler", "no pooler"])
@pytest.mark.parametrize("prefix", ["bert.", "base_model."])
def test_a_prokbert_classifier_is_a_weighted_mean_without_padding(tmp_path: Path, prefix: str, pooler: bool) -> None:
    kind = KINDS["prokbert"]
    stored = under(prefix, kind.encoder | (POOLED if pooler else {})) | WEIGHTED | LABELLED
    model = load_model(str(models.write(tmp_path, kind.values, stored)), head="classifier")
    w = {key: value.double().numpy() for key, value in (WEIGHTED | LABELLED).items()}
    for found, ids in zip(padded_logits(model), (IDS, IDS[:5]), strict=True):
        hidden = kind.hidden64(ids)
        shares = np.exp(hidden @ w["weighting_layer.weight"][0] + w["weighting_layer.bias"])
        wanted = w["classifier.weight"] @ (shares @ hidden / shares.sum()) + w["classifier.bias"]
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("head", "missing"),
    [
        (LABELLED, "pooler.dense.weight"),
        (POOLED | {"classifier.weight": LABELLED["classifier.weight"]}, "classifier.bias"),
        ({"weighting_layer.weight": WEIGHTED["weighting_layer.weight"]} | LABELLED, "weighting_layer.bias"),
    ],
    ids=["pooler", "bias", "weighting"],
)
def test_a_classifier_short_of_a_key_is_refused(tmp_path: Path, head: models.State, missing: str) -> None:
    """A pooler made up at random is what PEFT's classifiers are reloaded with."""
    refusal(models.write(tmp_path, VALUES, KINDS["dnabert2"].prefixed | head), f"missing {missing}", head="classifier")
