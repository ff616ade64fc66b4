"""`dnafeat config JOB`: the settings in force, as a file that makes the same settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from dnafeat.cli.commands import BY_NAME, COMMANDS
from dnafeat.cli.main import main
from dnafeat.settings import declared

WITHOUT = {"config", "completion", "help", "models"}
JOBS = [command.name for command in COMMANDS if command.name not in WITHOUT]


@pytest.mark.parametrize("job", JOBS)
def test_every_command_shows_settings_that_are_yaml(
    job: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DNAFEAT_STORE", raising=False)
    assert main(["config", job]) == 0
    text = capsys.readouterr().out
    values = yaml.safe_load(text) or {}
    options = {d.name: d for d in declared(BY_NAME[job].settings_class())}
    required = {name for name, d in options.items() if d.required}
    if required:
        defaults = {name: d.default for name, d in options.items() if not d.required}
        assert values == {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
        for name in required:
            assert f"# {name}:  # missing" in text
    else:
        assert {*values} == {*options}


def test_a_round_trip_makes_the_same_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNAFEAT_STORE", "/from/environment")
    (tmp_path / "in.yaml").write_text("sources: ['a b.fa', 's3://x/*.fa']\nmax_n_share: 0.25\ntile: 100\nmodel: 'yes: #1'\n")
    flags = ["--config", str(tmp_path / "in.yaml"), "--tile", "300", "--iupac", "--vectors", "mean,cls"]
    assert main(["config", "embed", *flags]) == 0
    text = capsys.readouterr().out
    lines = {line.partition(":")[0]: line for line in text.splitlines()}
    assert lines["tile"] == "tile: 300  # command line"
    assert lines["max_n_share"] == f"max_n_share: 0.25  # file {tmp_path / 'in.yaml'}"
    assert lines["store"] == "store: /from/environment  # environment"
    assert lines["mode"] == "mode: replace"
    (tmp_path / "out.yaml").write_text(text)
    monkeypatch.delenv("DNAFEAT_STORE")
    kind = BY_NAME["embed"].settings_class()
    again = kind.load(str(tmp_path / "out.yaml"), {})
    monkeypatch.setenv("DNAFEAT_STORE", "/from/environment")
    assert again == kind.load(str(tmp_path / "in.yaml"), {"tile": 300, "iupac": True, "vectors": ("mean", "cls")})
    assert (again.to_dict()["sources"], again.to_dict()["model"]) == (("a b.fa", "s3://x/*.fa"), "yes: #1")


def test_a_setting_named_on_can_be_written_with_and_without_quotes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("on", "'on'"):
        (tmp_path / "join.yaml").write_text(f"store: s\noutput: o\n{name}: subject\n")
        assert main(["config", "join", "--config", str(tmp_path / "join.yaml"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["settings"]["on"] == "subject"


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "join", "--store", "s", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["store"] == "s"
    assert told["origins"] == {"store": "command line"}
    assert "output" in told["missing"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["embed", "--tile", "0"], "--tile"),
        (["embed", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["embed", "a.fa", "--store", "s", "--stride", "3"], "stride"),
        (["embde"], "did you mean embed"),
        (["help"], "has no settings"),
        (["--json"], "name the command"),
    ],
)
def test_what_is_wrong_is_refused_as_by_the_job(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", *arguments]) == 2
    err = capsys.readouterr().err
    assert word in err
    assert err.count("\n") == 1
