"""Settings: one declaration for YAML, flags and checks; flags win, and one sentence names everything that is wrong."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from dnafeat.align.config import AlignConfig, ApplyConfig
from dnafeat.bench.config import BenchmarkConfig
from dnafeat.cli.options import add_options, given
from dnafeat.cluster.config import ActorsConfig
from dnafeat.embed.config import EmbedConfig, NightlyConfig
from dnafeat.encoder.config import EncodingConfig
from dnafeat.errors import UsageError
from dnafeat.finetune.config import FinetuneConfig, PredictConfig
from dnafeat.finetune.tasks import METRICS, Metric
from dnafeat.join.config import LEVELS, JoinConfig
from dnafeat.partners.config import PartnerConfig
from dnafeat.pretrain.config import PretrainConfig
from dnafeat.pretrain.corpus import Genomes
from dnafeat.project.config import FitProjectorConfig, ProjectConfig
from dnafeat.provenance import digest_of
from dnafeat.settings import Settings, declared, option, part
from dnafeat.sources.regions.config import GenomeConfig

FIELDS = {d.name: d for d in declared(EmbedConfig)}
BASE: dict[str, Any] = {"sources": ("a.fa",), "store": "store"}
COMMANDS: list[type[Settings]] = [
    AlignConfig,
    ApplyConfig,
    BenchmarkConfig,
    EmbedConfig,
    EncodingConfig,
    FinetuneConfig,
    FitProjectorConfig,
    JoinConfig,
    NightlyConfig,
    PartnerConfig,
    PredictConfig,
    PretrainConfig,
    ProjectConfig,
]
SECTIONS = {"input", "genome", "encoder", "join", "training", "output", "privacy", "workers", "advanced"}


@pytest.fixture(autouse=True)
def _no_store_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DNAFEAT_STORE", raising=False)


def kind(name: str) -> type:
    return FIELDS[name].kind


def optional(name: str) -> bool:
    return FIELDS[name].optional


FLAGS = [name for name in FIELDS if not FIELDS[name].positional]
WHOLE = [name for name in FLAGS if kind(name) is int]
NUMBERS = [name for name in FLAGS if kind(name) is float]
BOOLS = [name for name in FLAGS if kind(name) is bool]
LISTS = [name for name in FIELDS if kind(name) is tuple]
TEXTS = [name for name in FLAGS if kind(name) is str]


def parsed(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_options(parser, EmbedConfig)
    return given(parser.parse_args(arguments), EmbedConfig)


def load(tmp_path: Path, yaml: str | None, **flags: Any) -> EmbedConfig:
    if yaml is None:
        return EmbedConfig.load(None, flags)
    (tmp_path / "embed.yaml").write_text(yaml)
    return EmbedConfig.load(str(tmp_path / "embed.yaml"), flags)


def refused(tmp_path: Path, yaml: str | None, **flags: Any) -> str:
    with pytest.raises(UsageError) as error:
        load(tmp_path, yaml, **flags)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_every_field_is_of_a_kind_that_flags_and_yaml_can_give() -> None:
    assert {*WHOLE, *NUMBERS, *BOOLS, *TEXTS, *LISTS} == set(FIELDS)
    assert all(field.help for field in FIELDS.values())


@pytest.mark.parametrize("config", COMMANDS, ids=lambda config: config.__name__)
def test_every_setting_has_a_section_and_help_and_a_default_that_it_accepts(config: type[Settings]) -> None:
    for d in declared(config):
        assert d.section in SECTIONS, d.name
        assert d.help, d.name
        assert d.required or d.accept(d.default) == d.default, d.name
        assert d.kind in (int, float, str, bool, tuple, dict), d.name


@pytest.mark.parametrize("config", COMMANDS, ids=lambda config: config.__name__)
def test_settings_are_composed_and_not_inherited(config: type[Settings]) -> None:
    assert config.__bases__ == (Settings,)
    names = [d.name for d in declared(config)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", FLAGS)
def test_every_field_has_a_flag(name: str) -> None:
    flag = "--" + name.replace("_", "-")
    if kind(name) is bool:
        assert parsed(flag) == {name: True}
        assert parsed("--no-" + flag[2:]) == {name: False}
    else:
        some = {int: ("7", 7), float: ("0.25", 0.25), str: ("text", "text"), tuple: ("b, a", ("b", "a"))}
        text, value = some[kind(name)]
        if FIELDS[name].repeated:
            value = (text,)
        if choices := FIELDS[name].choices:
            text, value = (f"{choices[1]}, {choices[0]}", choices[1::-1]) if kind(name) is tuple else (choices[0], choices[0])
        assert parsed(flag, text) == {name: value}
    assert parsed() == {}


def test_sources_are_positional() -> None:
    assert parsed("a.fa", "b.fa", "--store", "s") == {"sources": ["a.fa", "b.fa"], "store": "s"}
    assert EmbedConfig.load(None, parsed("a.fa", "b.fa", "--store", "s")).sources == ("a.fa", "b.fa")


def test_help_can_be_formatted_and_names_every_default() -> None:
    parser = argparse.ArgumentParser(prog="x")
    add_options(parser, EmbedConfig)
    text = " ".join(parser.format_help().split())
    for name, field in FIELDS.items():
        if kind(name) in (int, float, str) and field.default not in (dataclasses.MISSING, None):
            assert f"(default: {field.default})" in text, name
    assert "(default: cls,mean,max,projected)" in text


def test_yaml_and_flags_give_the_same_configuration(tmp_path: Path) -> None:
    yaml = "sources: [a.fa, b.fa]\nstore: s\ntile: 100\niupac: true\nmax_n_share: 0.25\nadapter: null\n"
    flags = parsed("a.fa", "b.fa", "--store", "s", "--tile", "100", "--iupac", "--max-n-share", "0.25")
    assert load(tmp_path, yaml) == load(tmp_path, None, **flags)


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    yaml = "sources: [a.fa]\nstore: s\ntile: 100\niupac: true\nstrict: true\nmodel: other\n"
    config = load(tmp_path, yaml, **parsed("b.fa", "--tile", "200", "--no-iupac"))
    assert (config.sources, config.store, config.tile) == (("b.fa",), "s", 200)
    assert (config.iupac, config.strict, config.encoding.model) == (False, True, "other")
    assert config.encoding.window_tokens == FIELDS["window_tokens"].default


def test_a_single_source_needs_no_list_and_a_whole_number_is_a_number(tmp_path: Path) -> None:
    config = load(tmp_path, "sources: a.fa\nstore: s\nmax_n_share: 1\n")
    assert config.sources == ("a.fa",)
    assert (config.max_n_share, type(config.max_n_share)) == (1.0, float)


def test_every_unknown_setting_is_named_with_the_file_and_the_known_ones(tmp_path: Path) -> None:
    text = refused(tmp_path, "sources: a.fa\nstore: s\ntiles: 100\nwindow-tokens: 5\n1: 2\n")
    assert all(word in text for word in ("tiles", "window-tokens", "1", "embed.yaml", *FIELDS))


@pytest.mark.parametrize("name", ["sources", "store"])
def test_a_missing_setting_is_named(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path, None, **{k: v for k, v in BASE.items() if k != name}).startswith(f"{name} is missing")
    yaml = {"sources": "store: s\n", "store": "sources: a.fa\n"}[name]
    text = refused(tmp_path, yaml)
    assert text.startswith(f"{name} is missing")
    assert "embed.yaml" in text


def wrong_types() -> list[Any]:
    cases = [(name, yaml) for name in WHOLE for yaml in ("'5'", "5.0", "true", "[5]", "five", "2026-01-01")]
    cases += [(name, yaml) for name in NUMBERS for yaml in ("'0.5'", "true", "[0.5]", "{a: 1}")]
    cases += [(name, yaml) for name in BOOLS for yaml in ("1", "'yes'", "0", "[true]")]
    cases += [(name, yaml) for name in TEXTS for yaml in ("5", "true", "[a]", "2026-01-01", "1.5")]
    cases += [(name, yaml) for name in LISTS for yaml in ("5", "{a: b}", "[[a]]", "true", "[a, null]")]
    cases += [(name, "[a]" if FIELDS[name].item is int else "[5]") for name in LISTS]
    cases += [(name, "null") for name in FIELDS if not optional(name)]
    return [pytest.param(name, yaml, id=f"{name}: {yaml}") for name, yaml in cases]


@pytest.mark.parametrize(("name", "yaml"), wrong_types())
def test_a_wrong_type_is_one_sentence_that_names_the_setting(tmp_path: Path, name: str, yaml: str) -> None:
    lines = {"sources": "a.fa", "store": "s", name: yaml}
    text = refused(tmp_path, "".join(f"{key}: {value}\n" for key, value in lines.items()))
    assert text.startswith(f"{name} must be ")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"sources": ()}, "source"),
        ({"tile": 0}, "tile"),
        ({"tile": -5}, "tile"),
        ({"tile": 10, "stride": 0}, "stride"),
        ({"stride": 10}, "tile"),
        ({"max_n_share": -0.1}, "max_n_share"),
        ({"max_n_share": 1.01}, "max_n_share"),
        ({"max_n_share": float("nan")}, "max_n_share"),
        ({"num_actors": 0}, "num_actors"),
        ({"shard_rows": 0}, "shard_rows"),
        ({"gpus_per_actor": -1.0}, "gpus_per_actor"),
        ({"run_id": ""}, "run_id"),
        ({"run_id": "a/b"}, "run_id"),
        ({"run_id": "a b"}, "run_id"),
        ({"run_id": "x" * 129}, "run_id"),
        ({"run_id": "a\n"}, "run_id"),
        ({"run_id": "_a"}, "begin it with a letter or a digit"),
        ({"run_id": ".a"}, "begin it with a letter or a digit"),
        ({"run_id": ".."}, "begin it with a letter or a digit"),
        ({"precision": "float16"}, "precision 'float16' is none of"),
        ({"strands": "reverse"}, "strands 'reverse' is neither forward nor both"),
        ({"strands": ""}, "strands ''"),
        ({"kmer": -1}, "kmer -1"),
        ({"average_layers": 0}, "average_layers 0"),
        ({"window_bases": 0}, "window_bases 0"),
        ({"window_bases": -3}, "window_bases -3"),
        ({"window_tokens": 64, "window_bases": 300}, "in tokens and in bases"),
        ({"overlap_tokens": 16, "window_bases": 300}, "in tokens and in bases"),
        ({"window_tokens": 64, "overlap_bases": 30}, "in tokens and in bases"),
        ({"overlap_bases": 30}, "overlap_bases is given without window_bases"),
        ({"window_bases": 30, "overlap_bases": 30}, "overlap of 30 bases does not fit a window of 30"),
        ({"window_bases": 30, "overlap_bases": -1}, "overlap_bases -1 is too low: give 0 or more"),
        ({"vectors": ()}, "vectors"),
        ({"vectors": ("mean", "cls", "mean")}, "vectors"),
        ({"vectors": ("mean", "median", "mode")}, "vectors names median, mode: there are cls, mean, max, projected"),
    ],
    ids=str,
)
def test_a_bad_value_is_one_sentence_that_names_the_setting(values: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError) as error:
        EmbedConfig.make(**{**BASE, **values})
    assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"tile": 1, "stride": 1},
        {"tile": 10, "stride": 20},
        {"max_n_share": 0.0},
        {"max_n_share": 1.0},
        {"run_id": "2026-01-01T00:00:00.5_a-b"},
        {"run_id": "x" * 128},
        {"precision": "bfloat16"},
        {"strands": "both"},
        {"kmer": 1},
        {"average_layers": 1, "layer": -1000},
        {"window_bases": 1, "overlap_bases": 0},
        {"window_bases": 30, "overlap_bases": 29},
        {"window_tokens": 64, "overlap_tokens": 0},
        {"vectors": ("projected",)},
        {"vectors": ("max", "cls", "mean", "projected")},
    ],
    ids=str,
)
def test_values_at_the_edge_are_good(values: dict[str, Any]) -> None:
    config = EmbedConfig.make(**{**BASE, **values})
    assert {name: config.to_dict()[name] for name in values} == values


@pytest.mark.parametrize("yaml", ["[a, b]", "text", "5", "false", "[]", "a: [", "a: b: c", "\t", "!!python/object:x {}"])
def test_a_file_that_is_no_mapping_is_one_sentence_that_names_it(tmp_path: Path, yaml: str) -> None:
    text = refused(tmp_path, yaml, **BASE)
    assert "embed.yaml" in text


def test_a_file_that_cannot_be_read_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(UsageError) as error:
            EmbedConfig.load(str(path), BASE)
        assert str(path) in str(error.value)
    (tmp_path / "latin.yaml").write_bytes("store: ü\n".encode("latin-1"))
    with pytest.raises(UsageError) as error:
        EmbedConfig.load(str(tmp_path / "latin.yaml"), BASE)
    assert "latin.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing yet\n", **BASE) == EmbedConfig.make(**BASE)


def test_the_entries_a_run_stores_are_shaped_by_what_reads_and_refuses_them_alone() -> None:
    reading = {"id_column", "sequence_column", "tile", "stride", "iupac", "max_n_share", "strict", "mode"}
    assert set(EmbedConfig.make(**BASE).shaping()) == reading
    one, other = (
        EmbedConfig.make(**BASE),
        EmbedConfig.make(**{**BASE, "store": "other", "run_id": "x", "num_actors": 3, "shard_rows": 5}),
    )
    assert one.shaping() == other.shaping()
    for name, value in {"tile": 10, "iupac": True, "max_n_share": 0.1, "id_column": "x", "strict": True, "mode": "merge"}.items():
        assert EmbedConfig.make(**{**BASE, name: value}).shaping() == {**one.shaping(), name: value}


def test_a_configuration_cannot_be_changed() -> None:
    config = EmbedConfig.make(**BASE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.tile = 5  # type: ignore[misc]


# Vectors.


@pytest.mark.parametrize(
    ("flag", "yaml"), [("mean", "mean"), ("mean,cls", "[mean, cls]"), (" max , projected,", "[max, projected]")]
)
def test_vectors_are_a_flag_with_commas_and_a_list_in_yaml(tmp_path: Path, flag: str, yaml: str) -> None:
    chosen = tuple(part.strip() for part in flag.split(",") if part.strip())
    base = "sources: a.fa\nstore: s\n"
    assert load(tmp_path, base, **parsed("--vectors", flag)).vectors == chosen
    assert load(tmp_path, f"{base}vectors: {yaml}\n").vectors == chosen
    assert load(tmp_path, f"{base}vectors: {yaml}\n", **parsed("--vectors", "cls")).vectors == ("cls",)
    assert load(tmp_path, base).vectors == ("cls", "mean", "max", "projected")


@pytest.mark.parametrize(
    ("flag", "yaml", "word"),
    [
        ("mean,median", "[mean, median]", "median"),
        ("mean,mean", "[mean, mean]", "twice"),
        (",", "[]", "none"),
        ("", "[]", "none"),
    ],
)
def test_vectors_that_cannot_be_stored_are_refused_from_flags_and_from_yaml(
    tmp_path: Path, flag: str, yaml: str, word: str
) -> None:
    assert word in refused(tmp_path, None, **BASE, **parsed("--vectors", flag))
    assert word in refused(tmp_path, f"vectors: {yaml}\n", **BASE)


# What decides the vectors.

ENCODING: dict[str, Any] = {
    "model": "m", "adapter": "a", "projector": "random@3", "kmer": 4, "precision": "bfloat16", "window_tokens": 64, "overlap_tokens": 5,
    "window_bases": None, "overlap_bases": None, "truncate": True, "strands": "both", "layer": -2, "average_layers": 2,
    "special_tokens": False, "round_vectors": "bfloat16",
}  # fmt: skip


def test_an_embedding_runs_encoding_settings_make_the_same_encoder_settings() -> None:
    assert {field.name for field in dataclasses.fields(EncodingConfig)} == set(ENCODING)
    config = EmbedConfig.make(**BASE, **ENCODING, vectors=("mean",), tile=10)
    assert config.encoding.to_dict() == ENCODING
    assert config.encoding == EncodingConfig(**ENCODING)
    assert EmbedConfig.make(**BASE).encoding == EncodingConfig()


def test_an_encoders_settings_are_checked_without_a_run_too() -> None:
    for wrong in (
        {"strands": "reverse"},
        {"kmer": -1},
        {"overlap_bases": 3},
        {"precision": "float16"},
        {"round_vectors": "float16"},
    ):
        with pytest.raises(UsageError):
            EncodingConfig(**wrong)


def test_special_tokens_can_be_left_open_in_yaml(tmp_path: Path) -> None:
    base = "sources: a.fa\nstore: s\nspecial_tokens: "
    assert [load(tmp_path, base + value).encoding.special_tokens for value in ("true", "false", "null")] == [True, False, None]
    assert load(tmp_path, base + "true", **parsed("--no-special-tokens")).encoding.special_tokens is False


# All problems at once, named as they were given.


def test_everything_that_is_missing_or_wrong_is_named_at_once(tmp_path: Path) -> None:
    text = refused(tmp_path, "sorces: a.fa\ntile: five\nkmer: 3\n", stride="0", strands="reverse", max_n_share="x")
    assert text.startswith(f"configuration {tmp_path / 'embed.yaml'} has no setting 'sorces' (did you mean sources?): there are ")
    file = tmp_path / "embed.yaml"
    for sentence in (
        f"sources is missing: name it on the command line or add it to {file}",
        f"store is missing: give --store or add it to {file} or set DNAFEAT_STORE",
        f"tile must be a whole number, not 'five' (in {file})",
        "--stride 0 is too low: give 1 or more",
        "--strands 'reverse' is neither forward nor both",
        "--max-n-share must be a number, not 'x'",
    ):
        assert f"; {sentence}" in text
    assert "kmer" not in text.partition("; ")[2]


def test_python_names_settings_and_the_nearest_known_one() -> None:
    with pytest.raises(UsageError) as error:
        EmbedConfig.make(sources="a.fa", tilee=5, num_actors=0)
    assert str(error.value).startswith("no setting 'tilee' (did you mean tile?): there are sources, store, model, ")
    assert str(error.value).endswith("; store is missing; num_actors 0 is too low: give 1 or more")


def test_a_check_between_settings_names_flags_as_flags_and_settings_of_a_file_as_settings(tmp_path: Path) -> None:
    both = {"overlap_bases": "3", **BASE}
    assert refused(tmp_path, None, **both) == "--overlap-bases is given without --window-bases"
    yaml = "sources: a.fa\nstore: s\n"
    assert refused(tmp_path, yaml + "overlap_bases: 3\n").startswith("overlap_bases is given without ")
    assert refused(tmp_path, yaml, stride="5").startswith("--stride is given without tile: ")
    with pytest.raises(UsageError, match=r"^--min-workers 3 is more than --num-workers 2$"):
        FinetuneConfig.load(None, {"train": "t", "output": "o", "num_workers": "2", "min_workers": "3"})


def test_a_value_in_a_sentence_is_not_taken_for_a_setting() -> None:
    flags = {"store": "s", "on": "id", "output": "o", "partner": ("has_dna=salt_file",), "salt_file": "x"}
    with pytest.raises(UsageError, match=r"^--partner 'has_dna' has the name of another column"):
        JoinConfig.load(None, flags)


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        ({"tile": "300", "max_n_share": "0.25", "iupac": "true"}, {"tile": 300, "max_n_share": 0.25, "iupac": True}),
        ({"vectors": "mean, cls", "layer": "-2"}, {"vectors": ("mean", "cls"), "layer": -2}),
        ({"sources": ["a,b.fa", "c.fa"]}, {"sources": ("a,b.fa", "c.fa")}),
    ],
)
def test_flags_are_texts_or_values(texts: dict[str, Any], values: dict[str, Any]) -> None:
    settings = EmbedConfig.load(None, {**BASE, **texts}).to_dict()
    assert {name: settings[name] for name in values} == values
    assert EmbedConfig.load(None, {**BASE, **values}).to_dict() == settings


def test_whole_numbers_and_json_are_read_from_flags() -> None:
    chosen = {"files": ["a.fa"], "output": "o"}
    for lengths in (["64", "128"], "64,128", (64, 128), ["64,128"]):
        assert PretrainConfig.load(None, {**chosen, "lengths": lengths}).lengths == (64, 128)
    with pytest.raises(UsageError, match=r"^--lengths 8 is too low: give 16 or more$"):
        PretrainConfig.load(None, {**chosen, "lengths": ["8", "64"]})
    with pytest.raises(UsageError, match=r"^--lengths must be a list of whole numbers, not \(64, 'x'\)$"):
        PretrainConfig.load(None, {**chosen, "lengths": "64,x"})
    tuning = FinetuneConfig.load(None, {"train": "t", "output": "o", "lora_options": '{"use_rslora": true}'})
    assert tuning.lora_options == {"use_rslora": True}


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 10**400], ids=str)
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(UsageError, match="is not a finite number"):
        EmbedConfig.make(BASE, gpus_per_actor=value)


# The environment.


def test_the_environment_names_the_store_where_nothing_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNAFEAT_STORE", "s3://b/environment")
    assert load(tmp_path, None, sources="a.fa").store == "s3://b/environment"
    assert load(tmp_path, "store: file\n", sources="a.fa").store == "file"
    assert load(tmp_path, "store: file\n", sources="a.fa", store="flag").store == "flag"
    assert FIELDS["store"].env == "DNAFEAT_STORE"
    with pytest.raises(UsageError, match="store is missing"):
        EmbedConfig.make(sources="a.fa")
    # A joined table has its DNA: the store of the environment is not one that was asked for.
    assert AlignConfig.load(None, {"joined": "j", "output": "o"}).store is None
    assert AlignConfig.load(None, {"partner": "brain=b", "output": "o"}).store == "s3://b/environment"
    monkeypatch.setenv("DNAFEAT_STORE", "")
    assert "or set DNAFEAT_STORE" in refused(tmp_path, None, sources="a.fa")


# Files that are no settings.


def bomb() -> str:
    lines = ["sources:", "- &a [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]"]
    for before, name in itertools.pairwise("abcdefghi"):
        lines.append(f"- &{name} [{','.join([f'*{before}'] * 10)}]")
    return "\n".join([*lines, "store: x", ""])


@pytest.mark.parametrize(
    ("yaml", "word"),
    [
        (bomb(), "aliases (*name) are not accepted"),
        ("sources: &a a.fa\nstore: *a\n", "aliases (*name) are not accepted"),
        ("store: " + "{a: " * 20_000 + "}" * 20_000, "nested more than 16 deep"),
        ("store: " + "[" * 20_000 + "]" * 20_000, "nested more than 16 deep"),
        ("store: " + "- " * 20_000 + "a", "not valid YAML"),
        ("tile: " + "9" * 10_000, "embed.yaml"),
        ("tile: 0x" + "f" * 10_000, "embed.yaml"),
        ("store: 2026-13-45\n", "embed.yaml"),
        ("#" * 1_000_001, "is larger than 1 MB"),
        ("sources: [" + "a," * 400_000 + "]", "there are more than 10,000 values"),
        ("".join(f"k{i}: 1\n" for i in range(90_000)), "there are more than 10,000 values"),
        (
            "".join(f"k{i}: 1\n" for i in range(4_000)),
            "'k7', 'k8', 'k9' and 3,990 more: there are",
        ),
        ("? " + "k" * 100_000 + "\n: 1\n", "no setting 'kkk"),
    ],
    ids=[
        "bomb",
        "alias",
        "deep mapping",
        "deep list",
        "deep entries",
        "digits",
        "hexadecimal",
        "date",
        "large",
        "list",
        "keys",
        "unknown",
        "long key",
    ],
)
def test_a_hostile_file_is_one_sentence_that_names_it(tmp_path: Path, yaml: str, word: str) -> None:
    text = refused(tmp_path, yaml, sources="a.fa")
    assert word in text
    assert "embed.yaml" in text
    assert len(text) < 1200


# Parts.


def test_parts_are_flat_outside_python() -> None:
    config = NightlyConfig.make(BASE, channel="c", model="m", num_actors=2, runner="local")
    assert (config.embed.encoding.model, config.embed.actors.num_actors, config.embed.actors.runner) == ("m", 2, "local")
    flat = config.to_dict()
    assert flat["model"] == "m"
    assert flat.keys() == {d.name for d in declared(NightlyConfig)}
    assert NightlyConfig.make(flat) == config
    changed = config.replace(model="other", channel="d")
    assert (changed.embed.encoding.model, changed.channel, changed.embed.store) == ("other", "d", config.embed.store)
    assert {d.owner for d in declared(NightlyConfig)} == {NightlyConfig, EmbedConfig, EncodingConfig, ActorsConfig, GenomeConfig}


def test_a_part_can_have_other_defaults() -> None:
    assert AlignConfig.make(output="o", store="s", partner="b=b").inputs.on == "subject_id"
    assert next(d for d in declared(JoinConfig) if d.name == "on").required
    assert next(d for d in declared(AlignConfig) if d.name == "on").default == "subject_id"
    chosen = PretrainConfig.make(files="a.fa", output="o", num_workers=2)
    assert (chosen.workers.storage, chosen.workers.cpus_per_worker, chosen.workers.num_workers) == ("runs", 1, 2)
    assert PretrainConfig(files=("a.fa",), output="o").workers == chosen.replace(num_workers=1).workers


def test_one_name_is_declared_once() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Twice(Settings):
        encoding: EncodingConfig = part(EncodingConfig)
        model: str = option("x", "y")

    with pytest.raises(TypeError, match="Twice declares model twice"):
        declared(Twice)


def test_choices_are_those_of_the_code() -> None:
    assert {"loss"}.union(*METRICS.values()) == set(typing.get_args(Metric))
    assert next(d for d in declared(JoinConfig) if d.name == "level").choices == tuple(LEVELS)


def test_runs_have_the_names_that_they_had() -> None:
    """Digests of runs made before settings were composed: the same command finds their checkpoints, and encodes nothing again."""
    join = {"store": "s", "partner": ("brain=b",), "output": "o"}
    tuning = {"train": "t.csv", "output": "o"}
    more = {"tile": 100, "iupac": True, "max_n_share": 0.25, "mode": "merge", "num_actors": 2, "model": "m"}
    made: list[Settings] = [
        EmbedConfig.make(sources=("a.fa",), store="s"),
        EmbedConfig.make(sources=("a.fa",), store="s", **more),
        NightlyConfig.make(sources=("a.fa",), store="s", channel="c"),
        FinetuneConfig.make(tuning),
        FinetuneConfig.make(tuning, kmer=6, lora_targets=("Wqkv",), num_workers=2, epochs=3),
        AlignConfig.make(join),
        AlignConfig.make(join, covariates=("age",), level="haplotype", pca=4),
    ]
    assert [digest_of(config.shaping())[:16] for config in made] == [
        *("39ab7bd9f2c1340b", "6c7ce526caa9bf73", "39ab7bd9f2c1340b", "215c407c627b8e4a"),
        *("fabd8321215b37fe", "2c3ec1bfbb622b47", "85522a5b217c5469"),
    ]
    genomes = Genomes(train={"a": b"ACGT" * 100}, heldout={"b": b"ACGT" * 10})
    corpus: dict[str, Any] = {"files": ("a.fa",), "output": "o", "storage": "s"}
    other = PretrainConfig.make(corpus, kmer=3, lengths=(64,), optimizer="muon", num_workers=2, learning_rate=1e-3)
    assert PretrainConfig.make(corpus).run_name(genomes) == "pretrain-d64c62070253"
    assert other.run_name(genomes) == "pretrain-0ab52946bd7a"


def test_the_command_line_starts_without_what_only_jobs_need() -> None:
    """`pip install dnafeat` brings none of it."""
    code = (
        "import sys\nfrom dnafeat.cli.commands import COMMANDS\nfrom dnafeat.cli.main import JOB_PACKAGES\n"
        "from dnafeat.cli.parser import parser_of\nfor command in COMMANDS: parser_of(command)\n"
        "print(*sorted(set(JOB_PACKAGES) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
