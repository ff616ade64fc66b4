"""The demo, twice, as `make demo` runs it, and what the README shows of its store."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from dnafeat.cli.main import main

README = Path(__file__).parents[2] / "README.md"


def test_the_demo_runs_twice_and_the_readme_shows_what_it_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    first = capsys.readouterr().out
    assert main(["demo"]) == 0
    second = capsys.readouterr().out
    assert "162 sequences encoded" in first
    assert "3,001 sequences encoded" in first
    assert "Nothing was embedded again" not in first
    assert "Nothing was embedded again" in second
    assert second.count("0 new or changed, 0 closed") == 3
    assert "nothing to train" not in first
    assert "nothing to train" in second
    for said in (first, second):
        shares = [float(line.split("%")[0]) for line in said.splitlines() if "% " in line and "correct by" in line]
        by_vectors, _, majority = shares
        assert by_vectors > majority + 10
        found = (re.fullmatch(r"\s+([\d.]+)%  (.+)", line) for line in said.splitlines())
        share = {line[2]: float(line[1]) for line in found if line}
        tuned, frozen = (
            share["the 5 nearest mean vectors of the fine-tuned adapter"],
            share["the 5 nearest mean vectors of dnafeat-mini"],
        )
        assert tuned > frozen + 8
        assert share["the fine-tuned model itself"] > share["always the most frequent kind"] + 15
    with capsys.disabled():
        failed, tried = doctest.testfile(str(README), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried >= 5
    assert failed == 0
