"""Model folders: every layout the hub has loads to the same numbers, and what does not fit is refused in one sentence."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import models
import pytest
import torch
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from dnafeat.errors import CheckpointError, UsageError
from dnafeat.models.checkpoint import find, load_encoder, load_model

# The published model's 12 layers and 142 keys, narrower.
VALUES = models.config(hidden_size=24, intermediate_size=32, num_hidden_layers=12)
WEIGHTS = models.state(VALUES)
IDS = [1, 5, 14, 0, 9, 8, 16, 2]


def states(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(str(folder))(torch.tensor([IDS])).last_hidden_state


def refusal(folder: Path, *named: str) -> str:
    """The sentence a folder is refused with; it must say each of `named`."""
    with pytest.raises(CheckpointError) as error:
        load_model(str(folder))
    assert error.value.exit_code == 2
    sentence = str(error.value)
    assert "\n" not in sentence
    assert [name for name in named if name not in sentence] == []
    return sentence


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return torch.from_numpy(models.forward64(WEIGHTS, 12, IDS)[-1])[None].float()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return models.write(tmp_path / "model", VALUES, WEIGHTS)


# Layouts.

CLASSIFIER = {"classifier.weight": torch.ones(2, 24), "classifier.bias": torch.ones(2)}
POOLER = {"pooler.dense.weight": torch.ones(24, 24), "pooler.dense.bias": torch.ones(24)}
PREFIXED = {key: value for key, value in WEIGHTS.items() if key.startswith("bert.")}
LAYOUTS = {
    "as published": WEIGHTS,
    "without the masked-LM head": PREFIXED,
    "without the prefix": models.bare_encoder(WEIGHTS),
    "without the prefix, with a pooler": models.bare_encoder(WEIGHTS) | POOLER,
    "classification": PREFIXED | {f"bert.{key}": value for key, value in POOLER.items()} | CLASSIFIER,
    "heads first": CLASSIFIER | dict(reversed(WEIGHTS.items())),
}


@pytest.mark.parametrize("pickled", [True, False], ids=["pickled", "safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_loads_to_the_same_vectors(
    tmp_path: Path, expected: torch.Tensor, layout: str, pickled: bool
) -> None:
    assert len(WEIGHTS) == 142
    found = states(models.write(tmp_path, VALUES, LAYOUTS[layout], pickled=pickled))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(found, states(models.write(tmp_path / "as published", VALUES, WEIGHTS)))


@pytest.mark.parametrize("pickled", [True, False], ids=["pickled", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stored_in_another_precision_run_in_float32(tmp_path: Path, dtype: torch.dtype, pickled: bool) -> None:
    stored = {key: value.to(dtype) for key, value in WEIGHTS.items()}
    model = load_model(str(models.write(tmp_path, VALUES, stored, pickled=pickled)))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert not model.training
    key = "encoder.layer.3.attention.self.Wqkv.weight"
    assert torch.equal(model.state_dict()[key], stored[f"bert.{key}"].float())


def test_a_config_that_says_bert_loads_natively_with_the_files_own_weights(tmp_path: Path) -> None:
    """Stock BertModel would load such a folder silently, with a random encoder."""
    assert VALUES["model_type"] == "bert"
    model = load_model(str(models.write(tmp_path, VALUES, WEIGHTS)))
    assert type(model).__module__ == "dnafeat.models.dnabert2"
    encoder = models.bare_encoder(WEIGHTS)
    assert set(model.state_dict()) == set(encoder)
    assert all(torch.equal(model.state_dict()[key], encoder[key]) for key in encoder)


@pytest.mark.parametrize("field", ["type_vocab_size", "layer_norm_eps"])
def test_fields_the_published_config_has_by_default_may_be_left_out(tmp_path: Path, expected: torch.Tensor, field: str) -> None:
    values = {key: value for key, value in VALUES.items() if key != field}
    torch.testing.assert_close(states(models.write(tmp_path, values, WEIGHTS)), expected, atol=1e-5, rtol=1e-4)


def test_the_epsilon_of_the_norms_is_the_configs(tmp_path: Path, expected: torch.Tensor) -> None:
    found = states(models.write(tmp_path, VALUES | {"layer_norm_eps": 0.1}, WEIGHTS))
    assert (found - expected).abs().max() > 0.01


def test_the_digest_of_the_weights_is_that_of_the_file_that_is_loaded(folder: Path) -> None:
    other = models.state(VALUES, seed=1)
    torch.save(other, folder / "pytorch_model.bin")
    for name, stored in (("model.safetensors", WEIGHTS), ("pytorch_model.bin", other)):
        checkpoint = find(str(folder))
        assert checkpoint.weights == folder / name
        assert checkpoint.weights_sha256() == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        loaded = load_encoder(checkpoint).state_dict()["embeddings.word_embeddings.weight"]
        assert torch.equal(loaded, stored["bert.embeddings.word_embeddings.weight"])
        (folder / name).unlink()


# Weights that do not fit.

KEYS = [
    "embeddings.token_type_embeddings.weight",
    "embeddings.LayerNorm.bias",
    "encoder.layer.0.attention.self.Wqkv.bias",
    "encoder.layer.5.mlp.gated_layers.weight",
    "encoder.layer.11.mlp.layernorm.weight",
]


@pytest.mark.parametrize("prefix", ["bert.", ""], ids=["prefixed", "bare"])
@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_refused_and_named(tmp_path: Path, key: str, prefix: str) -> None:
    weights = dict(WEIGHTS) if prefix else models.bare_encoder(WEIGHTS)
    del weights[prefix + key]
    sentence = refusal(models.write(tmp_path, VALUES, weights), f"missing {key}", str(tmp_path / "model.safetensors"))
    assert "unexpected" not in sentence


@pytest.mark.parametrize("key", KEYS)
def test_a_renamed_key_is_refused_under_both_names(tmp_path: Path, key: str) -> None:
    weights = dict(WEIGHTS)
    renamed = key.replace("weight", "gamma").replace("bias", "beta")
    weights[f"bert.{renamed}"] = weights.pop(f"bert.{key}")
    folder = models.write(tmp_path, VALUES, weights, pickled=True)
    refusal(folder, f"missing {key}", f"unexpected {renamed}", str(tmp_path / "pytorch_model.bin"))


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_another_shape_is_refused_with_both_shapes(tmp_path: Path, key: str) -> None:
    weights = dict(WEIGHTS)
    value = weights[f"bert.{key}"]
    weights[f"bert.{key}"] = torch.cat([value, value])
    shown = str(tuple(weights[f"bert.{key}"].shape))
    refusal(models.write(tmp_path, VALUES, weights), key, shown, str(tuple(value.shape)))


def test_a_transposed_matrix_is_refused(tmp_path: Path) -> None:
    key = "bert.encoder.layer.2.mlp.wo.weight"
    refusal(models.write(tmp_path, VALUES, WEIGHTS | {key: WEIGHTS[key].T.contiguous()}), "encoder.layer.2.mlp.wo.weight")


@pytest.mark.parametrize("layers", [11, 13])
def test_another_number_of_layers_is_refused(tmp_path: Path, layers: int) -> None:
    refusal(models.write(tmp_path, VALUES | {"num_hidden_layers": layers}, WEIGHTS), f"encoder.layer.{min(layers, 12)}.")


def test_a_stock_bert_is_refused(tmp_path: Path) -> None:
    weights = dict(WEIGHTS)
    for i in range(12):
        for kind in ("weight", "bias"):
            parts = weights.pop(f"bert.encoder.layer.{i}.attention.self.Wqkv.{kind}").chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                weights[f"bert.encoder.layer.{i}.attention.self.{name}.{kind}"] = part
    weights["bert.embeddings.position_embeddings.weight"] = torch.zeros(512, 24)
    refusal(models.write(tmp_path, VALUES, weights), "missing encoder.layer.0.attention.self.Wqkv.weight")


def test_many_faults_are_counted_and_not_all_told(tmp_path: Path) -> None:
    weights = {key: value for key, value in WEIGHTS.items() if "mlp" not in key}
    assert "and 55 more" in refusal(models.write(tmp_path, VALUES, weights))


def test_half_prefixed_keys_are_refused_and_one_is_named(tmp_path: Path) -> None:
    weights = {(key.removeprefix("bert.") if "layer.7.mlp.wo." in key else key): value for key, value in WEIGHTS.items()}
    refusal(models.write(tmp_path, VALUES, weights), "encoder.layer.7.mlp.wo.", str(tmp_path / "model.safetensors"))


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


@pytest.mark.parametrize("field", REQUIRED)
def test_a_config_without_a_field_the_network_needs_is_refused_and_names_it(folder: Path, field: str) -> None:
    (folder / "config.json").write_text(json.dumps({key: value for key, value in VALUES.items() if key != field}))
    refusal(folder, str(folder / "config.json"), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, bad) for field in REQUIRED for bad in ("24", 0, 2.5)],
)
def test_a_config_with_a_size_that_cannot_be_is_refused_and_names_it(folder: Path, field: str, value: Any) -> None:
    (folder / "config.json").write_text(json.dumps(VALUES | {field: value}))
    refusal(folder, str(folder / "config.json"), field)


def test_heads_that_do_not_divide_the_hidden_size_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(VALUES | {"num_attention_heads": 5}))
    refusal(folder, str(folder / "config.json"), "hidden_size 24", "5 attention heads")


def test_a_missing_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json") as error:
        find(str(folder)).tokenizer()
    assert str(folder) in str(error.value)


# Names.


def _no_hub(*args: Any, **options: Any) -> str:
    raise AssertionError("this name must not be asked for at the hub")


@pytest.mark.parametrize(
    "name",
    ["nope", "/no/such/dir", "a/b/c", "./a/b/c", "owner/model@", "", " ", "owner /model", "~nosuchuser/x", "a" * 300],
    ids=lambda name: repr(name[:20]),
)
def test_a_name_that_can_be_no_model_is_refused_without_asking_the_hub(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _no_hub)
    with pytest.raises(UsageError) as error:
        find(name)
    assert repr(name) in str(error.value)
    assert error.value.exit_code == 2


def test_a_file_is_no_model(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _no_hub)
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UsageError, match=r"model/config\.json"):
        find("model/config.json")


def test_a_local_folder_is_found_under_any_spelling_and_keeps_the_name_it_was_asked_by(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _no_hub)
    monkeypatch.chdir(folder.parent.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in (str(folder), f"{folder.parent.name}/model", f"./{folder.parent.name}/../{folder.parent.name}/model", "~/model"):
        found = find(name)
        assert (found.name, found.folder, found.revision) == (name, folder.resolve(), None)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **options: Any) -> str:
        raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder.\nSecond line.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(UsageError, match="hub cannot be reached") as error:
        find("zhihan1996/DNABERT-2-117M")
    assert "zhihan1996/DNABERT-2-117M" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fault",
    [
        RepositoryNotFoundError("404 Client Error.\n\nRepository Not Found.", response=SimpleNamespace(headers={}, request=None)),
        HTTPError("the proxy refuses to connect\n(twice)"),
        OSError("no space left on device"),
    ],
    ids=["unknown", "proxy", "disk"],
)
def test_a_model_that_the_hub_does_not_give_is_one_sentence(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def refuses(*args: Any, **options: Any) -> str:
        raise fault

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuses)
    with pytest.raises(UsageError, match="owner/nothing") as error:
        find("owner/nothing")
    assert "\n" not in str(error.value)
    assert str(fault).splitlines()[0].rstrip(".") in str(error.value)


REVISION = "d064dece8a8b41d9fb8729fbe3435278786931f1"


class Hub:
    """snapshot_download over a local folder: copies what the patterns allow, as the real one does."""

    def __init__(self, published: Path, cache: Path) -> None:
        self.published, self.cache = published, cache / REVISION
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, repo_id: str, *, revision: str | None = None, allow_patterns: list[str]) -> str:
        self.asked.append((repo_id, revision))
        self.cache.mkdir(parents=True, exist_ok=True)
        for file in self.published.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, self.cache)
        return str(self.cache)


@pytest.mark.parametrize("pickled", [True, False], ids=["pickled", "safetensors"])
@pytest.mark.parametrize("asked", [None, "main", REVISION])
def test_a_hub_model_is_fetched_without_its_code_and_known_by_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: torch.Tensor, asked: str | None, pickled: bool
) -> None:
    published = models.write(tmp_path / "published", VALUES, WEIGHTS, pickled=pickled)
    (published / "bert_layers.py").write_text("raise SystemExit('remote code ran')")
    (published / "flash_attn_triton.py").write_text("")
    (published / "training_args.bin").write_bytes(b"x")
    hub = Hub(published, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    name = "zhihan1996/DNABERT-2-117M" + (f"@{asked}" if asked else "")
    found = find(name)
    assert (found.name, found.revision, found.folder) == (name, REVISION, hub.cache)
    assert hub.asked[0] == ("zhihan1996/DNABERT-2-117M", asked)
    # A branch may move between two fetches: whatever follows is asked for by the commit.
    assert set(hub.asked[1:]) <= {("zhihan1996/DNABERT-2-117M", REVISION)}
    weights = "pytorch_model.bin" if pickled else "model.safetensors"
    assert {file.name for file in hub.cache.iterdir()} == {"config.json", "tokenizer.json", weights}
    found.tokenizer()
    with torch.inference_mode():
        torch.testing.assert_close(load_encoder(found)(torch.tensor([IDS])).last_hidden_state, expected, atol=1e-5, rtol=1e-4)


def test_safetensors_are_taken_where_both_are_published_and_the_pickle_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = models.write(tmp_path / "published", VALUES, WEIGHTS)
    torch.save(WEIGHTS, published / "pytorch_model.bin")
    hub = Hub(published, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert find("owner/model").weights.name == "model.safetensors"
    assert not (hub.cache / "pytorch_model.bin").exists()
