"""Model folders that are made to crash, hang, fill memory or run code: one sentence each, before anything is built."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import peft
import pytest
import torch
from safetensors.torch import save_file

from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.describe import describe
from dnafeat.encoder.models import adaptersettings
from dnafeat.encoder.models.adapter import attach, find_adapter
from dnafeat.encoder.models.checkpoint import find, load_encoder
from dnafeat.encoder.models.vocabularies import load
from dnafeat.encoder.source import Source
from dnafeat.errors import CheckpointError, UsageError

pytestmark = pytest.mark.timeout(60)
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.random_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(base, tmp_path / "model"))


def refused(run: Callable[[], Any], *words: str) -> None:
    with pytest.raises(UsageError) as error:
        run()
    text = str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in text
    assert len(text) < 1000
    assert all(word in text for word in words), text


def description(model: Path) -> Any:
    config = EncodingConfig(model=str(model))
    return describe(Source.find(config), config)


def reconfigure(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 1_000_000}, ["num_hidden_layers", "more than 1,000"]),
        ({"num_hidden_layers": 900}, ["num_hidden_layers is 900", "tensors"]),
        ({"vocab_size": 10**30}, ["vocab_size", "more than"]),
        ({"hidden_size": 10**9, "num_attention_heads": 1}, ["hidden_size", "more than 65,536"]),
        ({"intermediate_size": 10**18}, ["intermediate_size", "more than"]),
        ({"type_vocab_size": 10**12}, ["type_vocab_size", "more than 65,536"]),
        ({"vocab_size": int("9" * 4000)}, ["vocab_size"]),
        ({"hidden_act": ["gelu"] * 10_000}, ["hidden_act"]),
    ],
)
def test_sizes_that_nobody_has_are_refused_before_anything_is_built(model: Path, changes: dict, words: list[str]) -> None:
    reconfigure(model / "config.json", **changes)
    refused(lambda: description(model), str(model), *words)
    refused(lambda: load_encoder(find(str(model))), str(model), *words)


@pytest.mark.parametrize("content", [DEEP, "[]", "null", "5", '"x"', "{", b"\xff\xfe\x00"])
@pytest.mark.parametrize("name", ["config.json", "dnafeat.json"])
def test_what_is_no_object_is_refused(model: Path, name: str, content: str | bytes) -> None:
    (model / name).write_bytes(content.encode() if isinstance(content, str) else content)
    refused(lambda: description(model), name)


@pytest.mark.parametrize(
    "about",
    [
        {"encoding": None},
        {"base": []},
        {"encoding": {"kmer": 10**12}},
        {"encoding": {"kmer": [3]}},
        {"encoding": {"special_tokens": 3}},
    ],
)
def test_settings_of_training_of_another_type_are_refused(model: Path, about: dict) -> None:
    (model / "dnafeat.json").write_text(json.dumps(about))
    refused(lambda: description(model), "dnafeat.json", "should be")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "dnafeat.json", "projector.safetensors"])
def test_a_pipe_is_never_waited_for(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    config = EncodingConfig(model=str(model), projector=str(model) if name.startswith("projector") else None)
    if name == "dnafeat.json":
        # Without a regular file of that name the model is one that dnafeat has not made.
        assert describe(Source.find(config), config).digest
    else:
        refused(lambda: describe(Source.find(config), config))


@pytest.mark.parametrize(("largest", "words"), [(1_000, "vocab_size"), (4_000_000_000, "more than 10,000,000")])
def test_ids_beyond_the_embedding_are_refused(model: Path, largest: int, words: str) -> None:
    file = model / "tokenizer.json"
    values = json.loads(file.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.get)] = largest
    file.write_text(json.dumps(values))
    refused(lambda: description(model), f"ids up to {largest}", words)


def test_weights_are_plain_real_numbers_that_are_there(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    state = models.state(config)
    (model / "model.safetensors").unlink()
    name = "bert.embeddings.word_embeddings.weight"
    for value, word in (
        (state[name].to(torch.complex64), "complex"),
        (torch.zeros(1).expand(10**7, 10**6), "claims 10,000,000,000,000 numbers"),
        (state[name].to_sparse(), "sparse"),
    ):
        torch.save({**state, name: value}, model / "pytorch_model.bin")
        refused(lambda: load_encoder(find(str(model))), name, word)
    monkeypatch.chdir(tmp_path)

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, ("ran",))

    torch.save({**state, name: Runs()}, model / "pytorch_model.bin")
    refused(lambda: load_encoder(find(str(model))), "cannot be read as plain weights")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "tensors",
    [
        {"expand.weight": torch.tensor(1.0)},
        {"expand.weight": torch.empty(0, 10**12)},
        {"expand.weight": torch.empty(1024, 0)},
        {"expand.weight": torch.zeros(1024, 48, dtype=torch.complex64)},
    ],
)
def test_a_projector_of_another_shape_is_not_built(model: Path, tensors: dict) -> None:
    save_file(tensors, model / "projector.safetensors")
    refused(lambda: description(model), "projector")


@pytest.mark.parametrize("content", ["[]", DEEP, '{"format": 1, "view": []}', "null"])
def test_a_projectors_description_of_another_kind_is_refused(model: Path, content: str) -> None:
    save_file({"x": torch.zeros(1)}, model / "projector.safetensors")
    (model / "projector.json").write_text(content)
    refused(lambda: description(model), "projector.json")


@pytest.mark.parametrize(("name", "content"), [("eos_token", ["x"]), ("eos_token", 5), ("eos_token", {"content": ["x"]})])
def test_a_token_that_is_no_text_is_refused(tmp_path: Path, name: str, content: Any) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["<unk>", "<pad>", "<mask>", "<cls>", *"ATCGN", "<eos>", "<bos>"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({name: content}))
    refused(lambda: load(tmp_path), "eos_token", "should be a text")


@pytest.mark.parametrize("words", [["A" * 3_000_000], ["[CLS]", "A" * 40]])
def test_a_vocabulary_of_long_words_is_refused_at_once(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    refused(lambda: load(tmp_path), "is not understood")


# -- adapters --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter_of(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    peft.get_peft_model(load_encoder(find(str(base))), peft.LoraConfig(target_modules=["Wqkv"], r=4)).save_pretrained(folder)
    return folder


SPOILED: list[tuple[dict[str, Any], str]] = [
    ({"r": 10_000_000}, "a rank of 4 at the most"),
    ({"r": [4]}, "should be a whole number"),
    ({"r": True}, "should be a whole number"),
    ({"r": 0}, "should be a whole number"),
    ({"rank_pattern": [1]}, "rank_pattern is [1]"),
    ({"rank_pattern": {"Wqkv": 10**7}}, "rank_pattern of 'Wqkv'"),
    ({"alpha_pattern": {"Wqkv": "8"}}, "alpha_pattern of 'Wqkv'"),
    ({"lora_alpha": [8]}, "lora_alpha is [8]"),
    ({"layer_replication": [[0, 10**9]]}, "layer_replication"),
    ({"init_lora_weights": "pissa_niter_1000000000"}, "iterations"),
    ({"init_lora_weights": "loftq"}, "not read here"),
    ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config"),
    ({"corda_config": {"cache_file": "x"}}, "corda_config"),
    ({"trainable_token_indices": [10**9]}, "trainable_token_indices"),
    ({"target_modules": "(a+)+$"}, "pattern"),
    ({"target_modules": ".*.*.*.*.*.*.*.*.*.*x"}, "pattern"),
    ({"target_modules": [["Wqkv"]]}, "name of a module"),
    ({"base_model_name_or_path": ["x"]}, "base_model_name_or_path"),
]


@pytest.mark.parametrize(("changes", "words"), SPOILED)
def test_an_adapters_settings_are_bounded_before_peft_sees_them(
    base: Path, adapter_of: Path, tmp_path: Path, changes: dict, words: str
) -> None:
    folder = Path(shutil.copytree(adapter_of, tmp_path / "adapter"))
    reconfigure(folder / "adapter_config.json", **changes)
    refused(lambda: attach(load_encoder(find(str(base))), find_adapter(str(folder))), str(folder), words)


@pytest.mark.parametrize("content", [DEEP, "[]", "null"])
def test_an_adapters_settings_are_an_object(base: Path, adapter_of: Path, tmp_path: Path, content: str) -> None:
    folder = Path(shutil.copytree(adapter_of, tmp_path / "adapter"))
    (folder / "adapter_config.json").write_text(content)
    refused(lambda: attach(load_encoder(find(str(base))), find_adapter(str(folder))), "adapter_config.json")


def test_what_peft_writes_is_read(adapter_of: Path) -> None:
    values = json.loads((adapter_of / "adapter_config.json").read_text())
    for changes in (
        {},
        {"init_lora_weights": "pissa_niter_16"},
        {"target_modules": r".*\.(Wqkv|wo)$"},
        {"rank_pattern": {"wo": 2}},
    ):
        adaptersettings.check(values | changes)
        adaptersettings.check_ranks(values | changes, 4)
    assert issubclass(CheckpointError, UsageError)
