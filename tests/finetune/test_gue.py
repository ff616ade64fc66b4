"""The table of published tasks: all 28, found where the archive has them, trained with its settings, one row each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dnafeat.errors import UsageError
from dnafeat.finetune import gue
from dnafeat.finetune.config import FinetuneConfig

JOBS = Path(__file__).parents[2] / "jobs"


def layout(folder: Path, *places: str) -> str:
    for place in places:
        (folder / place).mkdir(parents=True)
        for split in ("train", "dev", "test"):
            (folder / place / f"{split}.csv").write_text("sequence,label\nACGT,0\nTTTT,1\n")
    return str(folder)


def test_there_are_the_28_published_tasks() -> None:
    assert len(gue.TASKS) == 28
    shares = {name.partition("_")[0]: sum(n.startswith(name.partition("_")[0]) for n in gue.TASKS) for name in gue.TASKS}
    assert shares == {"emp": 10, "prom": 6, "tf": 5, "mouse": 5, "covid": 1, "splice": 1}
    for name, score, tokens in (("emp_H4", 80.71, 128), ("prom_core_tata", 74.17, 20), ("prom_300_notata", 94.27, 70)):
        assert (gue.TASKS[name].published, gue.TASKS[name].max_tokens) == (score, tokens)
    assert (gue.TASKS["mouse_3"].steps, gue.TASKS["prom_300_tata"].epochs, gue.TASKS["covid"].metric) == (1000, 10, "f1")


def test_tasks_are_found_in_the_published_layout_and_by_name(tmp_path: Path) -> None:
    data = layout(tmp_path, "EMP/H3", "prom/prom_300_all", "tf_4", "GUE/virus/covid")
    found = gue.find(data, ["all"])
    assert {name: Path(place).relative_to(tmp_path).as_posix() for name, place in found.items()} == {
        "emp_H3": "EMP/H3",
        "prom_300_all": "prom/prom_300_all",
        "tf_4": "tf_4",
        "covid": "GUE/virus/covid",
    }
    assert list(gue.find(data, ["tf_4"])) == ["tf_4"]


@pytest.mark.parametrize(
    ("names", "told"), [(["tf_9"], "'tf_9'"), (["tf_4", "mouse_0"], "mouse_0"), (["mouse_0"], "mouse_0")], ids=str
)
def test_a_task_that_is_not_there_is_one_sentence(tmp_path: Path, names: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        gue.find(layout(tmp_path, "tf_4"), names)
    with pytest.raises(UsageError, match="any GUE task"):
        gue.find(str(tmp_path / "empty"), ["all"])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[FinetuneConfig]:
    """Stands in for the training: remembers what it was asked for, and fails for tf_4."""
    asked: list[FinetuneConfig] = []

    def finetune(config: FinetuneConfig, *, say: Any) -> Mapping[str, Any]:
        asked.append(config)
        if "tf_4" in config.output:
            raise UsageError("a fault")
        metrics = {"test": {"mcc": 0.5, "f1": 0.25}}
        base = {"model": config.model or "dnafeat-mini"}
        return {"metrics": metrics, "base": base, "steps": 3, "seconds": 1.0, "truncated": {}, "notes": []}

    monkeypatch.setattr(gue, "finetune", finetune)
    return asked


def test_the_table_has_a_row_for_each_task_and_its_published_score(tmp_path: Path, trained: list[FinetuneConfig]) -> None:
    data, out = layout(tmp_path / "data", "mouse_3", "tf_4", "covid"), str(tmp_path / "out")
    rows = gue.run(data, ["all"], out, {}, say=lambda sentence: None)
    assert [(row["task"], row["score"], row["published"]) for row in rows] == [
        ("tf_4", None, 77.43),
        ("mouse_3", 50.0, 66.47),
        ("covid", 25.0, 71.02),
    ]
    assert rows[0]["fault"] == "a fault"
    assert json.loads((tmp_path / "out" / "gue.json").read_text()) == rows
    table = (tmp_path / "out" / "gue.md").read_text()
    assert "| mouse_3 | dnafeat-mini | full | pooler | 0 | mcc | 50.00 | 66.47 |" in table
    assert "| tf_4 | - | full | pooler | 0 | mcc | failed | 77.43 |" in table
    mouse = trained[1]
    assert (mouse.method, mouse.head, mouse.steps, mouse.batch_size, mouse.metric) == ("full", "pooler", 1000, 32, "loss")
    # dnafeat-mini's tokens are not those the published lengths count.
    assert mouse.max_tokens is None


def test_baselines_an_interval_and_seeds_stand_beside_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {
        "majority": (None, None),
        "3-mers": (0.31, 0.69),
        "5-mers": (0.62, 0.6),
        "one-hot": (0.1, 0.2),
        "frozen": (0.4, 0.41),
    }
    baselines = {name: {"metrics": {"dev": {"mcc": dev}, "test": {"mcc": test}}} for name, (dev, test) in scores.items()}
    seeds = {"metric": "mcc", "split": "test", "seeds": [0, 1], "scores": {"this run": [0.5, 0.6]}}
    about = {
        "steps": 3,
        "seconds": 1.0,
        "truncated": {},
        "notes": [],
        "base": {"model": "dnafeat-mini"},
        "metrics": {"test": {"mcc": 0.5}},
        "intervals": {"test": {"mcc": (0.41, 0.589)}},
        "baselines": baselines,
        "seeds": seeds,
    }
    monkeypatch.setattr(gue, "finetune", lambda config, say: about)
    (row,) = gue.run(layout(tmp_path / "data", "mouse_3"), ["mouse_3"], str(tmp_path / "out"), {}, say=str)
    assert row["interval"] == [41.0, 58.9]
    assert row["baselines"] == {"majority": None, "3-mers": 69.0, "5-mers": 60.0, "one-hot": 20.0, "frozen": 41.0}
    head, rule, line = gue.format_rows([row]).splitlines()
    assert head.count("|") == rule.count("|") == line.count("|")
    # The k-mers that do best on dev, not those that do on test.
    assert line.endswith("| 50.00 | 66.47 | 41.00 to 58.90 | - | 60.00 (5-mers) | 20.00 | 41.00 | 55.00 ± 7.07 (2) |")


def test_settings_override_the_published_ones(tmp_path: Path, trained: list[FinetuneConfig]) -> None:
    data = layout(tmp_path / "data", "mouse_3")
    gue.run(data, ["mouse_3"], str(tmp_path / "out"), {"method": "lora", "head": "linear", "steps": 7, "seed": 3}, say=print)
    assert (trained[0].method, trained[0].head, trained[0].steps, trained[0].seed) == ("lora", "linear", 7, 3)


def test_the_job_says_what_is_wrong_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(JOBS))
    monkeypatch.setattr(sys, "argv", ["gue.py", "--data", str(tmp_path), "--output", str(tmp_path / "out")])
    import runpy

    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOBS / "gue.py"), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
