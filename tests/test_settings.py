"""Configurations: the same names in YAML and as flags, flags win, and one sentence for what is wrong."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from dnafeat.cli.options import add_options, given
from dnafeat.embed.config import EmbedConfig
from dnafeat.encoder.config import EncodingConfig
from dnafeat.errors import UsageError

FIELDS = {field.name: field for field in dataclasses.fields(EmbedConfig)}
HINTS = typing.get_type_hints(EmbedConfig)
BASE: dict[str, Any] = {"sources": ("a.fa",), "store": "store"}


def kind(name: str) -> type:
    """A field's type without None; for lists `tuple`."""
    if typing.get_origin(HINTS[name]) is tuple:
        return tuple
    return next(kind for kind in typing.get_args(HINTS[name]) or (HINTS[name],) if kind is not type(None))


def optional(name: str) -> bool:
    return type(None) in typing.get_args(HINTS[name])


FLAGS = [name for name in FIELDS if not FIELDS[name].metadata["positional"]]
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
    assert all(field.metadata["help"] for field in FIELDS.values())


@pytest.mark.parametrize("name", FLAGS)
def test_every_field_has_a_flag(name: str) -> None:
    flag = "--" + name.replace("_", "-")
    if kind(name) is bool:
        assert parsed(flag) == {name: True}
        assert parsed("--no-" + flag[2:]) == {name: False}
    else:
        some = {int: ("7", 7), float: ("0.25", 0.25), str: ("text", "text"), tuple: ("b, a", ("b", "a"))}
        text, value = some[kind(name)]
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
    assert (config.iupac, config.strict, config.model) == (False, True, "other")
    assert config.window_tokens == FIELDS["window_tokens"].default


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
    cases += [(name, yaml) for name in LISTS for yaml in ("5", "[5]", "{a: b}", "[[a]]", "true", "[a, null]")]
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
        ({"window_bases": 30, "overlap_bases": -1}, "overlap of -1 bases does not fit a window of 30"),
        ({"vectors": ()}, "vectors"),
        ({"vectors": ("mean", "cls", "mean")}, "vectors"),
        ({"vectors": ("mean", "median", "mode")}, "vectors names median, mode: there are cls, mean, max, projected"),
    ],
    ids=str,
)
def test_a_bad_value_is_one_sentence_that_names_the_setting(values: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError) as error:
        EmbedConfig(**{**BASE, **values})
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
    config = EmbedConfig(**{**BASE, **values})
    assert {name: getattr(config, name) for name in values} == values


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
    assert load(tmp_path, "# nothing yet\n", **BASE) == EmbedConfig(**BASE)


def test_the_entries_a_run_stores_are_shaped_by_what_reads_and_refuses_them_alone() -> None:
    reading = {"id_column", "sequence_column", "tile", "stride", "iupac", "max_n_share", "strict", "mode"}
    assert set(EmbedConfig(**BASE).shaping()) == reading
    one, other = EmbedConfig(**BASE), EmbedConfig(**{**BASE, "store": "other", "run_id": "x", "num_actors": 3, "shard_rows": 5})
    assert one.shaping() == other.shaping()
    for name, value in {"tile": 10, "iupac": True, "max_n_share": 0.1, "id_column": "x", "strict": True, "mode": "merge"}.items():
        assert EmbedConfig(**{**BASE, name: value}).shaping() == {**one.shaping(), name: value}


def test_a_configuration_cannot_be_changed() -> None:
    config = EmbedConfig(**BASE)
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
    config = EmbedConfig(**BASE, **ENCODING, vectors=("mean",), tile=10)
    assert config.encoding() == ENCODING
    alone = EncodingConfig(**config.encoding())
    assert alone == EncodingConfig(**ENCODING)
    assert alone.encoding() == ENCODING
    assert EncodingConfig(**EmbedConfig(**BASE).encoding()) == EncodingConfig()


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
    assert [load(tmp_path, base + value).special_tokens for value in ("true", "false", "null")] == [True, False, None]
    assert load(tmp_path, base + "true", **parsed("--no-special-tokens")).special_tokens is False


def test_the_command_line_starts_without_what_only_jobs_need() -> None:
    """`pip install dnafeat` brings none of it."""
    code = (
        "import sys\nfrom dnafeat.cli.commands import COMMANDS\nfrom dnafeat.cli.main import JOB_PACKAGES\n"
        "from dnafeat.cli.parser import parser_of\nfor command in COMMANDS: parser_of(command)\n"
        "print(*sorted(set(JOB_PACKAGES) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
