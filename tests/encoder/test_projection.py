"""A projection is one fixed pipeline of view, steps and map: the same everywhere, kept in an artifact, known by one fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from s3 import S3
from safetensors.torch import load, load_file, save_file

from dnafeat.encoder import Encoder
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.describe import describe
from dnafeat.encoder.projection import L2, LinearMap, PlainLayerNorm, Projection, Projector, ZScore, load_projector, random_map
from dnafeat.encoder.source import Source
from dnafeat.errors import CheckpointError, UsageError


def pooled(rows: int = 5, width: int = 48) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_the_same_seed_gives_the_same_weights_whatever_torch_drew_before() -> None:
    first = load_projector("random@0", 48)
    torch.manual_seed(123)
    torch.randn(10)
    again = load_projector("random@0", 48)
    assert first.to_bytes() == again.to_bytes()
    assert first.fingerprint() == again.fingerprint()


def test_the_weights_stay_those_that_stored_vectors_were_made_with() -> None:
    assert load_projector("random@0", 8).fingerprint() == "1de09b8b3079542a305d9ed5459821d37a01ee1ef79946b66f738842ed7666fd"


def test_other_seeds_and_widths_are_other_projectors() -> None:
    made = [
        load_projector(name, width) for name, width in [("random@0", 48), ("random@1", 48), ("random@7", 48), ("random@0", 64)]
    ]
    assert len({projector.fingerprint() for projector in made}) == 4
    with torch.inference_mode():
        assert not torch.allclose(made[0](pooled()), made[1](pooled()), atol=0.1)


@torch.inference_mode()
def test_it_is_an_mlp_with_gelu_and_layer_norm_without_dropout() -> None:
    projector = load_projector("random@3", 48)
    w = {key: value.double().numpy() for key, value in projector.tensors().items()}
    assert {key: value.shape for key, value in w.items()} == {
        "expand.weight": (1024, 48), "expand.bias": (1024,), "reduce.weight": (512, 1024), "reduce.bias": (512,),
        "norm.weight": (512,), "norm.bias": (512,),
    }  # fmt: skip
    inner = models.gelu(pooled().double().numpy() @ w["expand.weight"].T + w["expand.bias"])
    out = inner @ w["reduce.weight"].T + w["reduce.bias"]
    out = (out - out.mean(1, keepdims=True)) / np.sqrt(out.var(1, keepdims=True) + 1e-5)
    found = projector(pooled())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), out, atol=1e-5, rtol=0)
    assert torch.equal(found, projector(pooled()))


@torch.inference_mode()
def test_a_row_does_not_depend_on_the_others() -> None:
    projector = load_projector("random@0", 48)
    together = projector(pooled(200))
    alone = torch.cat([projector(row[None]) for row in pooled(200)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_its_bytes_load_back() -> None:
    projector = load_projector("random@5", 48)
    other = Projector(48).eval()
    assert Projection(other).fingerprint() != projector.fingerprint()
    other.load_state_dict(load(projector.to_bytes()))
    assert Projection(other).fingerprint() == projector.fingerprint()
    assert torch.equal(other(pooled()), projector(pooled()))


def test_the_fingerprint_changes_with_a_single_weight() -> None:
    projector = load_projector("random@0", 48)
    before = projector.fingerprint()
    with torch.no_grad():
        projector.map.norm.bias[511] += 1e-6
    assert projector.fingerprint() != before


@pytest.mark.parametrize(
    "name", ["", "random", "random@", "random@-1", "random@1.5", "random@x", "Random@0", " random@0", "random@0\n", "learned@0"]
)
def test_any_other_name_is_refused_and_named(name: str) -> None:
    with pytest.raises(UsageError, match="random@SEED") as error:
        load_projector(name, 48)
    assert repr(name) in str(error.value)


# -- pipelines -------------------------------------------------------------------------------------------------------------


def zscore(width: int, seed: int = 1) -> ZScore:
    draw = torch.Generator().manual_seed(seed)
    return ZScore(torch.randn(width, generator=draw), 0.5 + torch.rand(width, generator=draw))


def linear(width: int, rank: int = 40) -> LinearMap:
    draw = torch.Generator().manual_seed(2)
    components = torch.zeros(512, width)
    components[:rank] = torch.randn(rank, width, generator=draw)
    return LinearMap(torch.randn(width, generator=draw), components)


PIPELINES: dict[str, Callable[[], Projection]] = {
    "random": lambda: load_projector("random@4", 48),
    "mlp of another view": lambda: Projection(random_map(5, 48), view="cls"),
    "z-scored mlp of two views": lambda: Projection(random_map(6, 96), view="cls+max", before=[zscore(96)], after=[L2()]),
    "linear": lambda: Projection(linear(48), about={"kind": "pca"}),
    "every step": lambda: Projection(
        linear(48),
        before=[PlainLayerNorm(), zscore(48), L2()],
        after=[zscore(512), PlainLayerNorm(), L2()],
        about={"kind": "pca", "fitted": {"entries": 7}},
    ),
}


@pytest.fixture(params=list(PIPELINES))
def pipeline(request: pytest.FixtureRequest) -> Projection:
    return PIPELINES[request.param]().eval()


@torch.inference_mode()
def test_an_artifact_gives_back_the_same_pipeline(pipeline: Projection, tmp_path: Path) -> None:
    pipeline.save(str(tmp_path / "made"))
    found = load_projector(str(tmp_path / "made"), 48)
    assert (found.fingerprint(), found.view, found.about) == (pipeline.fingerprint(), pipeline.view, pipeline.about)
    assert found.description() == pipeline.description()
    assert torch.equal(found(pooled(9, found.inputs)), pipeline(pooled(9, found.inputs)))
    assert json.loads((tmp_path / "made" / "projector.json").read_text())["fingerprint"] == found.fingerprint()


def test_an_artifact_is_found_on_object_storage(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "cache"))
    pipeline, place = PIPELINES["every step"](), s3.uri("artifact")
    pipeline.save(place)
    assert load_projector(place, 48).fingerprint() == pipeline.fingerprint()


@torch.inference_mode()
def test_a_row_of_any_pipeline_does_not_depend_on_the_others(pipeline: Projection) -> None:
    rows = 30 * pooled(300, pipeline.inputs)
    together, alone = pipeline(rows), torch.cat([pipeline(row[None]) for row in rows])
    assert together.dtype == torch.float32
    assert together.shape == (300, 512)
    # By the largest number of a vector: those of a linear map are as large as its inputs are.
    torch.testing.assert_close(together, alone, atol=1e-5 * max(1.0, float(together.abs().max()) / 100), rtol=1e-6)


@torch.inference_mode()
def test_the_steps_are_what_they_are_called() -> None:
    made = PIPELINES["every step"]()
    w = {name: value.double().numpy() for name, value in made.tensors().items()}

    def layernorm(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

    def to_length_one(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    x = to_length_one((layernorm(pooled().double().numpy()) - w["before.1.mean"]) * w["before.1.scale"])
    x = (x - w["centre"]) @ w["components"].T
    x = to_length_one(layernorm((x - w["after.0.mean"]) * w["after.0.scale"]))
    np.testing.assert_allclose(made(pooled()).numpy(), x, atol=1e-5, rtol=0)
    assert torch.equal(L2()(torch.zeros(2, 3)), torch.zeros(2, 3))


@torch.inference_mode()
def test_rows_of_zeros_in_a_linear_map_give_zeros_exactly() -> None:
    found = Projection(linear(48, rank=40))(1e4 * pooled())
    assert not found[:, 40:].any()
    assert (found[:, :40] != 0).all()


@torch.inference_mode()
def test_it_computes_in_float32_under_an_autocast() -> None:
    made = load_projector("random@0", 48)
    with torch.autocast("cpu", torch.bfloat16):
        found = made(pooled())
    assert torch.equal(found, made(pooled()))
    assert found.dtype == torch.float32


def test_everything_that_changes_a_number_is_in_the_fingerprint_and_nothing_else() -> None:
    def made(about: dict[str, Any] | None = None, view: str = "mean", before: bool = True, after: int = 1) -> str:
        steps = [zscore(48, seed) for seed in range(after)]
        return Projection(
            random_map(1, 48), view=view, before=[L2()] * before, after=[*map(as_wide, steps)], about=about
        ).fingerprint()

    def as_wide(step: ZScore) -> ZScore:
        return ZScore(step.mean.repeat(11)[:512], step.scale.repeat(11)[:512])

    assert made({"kind": "random", "seed": 1, "fitted": {"entries": 3}}) == made()
    # Without any step an mlp of the mean is named by its weights, as it always was.
    plain = Projection(random_map(1, 48)).fingerprint()
    assert plain == load_projector("random@1", 48).fingerprint()
    others = {made(), made(view="max"), made(before=False), made(after=2), made(before=False, after=0, view="cls"), plain}
    assert len(others) == 6
    assert made(before=False, after=0) == plain


def test_it_is_called_by_where_its_weights_are_from() -> None:
    assert load_projector("random@4", 48).name == "random@4"
    pca = PIPELINES["linear"]()
    assert pca.name == f"pca@{pca.fingerprint()[:12]}"
    mlp = Projection(random_map(5, 48))
    assert mlp.name == f"mlp@{mlp.fingerprint()[:12]}"
    # Its steps have numbers of their own, which the seed does not tell.
    scaled = Projection(random_map(4, 48), before=[zscore(48)], about={"kind": "random", "seed": 4})
    assert scaled.name == f"random@{scaled.fingerprint()[:12]}"


def test_weights_alone_are_an_mlp_of_the_mean(tmp_path: Path) -> None:
    trained = random_map(9, 48)
    (tmp_path / "old").mkdir()
    save_file(trained.state_dict(), tmp_path / "old" / "projector.safetensors")
    found = load_projector(str(tmp_path / "old"), 48)
    assert (found.view, found.kind, found.fingerprint()) == ("mean", "mlp", Projection(trained).fingerprint())
    Projection(trained).save(str(tmp_path / "new"))
    assert load_projector(str(tmp_path / "new"), 48).fingerprint() == found.fingerprint()


def changed(name: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "projector.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def changed_weights(folder: Path) -> None:
        tensors = load_file(folder / "projector.safetensors")
        change(tensors)
        save_file(tensors, folder / "projector.safetensors")

    return changed_weights


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (changed("view", "cls"), "does not belong to the projector.json beside it"),
        (weights(lambda tensors: tensors["centre"].add_(1e-3)), "does not belong to the projector.json beside it"),
        (weights(lambda tensors: tensors.pop("centre")), "its weights have other names or shapes"),
        (weights(lambda tensors: tensors.update(more=torch.ones(1))), "its weights have other names or shapes"),
        (weights(lambda tensors: tensors.update(components=torch.ones(3, 48))), "its weights have other names or shapes"),
        (lambda folder: (folder / "projector.safetensors").write_bytes(b"no"), "cannot be read as a projector"),
        (lambda folder: (folder / "projector.json").write_text("{"), "does not describe a projector"),
        (changed("format", 2), "has format 2, which this dnafeat does not read"),
        (changed("before", ["batchnorm"]), "step 'batchnorm' is not known: use l2, layernorm, zscore"),
        (changed("view", "last"), "view 'last' is not known"),
        (changed("map", "tree"), "map is 'tree'"),
        (lambda folder: (folder / "projector.json").unlink(), "its weights have other names or shapes"),
    ],
)
def test_an_artifact_that_is_not_as_it_was_made_is_refused(break_it: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    PIPELINES["every step"]().save(str(tmp_path))
    break_it(tmp_path)
    with pytest.raises(CheckpointError) as error:
        load_projector(str(tmp_path), 48)
    assert said in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_one_of_another_width_is_refused(tmp_path: Path) -> None:
    PIPELINES["z-scored mlp of two views"]().save(str(tmp_path))
    assert load_projector(str(tmp_path), 48).inputs == 96
    with pytest.raises(
        CheckpointError, match=r"no projector from 96 to 512 dimensions: it takes cls\+max, 96 wide, of another model"
    ):
        load_projector(str(tmp_path), 96)


# -- in the encoder --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(models.random_folder(tmp_path_factory.mktemp("model")))


def test_the_encoder_takes_the_view_and_applies_the_steps(folder: str, tmp_path: Path) -> None:
    PIPELINES["z-scored mlp of two views"]().save(str(tmp_path))
    found = Encoder.from_pretrained(folder, projector=str(tmp_path), precision="float32").encode(
        ["ACGTACGTTT", "GGGTAT", "CATTTAGCC"]
    )
    with torch.inference_mode():
        expected = load_projector(str(tmp_path))(torch.from_numpy(found.pooled("cls+max")))
    np.testing.assert_allclose(found.projected, expected.numpy(), atol=1e-5)


def test_view_and_steps_make_another_version_and_stand_in_its_lineage(folder: str, tmp_path: Path) -> None:
    def version(**settings: Any) -> Any:
        config = EncodingConfig(model=folder, precision="float32", **settings)
        return describe(Source.find(config), config)

    made = PIPELINES["z-scored mlp of two views"]()
    made.save(str(tmp_path))
    found = version(projector=str(tmp_path))
    assert (found.projector_input, found.projector_sha256) == ("cls+max", made.fingerprint())
    told = json.loads(found.lineage())["projection"]
    assert (told["name"], told["view"], told["before"], told["after"]) == (made.name, "cls+max", ["zscore"], ["l2"])
    assert found.digest != version().digest
    assert json.loads(version().lineage())["projection"]["name"] == "random@0"
    assert version(projector="random@0").digest == version().digest
