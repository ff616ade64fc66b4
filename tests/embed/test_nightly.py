"""Nights: what is new is embedded, a new version is filled beside the old one, and the channel moves when nothing is missing there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from models import dna
from stores import fasta

import dnafeat
from dnafeat.cli.main import main
from dnafeat.cluster import session as cluster
from dnafeat.embed import plan
from dnafeat.embed import run as runs
from dnafeat.embed import schedule as nights
from dnafeat.embed.intake import Intake
from dnafeat.errors import AuditError, ForgottenError
from dnafeat.store.rewriting import FORGOTTEN

JOB = Path(__file__).parents[2] / "jobs" / "nightly.py"


def night(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert main(["nightly", *arguments, "--json"]) == code
    lines = capsys.readouterr().out.splitlines()
    return json.loads(lines[-1]) if lines else {}


POOL = {f"s{i}": dna(20 + i, seed=i) for i in range(12)}


def some(first: int, last: int) -> dict[str, str]:
    return dict(list(POOL.items())[first:last])


def ids(store: str, **selection: Any) -> set[str]:
    return set(dnafeat.Store(store).read(columns=["bases"], **selection)["sequence_id"].to_pylist())


def test_three_nights_and_a_new_model(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "store")
    flags = ["--store", store, "--source-name", "cohort", "--model", model]
    first = night(capsys, fasta(tmp_path / "a.fa", some(0, 6)), *flags)
    assert (first["encoded"], first["channel_moved"], first["channel_waits_for"]) == (6, True, [])
    second = night(capsys, fasta(tmp_path / "a.fa", some(2, 8)), *flags)
    assert (second["encoded"], second["opened"], second["closed"], second["channel_moved"]) == (2, 2, 2, False)
    assert second["channel_version"] == first["feature_version"]
    assert ids(store) == set(some(2, 8))
    # What a merge does not name stays.
    third = night(capsys, fasta(tmp_path / "b.fa", some(8, 9)), *flags, "--mode", "merge")
    assert (third["encoded"], third["opened"], third["closed"]) == (1, 1, 0)
    assert ids(store) == set(some(2, 9))
    # A second source, and then another window: the channel waits until both have it.
    night(capsys, fasta(tmp_path / "c.fa", some(9, 12)), "--store", store, "--source-name", "other", "--model", model)
    again = night(capsys, str(tmp_path / "a.fa"), *flags, "--window-tokens", "16")
    assert again["feature_version"] != first["feature_version"]
    assert (again["encoded"], again["channel_moved"], again["channel_waits_for"]) == (6, False, ["other"])
    assert dnafeat.Store(store).channels() == {"production": first["feature_version"]}
    # Readers of the old version see its own last night.
    assert ids(store) == set(some(2, 9)) | set(some(9, 12))
    assert (
        main(
            ["nightly", str(tmp_path / "c.fa"), "--store", store, "--source-name=other", f"--model={model}", "--window-tokens=16"]
        )
        == 0
    )
    assert f"channel production points at version {again['feature_version']} now" in capsys.readouterr().out
    assert dnafeat.Store(store).resolve() == again["feature_version"]


def test_an_audit_that_fails_moves_nothing(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = str(tmp_path / "store"), fasta(tmp_path / "a.fa", some(0, 4))
    night(capsys, source, "--store", store, "--model", model)
    before = {table.name: table.reload().version() for table in (dnafeat.Store(store).features, dnafeat.Store(store).runs)}

    def fails(*arguments: Any, **options: Any) -> None:
        raise AuditError("the audit failed and nothing was published: norms: too large")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "audit", fails)
        assert night(capsys, source, "--store", store, "--model", model, "--window-tokens", "16", code=4) == {}
    now = {table.name: table.reload().version() for table in (dnafeat.Store(store).features, dnafeat.Store(store).runs)}
    assert now == before
    assert len(dnafeat.Store(store).channels()) == 1
    # What was encoded is not lost: the same night, sent again, takes it.
    after = night(capsys, source, "--store", store, "--model", model, "--window-tokens", "16")
    assert (after["salvaged"], after["encoded"], after["channel_moved"]) == (4, 0, True)


def test_a_night_during_which_somebody_is_forgotten_reads_again(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = str(tmp_path / "store"), fasta(tmp_path / "a.fa", some(0, 4))
    real, readings = plan.subtract, []

    def forgets(intake: Intake, at: dnafeat.Store, *arguments: Any) -> plan.Work:
        # After the source has been read: it loses an entry, and so does the store.
        if not readings:
            fasta(tmp_path / "a.fa", some(1, 4))
            for table in (at.sequences, at.rejects):
                table.reload().commit([], transactions={FORGOTTEN: 1})
        readings.append(intake.read)
        return real(intake, at, *arguments)

    monkeypatch.setattr(plan, "subtract", forgets)
    found = night(capsys, source, "--store", store, "--model", model)
    assert readings == [4, 3]
    assert (found["read"], found["salvaged"], found["encoded"], found["already_stored"]) == (3, 3, 0, 0)
    assert ids(store) == set(some(1, 4))

    def always(*arguments: Any, **options: Any) -> None:
        readings.append(0)
        raise ForgottenError("again")

    monkeypatch.setattr(nights, "embed", always)
    readings.clear()
    night(capsys, source, "--store", store, "--model", model, code=3)
    assert len(readings) == 3


def test_an_unchanged_night_starts_no_ray_loads_no_model_and_writes_no_vectors(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = str(tmp_path / "store"), fasta(tmp_path / "a.fa", some(0, 6))
    night(capsys, source, "--store", store, "--model", model)
    files = sorted(Path(store, "features").rglob("*.parquet"))
    monkeypatch.setattr(cluster, "start_ray", lambda: pytest.fail("Ray was started for nothing"))
    monkeypatch.setattr(dnafeat.Encoder, "load", lambda *arguments: pytest.fail("a model was loaded for nothing"))
    found = night(capsys, source, "--store", store, "--model", model)
    assert (found["encoded"], found["files"], found["opened"], found["closed"]) == (0, 0, 0, 0)
    assert sorted(Path(store, "features").rglob("*.parquet")) == files
    assert not list(Path(store).glob("work/*"))


def test_the_job_is_the_command(model: str, tmp_path: Path) -> None:
    """In a process of its own; a night that is published is not run again under its id."""
    store, source = str(tmp_path / "store"), fasta(tmp_path / "a.fa", some(0, 3))
    (tmp_path / "night.yaml").write_text(f"sources: ['{source}']\nstore: {store}\nmodel: {model}\nsource_name: cohort\n")
    command = [sys.executable, str(JOB), "--config", str(tmp_path / "night.yaml"), "--run-id", "2026-11-21"]
    first = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout.splitlines()[-1])["encoded"] == 3
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "run 2026-11-21 is published already" in second.stdout
    assert "channel production points at this version already" in second.stdout
