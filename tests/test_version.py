"""The name of a version follows every setting that can change a number, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import models
import pytest

from dnafeat.encoder import Encoder, describe, resolve_precision
from dnafeat.errors import UsageError
from dnafeat.models.checkpoint import find
from dnafeat.version import FeatureVersion

VERSION = FeatureVersion(
    architecture={"family": "dnabert2", "hidden_size": 48, "layer_norm_eps": 1e-12},
    weights_sha256="a" * 64,
    tokenizer_sha256="b" * 64,
    adapter_sha256=None,
    window_tokens=512,
    overlap_tokens=128,
    strands="forward",
    layer=-1,
    special_tokens_pooled=False,
    precision="float32",
    projector_sha256="c" * 64,
    engine=1,
    names={"model": "m", "revision": None},
)
IDENTITY = [field.name for field in fields(FeatureVersion) if field.name != "names"]


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, dict):
        return value | {"hidden_size": 96}
    return "d" * 64 if value is None else value + "x"


@pytest.mark.parametrize("name", IDENTITY)
def test_every_identity_field_changes_the_digest(name: str) -> None:
    changed = replace(VERSION, **{name: another(getattr(VERSION, name))})
    assert changed.digest != VERSION.digest
    assert replace(changed, **{name: getattr(VERSION, name)}).digest == VERSION.digest


def test_names_do_not_change_the_digest_and_stand_in_the_lineage() -> None:
    renamed = replace(VERSION, names={"model": "other", "revision": "d064dece"})
    assert renamed.digest == VERSION.digest
    assert "names" not in VERSION.identity()
    lineage = json.loads(renamed.lineage())
    assert lineage == {**VERSION.identity(), "model": "other", "revision": "d064dece"}


def test_the_order_of_keys_does_not_change_the_digest() -> None:
    turned = replace(VERSION, architecture=dict(reversed(VERSION.architecture.items())))
    assert list(turned.architecture) != list(VERSION.architecture)
    assert turned.digest == VERSION.digest
    assert turned.lineage() == VERSION.lineage()


def test_the_digest_of_a_stored_version_stays() -> None:
    """Were it another, every store would hold vectors under names that nobody asks for any more."""
    assert VERSION.digest == "999327ec8864532f"


def test_the_digest_is_16_hex_digits_of_the_canonical_identity() -> None:
    canonical = json.dumps({name: getattr(VERSION, name) for name in sorted(IDENTITY)}, sort_keys=True, separators=(",", ":"))
    assert VERSION.digest == hashlib.sha256(canonical.encode()).hexdigest()[:16]


# Described without building the model.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.random_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    "settings",
    [{}, {"precision": "float32"}, {"precision": "bfloat16"}, {"window": 66, "overlap": 0}, {"projector": "random@7"}],
    ids=str,
)
def test_a_version_described_is_the_one_the_encoder_has(folder: Path, settings: dict[str, Any]) -> None:
    described = describe(find(str(folder)), **settings)
    assert Encoder.from_pretrained(str(folder), **settings).version == described
    if not settings:
        assert (described.window_tokens, described.overlap_tokens) == (512, 128)


def test_every_setting_makes_another_version(folder: Path, tmp_path: Path) -> None:
    found = find(str(folder))
    others = [
        describe(found, precision="float32"),
        describe(found, precision="bfloat16"),
        describe(found, precision="float32", window=511),
        describe(found, precision="float32", overlap=127),
        describe(found, precision="float32", projector="random@1"),
        describe(find(str(models.random_folder(tmp_path / "seed", seed=1))), precision="float32"),
        describe(find(str(models.random_folder(tmp_path / "eps", layer_norm_eps=1e-5))), precision="float32"),
    ]
    assert len({version.digest for version in others}) == len(others)


def test_the_same_model_in_another_folder_is_the_same_version(folder: Path, tmp_path: Path) -> None:
    copy = models.random_folder(tmp_path / "copy", pooler_type="none", _name_or_path="elsewhere")
    first, second = describe(find(str(folder))), describe(find(str(copy)))
    assert first.digest == second.digest
    assert first.names["model"] != second.names["model"]


def test_the_hardware_decides_the_precision_only_when_it_is_left_to_it(folder: Path) -> None:
    found = find(str(folder))
    assert describe(found, gpu=True).precision == "bfloat16"
    assert describe(found, gpu=False).precision == "float32"
    for precision in ("float32", "bfloat16"):
        assert [describe(found, precision=precision, gpu=gpu).precision for gpu in (True, False)] == [precision] * 2


@pytest.mark.parametrize("precision", ["float16", "", "Float32", "int8"])
def test_an_unknown_precision_is_refused_and_named(folder: Path, precision: str) -> None:
    with pytest.raises(UsageError, match="precision") as error:
        describe(find(str(folder)), precision=precision)
    assert repr(precision) in str(error.value)
    with pytest.raises(UsageError):
        resolve_precision(precision, gpu=True)


@pytest.mark.parametrize(("window", "overlap"), [(2, 0), (0, 0), (-5, 0), (512, 510), (512, 600), (512, -1), (3, 1)])
def test_a_window_with_no_room_for_its_overlap_is_refused(folder: Path, window: int, overlap: int) -> None:
    with pytest.raises(UsageError) as error:
        describe(find(str(folder)), window=window, overlap=overlap)
    assert str(window) in str(error.value)
    assert ("overlap" in str(error.value)) == (window >= 3)
    with pytest.raises(UsageError):
        Encoder.from_pretrained(str(folder), window=window, overlap=overlap)


@pytest.mark.parametrize(("window", "overlap"), [(3, 0), (4, 1), (512, 509), (100_000, 0)])
def test_the_tightest_windows_are_accepted(folder: Path, window: int, overlap: int) -> None:
    described = describe(find(str(folder)), window=window, overlap=overlap)
    assert (described.window_tokens, described.overlap_tokens) == (window, overlap)


def test_an_unknown_projector_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="trained@0"):
        describe(find(str(folder)), projector="trained@0")
