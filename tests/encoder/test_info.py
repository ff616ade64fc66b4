"""`dnafeat models` and `dnafeat model-info`: what they say is so, and a model that is broken is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import models
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from dnafeat.cli.main import main
from dnafeat.encoder import Encoder
from dnafeat.encoder import info as modelinfo
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.models.checkpoint import load_model
from dnafeat.encoder.models.registry import FAMILIES

NAMES = ["dnabert2", "bert", "prokbert"]


def make(folder: Path, name: str) -> Path:
    if name == "dnabert2":
        return models.random_folder(folder)
    values = models.bert_config() if name == "bert" else models.prokbert_config()
    weights = models.bert_state(values) if name == "bert" else models.prokbert_state(values)
    models.write(folder, values, weights)
    (folder / "tokenizer.json").unlink()
    words = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    (folder / "vocab.txt").write_text("\n".join([*models.KMER_SPECIAL, *words]))
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence on standard error; nothing stands on standard output."""
    assert main(["model-info", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("dnafeat: ")
    assert error.count("\n") == 1
    return error


def test_models_names_every_architecture_and_published_model_and_says_what_was_not_tested(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = " ".join(told(capsys, "models").split())
    for family in FAMILIES:
        for part in (
            family.name,
            family.title,
            family.positions,
            family.tokens,
            family.tested,
            *family.models,
            *family.lora_targets,
        ):
            assert part in text
    assert "No weights of these models could be downloaded" in text


@pytest.mark.parametrize("name", NAMES)
def test_model_info_says_what_the_model_is(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / name, name)
    info = json.loads(told(capsys, "model-info", str(folder), "--json"))
    weights, encoder = load_file(folder / "model.safetensors"), Encoder.from_pretrained(str(folder))
    wanted: dict[str, Any] = {
        "name": str(folder),
        "revision": None,
        "adapter": None,
        "architecture": next(family.title for family in FAMILIES if family.name == name),
        "layers": 2,
        "hidden_size": 48,
        "heads": 12 if name == "dnabert2" else 6,
        "vocab_size": models.VOCABULARY if name == "dnabert2" else models.KMER_VOCABULARY,
        "positions": None if name == "dnabert2" else 64,
        "parameters": sum(value.numel() for key, value in weights.items() if key.startswith("bert.")),
        "file_heads": ["masked-LM"],
        "tokenizer": "BPE, 17 entries" if name == "dnabert2" else "overlapping 3-mers, shift 1",
        "special_tokens": dict(
            zip(("cls", "sep", "pad", "unk"), (1, 2, 3, 0) if name == "dnabert2" else (2, 3, 0, 1), strict=True)
        ),
        "shortest_sequence": 1 if name == "dnabert2" else 3,
        "weights": str(folder / "model.safetensors"),
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "tokenizer_sha256": encoder.tokenizer.fingerprint,
        "adapter_sha256": None,
        "window_tokens": 512 if name == "dnabert2" else 64,
        "special_tokens_pooled": False,
        "precision": encoder.version.precision,
        "feature_version": encoder.version.digest,
    }
    assert {key: info[key] for key in wanted} == wanted
    text = told(capsys, "model-info", str(folder))
    for key in (
        "architecture",
        "tokenizer",
        "weights",
        "weights_sha256",
        "tokenizer_sha256",
        "precision_reason",
        "feature_version",
    ):
        assert info[key] in " ".join(text.split())
    assert f"{info['parameters']:,} in the encoder" in text
    assert "every key of the weight file fits" in text


def test_model_info_counts_the_heads_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = make(tmp_path, "bert")
    weights = {key: value for key, value in load_file(folder / "model.safetensors").items() if key.startswith("bert.")}
    save_file(weights, folder / "model.safetensors")
    assert "also holds: nothing" in " ".join(told(capsys, "model-info", str(folder)).split())
    head = {
        "bert.pooler.dense.weight": torch.ones(48, 48),
        "classifier.weight": torch.ones(5, 48),
        "classifier.bias": torch.ones(5),
    }
    save_file(weights | head, folder / "model.safetensors")
    assert "also holds: pooler, classifier of 5" in " ".join(told(capsys, "model-info", str(folder)).split())


def test_paths_and_digests_stay_in_one_piece_to_be_copied(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = make(tmp_path / "-".join(["a folder-with-hyphens", *["long"] * 30]), "dnabert2")
    text = told(capsys, "model-info", str(folder))
    assert str(folder.relative_to(tmp_path)).partition(" ")[2] + "/model.safetensors" in text


@pytest.mark.parametrize("name", NAMES)
def test_model_info_takes_an_adapter_and_finds_its_base(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    folder, adapter = make(tmp_path / "base", name), tmp_path / "adapter"
    settings = peft.LoraConfig(target_modules=["Wqkv" if name == "dnabert2" else "query"], init_lora_weights=False)
    wrapped = peft.get_peft_model(load_model(str(folder)), settings)
    wrapped.save_pretrained(adapter)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(folder)}))
    plain = json.loads(told(capsys, "model-info", str(folder), "--json"))
    info = json.loads(told(capsys, "model-info", str(folder), "--adapter", str(adapter), "--json"))
    assert info == json.loads(told(capsys, "model-info", str(adapter), "--json"))
    assert (info["name"], info["adapter"], len(info["adapter_sha256"])) == (str(folder), str(adapter), 64)
    assert info["parameters"] == plain["parameters"]
    assert info["feature_version"] != plain["feature_version"]
    assert info["adapter_sha256"] in told(capsys, "model-info", str(adapter))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    assert str(adapter) in refused(capsys, str(adapter))


def test_a_key_too_few_is_refused_and_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in NAMES:
        folder = make(tmp_path / name, name)
        weights = load_file(folder / "model.safetensors")
        key = next(key for key in weights if ".layer.1." in key)
        save_file({name: value for name, value in weights.items() if name != key}, folder / "model.safetensors")
        assert f"missing {key.removeprefix('bert.')}" in refused(capsys, str(folder), "--json")


def test_a_broken_folder_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "neither a folder" in refused(capsys, str(tmp_path / "gone"))
    assert "has no config.json" in refused(capsys, str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert "neither model.safetensors nor" in refused(capsys, str(tmp_path))
    folder = make(tmp_path / "model", "bert")
    assert "has no adapter_config.json" in refused(capsys, str(folder), "--adapter", str(folder))
    (folder / "vocab.txt").write_text("[PAD]")
    assert "vocab.txt" in refused(capsys, str(folder))
    (folder / "model.safetensors").write_bytes(b"half")
    assert "cannot be read as plain weights" in refused(capsys, str(folder))


@pytest.mark.parametrize(
    ("gpu", "fast", "cpu", "precision", "said"),
    [
        (True, True, {}, "bfloat16", "H200 computes bfloat16 in hardware"),
        (True, False, {}, "float32", "H200 has no bfloat16 in hardware"),
        (False, False, {"amx_bf16": True}, "float32", "this CPU computes bfloat16 in hardware"),
        (False, False, {"avx512_bf16": True}, "float32", "this CPU computes bfloat16 in hardware"),
        (False, False, {"avx2": True}, "float32", "without the instructions for it"),
    ],
)
def test_the_precision_comes_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, fast: bool, cpu: dict[str, bool], precision: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert said in modelinfo.precision_reason()
    info = modelinfo.model_info(EncodingConfig(model="dnafeat-mini"))
    assert (info.precision, info.precision_reason) == (precision, modelinfo.precision_reason())
