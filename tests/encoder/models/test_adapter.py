"""LoRA adapters as PEFT saves them: merged they answer as unmerged, and one made for another encoder is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import models
import numpy as np
import peft
import pytest
import torch
from s3 import S3
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from dnafeat.encoder import Encoder
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.describe import describe
from dnafeat.encoder.models import adapter as adapters
from dnafeat.encoder.models.adapter import find_adapter, resolve
from dnafeat.encoder.models.checkpoint import find, load_encoder, load_model
from dnafeat.encoder.source import Source
from dnafeat.errors import CheckpointError, UsageError

TARGETS = ["Wqkv", "attention.output.dense", "mlp.gated_layers", "mlp.wo"]
BERT_TARGETS = ["query", "key", "value", "intermediate.dense", "output.dense"]
IDS = torch.tensor([[1, 5, 14, 0, 9, 8, 16, 2]])
FILE = "adapter_model.safetensors"


class Classifier(nn.Module):
    """The encoder under `bert.` with a head beside it, as transformers wraps it for SEQ_CLS."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.bert = encoder
        self.classifier = nn.Linear(width, 3)

    def forward(self, ids: torch.Tensor) -> Any:
        return self.bert(ids)


def train(base: Path, folder: Path, *, classifier: bool = False, **options: Any) -> torch.Tensor:
    """Saves a random adapter for `base` and returns what the unmerged model answers."""
    encoder = load_model(str(base))
    targets = BERT_TARGETS if find(str(base)).family.name != "dnabert2" else TARGETS
    network = Classifier(encoder, encoder.config.hidden_size) if classifier else encoder
    if classifier:
        options = {"modules_to_save": ["classifier"], **options}
    settings = peft.LoraConfig(**{"target_modules": targets, "r": 4, "lora_alpha": 8, "lora_dropout": 0.05, **options})
    wrapped = peft.get_peft_model(network, settings).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        out: torch.Tensor = wrapped(IDS).last_hidden_state
    wrapped.save_pretrained(folder)
    return out


def answer(base: Path, adapter: Path) -> torch.Tensor:
    with torch.inference_mode():
        return adapters.merge(load_model(str(base)), find_adapter(str(adapter)))(IDS).last_hidden_state


def edit(adapter: Path, change: Callable[[models.State], models.State]) -> None:
    save_file(change(load_file(adapter / FILE)), adapter / FILE)


def reconfigure(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(base: Path, adapter: Path, *named: str, kind: type[UsageError] = CheckpointError) -> None:
    with pytest.raises(kind) as error:
        adapters.merge(load_model(str(base)), find_adapter(str(adapter)))
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert [name for name in (str(adapter), *named) if name not in str(error.value)] == []


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.random_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    train(base, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture(scope="module")
def bases(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each architecture."""
    bert, prokbert = models.bert_config(), models.prokbert_config()
    folder = tmp_path_factory.mktemp("bases")
    return {
        "dnabert2": base,
        "bert": models.write(folder / "bert", bert, models.bert_state(bert)),
        "prokbert": models.write(folder / "prokbert", prokbert, models.prokbert_state(prokbert)),
    }


def without_adapter(base: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(str(base))(IDS).last_hidden_state


# Adapters that fit.


OPTIONS: list[dict[str, Any]] = [
    {},
    {"target_modules": ["Wqkv"]},
    {"r": 8, "lora_alpha": 32},
    {"use_rslora": True},
    {"use_dora": True},
    {"init_lora_weights": "olora"},
    {"bias": "lora_only"},
    {"layers_to_transform": [1]},
    {"rank_pattern": {"Wqkv": 2}, "alpha_pattern": {"mlp.wo": 3}},
    {"classifier": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["dnabert2", "bert", "prokbert"])
def test_merged_and_attached_answer_as_unmerged(
    bases: dict[str, Path], tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    if name != "dnabert2":
        options = json.loads(json.dumps(options).replace("Wqkv", "query").replace("mlp.wo", "intermediate.dense"))
    unmerged = train(bases[name], tmp_path, **options)
    assert (unmerged - without_adapter(bases[name])).abs().max() > 0.01
    torch.testing.assert_close(answer(bases[name], tmp_path), unmerged, atol=1e-5, rtol=1e-5)
    attached = adapters.attach(load_model(str(bases[name])), find_adapter(str(tmp_path)))
    assert any("lora" in key for key in attached.state_dict())
    assert not attached.training
    with torch.inference_mode():
        torch.testing.assert_close(attached(IDS).last_hidden_state, unmerged, atol=1e-5, rtol=1e-5)


def test_an_adapter_trained_on_transformers_own_classifier_gives_its_hidden_states(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    stock = BertForSequenceClassification(BertConfig(**models.bert_config()))
    stock.load_state_dict(load_file(bases["bert"] / "model.safetensors"), strict=False)
    settings = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value", "dense"], init_lora_weights=False)
    wrapped = peft.get_peft_model(stock, settings).eval()
    wrapped.save_pretrained(tmp_path)
    assert any("pooler" in key for key in load_file(tmp_path / FILE))
    with torch.inference_mode():
        hidden = wrapped(IDS, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(answer(bases["bert"], tmp_path), hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["bert.{}", r"bert\.{}", r"^bert\.{}"])
def test_names_and_patterns_with_the_bert_prefix_keep_their_rank_and_scale(base: Path, tmp_path: Path, form: str) -> None:
    """A pattern that matches nothing is no error to peft, and would silently leave the scale at its default."""
    module = "encoder.layer.1.mlp.wo"
    train(base, tmp_path, rank_pattern={module: 2}, alpha_pattern={module: 30})
    expected = answer(base, tmp_path)
    pattern = form.format(module)
    reconfigure(tmp_path, rank_pattern={pattern: 2}, alpha_pattern={pattern: 30})
    assert torch.equal(answer(base, tmp_path), expected)
    targets = ["attention.self.Wqkv", *TARGETS[1:]]
    whole = [f"bert.encoder.layer.{i}.{target}" for i in (0, 1) for target in targets]
    for written in (whole, rf"bert\.encoder\..*({'|'.join(targets)})"):
        reconfigure(tmp_path, target_modules=written)
        assert torch.equal(answer(base, tmp_path), expected)


def test_a_pickled_adapter_is_the_same_adapter(base: Path, adapter: Path) -> None:
    expected, state = answer(base, adapter), load_file(adapter / FILE)
    (adapter / FILE).unlink()
    torch.save(state, adapter / "adapter_model.bin")
    assert torch.equal(answer(base, adapter), expected)


@pytest.mark.parametrize("held", [[torch.zeros(1)], {3: torch.zeros(1)}, {"a": [0.0]}, Path("code")], ids=str)
def test_a_pickle_that_is_no_state_dict_is_refused(base: Path, adapter: Path, held: Any) -> None:
    (adapter / FILE).unlink()
    torch.save(held, adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin"):
        answer(base, adapter)


def test_an_adapter_of_a_classification_task_is_merged_without_its_task(base: Path, tmp_path: Path) -> None:
    unmerged = train(base, tmp_path, classifier=True)
    reconfigure(tmp_path, task_type="SEQ_CLS", inference_mode=False)
    torch.testing.assert_close(answer(base, tmp_path), unmerged, atol=1e-5, rtol=1e-5)


def test_merging_adds_the_scaled_product_to_each_target_and_touches_nothing_else(base: Path, adapter: Path) -> None:
    before = load_model(str(base)).state_dict()
    merged = adapters.merge(load_model(str(base)), find_adapter(str(adapter)))
    lora = {key.removeprefix("base_model.model."): value.double() for key, value in load_file(adapter / FILE).items()}
    targets = {key.removesuffix(".lora_A.weight") for key in lora if key.endswith(".lora_A.weight")}
    assert len(targets) == 2 * len(TARGETS)
    after = merged.state_dict()
    assert set(after) == set(before)
    for key, value in before.items():
        module = key.removesuffix(".weight")
        expected = value
        if module in targets and key.endswith(".weight"):
            expected = (value.double() + 8 / 4 * lora[f"{module}.lora_B.weight"] @ lora[f"{module}.lora_A.weight"]).float()
            assert not torch.equal(after[key], value)
        torch.testing.assert_close(after[key], expected, atol=1e-6, rtol=1e-6)
    assert not merged.training


@pytest.mark.parametrize("classifier", [True, False])
def test_keys_with_and_without_the_bert_prefix_are_the_same_adapter(base: Path, tmp_path: Path, classifier: bool) -> None:
    unmerged = train(base, tmp_path, classifier=classifier)
    keys = set(load_file(tmp_path / FILE))
    assert any(key.startswith("base_model.model.bert.") for key in keys) == classifier
    assert ("base_model.model.classifier.weight" in keys) == classifier

    def other_prefix(state: models.State) -> models.State:
        if classifier:
            return {key.replace("model.bert.", "model."): value for key, value in state.items()}
        return {key.replace("base_model.model.", "base_model.model.bert."): value for key, value in state.items()}

    edit(tmp_path, other_prefix)
    torch.testing.assert_close(answer(base, tmp_path), unmerged, atol=1e-5, rtol=1e-5)


def test_heads_saved_beside_the_adapter_are_left_out(base: Path, adapter: Path) -> None:
    expected = answer(base, adapter)
    heads = {
        f"base_model.model.{name}.weight": torch.ones(2, 2)
        for name in ("classifier", "score", "pooler.dense", "bert.pooler.dense")
    }
    edit(adapter, lambda state: state | heads)
    assert torch.equal(answer(base, adapter), expected)


@pytest.mark.parametrize("named", ["zhihan1996/DNABERT-2-117M", "/gone/from/this/machine"])
def test_the_base_model_that_the_adapter_names_is_not_looked_for(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *address, **options: asked.append(address))
    monkeypatch.setattr("socket.socket.connect", lambda *address: asked.append(address))
    expected = answer(base, adapter)
    reconfigure(adapter, base_model_name_or_path=named)
    assert torch.equal(answer(base, adapter), expected)
    assert asked == []


def test_an_encoder_with_an_adapter_gives_the_vectors_of_the_merged_model(base: Path, tmp_path: Path) -> None:
    unmerged = train(base, tmp_path)
    plain = Encoder.from_pretrained(str(base), precision="float32")
    adapted = Encoder.from_pretrained(str(base), str(tmp_path), precision="float32")
    letters = "AACGTNACTGATA"
    assert plain.tokenizer.encode(letters) == IDS[0].tolist()
    np.testing.assert_allclose(adapted.encode([letters]).mean[0], unmerged[0, 1:-1].mean(0), atol=1e-5, rtol=0)
    np.testing.assert_allclose(plain.encode([letters]).mean[0], without_adapter(base)[0, 1:-1].mean(0), atol=1e-5, rtol=0)
    assert adapted.version.digest != plain.version.digest
    assert (adapted.version.adapter_sha256, plain.version.adapter_sha256) == (find_adapter(str(tmp_path)).fingerprint(), None)


# The fingerprint.


def test_the_fingerprint_is_the_same_for_a_copy_and_changes_with_weights_and_config(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    first = find_adapter(str(adapter)).fingerprint()
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("adapter_config.json", FILE):
        (copy / name).write_bytes((adapter / name).read_bytes())
    assert find_adapter(str(copy)).fingerprint() == first
    assert len(first) == 64
    reconfigure(copy, lora_alpha=9)
    second = find_adapter(str(copy)).fingerprint()
    key = "base_model.model.encoder.layer.1.mlp.wo.lora_B.weight"
    edit(copy, lambda state: state | {key: state[key] + 1e-3})
    third = find_adapter(str(copy)).fingerprint()
    assert len({first, second, third}) == 3
    settings = [EncodingConfig(model=str(base), adapter=str(folder)) for folder in (adapter, copy)]
    assert len({describe(Source.find(config), config).digest for config in settings}) == 2


# Adapters that do not fit.


def test_an_adapter_for_another_hidden_size_is_refused_with_both_shapes(base: Path, tmp_path: Path) -> None:
    wide = models.random_folder(tmp_path / "wide", hidden_size=96)
    train(wide, tmp_path / "adapter")
    refusal(base, tmp_path / "adapter", "lora_A.weight is (4, 96) and should be (4, 48)")


def test_an_adapter_for_more_layers_is_refused_and_names_one_too_many(base: Path, tmp_path: Path) -> None:
    deep = models.random_folder(tmp_path / "deep", num_hidden_layers=3)
    train(deep, tmp_path / "adapter")
    refusal(base, tmp_path / "adapter", "unexpected", "encoder.layer.2.", "8 in all")


def test_an_adapter_for_fewer_layers_is_refused_and_names_one_missing(base: Path, tmp_path: Path) -> None:
    shallow = models.random_folder(tmp_path / "shallow", num_hidden_layers=1)
    train(shallow, tmp_path / "adapter")
    refusal(base, tmp_path / "adapter", "missing", "encoder.layer.1.", "8 in all")


@pytest.mark.parametrize("key", ["encoder.layer.0.attention.self.Wqkv.lora_A.weight", "encoder.layer.1.mlp.wo.lora_B.weight"])
def test_a_missing_key_is_refused_and_named(base: Path, adapter: Path, key: str) -> None:
    edit(adapter, lambda state: {name: value for name, value in state.items() if not name.endswith(key)})
    refusal(base, adapter, f"missing base_model.model.{key}", "1 in all")


def test_an_unexpected_key_is_refused_and_named(base: Path, adapter: Path) -> None:
    key = "base_model.model.encoder.layer.0.mlp.layernorm.weight"
    edit(adapter, lambda state: state | {key: torch.ones(48)})
    refusal(base, adapter, f"unexpected {key}")


def test_a_key_given_with_and_without_the_prefix_is_refused(base: Path, adapter: Path) -> None:
    """One of the two would silently win."""
    key = "encoder.layer.0.mlp.wo.lora_B.weight"
    edit(adapter, lambda state: state | {f"base_model.model.bert.{key}": torch.ones(48, 4)})
    refusal(base, adapter, key)


def test_another_rank_than_the_config_says_is_refused(base: Path, adapter: Path) -> None:
    reconfigure(adapter, r=8)
    refusal(base, adapter, "(4, 48) and should be (8, 48)")


def test_the_usual_targets_of_stock_bert_are_refused(base: Path, adapter: Path) -> None:
    reconfigure(adapter, target_modules=["query", "value"])
    refusal(base, adapter, "query", "value")


def test_an_adapter_that_is_not_lora_is_refused_and_its_type_named(base: Path, adapter: Path) -> None:
    peft.IA3Config(target_modules=["Wqkv"], feedforward_modules=[]).save_pretrained(adapter)
    refusal(base, adapter, "IA3", "not LoRA")


def test_a_type_that_peft_does_not_know_is_refused(base: Path, adapter: Path) -> None:
    reconfigure(adapter, peft_type="NONESUCH")
    refusal(base, adapter, "NONESUCH")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_config_that_is_none_is_refused(base: Path, adapter: Path, text: str) -> None:
    (adapter / "adapter_config.json").write_text(text)
    refusal(base, adapter)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.9])
def test_weights_cut_short_are_refused(base: Path, adapter: Path, share: float) -> None:
    whole = (adapter / FILE).read_bytes()
    (adapter / FILE).write_bytes(whole[: int(len(whole) * share)])
    refusal(base, adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", FILE])
def test_a_missing_file_is_named(base: Path, adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    refusal(base, adapter, f"has no {name}", kind=UsageError)
    with pytest.raises(UsageError, match=name):
        find_adapter(str(adapter)).fingerprint()


def test_a_missing_folder_is_refused(base: Path, tmp_path: Path) -> None:
    refusal(base, tmp_path / "gone", kind=UsageError)
    with pytest.raises(UsageError, match="gone"):
        Encoder.from_pretrained(str(base), str(tmp_path / "gone"), precision="float32")


# Which model, which adapter.


def copied(folder: Path, to: Path, **adapter_config: Any) -> Path:
    shutil.copytree(folder, to)
    if adapter_config:
        reconfigure(to, **adapter_config)
    return to


def test_names_resolve_to_a_model_and_perhaps_an_adapter(base: Path, adapter: Path) -> None:
    reconfigure(adapter, base_model_name_or_path=str(base))
    assert resolve(None, None)[0].name == "dnafeat-mini"
    assert resolve("dnafeat-mini", None)[1] is None
    plain, none = resolve(str(base), None)
    assert (plain.name, plain.folder, none) == (str(base), base, None)
    for model in (None, str(base)):
        found, put_on = resolve(model, str(adapter))
        assert (found.folder, put_on and put_on.folder) == (base, adapter)
    found, put_on = resolve(str(adapter), None)
    assert (found.name, put_on and put_on.name) == (str(base), str(adapter))


def test_a_copy_of_the_bases_config_beside_an_adapter_makes_it_no_model(base: Path, adapter: Path) -> None:
    shutil.copy(base / "config.json", adapter)
    reconfigure(adapter, base_model_name_or_path=str(base))
    found, put_on = resolve(str(adapter), None)
    assert (found.folder, put_on and put_on.folder) == (base, adapter)


def test_an_adapter_of_another_published_model_is_refused(adapter: Path, base: Path) -> None:
    reconfigure(adapter, base_model_name_or_path="zhihan1996/DNABERT-2-117M")
    for model in ("zhihan1996/DNABERT-S", "dnafeat-mini"):
        with pytest.raises(UsageError, match=f"made for zhihan1996/DNABERT-2-117M and not for {model}"):
            resolve(model, str(adapter))
    # A folder may be a copy of it.
    assert resolve(str(base), str(adapter))[0].folder == base


@pytest.mark.parametrize("named", ["/gone/from/this/machine", "", None])
def test_a_base_that_is_not_found_is_one_sentence(adapter: Path, named: str | None) -> None:
    reconfigure(adapter, base_model_name_or_path=named)
    for names in ((None, str(adapter)), (str(adapter), None)):
        with pytest.raises(UsageError) as error:
            resolve(*names)
        assert [part for part in (str(adapter), named or "", "--model") if part not in str(error.value)] == []
        assert "\n" not in str(error.value)


REVISIONS = ["a" * 40, "b" * 40]


@pytest.mark.parametrize("revision", [None, REVISIONS[0]])
def test_the_base_of_a_local_adapter_stays_at_the_commit_it_was_pinned_to(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    commits = {name: copied(base, tmp_path / "hub" / name) for name in REVISIONS}
    branch = REVISIONS[0]
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repository, revision, **options: str(commits[revision or branch])
    )
    reconfigure(adapter, base_model_name_or_path="owner/model", revision=revision)
    assert find_adapter(str(adapter)).base == ("owner/model" if revision is None else f"owner/model@{revision}")
    for names in (EncodingConfig(adapter=str(adapter)), EncodingConfig(model=str(adapter))):
        branch = REVISIONS[0]
        source = Source.find(names)
        assert source.pins == (REVISIONS[0], None)
        branch = REVISIONS[1]
        assert Source.find(names, source.pins).pins == source.pins
        assert Source.find(names).pins == (revision or REVISIONS[1], None)


def test_an_adapter_on_s3_and_its_base_there_are_found_again_by_their_pins(
    base: Path, adapter: Path, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "cache"))
    model, put_on = s3.uri("model"), s3.uri("adapter")
    reconfigure(adapter, base_model_name_or_path=model)
    for folder, uri in ((base, model), (adapter, put_on)):
        for file in folder.iterdir():
            s3.client().pipe_file(f"{uri}/{file.name}", file.read_bytes())
    expected = answer(base, adapter)
    versions = []
    for config in (EncodingConfig(model=put_on), EncodingConfig(adapter=put_on), EncodingConfig(model=model, adapter=put_on)):
        source = Source.find(config)
        assert None not in source.pins
        again = Source.find(config, source.pins)
        for one in (source, again):
            assert (one.checkpoint.name, one.adapter and one.adapter.name) == (model, put_on)
            assert one.pins == source.pins
        merged = adapters.merge(load_encoder(again.checkpoint), again.adapter)
        with torch.inference_mode():
            assert torch.equal(merged(IDS).last_hidden_state, expected)
        versions.append(describe(source, config).digest)
    assert len(set(versions)) == 1
    with pytest.raises(UsageError, match="does not exist or holds no"):
        find_adapter(s3.uri("gone"))
