"""The loop over a small task: what it logs, evaluates and keeps, and that a resumed run is the run that was never interrupted."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dnafeat.errors import CheckpointError, EncodingError, UsageError
from dnafeat.training.checkpoints import read_finished
from dnafeat.training.config import WorkersConfig
from dnafeat.training.local import LocalContext, train_locally
from dnafeat.training.loop import Loop, LoopPlan, TrainingTask
from dnafeat.training.run import runs_locally
from dnafeat.training.worker import Outcome, TrainingAttempt, TrainingRun

FILES = {"trained.safetensors", "best.json", "optimizer.pt", "scheduler.pt", "trainer_state.json"}


class Line(TrainingTask):
    """A noisy line to be fitted, with dropout; dev losses may be told."""

    def __init__(self, told: Sequence[float] = ()) -> None:
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3))
        self.bound = torch.nn.Parameter(torch.tensor(0.0))
        self._optimizers = [torch.optim.AdamW([self.weight], lr=0.1), torch.optim.SGD([self.bound], lr=10.0)]
        self.told, self.evaluated = list(told), 0

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        return self._optimizers

    def loss(self, step: int) -> Tensor:
        x = torch.nn.functional.dropout(torch.arange(3.0) + step % 4, 0.5)
        return (self.weight @ x - step % 4) ** 2 - self.bound

    def after_step(self) -> None:
        with torch.no_grad():
            self.bound.clamp_(max=1.5)

    def evaluate(self) -> dict[str, float]:
        self.evaluated += 1
        value = self.told.pop(0) if self.told else float(self.weight.detach().square().sum())
        return {"eval_loss": value, "eval_bound": float(self.bound.detach())}

    def tensors(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in (("weight", self.weight), ("bound", self.bound))}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.weight.copy_(tensors["weight"])
            self.bound.copy_(tensors["bound"])


def plan(**changes: Any) -> LoopPlan:
    given: dict[str, Any] = {"steps": 12, "evaluate_every": 5, "warmup_steps": 3, "decay": "linear", "seed": 7}
    return LoopPlan(**{**given, "metric": "eval_loss", **changes})


def attempt(scratch: Path, resume: Path | None = None) -> TrainingAttempt:
    return TrainingAttempt(context=LocalContext(scratch / "kept"), job=None, data=None, scratch=scratch, resume=resume)


def steps(history: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    return [row["step"] for row in history if name in row]


def test_it_logs_evaluates_and_saves_when_it_is_time_to(tmp_path: Path) -> None:
    loop = Loop(Line(), plan(log_every=3), attempt(tmp_path))
    outcome = loop.run()
    # Whatever is saved has its losses logged, too.
    assert steps(outcome.results["history"], "loss") == [3, 5, 6, 9, 10, 12]
    assert steps(outcome.results["history"], "eval_loss") == [5, 10, 12]
    assert next(row["learning_rate"] for row in outcome.results["history"] if "loss" in row) == pytest.approx(0.1)
    kept = attempt(tmp_path).context.checkpoints()  # type: ignore[attr-defined]
    assert [{file.name for file in folder.iterdir()} for folder in kept] == [FILES | {"best.safetensors"}] * 2
    assert [json.loads((folder / "trainer_state.json").read_text())["global_step"] for folder in kept] == [10, 12]
    assert outcome.results["steps"] == 12
    assert outcome.results["seconds"] > 0
    assert (outcome.results["workers"], outcome.results["device"]) == (1, "CPU") or torch.cuda.is_available()
    assert float(loop.task.tensors()["bound"]) == 1.5


def test_a_logged_loss_is_the_mean_since_the_last(tmp_path: Path) -> None:
    each = Loop(Line(), plan(log_every=1), attempt(tmp_path / "a")).run().results["history"]
    some = Loop(Line(), plan(log_every=4), attempt(tmp_path / "b")).run().results["history"]
    losses = [row["loss"] for row in each if "loss" in row]
    found = [row["loss"] for row in some if "loss" in row]
    assert steps(some, "loss") == [4, 5, 8, 10, 12]
    expected = [sum(losses[a:b]) / (b - a) for a, b in ((0, 4), (4, 5), (5, 8), (8, 10), (10, 12))]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["eval_loss", None])
@pytest.mark.parametrize("after", [5, 7, 11])
def test_a_resumed_run_is_the_run_that_was_never_interrupted(tmp_path: Path, metric: str | None, after: int) -> None:
    whole = Loop(Line(), plan(metric=metric), attempt(tmp_path / "whole")).run()
    half = Loop(Line(), plan(metric=metric), attempt(tmp_path / "half"), {"precision": "float32"})
    for _ in range(after):
        half.advance()
    half.save(tmp_path / "saved")
    again = Loop(Line(), plan(metric=metric), attempt(tmp_path / "again", tmp_path / "saved"))
    assert again.step == after
    outcome = again.run()
    assert outcome.results["history"] == whole.results["history"]
    assert outcome.results["best_step"] == whole.results["best_step"]
    assert outcome.results["decided"] == {"precision": "float32"}
    for name, value in whole.tensors.items():
        assert torch.equal(outcome.tensors[name], value)


def test_the_best_state_is_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    told = [0.5, 0.3, 0.3, math.nan, 0.4, 0.1]
    task = Line(told)
    loop = Loop(task, plan(steps=60, patience=3), attempt(tmp_path))
    states = []
    while not loop.over:
        loop.advance()
        states.append(task.tensors())
    outcome = loop.run()
    assert task.evaluated == 5
    assert (outcome.results["steps"], outcome.results["best_step"], outcome.results["best_value"]) == (25, 10, 0.3)
    assert torch.equal(outcome.tensors["weight"], states[9]["weight"])
    assert [row["eval_loss"] for row in outcome.results["history"] if "eval_loss" in row] == [0.5, 0.3, 0.3, None, 0.4]


def test_without_a_metric_the_last_state_counts_and_no_second_copy_is_saved(tmp_path: Path) -> None:
    loop = Loop(Line(), plan(metric=None), attempt(tmp_path))
    outcome = loop.run()
    assert torch.equal(outcome.tensors["weight"], loop.task.tensors()["weight"])
    assert outcome.results["best_step"] == 12
    for folder in attempt(tmp_path).context.checkpoints():  # type: ignore[attr-defined]
        assert {file.name for file in folder.iterdir()} == FILES


def test_where_the_metric_is_never_defined_the_first_state_counts(tmp_path: Path) -> None:
    outcome = Loop(Line([math.nan] * 3), plan(), attempt(tmp_path)).run()
    assert torch.equal(outcome.tensors["weight"], Line().tensors()["weight"])
    assert (outcome.results["best_step"], outcome.results["best_value"]) == (0, None)


# A run in this process, from its launch to its results


def fit_line(given: TrainingAttempt) -> Outcome:
    """A worker function; its job says at which step it dies, once."""
    fatal, marker = given.job

    class Dying(Line):
        def loss(self, step: int) -> Tensor:
            if step == fatal and not marker.exists():
                marker.touch()
                raise KeyboardInterrupt
            return super().loss(step)

    return Loop(Dying(), plan(), given).run()


def run(tmp_path: Path, fatal: int = -1, **workers: Any) -> TrainingRun:
    return TrainingRun(
        name="line-0", work=fit_line, job=(fatal, tmp_path / "marker"), data=None, workers=WorkersConfig.make(workers),
        output=str(tmp_path / "artifact"), subject="a line", batch="batches of 1",
    )  # fmt: skip


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_a_finished_one_is_not_trained_again(tmp_path: Path) -> None:
    said: list[str] = []
    whole = train_locally(run(tmp_path / "whole"), show=False, say=said.append)
    assert said == [f"run line-0: a line, in this process on CPU, batches of 1; checkpoints in {tmp_path}/whole/artifact.runs"]
    tmp_path.joinpath("killed").mkdir()
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        train_locally(run(tmp_path / "killed", fatal=8), show=False, say=said.append)
    assert torch.get_num_threads() == threads
    outcome = train_locally(run(tmp_path / "killed", fatal=3), show=False, say=said.append)
    assert {**outcome.results, "seconds": 0} == {**whole.results, "seconds": 0}
    assert torch.equal(outcome.tensors["weight"], whole.tensors["weight"])
    # Its fourth step would fail.
    (tmp_path / "killed" / "marker").unlink()
    again = train_locally(run(tmp_path / "killed", fatal=3), show=False, say=said.append)
    assert again.results == outcome.results
    kept = LocalContext(tmp_path / "killed" / "artifact.runs" / "line-0" / "local").checkpoints()
    assert len(kept) == 2
    assert read_finished(kept[-1])[1] == outcome.results


def test_what_needs_ray_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 workers need Ray: in this process there is one"):
        train_locally(run(tmp_path, num_workers=2), show=False, say=print)
    with pytest.raises(UsageError, match="checkpoints in s3://bucket/runs need Ray"):
        train_locally(run(tmp_path, storage="s3://bucket/runs"), show=False, say=print)


def test_a_run_that_fails_says_of_what(tmp_path: Path) -> None:
    def fails(given: TrainingAttempt) -> Outcome:
        raise RuntimeError("no such\nluck")

    with pytest.raises(EncodingError) as error:
        train_locally(dataclasses.replace(run(tmp_path), work=fails), show=False, say=lambda sentence: None)
    assert str(error.value) == ("run line-0 failed, and the same command goes on from its last checkpoint: RuntimeError: no such")


def test_a_checkpoint_of_another_release_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "artifact.runs" / "line-0" / "local" / "checkpoint_000000"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="another release of dnafeat"):
        train_locally(run(tmp_path), show=False, say=lambda sentence: None)


@pytest.mark.parametrize(
    ("workers", "address", "locally"),
    [
        ({}, None, True),
        ({}, "10.0.0.1:6379", False),
        ({"num_workers": 2}, None, False),
        ({"storage": "s3://bucket/runs"}, None, False),
        ({"runner": "ray"}, None, False),
        ({"runner": "local"}, "10.0.0.1:6379", True),
    ],
)
def test_a_single_worker_away_from_a_cluster_trains_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: dict[str, Any], address: str | None, locally: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert runs_locally(run(tmp_path, **workers)) == locally


def test_a_run_that_ray_train_has_begun_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tmp_path / "artifact.runs" / "line-0"
    folder.mkdir(parents=True)
    assert runs_locally(run(tmp_path))
    (folder / "checkpoint_manager_snapshot.json").touch()
    assert not runs_locally(run(tmp_path))


def test_training_in_this_process_does_not_import_ray() -> None:
    modules = ("finetune.job", "align.job", "pretrain.job", "training.local")
    code = f"import sys, {', '.join(f'dnafeat.{name}' for name in modules)}; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
