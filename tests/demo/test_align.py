"""The worked example, small: what is planted is found, shuffled subjects are not, and the embedded version is the aligned space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dnafeat.cli.main import main
from dnafeat.demo import align as demoalign
from dnafeat.demo.cohort import Cohort, simulate


def check(found: dict[str, Any], said: str, times: float) -> None:
    for way in ("dna to brain", "brain to dna"):
        one, other = (found[name]["measures"]["retrieval"][way]["recall@5"] for name in ("aligned", "shuffled"))
        assert one["value"] > times * one["chance"]
        assert other["value"] < other["chance"] + 3.5 * np.sqrt(other["chance"] / found["shuffled"]["measures"]["subjects"])
    assert found["aligned"]["measures"]["tests"]["CCA of the vectors"]["p"] <= 0.02
    assert found["shuffled"]["measures"]["tests"]["CCA of the vectors"]["p"] > 0.02
    assert found["apart"] <= 1e-5
    lost = {one["gene"]: one["cost"]["recall@5"]["value"] for one in found["by_gene"]["measures"]["genes"]}
    assert list(lost) == list(demoalign.GENES)
    assert min(lost[gene] for gene in ("N", "cI", "cro")) > max(lost[gene] for gene in ("cII", "O", "P"))
    assert "Real: 6 genes of phage lambda and the bundled encoder. Made up: " in said
    assert "The signal was planted" in said


@pytest.mark.long
def test_the_example_finds_what_was_planted_and_nothing_in_strangers(tmp_path: Path) -> None:
    """Embedding is that of the command; the alignments are trained in this process."""
    said: list[str] = []
    cohort = Cohort(subjects=240, founders=8, factors=6, noise=0.2)
    more: dict[str, Any] = {"permutations": 99, "resamples": 50, "steps": 80, "eval_steps": 10, "learning_rate": 1e-3}
    found = demoalign.demo(str(tmp_path / "demo"), cohort, said.append, **more)
    check(found, "\n".join(said), times=4)
    assert found["aligned"]["split"]["families"] < 240
    assert list(found["aligned"]["covariates"]["levels"]) == ["sex", "site"]


def test_the_example_runs_to_its_end(tmp_path: Path) -> None:
    """With too few subjects and steps to find anything; `make test-long` looks at what it finds."""
    said: list[str] = []
    more: dict[str, Any] = {"permutations": 5, "resamples": 5, "steps": 4, "eval_steps": 2}
    found = demoalign.demo(str(tmp_path / "demo"), Cohort(subjects=240, founders=8, factors=6, noise=0.2), said.append, **more)
    assert found["apart"] <= 1e-5
    assert [one["gene"] for one in found["by_gene"]["measures"]["genes"]] == list(demoalign.GENES)
    assert "The signal was planted" in "\n".join(said)


@pytest.mark.long
def test_the_command_runs_as_it_stands_in_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo-align"]) == 0
    said = capfd.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("So the brain of a subject")]
    assert "the first of 119 by its DNA in " in line
    assert float(line.partition("DNA in ")[2].split()[0]) > 10
    assert (tmp_path / "demo-align" / "aligned" / "alignment.png").is_file()


def test_the_cohort_is_the_same_from_a_seed_and_families_are_alike(tmp_path: Path) -> None:
    genes = {"a": "ACGT" * 30, "b": "GGCA" * 20}
    files = [simulate(tmp_path / name, genes, Cohort(subjects=40, founders=5, causal=1)) for name in ("one", "two")]
    assert Path(files[0][0]).read_bytes() == Path(files[1][0]).read_bytes()
    first, second = (pq.read_table(brain) for _, brain in files)
    assert first.equals(second)
    rows = [line.split(",") for line in Path(files[0][0]).read_text().splitlines()[1:]]
    assert len(rows) == 40 * 2 * 2
    letters = {(row[1], row[2], row[3]): row[4] for row in rows}
    assert len(set(letters.values())) <= 10
    for gene in genes:
        assert all(letters["S00002", h, gene] == letters["S00003", h, gene] for h in "12")
        assert {len(letters["S00000", h, gene]) for h in "12"} == {len(genes[gene])}
    family = dict(zip(first["subject_id"].to_pylist(), first["family_id"].to_pylist(), strict=True))
    assert family["S00000"] == family["S00001"] != family["S00002"] == family["S00003"] != family["S00004"]
    assert len(first) > 40
