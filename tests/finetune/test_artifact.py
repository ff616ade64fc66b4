"""What fine-tuning leaves answers as the network that was trained, here and in a new process, and says all that it was made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import labelled
import models
import numpy as np
import peft
import pytest
import torch
from labelled import answer, loaded
from s3 import S3
from safetensors.torch import load_file

import dnafeat
from dnafeat import storage
from dnafeat.encoder.source import Source
from dnafeat.errors import UsageError
from dnafeat.finetune import artifact
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.job import _about, prepare
from dnafeat.finetune.network import FineTuned, build
from dnafeat.training.artifact import read
from dnafeat.training.batches import Collate

RESULT: dict[str, Any] = {
    "metrics": {
        "train": {"loss": 0.5, "accuracy": 1.0},
        "dev": {"loss": 0.75, "accuracy": 0.5},
        "test": {"loss": 1.0, "accuracy": None},
    },
    "confusion": {name: [[1, 0], [0, 1]] for name in ("train", "dev", "test")},
    "steps": 4,
    "best_step": 2,
    "seconds": 1.5,
    "workers": 1,
    "device": "CPU",
    "precision": "float32",
    "history": [
        {"step": 1, "loss": 1.0, "learning_rate": 0.1, "grad_norm": 1.0, "epoch": 0.5},
        {"step": 2, "eval_loss": 0.75, "eval_accuracy": 0.5, "epoch": 1.0},
    ],
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    made = {
        "dnabert2": (models.config(), models.state),
        "bert": (models.bert_config(), models.bert_state),
        "prokbert": (models.prokbert_config(), models.prokbert_state),
    }
    return {name: models.write(folder / name, values, state(values)) for name, (values, state) in made.items()}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [f"{models.dna(10 + i % 30, i)},{'ab'[i % 2]}" for i in range(40)]
    file = tmp_path_factory.mktemp("data") / "a.csv"
    file.write_text("sequence,label\n" + "\n".join(rows) + "\n")
    return file


def written(uri: str, base: Path | str, table: Path, **changes: Any) -> tuple[FineTuned, dict[str, torch.Tensor], torch.Tensor]:
    """A network whose every trained tensor is random, as its artifact; a batch, and what it answers."""
    config = FinetuneConfig.make({"train": str(table), "output": uri, "model": str(base), "lora_rank": 4, **changes})
    prepared = prepare(config)
    model = build(prepared.source, config, prepared.data.labels).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.trainable().values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    artifact.write(uri, model, prepared.source, _about(config, prepared, RESULT), RESULT)
    data = prepared.data
    inputs = Collate(data.splits["train"], data.tokenizer, data.special_tokens, data.per_token)(
        [(i, 1.0, False) for i in range(8)]
    )
    return model, inputs, answer(model, inputs)


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


ALWAYS = {"dnafeat.json", "head.safetensors", "tokenizer.json", "history.json", "curves.png"} | {
    f"confusion-{name}.png" for name in ("train", "dev", "test")
}
OF_METHOD = {
    "lora": {"adapter_config.json", "adapter_model.safetensors"},
    "full": {"config.json", "model.safetensors"},
    "probe": set[str](),
}


@pytest.mark.parametrize("method", ["lora", "full", "probe"])
@pytest.mark.parametrize("family", ["dnabert2", "bert", "prokbert"])
def test_an_artifact_answers_as_what_was_trained(
    bases: dict[str, Path], table: Path, tmp_path: Path, family: str, method: str
) -> None:
    uri = str(tmp_path / "artifact")
    model, inputs, expected = written(uri, bases[family], table, method=method)
    plain = FineTuned(dnafeat.load_model(str(bases[family])), model.head).eval()
    assert (answer(plain, inputs) - expected).abs().max() > 0.01 or method == "probe"
    for merged in (False, True):
        torch.testing.assert_close(answer(loaded(uri, merged=merged), inputs), expected, rtol=0, atol=1e-5)
    assert files(tmp_path / "artifact") == ALWAYS | OF_METHOD[method]
    # And as embedding computes it: vectors of the artifact under its head.
    found = artifact.load(uri)
    encoder = dnafeat.Encoder.load(found.encoding())
    sequences = [row.split(",")[0] for row in table.read_text().splitlines()[1:]]
    mean = torch.from_numpy(encoder.encode(sequences).mean)
    with torch.no_grad():
        logits = found.head()(mean)
    rows = (logits[:, None] - expected[None]).abs().amax(2).amin(0)
    assert rows.max() < 1e-5


@pytest.mark.parametrize("changes", [
    {"head": "projector"},
    {"head": "projector", "method": "probe"},
    {"head": "pooler", "method": "full"},
    {"pooling": "cls+max", "special_tokens": True},
    {"lora_options": {"use_rslora": True}, "lora_targets": ("Wqkv",)},
    {"lora_options": {"use_dora": True}},
    {"lora_options": {"bias": "all"}},
    {"lora_options": {"rank_pattern": {"mlp.wo": 2}, "alpha_pattern": {"mlp.wo": 1}}},
], ids=str)  # fmt: skip
def test_heads_and_switches_come_back(bases: dict[str, Path], table: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    uri = str(tmp_path / "artifact")
    _, inputs, expected = written(uri, bases["dnabert2"], table, **changes)
    for merged in (False, True):
        torch.testing.assert_close(answer(loaded(uri, merged=merged), inputs), expected, rtol=0, atol=1e-5)
    assert ("projector.safetensors" in files(tmp_path / "artifact")) == (changes.get("head") == "projector")


def test_a_head_for_each_token_comes_back(bases: dict[str, Path], tmp_path: Path) -> None:
    table = tmp_path / "tokens.csv"
    sequences = [models.dna(20, i) for i in range(20)]
    table.write_text("sequence,label\n" + "".join(f"{s},{s.translate(str.maketrans('ACGT', 'xyyx'))}\n" for s in sequences))
    uri = str(tmp_path / "artifact")
    _, inputs, expected = written(uri, bases["dnabert2"], table, task="token")
    assert expected.shape == (*inputs["input_ids"].shape, 2)
    torch.testing.assert_close(answer(loaded(uri, merged=True), inputs), expected, rtol=0, atol=1e-5)
    assert artifact.load(uri).labels.names == ("x", "y")


CHILD = """
import sys
import torch
sys.path.insert(0, sys.argv[2])
from labelled import answer, loaded
for uri in sys.argv[1].split(","):
    inputs = torch.load(uri + ".pt")
    torch.save([answer(loaded(uri, merged=merged), inputs) for merged in (False, True)], uri + ".pt")
"""


def test_a_new_process_in_another_folder_gives_the_same(
    bases: dict[str, Path], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bases["dnabert2"].parent)  # the base has a name that means nothing elsewhere
    expected = {}
    for method in ("lora", "full", "probe"):
        uri = str(tmp_path / method)
        _, inputs, expected[uri] = written(uri, "dnabert2", table, method=method, head="projector")
        torch.save(inputs, f"{uri}.pt")
    command = [sys.executable, "-c", CHILD, ",".join(expected), str(Path(labelled.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for uri, answers in expected.items():
        for found in torch.load(f"{uri}.pt"):
            torch.testing.assert_close(found, answers, rtol=0, atol=1e-5)


def test_the_adapter_is_pefts_own(bases: dict[str, Path], table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    model, inputs, _ = written(str(folder), bases["dnabert2"], table)
    targets = ("attention.self.Wqkv", "attention.output.dense", "mlp.gated_layers", "mlp.wo")
    assert set(load_file(folder / "adapter_model.safetensors")) == {
        f"base_model.model.encoder.layer.{layer}.{target}.lora_{ab}.weight"
        for layer in (0, 1)
        for target in targets
        for ab in "AB"
    }
    said = json.loads((folder / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["peft_type"], said["r"], said["lora_alpha"]) == (
        str(bases["dnabert2"]),
        "LORA",
        4,
        16,
    )
    assert said["inference_mode"] is True
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    theirs = peft.PeftModel.from_pretrained(dnafeat.load_model(str(bases["dnabert2"])), str(folder)).eval()
    with torch.no_grad():
        expected = model.encoder(ids, mask).last_hidden_state
        torch.testing.assert_close(theirs(ids, mask).last_hidden_state, expected, rtol=0, atol=1e-5)
    # Named alone it brings its base along.
    encoder = dnafeat.Encoder.from_pretrained(adapter=str(folder), precision="float32")
    letters = "ACGTACGTTTGACCAGA"
    tokens = torch.tensor([encoder.tokenizer.encode(letters)])
    with torch.no_grad():
        mean = model.encoder(tokens).last_hidden_state[:, 1:-1].mean(1)
    np.testing.assert_allclose(encoder.encode([letters]).mean, mean.numpy(), atol=1e-5)


def test_what_it_says_of_itself(bases: dict[str, Path], table: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "artifact")
    written(uri, bases["bert"], table, max_tokens=16, head="pooler", special_tokens=True, seed=5)
    about = json.loads((tmp_path / "artifact" / "dnafeat.json").read_text())
    source = Source.find(FinetuneConfig.make({"train": "t", "output": "o", "model": str(bases["bert"])}).encoding())
    assert about["base"] == {
        "model": str(bases["bert"]),
        "revision": None,
        "weights_sha256": source.checkpoint.weights_sha256,
        "hidden_size": 48,
    }
    assert (about["method"], about["steps"], about["best_step"], about["workers"]) == ("lora", 4, 2, 1)
    assert about["head"] == {"kind": "pooler", "views": "cls", "hidden_size": 48, "width": 2, "dropout": 0.1}
    assert about["labels"] == {"task": "binary", "names": ["a", "b"], "mean": 0.0, "std": 1.0}
    assert about["encoding"] == {"kmer": 0, "window_tokens": 16, "truncate": True, "special_tokens": True, "precision": "float32"}
    assert about["metrics"] == RESULT["metrics"]
    assert about["rows"] == {"train": 32, "dev": 4, "test": 4}
    assert set(about["fingerprints"]) == {"train", "dev", "test"}
    assert about["truncated"]["train"] > 0
    assert [note for note in about["notes"] if "lose their end" in note and "train" in note]
    assert (about["config"]["seed"], about["config"]["train"]) == (5, str(table))
    assert {"torch", "peft", "ray", "transformers"} <= set(about["environment"]["packages"])
    assert json.loads((tmp_path / "artifact" / "history.json").read_text()) == RESULT["history"]
    encoding = artifact.load(uri).encoding()
    assert (encoding.adapter, encoding.model, encoding.window_tokens, encoding.truncate, encoding.special_tokens) == (
        uri,
        str(bases["bert"]),
        16,
        True,
        True,
    )


@pytest.mark.parametrize("method", ["lora", "full", "probe"])
def test_on_s3(bases: dict[str, Path], table: Path, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "cache"))
    uri = s3.uri("artifact")
    _, inputs, expected = written(uri, bases["dnabert2"], table, method=method, head="projector")
    assert read(uri) == artifact.load(uri).about
    torch.testing.assert_close(answer(loaded(uri, merged=True), inputs), expected, rtol=0, atol=1e-5)
    assert (tmp_path / "cache").is_dir()


def test_an_artifact_is_there_when_all_of_it_is(
    bases: dict[str, Path], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "artifact")
    order: list[str] = []
    real = storage.write_whole

    def watched(name: str, write: Any) -> int:
        order.append(Path(name).name)
        return real(name, write)

    monkeypatch.setattr(storage, "write_whole", watched)
    written(uri, bases["dnabert2"], table)
    assert order[-1] == "dnafeat.json"
    assert sorted(order) == sorted(files(tmp_path / "artifact"))


def test_where_there_is_none(tmp_path: Path) -> None:
    assert read(str(tmp_path)) is None
    with pytest.raises(UsageError, match=r"holds no dnafeat\.json: give the folder that dnafeat finetune wrote"):
        artifact.load(str(tmp_path))
    for broken in ("{", "[1]"):
        (tmp_path / "dnafeat.json").write_text(broken)
        with pytest.raises(UsageError) as error:
            read(str(tmp_path))
        assert str(error.value).startswith(f"{tmp_path}/dnafeat.json cannot be read: ")
        assert "\n" not in str(error.value)


def test_names_of_bases_stay_what_they_are(bases: dict[str, Path], table: Path, tmp_path: Path) -> None:
    written(str(tmp_path / "a"), "dnafeat-mini", table)
    said = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert said == artifact.load(str(tmp_path / "a")).about["base"]["model"] == "dnafeat-mini"
    # A folder may have an @ in its name, which only in a hub's name stands before a revision.
    odd = models.random_folder(tmp_path / "x@y" / "base")
    _, inputs, expected = written(str(tmp_path / "b"), odd, table)
    torch.testing.assert_close(answer(loaded(str(tmp_path / "b"), merged=False), inputs), expected, rtol=0, atol=1e-5)
    assert dnafeat.Encoder.from_pretrained(adapter=str(tmp_path / "b")).hidden_size == 48


@pytest.mark.parametrize(
    "about",
    [
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"labels": 5}',
        '{"labels": {"task": "binary"}}',
        '{"labels": {"task": "binary", "names": 5}}',
    ],
)
def test_an_artifact_that_was_changed_is_one_sentence(tmp_path: Path, about: str) -> None:
    (tmp_path / "dnafeat.json").write_text(about)
    with pytest.raises(UsageError) as error:
        artifact.load(str(tmp_path))
    assert "dnafeat.json" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
