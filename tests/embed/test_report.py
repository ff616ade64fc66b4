"""The summary of a run: why entries were refused, and what it does not claim."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from models import dna
from stores import Entry, write_csv

from dnafeat.cli.main import main


def test_a_summary_counts_the_most_frequent_reasons_of_refusals(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [Entry("a", dna(30, seed=1))]
    bad = [Entry(f"b{i}", "AC" * (1 + i) + "!") for i in range(3)] + [Entry("n", "ACN" + "N" * 9), Entry("e", "")]
    command = ["embed", write_csv(tmp_path / "s.csv", [*good, *bad]), "--store", str(tmp_path / "store"), "--model", model]
    assert main([*command, "--run-id", "one"]) == 0
    told = capsys.readouterr().out
    assert "  rejects  3: letter '!' at base … is outside A C G T N (… such)\n" in told
    assert f"dnafeat rejects --store {tmp_path / 'store'} --run one" in told
    assert main([*command, "--run-id", "two", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found["reject_reasons"].values()) == [3, 1, 1]
    assert sum(found["reject_reasons"].values()) == found["rejected"] == 5
