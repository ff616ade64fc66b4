"""The name of a version follows every setting that can change a number, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from safetensors.torch import save_file

from dnafeat.embed.config import EmbedConfig
from dnafeat.encoder import Encoder
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.describe import describe as describe_found
from dnafeat.encoder.describe import resolve_precision
from dnafeat.encoder.models import checkpoint
from dnafeat.encoder.source import Source
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import UsageError

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


# Fields that versions of before did not have.
LATER = {"average_layers": 3, "window_bases": 600, "overlap_bases": 100, "truncate": True, "rounding": "bfloat16"}


@pytest.mark.parametrize("chosen", [{}, *({name: value} for name, value in LATER.items()), LATER], ids=str)
def test_the_digest_is_16_hex_digits_of_the_canonical_identity(chosen: dict[str, Any]) -> None:
    """Fields that came later are in it where they say something, and not at their defaults: older digests stay."""
    version = replace(VERSION, **chosen)
    known = {name: getattr(version, name) for name in IDENTITY if name not in LATER} | chosen
    assert version.identity() == known
    canonical = json.dumps(known, sort_keys=True, separators=(",", ":"))
    assert version.digest == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_the_bundled_encoder_keeps_its_name() -> None:
    """Vectors stand in stores under it."""
    assert describe("dnafeat-mini", gpu=False).digest == "0185783863a65f42"
    assert describe(None, precision="float32", window_tokens=512, overlap_tokens=128, layer=4).digest == "0185783863a65f42"


# Described without building the model.


def describe(model: Path | str | None, *, gpu: bool | None = None, **settings: Any) -> FeatureVersion:
    config = EncodingConfig(model=None if model is None else str(model), **settings)
    return describe_found(Source.find(config), config, gpu=gpu)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As PEFT saves one."""
    place = tmp_path_factory.mktemp("adapter")
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["attention.output.dense"], "task_type": None}
    (place / "adapter_config.json").write_text(json.dumps(values))
    name = "base_model.model.encoder.layer.{}.attention.output.dense.lora_{}.weight"
    parts = {name.format(i, part): torch.full(shape, 0.1) for i in (0, 1) for part, shape in (("A", (2, 48)), ("B", (48, 2)))}
    save_file(parts, place / "adapter_model.safetensors")
    return place


@pytest.fixture(scope="module")
def kmer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ProkBERT of 3-mers, 64 positions."""
    place, values = tmp_path_factory.mktemp("kmers"), models.prokbert_config()
    (place / "config.json").write_text(json.dumps(values))
    entries = [*models.KMER_SPECIAL, *(a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT")]
    (place / "vocab.txt").write_text("\n".join(entries))
    save_file({key: value.clone() for key, value in models.prokbert_state(values).items()}, place / "model.safetensors")
    return place


# One value of each setting that changes numbers, other than its default.
OTHER: dict[str, Any] = {
    "projector": "random@7",
    "precision": "bfloat16",
    "window_tokens": 66,
    "overlap_tokens": 7,
    "window_bases": 90,
    "overlap_bases": 11,
    "truncate": True,
    "strands": "both",
    "layer": -2,
    "average_layers": 2,
    "special_tokens": True,
    "kmer": 4,
    "round_vectors": "bfloat16",
}
NEEDED = {"overlap_bases": {"window_bases": 90}}


@pytest.mark.filterwarnings("ignore:with kmer")
@pytest.mark.parametrize("name", [None, "adapter", *OTHER])
def test_a_version_is_described_without_building_the_model_and_is_the_encoders(
    folder: Path, adapter: Path, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {name: str(adapter) if name == "adapter" else OTHER[name], **NEEDED.get(name, {})} if name else {}
    built = Encoder.from_pretrained(str(folder), **chosen).version
    for function in ("load_encoder", "read_tensors"):
        monkeypatch.setattr(checkpoint, function, lambda *given: pytest.fail("the model is built"))
    described = describe(folder, **chosen)
    assert described == built
    assert described.digest == built.digest
    if name is None:
        assert (described.window_tokens, described.overlap_tokens) == (512, 128)


@pytest.mark.parametrize("settings", [{}, {"window_bases": 40}, {"window_tokens": 20, "strands": "both"}], ids=str)
def test_a_version_of_kmers_is_described_as_the_encoder_has_it(kmer_folder: Path, settings: dict[str, Any]) -> None:
    described = describe(kmer_folder, **settings)
    assert Encoder.from_pretrained(str(kmer_folder), **settings).version == described
    assert described.architecture["max_position_embeddings"] == 64


@pytest.mark.filterwarnings("ignore:with kmer")
def test_every_setting_makes_another_version(folder: Path, adapter: Path, tmp_path: Path) -> None:
    assert {*OTHER, "model", "adapter"} == {field.name for field in fields(EncodingConfig)}
    plain = {"precision": "float32"}
    others = {name: describe(folder, **{**plain, name: value, **NEEDED.get(name, {})}) for name, value in OTHER.items()}
    others |= {
        "none": describe(folder, **plain),
        "adapter": describe(folder, adapter=str(adapter), **plain),
        "model": describe(models.random_folder(tmp_path / "seed", seed=1), **plain),
        "eps": describe(models.random_folder(tmp_path / "eps", layer_norm_eps=1e-5), **plain),
        "kmer 5": describe(folder, kmer=5, **plain),
        "projector 8": describe(folder, projector="random@8", **plain),
    }
    assert len({version.digest for version in others.values()}) == len(others)


def test_a_setting_at_the_value_it_has_anyway_makes_no_other_version(folder: Path, kmer_folder: Path) -> None:
    plain = describe(folder, gpu=False).digest
    for same in (
        {"precision": "float32"}, {"window_tokens": 512}, {"overlap_tokens": 128}, {"strands": "forward"}, {"layer": 2},
        {"special_tokens": False}, {"kmer": 0}, {"average_layers": 1}, {"truncate": False}, {"projector": "random@0"},
    ):  # fmt: skip
        assert describe(folder, gpu=False, **same).digest == plain
    bases = describe(folder, window_bases=100)
    assert bases.digest == describe(folder, window_bases=100, overlap_bases=25).digest
    assert (bases.window_tokens, bases.overlap_tokens, bases.window_bases, bases.overlap_bases) == (0, 0, 100, 25)
    assert describe(kmer_folder).digest == describe(kmer_folder, window_tokens=64, overlap_tokens=16).digest


def test_layer_12_of_12_is_the_last_one(tmp_path: Path) -> None:
    deep = models.random_folder(tmp_path, num_hidden_layers=12)
    assert describe(deep).digest == describe(deep, layer=12).digest == describe(deep, layer=-1).digest
    assert describe(deep, layer=0).digest == describe(deep, layer=-13).digest
    assert describe(deep, layer=11).layer == -2
    for layer, count in ((13, 1), (-14, 1), (12, 14), (0, 2)):
        with pytest.raises(UsageError):
            describe(deep, layer=layer, average_layers=count)
    assert describe(deep, layer=12, average_layers=13).average_layers == 13


def test_what_changes_no_number_changes_no_version(folder: Path) -> None:
    base = {"model": str(folder), "store": "a"}
    digests = set()
    for rest in (
        {"sources": ("a",)},
        {"sources": ("b",), "vectors": ("mean",), "source_name": "x", "strict": True, "num_actors": 3},
    ):
        config = EmbedConfig.make(**base, **rest)
        digests.add(describe_found(Source.find(config.encoding), config.encoding, gpu=False).digest)
    assert digests == {describe(folder, gpu=False).digest}


def test_the_same_model_in_another_folder_is_the_same_version(folder: Path, tmp_path: Path) -> None:
    copy = models.random_folder(
        tmp_path / "copy", pooler_type="none", _name_or_path="elsewhere", hidden_dropout_prob=0.5, initializer_range=0.5
    )
    first, second = describe(folder), describe(copy)
    assert first.digest == second.digest
    assert first.names["model"] != second.names["model"]


def test_the_hardware_decides_the_precision_only_when_it_is_left_to_it(folder: Path) -> None:
    assert describe(folder, gpu=True).precision == "bfloat16"
    assert describe(folder, gpu=False).precision == "float32"
    for precision in ("float32", "bfloat16"):
        assert [describe(folder, precision=precision, gpu=gpu).precision for gpu in (True, False)] == [precision] * 2
        assert resolve_precision(precision, gpu=True) == resolve_precision(precision, gpu=False) == precision


@pytest.mark.parametrize("precision", ["float16", "", "Float32", "int4"])
def test_an_unknown_precision_is_refused_and_named(folder: Path, precision: str) -> None:
    with pytest.raises(UsageError, match="precision") as error:
        Encoder.from_pretrained(str(folder), precision=precision)
    assert repr(precision) in str(error.value)


@pytest.mark.parametrize("strange", ["window", "overlap", "vectors", "windowtokens"])
def test_an_unknown_setting_is_refused_with_the_known_ones(folder: Path, strange: str) -> None:
    with pytest.raises(UsageError, match=f"no setting '{strange}'") as error:
        Encoder.from_pretrained(str(folder), **{strange: 1})
    assert all(name in str(error.value) for name in OTHER)


@pytest.mark.parametrize(("window", "overlap"), [(2, 0), (0, 0), (-5, 0), (512, 510), (512, 600), (512, -1), (3, 1)])
def test_a_window_with_no_room_for_its_overlap_is_refused(folder: Path, window: int, overlap: int) -> None:
    with pytest.raises(UsageError) as error:
        describe(folder, window_tokens=window, overlap_tokens=overlap)
    assert str(window) in str(error.value)
    assert ("overlap" in str(error.value)) == (window >= 3)
    with pytest.raises(UsageError):
        Encoder.from_pretrained(str(folder), window_tokens=window, overlap_tokens=overlap)


@pytest.mark.parametrize(("window", "overlap"), [(3, 0), (4, 1), (512, 509), (100_000, 0)])
def test_the_tightest_windows_are_accepted(folder: Path, window: int, overlap: int) -> None:
    described = describe(folder, window_tokens=window, overlap_tokens=overlap)
    assert (described.window_tokens, described.overlap_tokens) == (window, overlap)


def test_a_small_window_needs_no_overlap_of_its_own(folder: Path) -> None:
    assert [describe(folder, window_tokens=n).overlap_tokens for n in (3, 4, 5, 100)] == [0, 1, 1, 25]
    assert [describe(folder, window_bases=n).overlap_bases for n in (1, 3, 4, 100)] == [0, 0, 1, 25]


def test_windows_that_a_model_of_kmers_cannot_have_are_refused(kmer_folder: Path) -> None:
    with pytest.raises(UsageError, match="65 tokens is longer than the 64 positions"):
        describe(kmer_folder, window_tokens=65)
    with pytest.raises(UsageError, match="2 bases has no token: give 3"):
        describe(kmer_folder, window_bases=2)
    assert describe(kmer_folder, window_bases=3).window_bases == 3


def test_an_unknown_projector_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="trained@0"):
        describe(folder, projector="trained@0")
