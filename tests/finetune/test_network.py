"""The network that fine-tuning trains: embedding's own pooling under a head, and nothing trained but what the method says."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import models
import numpy as np
import pytest
import torch

import dnafeat
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.models.checkpoint import load_encoder
from dnafeat.encoder.pooling import pool
from dnafeat.encoder.source import Source
from dnafeat.errors import UsageError
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.labels import Labels
from dnafeat.finetune.network import FineTuned, Head, HeadShape, TokenHead, build, head_shape
from dnafeat.finetune.trainer import losses
from dnafeat.training.batches import Collate, Examples

FAMILIES = ("dnabert2", "bert", "prokbert")
TARGETS = {
    "dnabert2": ("attention.self.Wqkv", "attention.output.dense", "mlp.gated_layers", "mlp.wo"),
    **dict.fromkeys(
        ("bert", "prokbert"),
        (
            *(f"attention.self.{name}" for name in ("query", "key", "value")),
            *("attention.output.dense", "intermediate.dense", "output.dense"),
        ),
    ),
}
SEQUENCES = ["ACGTACGATA", "CC", "GATTACANACGTTTGA", "TATAACGT"]
LABELS = Labels("multiclass", ("a", "b", "c"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder of each architecture, all with DNABERT-2's tokenizer: what is tested here are the networks."""
    folder = tmp_path_factory.mktemp("bases")
    made = {
        "dnabert2": (models.config(), models.state),
        "bert": (models.bert_config(), models.bert_state),
        "prokbert": (models.prokbert_config(), models.prokbert_state),
    }
    return {name: str(models.write(folder / name, values, state(values))) for name, (values, state) in made.items()}


def config(base: str, **changes: Any) -> FinetuneConfig:
    return FinetuneConfig.make({"train": "train.csv", "output": "out", "model": base, **changes})


def made(base: str, labels: Labels = LABELS, **changes: Any) -> FineTuned:
    torch.manual_seed(0)
    chosen = config(base, **changes)
    return build(Source.find(chosen.encoding()), chosen, labels)


def batch(base: str, *, special_tokens: bool = False, per_token: bool = False) -> dict[str, torch.Tensor]:
    tokenizer = dnafeat.load_tokenizer(base)
    tokens = tokenizer.ragged(SEQUENCES)
    targets = np.arange(len(tokens.ids)) % 3 if per_token else np.arange(len(SEQUENCES)) % 3
    collate = Collate(Examples(tokens, targets), tokenizer, special_tokens, per_token)
    return collate([(i, 1 / len(SEQUENCES), False) for i in range(len(SEQUENCES))])


def answer(model: FineTuned, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(inputs["input_ids"], inputs["attention_mask"], inputs["content"])


def sentence(base: str, labels: Labels = LABELS, **changes: Any) -> str:
    with pytest.raises(UsageError) as error:
        made(base, labels, **changes)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


# Pooling and heads


@pytest.mark.parametrize("special_tokens", [False, True])
@pytest.mark.parametrize("views", ["cls", "mean", "max", "cls+mean", "max+cls+mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pooling_is_the_encoders(bases: dict[str, str], family: str, views: str, special_tokens: bool) -> None:
    model, inputs = made(bases[family], method="probe").eval(), batch(bases[family], special_tokens=special_tokens)
    with torch.no_grad():
        hidden = model.encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        found = pool(hidden, inputs["content"], views).numpy()
    encoder = dnafeat.Encoder.from_pretrained(bases[family], special_tokens=special_tokens, precision="float32")
    np.testing.assert_allclose(found, encoder.encode(SEQUENCES).pooled(views), atol=1e-5)


def test_heads_are_what_they_are_called() -> None:
    pooled, wide = torch.randn(5, 48), torch.randn(5, 96)
    linear = Head(HeadShape(kind="linear", views="cls+mean", hidden_size=48, width=3, dropout=0.5)).eval()
    torch.testing.assert_close(linear(wide), wide @ linear.classifier.weight.T + linear.classifier.bias)
    pooler = Head(HeadShape(kind="pooler", views="cls", hidden_size=48, width=2, dropout=0.5)).eval()
    dense = pooler.state_dict()
    expected = torch.tanh(pooled @ dense["pooler.dense.weight"].T + dense["pooler.dense.bias"])
    torch.testing.assert_close(pooler(pooled), expected @ dense["classifier.weight"].T + dense["classifier.bias"])
    projector = Head(HeadShape(kind="projector", views="mean", hidden_size=48, width=1, dropout=0.5)).eval()
    assert projector.projector is not None
    assert projector.classifier.weight.shape == (1, 512)
    torch.testing.assert_close(projector(pooled), projector.classifier(projector.projector(pooled)))
    # Dropout is in each of them, in training mode only.
    for head, vectors in ((linear, wide), (pooler, pooled), (projector, pooled)):
        assert torch.equal(head(vectors), head(vectors))
        head.train()
        assert not torch.equal(head(vectors), head(vectors))


def test_heads_take_the_vector_they_are_for(bases: dict[str, str]) -> None:
    base = bases["dnabert2"]
    assert [head_shape(config(base, head=head), 48, 2).views for head in ("linear", "pooler", "projector")] == [
        "mean",
        "cls",
        "mean",
    ]
    assert sentence(base, head="pooler", pooling="mean") == "head pooler is for pooling cls, and pooling is mean"
    assert head_shape(config(base, head="projector", pooling="cls+mean"), 48, 2).views == "cls+mean"
    assert sentence(base, head="mlp") == "head 'mlp' is none of linear, pooler, projector"
    for pooling in ("last", "cls,mean", "mean+mean", ""):
        if pooling:
            assert sentence(base, pooling=pooling).startswith(f"pooling {pooling!r} is not known: use cls, mean, max")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_head_answers_for_every_token(bases: dict[str, str], family: str) -> None:
    inputs = batch(bases[family], per_token=True)
    model = made(bases[family], Labels("token", ("a", "b", "c"))).eval()
    assert isinstance(model.head, TokenHead)
    with torch.no_grad():
        logits = answer(model, inputs)
        hidden = model.encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    assert logits.shape == (*inputs["input_ids"].shape, 3)
    torch.testing.assert_close(logits, model.head.classifier(hidden))


# What is trained


@pytest.mark.parametrize("head", ["linear", "pooler", "projector"])
@pytest.mark.parametrize("method", ["lora", "full", "probe"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained(bases: dict[str, str], family: str, method: str, head: str) -> None:
    model = made(bases[family], method=method, head=head)
    heads = {
        "linear": set[str](),
        "pooler": {"pooler.dense.weight", "pooler.dense.bias"},
        "projector": {f"projector.{m}.{p}" for m in ("expand", "reduce", "norm") for p in ("weight", "bias")},
    }[head] | {"classifier.weight", "classifier.bias"}
    if method == "full":
        encoder = {
            name
            for name, _ in dnafeat.load_model(bases[family]).named_parameters()
            if not (family == "prokbert" and "position_embeddings" in name)
        }
    elif method == "lora":
        encoder = {
            f"base_model.model.encoder.layer.{layer}.{target}.lora_{ab}.default.weight"
            for layer, target, ab in itertools.product((0, 1), TARGETS[family], "AB")
        }
    else:
        encoder = set()
    trained = model.trainable()
    assert set(trained) == {f"head.{name}" for name in heads} | {f"encoder.{name}" for name in encoder}
    # Each of them has a part in the loss, or data-parallel training would wait for it; the others have none.
    model.train()
    inputs = batch(bases[family])
    losses("multiclass", answer(model, inputs), inputs["targets"], None).mean().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == set(trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_encoder_drops_nothing_out(bases: dict[str, str], family: str) -> None:
    inputs = batch(bases[family])
    frozen = made(bases[family], method="probe", dropout=0.0, encoder_dropout=0.5).train()
    assert (frozen.training, frozen.head.training, frozen.encoder.training) == (True, True, False)
    assert torch.equal(answer(frozen, inputs), answer(frozen, inputs))
    for method in ("lora", "full"):
        model = made(bases[family], method=method, dropout=0.0, lora_dropout=0.0, encoder_dropout=0.5).train()
        assert model.encoder.training
        assert not torch.equal(answer(model, inputs), answer(model, inputs))
        assert torch.equal(answer(model.eval(), inputs), answer(model, inputs))
        model = made(bases[family], method=method, dropout=0.0, lora_dropout=0.0, encoder_dropout=0.0).train()
        assert torch.equal(answer(model, inputs), answer(model, inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_begins_where_the_encoder_is(bases: dict[str, str], family: str) -> None:
    inputs = batch(bases[family])
    with torch.no_grad():
        assert torch.equal(
            made(bases[family], method="lora").eval().encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state,
            dnafeat.load_model(bases[family])(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_weights_are_drawn_after_those_of_an_encoder(bases: dict[str, str], family: str) -> None:
    """So that a seed gives the head and the LoRA matrices that it gave in every release."""
    checkpoint = Source.find(EncodingConfig(model=bases[family])).checkpoint
    torch.manual_seed(3)
    checkpoint.family.build(checkpoint.config())
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_encoder(checkpoint, initialise=True)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_said_while_it_is_made(bases: dict[str, str], family: str, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("lora", "full", "probe"):
            made(bases[family], method=method)
    assert capfd.readouterr() == ("", "")


# LoRA's settings


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_that_match_nothing(bases: dict[str, str], family: str) -> None:
    message = sentence(bases[family], lora_targets=("Wqvk",))
    assert message == (f"LoRA target 'Wqvk' matches no module of {bases[family]}: there are {', '.join(sorted(TARGETS[family]))}")
    # One that is there does not hide another that is not.
    assert "LoRA target 'key_' matches no module" in sentence(bases[family], lora_targets=(TARGETS[family][0], "key_"))
    assert sentence(bases[family], lora_targets=("LayerNorm" if family != "prokbert" else "ln",)).startswith("LoRA does not fit")


def test_chosen_targets(bases: dict[str, str]) -> None:
    found = made(bases["dnabert2"], lora_targets=("Wqkv", "encoder.layer.1.mlp.wo")).trainable()
    assert sorted(name.partition("layer.")[2].partition(".lora_")[0] for name in found if ".lora_A" in name) == [
        "0.attention.self.Wqkv",
        "1.attention.self.Wqkv",
        "1.mlp.wo",
    ]


def test_pefts_other_switches(bases: dict[str, str]) -> None:
    base = bases["dnabert2"]

    def scaling(**changes: Any) -> float:
        encoder: Any = made(base, lora_rank=4, lora_alpha=8, **changes).encoder
        layer = encoder.base_model.model.encoder.layer[0].attention.self.Wqkv
        return float(layer.scaling["default"])

    assert (scaling(), scaling(lora_options={"use_rslora": True})) == (2.0, 4.0)
    trained = made(base, lora_options={"layers_to_transform": [1], "layers_pattern": "layer"}).trainable()
    assert {name.split("encoder.layer.")[1][0] for name in trained if "lora_" in name} == {"1"}
    assert any("lora_magnitude_vector" in name for name in made(base, lora_options={"use_dora": True}).trainable())


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslorra": True},
        {"r": 4},
        {"target_modules": ["Wqkv"]},
        {"init_lora_weights": "nonsense"},
        {"bias": "some"},
        {"layers_to_transform": [7], "layers_pattern": "layer"},
        {"modules_to_save": ["classifier"]},
        {"task_type": "SEQ_CLS"},
    ],
)
def test_switches_that_do_not_go(bases: dict[str, str], options: dict[str, Any]) -> None:
    message = sentence(bases["dnabert2"], lora_options=options)
    assert next(iter(options)) in message or "LoRA does not fit" in message


# States


def test_states_are_put_back_by_name(bases: dict[str, str]) -> None:
    one, other = made(bases["dnabert2"]), made(bases["dnabert2"])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in one.trainable().values():
            value.add_(torch.randn(value.shape, generator=generator))
    inputs = batch(bases["dnabert2"])
    assert not torch.equal(answer(one.eval(), inputs), answer(other.eval(), inputs))
    other.load_trainable({name: value.detach().clone() for name, value in one.trainable().items()})
    assert torch.equal(answer(one, inputs), answer(other, inputs))
    state = dict(one.trainable())
    state["head.other"] = state.pop("head.classifier.weight")
    for wrong in (state, {}, made(bases["dnabert2"], method="probe").trainable()):
        with pytest.raises(ValueError, match="trained tensors"):
            other.load_trainable(wrong)


def test_settings_of_the_base_reach_the_encoding(bases: dict[str, str]) -> None:
    assert config(bases["bert"], special_tokens=True, kmer=3).encoding() == EncodingConfig.make(
        {"model": bases["bert"], "special_tokens": True, "kmer": 3, "truncate": True}
    )


# The loss


def test_losses_are_what_they_are_called() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator)
    classes, weights = torch.tensor([0, 2, 1, 2]), torch.tensor([1.0, 2.0, 0.5])
    logs = torch.log_softmax(logits.double(), 1)
    torch.testing.assert_close(
        losses("multiclass", logits, classes, None).double(), -logs[range(4), classes], rtol=1e-5, atol=1e-6
    )
    expected = -logs[range(4), classes] * weights[classes]
    torch.testing.assert_close(losses("multiclass", logits, classes, weights).double(), expected, rtol=1e-5, atol=1e-6)
    targets = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    share = torch.sigmoid(logits.double())
    each = -(targets * share.log() * weights + (1 - targets) * (1 - share).log()).mean(1)
    torch.testing.assert_close(losses("multilabel", logits, targets, weights).double(), each, rtol=1e-5, atol=1e-6)
    numbers = torch.tensor([0.5, -1, 2, 0])
    torch.testing.assert_close(losses("regression", logits[:, :1], numbers, None), (logits[:, 0] - numbers) ** 2)
    # Per token: the mean over a sequence's labelled tokens, each sequence counting once.
    long = torch.randn(2, 5, 3, generator=generator)
    marked = torch.tensor([[-100, 0, 1, 2, -100], [-100, 1, -100, -100, -100]])
    logs = torch.log_softmax(long.double(), 2)
    rows = [torch.stack([-logs[r, t, c] for t, c in enumerate(row) if c >= 0]).mean() for r, row in enumerate(marked.tolist())]
    torch.testing.assert_close(losses("token", long, marked, None).double(), torch.stack(rows), rtol=1e-5, atol=1e-6)
