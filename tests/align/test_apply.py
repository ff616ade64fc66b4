"""New subjects go the way of those that were aligned: with the numbers that were fitted then, and none of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import alignments
import numpy as np
import pyarrow.parquet as pq
import pytest

from dnafeat.align import artifact as alignartifact
from dnafeat.align.prepare import prepare
from dnafeat.cli.main import main
from dnafeat.errors import UsageError
from dnafeat.join.config import JoinConfig
from dnafeat.join.job import join

FITTED: dict[str, Any] = {"covariates": ("age", "site"), "pca": 6, "steps": 8, "permutations": 3, "resamples": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return alignments.cohort(tmp_path_factory.mktemp("cohort"), subjects=120)


@pytest.fixture(scope="module")
def artifact(place: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("aligned") / "artifact")
    alignments.aligned(alignments.config(place, output, **FITTED))
    return output


def joined(place: tuple[str, str], output: Path, partner: str | None = None, name: str = "brain", **changes: Any) -> str:
    given = {"store": place[0], "partner": (f"{name}={partner or place[1]}",), "on": "subject_id", "vector": "cls+mean+max"}
    join(JoinConfig.make({**given, "output": str(output), **changes}), show=False)
    return str(output)


def test_subjects_come_to_where_training_had_them(
    place: tuple[str, str], artifact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = joined(place, tmp_path / "joined")
    output = str(tmp_path / "out.parquet")
    assert main(["align-apply", artifact, "--joined", table, "--output", output, "--prepared", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"output": output, "rows": 120, "counts": {"dna": 120, "brain": 120}, "notes": []}
    found = pq.read_table(output)
    assert found.column_names == ["subject_id", "dna", "dna_prepared", "brain", "brain_prepared"]
    ready = prepare(alignments.config(place, tmp_path / "again", **FITTED), show=False)
    aligned = alignartifact.read(artifact)
    assert found["subject_id"].to_pylist() == ready.subjects.keys
    for name in ("dna", "brain"):
        prepared = ready.vectors(name)
        assert np.array(found[f"{name}_prepared"].to_pylist(), np.float32) == pytest.approx(prepared, abs=1e-6)
        rows = ready.subjects.dna if name == "dna" else ready.subjects.partner
        wanted = aligned.sides[name](rows, ready.design)
        assert np.array(found[name].to_pylist(), np.float32) == pytest.approx(wanted, abs=1e-5)
        assert wanted.shape == (120, 512)


def test_a_new_subject_does_not_depend_on_who_comes_with_it_and_may_lack_a_modality(
    place: tuple[str, str], artifact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pq.read_table(place[1]).to_pandas()
    some = frame[:30].assign(age=20)
    some["site"] = ["Z" if i == 4 else site for i, site in enumerate(some["site"])]
    some[10:].to_parquet(tmp_path / "some.parquet")
    rows = some[["subject_id", "age", "site"]].to_dict("records") + frame[30:][["subject_id", "age", "site"]].to_dict("records")
    subjects = alignments.write_csv(tmp_path / "s.csv", rows)
    found = {}
    for name, how in (("left", "left"), ("inner", "inner")):
        table = joined(place, tmp_path / name, str(tmp_path / "some.parquet"), how=how)
        output = str(tmp_path / f"{name}.parquet")
        assert main(["align-apply", artifact, "--joined", table, "--subjects", subjects, "--output", output]) == 0
        found[name] = pq.read_table(output).to_pandas().set_index("subject_id")
    said = capsys.readouterr().out
    assert "120 rows in" in said
    assert "120 with dna, 20 with brain" in said
    assert "nothing of site is taken out of 1 row(s), whose value no training subject has" in said
    assert len(found["inner"]) == 20
    assert found["left"]["brain"].isna().sum() == 100
    for key, row in found["inner"].iterrows():
        for name in ("dna", "brain"):
            assert np.stack(row[name]) == pytest.approx(np.stack(found["left"].loc[key, name]), abs=1e-5)


def test_what_was_joined_otherwise_is_refused(
    place: tuple[str, str], artifact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pq.read_table(place[1]).to_pandas()
    frame.assign(vector=[one[:4] for one in frame["vector"]]).to_parquet(tmp_path / "narrow.parquet")
    plain = joined(place, tmp_path / "plain")
    lacking = alignments.write_csv(tmp_path / "s.csv", [{"subject_id": "S0001", "age": 30, "site": "A"}])
    for given, sentence in (
        (["--joined", joined(place, tmp_path / "mean", vector="mean")], "has vector mean and "),
        (["--joined", joined(place, tmp_path / "hap", level="haplotype")], "has level haplotype and "),
        (["--joined", joined(place, tmp_path / "max", aggregate="max")], "has aggregate max and "),
        (["--joined", joined(place, tmp_path / "width", str(tmp_path / "narrow.parquet"))], "has width of brain 4 and "),
        (["--joined", joined(place, tmp_path / "other", name="other")], "has no modality 'brain'"),
        (["--joined", plain, "--subjects", lacking], "119 subjects have no value of covariate 'age', such as 'S0000': fill it"),
    ):
        assert main(["align-apply", artifact, *given, "--output", str(tmp_path / "out.parquet")]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert sentence in err
    assert not (tmp_path / "out.parquet").exists()
    with pytest.raises(UsageError, match="holds no alignment: give the folder that `dnafeat align` wrote"):
        alignartifact.read(str(tmp_path))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "dnafeat.json").write_text((Path(artifact) / "dnafeat.json").read_text())
    (broken / "alignment.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UsageError, match=r"alignment.safetensors cannot be read"):
        alignartifact.read(str(broken))
