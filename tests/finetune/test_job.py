"""Fine-tuning on real Ray Train, from tables to an artifact: any number of workers, killed ones among them, and every task."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import counts
import models
import numpy as np
import peft
import psutil
import pytest
import torch
from labelled import loaded
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event

from dnafeat.cli.main import main
from dnafeat.encoder import Encoder
from dnafeat.errors import EncodingError, UsageError
from dnafeat.finetune import artifact, trainer
from dnafeat.finetune import job as finetune
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.job import prepare
from dnafeat.finetune.metrics import METRICS
from dnafeat.training import figures as report
from dnafeat.training import on_ray as trainrun
from dnafeat.training.callbacks import Draws
from dnafeat.training.checkpoints import RESULTS, read_finished
from dnafeat.training.local import LocalContext
from dnafeat.training.worker import Outcome, TrainingRun, run_worker

DNAFEAT = [sys.executable, "-c", "import sys; from dnafeat.cli.main import main; sys.exit(main())"]
STEADY = {"dropout": 0.0, "encoder_dropout": 0.0, "lora_dropout": 0.0}
LETTERS = str.maketrans("ACGT", "xyyx")


def sequences(count: int, seed: int = 0) -> list[tuple[str, float]]:
    """Random sequences of 12 to 48 bases, and the share of G and C they were drawn with."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        share = rng.uniform(0.1, 0.9)
        chances = [(1 - share) / 2, share / 2, share / 2, (1 - share) / 2]
        found.append(("".join(rng.choice(list("ACGT"), rng.integers(12, 49), p=chances)), share))
    return found


LABELS: dict[str, Callable[[str, float], str]] = {
    "binary": lambda letters, share: "rich" if share > 0.5 else "poor",
    "multiclass": lambda letters, share: ('é, "odd"', "no label", "-1")[min(2, int(share * 3))],
    "multilabel": lambda letters, share: ";".join(["g"] * (share > 0.4) + ["a"] * (share < 0.6)),
    "regression": lambda letters, share: f"{100 + 50 * (letters.count('G') + letters.count('C')) / len(letters):.6g}",
    "token": lambda letters, share: letters.translate(LETTERS),
}


def table(file: Path, task: str, count: int, seed: int) -> str:
    rows = ["sequence,label"]
    for letters, share in sequences(count, seed):
        label = LABELS[task](letters, share).replace('"', '""')
        rows.append(f'{letters},"{label}"')
    file.write_text("\n".join(rows) + "\n")
    return str(file)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(models.random_folder(tmp_path_factory.mktemp("models") / "base", num_hidden_layers=1))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Files of the three splits for each task."""
    folder = tmp_path_factory.mktemp("tables")
    sizes = {"train": 100, "dev": 30, "test": 30}
    return {
        task: {name: table(folder / f"{task}-{name}.csv", task, size, i) for i, (name, size) in enumerate(sizes.items())}
        for task in LABELS
    }


class Kept(LocalContext):
    """A worker of this process that keeps all of its checkpoints, and resumes from a folder that is given."""

    resume: Path | None = None

    def last_checkpoint(self, folder: Path) -> Path | None:
        return self.resume

    def save(self, folder: Path, values: Mapping[str, float]) -> None:
        shutil.copytree(folder, self.folder / f"checkpoint_{len(self.checkpoints()):06}")


class Local:
    """Fine-tuning in this process: its loop is the same, and neither Ray nor another process has to be started for it."""

    def __init__(self, folder: Path) -> None:
        self.context = Kept(folder)

    @property
    def checkpoints(self) -> list[Path]:
        return self.context.checkpoints()

    def launch(self, run: TrainingRun, *, show: bool, say: Callable[[str], None]) -> Outcome:
        shutil.rmtree(self.context.folder, ignore_errors=True)
        run_worker(self.context, run.work, run.job, lambda: run.data, torch.get_num_threads())
        return Outcome(*read_finished(self.checkpoints[-1]))

    def run(self, config: FinetuneConfig, *, pictures: bool = False) -> dict[str, Any]:
        """Fine-tunes. Without pictures, which take half of the time, those of the artifact are empty files."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("curves", "confusion") if not pictures else ():
                patch.setattr(report, name, lambda *drawn: b"")
            return finetune.finetune(config, show=False, launch=self.launch)


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path / "reported")


def settings(base: str, files: dict[str, str], output: Path | str, **changes: Any) -> dict[str, Any]:
    return {
        **files,
        "model": base,
        "output": str(output),
        "steps": 12,
        "eval_steps": 5,
        "batch_size": 12,
        "learning_rate": 0.01,
        "warmup_steps": 0,
        "patience": 0,
        "cpus_per_worker": 1,
        **changes,
    }


def config(*arguments: Any, **changes: Any) -> FinetuneConfig:
    """Settings of a run without baselines, which take a second."""
    return FinetuneConfig.make({"baselines": False} | settings(*arguments, **changes))


def flags(values: dict[str, Any]) -> list[str]:
    return ["finetune", *(f"--{name.replace('_', '-')}={value}" for name, value in values.items())]


def answers(uri: Path | str, data: trainer.Data, *, merged: bool = True) -> dict[str, np.ndarray]:
    """What an artifact answers for each split, one sequence at a time: (n, width)."""
    model, found = loaded(str(uri), merged=merged), {}
    for split, examples in data.splits.items():
        collate, rows = data.collate(split), []
        for i in range(len(examples)):
            inputs = collate([(i, 1.0, False)])
            with torch.no_grad():
                rows.append(model(inputs["input_ids"], inputs["attention_mask"], inputs["content"])[0].numpy())
        found[split] = np.stack(rows)
    return found


def assert_answers(uri: Path | str, data: trainer.Data, *, within: float = 1e-5, merged: bool = True) -> None:
    """That an artifact of task binary, loaded, has the losses that were measured when it was trained."""
    measured = artifact.load(str(uri)).about["metrics"]
    assert measured.keys() == data.splits.keys()
    for split, found in answers(uri, data, merged=merged).items():
        targets = torch.from_numpy(data.splits[split].targets)
        loss = trainer.losses("binary", torch.from_numpy(found), targets, None).mean()
        assert float(loss) == pytest.approx(measured[split]["loss"], abs=within)


def tensorboard(output: Path) -> list[Path]:
    """A run's TensorBoard files, one for each time that it was begun or gone on with."""
    return sorted(output.parent.glob(f"{output.name}.runs/*/tensorboard/*"), key=lambda file: file.stat().st_mtime)


def history(output: Path | str, name: str) -> dict[int, float]:
    rows = json.loads((Path(output) / "history.json").read_text())
    found = [(row["step"], row[name]) for row in rows if name in row]
    assert len(dict(found)) == len(found)
    return dict(found)


def events(file: Path) -> list[int]:
    """The steps that a TensorBoard file tells of."""
    content, at, steps = file.read_bytes(), 0, []
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + size])
        if event.HasField("summary"):
            steps.append(event.step)
        at += size + 16
    return steps


# One run, killed twice, and what is left of it

# A checkpoint of workers takes Ray Train a second; kills come between two.
STEPS, EVERY = 24, counts.examples(12, 4)


def until(true: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 300
    while not true():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def killed_twice(command: list[str], output: Path, environment: dict[str, str]) -> None:
    """Runs a command until a worker of its run has been killed with signal 9, another has gone on, and it was killed itself.

    Either comes when Ray Train has written down a checkpoint: one it has not is not gone on from.
    """
    log = output.parent / "log"

    def known() -> set[str]:
        (*files,) = output.parent.glob(f"{output.name}.runs/finetune-*/checkpoint_manager_snapshot.json")
        return {name for file in files for name in re.findall(r"checkpoint_\d[\d_.-]*\d", file.read_text())}

    with log.open("wb") as out:
        driver = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    process = psutil.Process(driver.pid)
    try:
        until(known, driver, log)
        workers = [child for child in process.children(recursive=True) if "RayTrainWorker" in child.name()]
        assert len(workers) == 2
        workers[-1].kill()
        until(lambda: len(tensorboard(output)) == 2, driver, log)
        before = known()
        until(lambda: known() - before, driver, log)
    finally:
        family = process.children(recursive=True) if driver.poll() is None else []
        driver.kill()
        # Ray's own processes end with it; until they have, its workers may still train.
        for left in psutil.wait_procs(family, timeout=1)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
    assert driver.wait(10) == -signal.SIGKILL


@pytest.fixture(scope="module")
def both(base: str, tables: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run on two workers that hold three sequences at a time, through the command line, and what it printed.

    In `make test-long` a worker of it was killed, then the command itself, and what is kept is what the same command printed that ended
    the run.
    """
    output = tmp_path_factory.mktemp("both") / "artifact"
    values = settings(base, tables["binary"], output, **STEADY, num_workers=2, rows_per_worker=3, steps=STEPS, eval_steps=EVERY)
    command = [*DNAFEAT, *flags(values), "--reverse-complement", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    if counts.LONG:
        killed_twice(command, output, environment)
        assert not (output / "dnafeat.json").exists()
    # In a process of its own, as a user's: what it says is all there is. Ray takes a checkpoint each time it looks, every 2 s else.
    environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    values |= {"reverse_complement": True}
    return {"values": values, "output": output, "out": done.stdout, "err": done.stderr, "config": FinetuneConfig.make(values)}


def test_the_last_line_is_the_summary_and_nothing_else_is_said(both: dict[str, Any]) -> None:
    lines = both["out"].splitlines()
    assert len(lines) == 1
    summary = json.loads(lines[0])
    about = json.loads((both["output"] / "dnafeat.json").read_text())
    assert summary == about | {"already_trained": False, "artifact": str(both["output"])}
    assert (summary["steps"], summary["workers"], summary["device"]) == (STEPS, 2, "CPU")
    assert summary["seconds"] > 0
    for word in ("Traceback", "Warning", "WARNING", "deprecated", "Error"):
        assert word not in both["err"]
    said = [line for line in both["err"].replace("\r", "\n").splitlines() if line.strip() and not line.startswith("training")]
    assert len(said) == 1
    assert said[0].startswith(f"run finetune-{about['digest']}: 100 training sequences, 2 worker(s) on CPU, batches of 12; ")


def test_the_artifact_is_whole(both: dict[str, Any]) -> None:
    found = {file.name for file in both["output"].iterdir()}
    assert found == {
        *("dnafeat.json", "history.json", "head.safetensors", "tokenizer.json", "curves.png"),
        *("adapter_config.json", "adapter_model.safetensors"),
        *(f"confusion-{name}.png" for name in ("train", "dev", "test")),
    }
    metrics = artifact.load(str(both["output"])).about["metrics"]
    assert list(metrics) == ["train", "dev", "test"]
    assert {name for values in metrics.values() for name in values} == {"loss", *METRICS["binary"]}


@pytest.mark.long
def test_killed_workers_and_a_killed_driver_cost_no_more_than_what_came_after_the_last_checkpoint(both: dict[str, Any]) -> None:
    first, second, third = map(events, tensorboard(both["output"]))
    assert (first[0], third[-1]) == (1, STEPS)
    for before, after in ((first, second), (second, third)):
        assert before[-1] < STEPS
        assert EVERY < after[0] <= before[-1] + 1
        assert (after[0] - 1) % EVERY == 0
    assert second[0] < third[0]
    assert list(history(both["output"], "loss")) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("merged", [False, True])
def test_reloaded_it_measures_what_training_measured(both: dict[str, Any], merged: bool) -> None:
    assert_answers(both["output"], prepare(both["config"]).data, merged=merged)


def test_the_same_command_trains_nothing_and_another_is_refused(
    both: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainrun, "start_ray", lambda: pytest.fail("Ray was started"))
    before = {file: file.stat().st_mtime_ns for file in both["output"].iterdir()}
    arguments = [flag for flag in flags(both["values"]) if "reverse" not in flag and "workers" not in flag]
    # Neither the number of workers nor what they hold makes another run.
    assert main([*arguments, "--reverse-complement", "--num-workers", "1", "--rows-per-worker", "7", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(both["out"]) | {"already_trained": True}
    assert err == f"{both['output']} holds this run's artifact already: nothing to train\n"
    assert main([*arguments, "--reverse-complement"]) == 0
    assert "was trained already" in capsys.readouterr().out
    assert main([*arguments, "--reverse-complement", "--seed", "1"]) == 2
    out, err = capsys.readouterr()
    digest = json.loads(both["out"])["digest"]
    assert (out, err) == ("", f"dnafeat: {both['output']} holds the artifact of another run, {digest}: give another --output\n")
    assert {file: file.stat().st_mtime_ns for file in both["output"].iterdir()} == before


# The number of workers


@pytest.mark.parametrize("rows", [12, 5])
def test_one_worker_learns_what_two_learn(both: dict[str, Any], local: Local, tmp_path: Path, rows: int) -> None:
    """Two workers with two micro-batches each (killed in `make test-long`), and one with one or three; the ninth step has 4 sequences."""
    output = tmp_path / "artifact"
    about = local.run(FinetuneConfig.make(both["values"] | {"output": str(output), "num_workers": 1, "rows_per_worker": rows}))
    one, two = history(output, "loss"), history(both["output"], "loss")
    assert list(one) == list(two) == list(range(1, STEPS + 1))
    assert [one[step] for step in range(1, 6)] == pytest.approx([two[step] for step in range(1, 6)], abs=1e-5)
    assert list(one.values()) == pytest.approx(list(two.values()), abs=1e-4)
    assert about["digest"] == json.loads(both["out"])["digest"]
    for file in ("adapter_model.safetensors", "head.safetensors"):
        ours, theirs = load_file(output / file), load_file(both["output"] / file)
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=5e-4)
    # They moved much further than that.
    assert (
        max(
            float(value.abs().max())
            for name, value in load_file(output / "adapter_model.safetensors").items()
            if "lora_B" in name
        )
        > 0.05
    )


def test_a_checkpoint_goes_on_as_if_nothing_had_been(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path
) -> None:
    """From the middle of the second epoch, with dropout: weights, optimiser, order and random numbers are taken up."""
    changes: dict[str, Any] = {"steps": 8, "eval_steps": 3, "batch_size": 24, "reverse_complement": True}
    local.run(config(base, tables["binary"], tmp_path / "whole", **changes))
    assert len(local.checkpoints) == 4
    kept = [shutil.copytree(checkpoint, tmp_path / f"kept-{i}") for i, checkpoint in enumerate(local.checkpoints)]
    # In the first and the second epoch, at the end before it was measured, and finished.
    for i, left in ((0, 3), (1, 2), (2, 1), (3, 1)):
        local.context.resume = Path(kept[i])
        output = tmp_path / f"from-{i}"
        about = local.run(config(base, tables["binary"], output, **changes))
        assert len(local.checkpoints) == left
        assert about["steps"] == 8
        for name in ("loss", "eval_loss"):
            assert history(output, name) == pytest.approx(history(tmp_path / "whole", name), abs=1e-6)
        for file in ("adapter_model.safetensors", "head.safetensors"):
            for key, value in load_file(tmp_path / "whole" / file).items():
                torch.testing.assert_close(load_file(output / file)[key], value, rtol=0, atol=1e-6)


def test_what_a_step_draws_follows_from_seed_step_and_rank() -> None:
    model = torch.nn.Dropout(0.5)

    def drawn(seed: int, step: int, rank: int, before: int = 0) -> tuple[float, ...]:
        torch.rand(before)
        args, state = SimpleNamespace(seed=seed, process_index=rank), SimpleNamespace(global_step=step)
        Draws().on_step_begin(args, state, None)
        return tuple(model(torch.ones(64)).tolist())

    assert drawn(0, 5, 1) == drawn(0, 5, 1, before=7)
    assert len({drawn(seed, step, rank) for seed in range(3) for step in range(4) for rank in range(5)}) == 3 * 4 * 5


# Failures


def test_more_workers_than_this_machine_can_hold(
    base: str, tables: dict[str, dict[str, str]], two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray would wait for another machine, and here none will come.
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    chosen = config(base, tables["binary"], tmp_path / "artifact", num_workers=3)
    with pytest.raises(UsageError) as error:
        finetune.finetune(chosen, show=False)
    assert str(error.value) == "3 workers with 1 CPU each are more than the 2 CPUs of this machine hold: give fewer --num-workers"


@pytest.mark.long
def test_a_run_that_fails_says_of_what(
    base: str, tables: dict[str, dict[str, str]], two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.random_folder(tmp_path / "gone", num_hidden_layers=1)
    chosen = config(str(folder), tables["binary"], tmp_path / "artifact", max_failures=0, runner="ray")
    real = trainrun.TorchTrainer

    def removed(*arguments: Any, **options: Any) -> Any:
        (folder / "config.json").unlink()
        return real(*arguments, **options)

    monkeypatch.setattr(trainrun, "TorchTrainer", removed)
    with pytest.raises(EncodingError) as error:
        finetune.finetune(chosen, show=False)
    assert error.value.exit_code == 5
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("run finetune-")
    assert f"failed, and the same command goes on from its last checkpoint: dnafeat.errors.CheckpointError: {folder}" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("story", "cause"),
    [
        (
            "[Rank 0 Error Snippet]:\nA worker health check failed.\nThe actor died unexpectedly before finishing this task.\n"
            "[Rank 1 Error Snippet]:\nTraceback (most recent call last):\nRuntimeError: [gloo/pair.cc:553] Connection closed by peer",
            "a worker process died, killed or out of memory",
        ),
        (
            "[Rank 0 Error Snippet]:\nTraceback (most recent call last):\nRuntimeError: [gloo/pair.cc:553] Connection closed by peer\n"
            "[Rank 1 Error Snippet]:\nTraceback (most recent call last):\n  File x\ntorch.OutOfMemoryError: CUDA out of memory. Tried",
            "torch.OutOfMemoryError: CUDA out of memory. Tried",
        ),
        (
            "RuntimeError: [gloo/pair.cc:553] Connection closed by peer",
            "RuntimeError: [gloo/pair.cc:553] Connection closed by peer",
        ),
        ("something else.\nand more", "something else"),
    ],
)
def test_causes_of_failures(story: str, cause: str) -> None:
    assert trainrun.cause(RuntimeError(story)) == cause


# Tasks, methods and heads


@pytest.mark.parametrize("task", list(LABELS))
def test_tasks(base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path, task: str) -> None:
    output = str(tmp_path / "artifact")
    chosen = config(base, tables[task], output, task=task, steps=60, eval_steps=10, class_weights=task not in ("regression",))
    about = local.run(chosen, pictures=True)
    names = {
        "binary": ["poor", "rich"],
        "multiclass": ["-1", "no label", 'é, "odd"'],
        "multilabel": ["a", "g"],
        "token": ["x", "y"],
    }
    assert about["labels"]["names"] == names.get(task, [])
    for values in about["metrics"].values():
        assert set(values) == {"loss", *METRICS[task]}
        assert all(value is not None and math.isfinite(value) for value in values.values())
    # Composition is in reach of one layer: chance is far below.
    dev, test = history(output, "eval_loss"), about["metrics"]["test"]
    assert dev[60] < dev[10]
    floor = {"binary": ("accuracy", 0.8), "multiclass": ("accuracy", 0.6), "multilabel": ("f1", 0.8), "token": ("accuracy", 0.8)}
    name, least = floor.get(task, ("pearson", 0.9))
    assert test[name] > least
    if task == "regression":
        # On the scale of the labels, which spread over 50 units, and not of the z-scores.
        data = prepare(chosen).data
        targets = data.splits["test"].targets * data.labels.std + data.labels.mean
        assert (targets.min() > 99, np.std(targets) > 5) == (True, True)
        predicted = data.labels.choices(answers(output, data)["test"])
        assert test["rmse"] == pytest.approx(float(np.sqrt(np.mean((predicted - targets) ** 2))), rel=1e-4)
        assert about["labels"]["mean"] == pytest.approx(float(data.labels.mean))
    if task == "token":
        assert about["head"] is None
        matrix = json.loads((local.checkpoints[-1] / RESULTS).read_text())["confusion"]["test"]
        rows = Path(tables[task]["test"]).read_text().splitlines()[1:]
        assert np.sum(matrix) == sum(len(row.split(",")[0]) for row in rows)  # a count for each base, not for each token


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full", "head": "pooler", "learning_rate": 1e-3},
        {"method": "probe", "head": "projector"},
        {"pooling": "cls+mean+max", "max_tokens": 12, "special_tokens": True},
    ],
    ids=str,
)
def test_methods_and_heads(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path, changes: dict[str, Any]
) -> None:
    output = str(tmp_path / "artifact")
    chosen = config(base, tables["binary"], output, **changes)
    local.run(chosen)
    assert_answers(output, prepare(chosen).data)
    encoder = Encoder.load(artifact.load(output).encoding())
    plain = Encoder.from_pretrained(base)
    moved = np.abs(encoder.encode(["ACGTACGTTTGACC"]).mean - plain.encode(["ACGTACGTTTGACC"]).mean).max()
    assert (moved > 1e-4) == (changes.get("method") != "probe")


@pytest.mark.parametrize("task", list(LABELS))
def test_a_probe_is_solved_to_the_end(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path, task: str
) -> None:
    """No state of its head has a lower penalised loss; what is kept answers as it was measured, and is no worse than steps reach."""
    output = str(tmp_path / "artifact")
    chosen = config(base, tables[task], output, task=task, method="probe", pooling=None if task == "token" else "cls+mean")
    about = local.run(chosen)
    data = prepare(chosen).data
    assert about["intervals"].keys() == {"dev", "test"}
    assert list(history(output, "penalty").values())[:2] == [1e-4, 1e-3]
    assert (
        "a probe is solved as a regression and takes no steps: --steps, --eval-steps, --learning-rate change nothing"
        in about["notes"]
    )
    score = {"multilabel": "f1", "regression": "r2"}.get(task, "accuracy")
    assert about["metrics"]["test"][score] > {"regression": 0.5}.get(task, 0.75)
    if task == "binary":
        assert_answers(output, data)
    steps = local.run(config(base, tables[task], str(tmp_path / "steps"), task=task, method="lora", learning_rate=1e-5, steps=2))
    assert about["metrics"]["dev"]["loss"] < steps["metrics"]["dev"]["loss"]


def test_a_probe_on_both_strands_with_class_weights(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path
) -> None:
    options = {"method": "probe", "reverse_complement": True, "class_weights": True, "metric": "mcc"}
    about = local.run(config(base, tables["multiclass"], str(tmp_path / "artifact"), task="multiclass", **options))
    assert about["metrics"]["test"]["mcc"] > 0.3


def test_baselines_stand_beside_every_task_and_in_the_summary(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path
) -> None:
    for task in ("regression", "token"):
        output = str(tmp_path / task)
        about = local.run(config(base, tables[task], output, task=task, steps=2, baselines=True))
        letters = ["one-hot"] if task == "token" else ["3-mers", "4-mers", "5-mers", "6-mers", "one-hot"]
        assert list(about["baselines"]) == ["majority", *letters, "frozen"]
        assert json.loads((Path(output) / "dnafeat.json").read_text())["baselines"].keys() == about["baselines"].keys()
        metric = "r2" if task == "regression" else "accuracy"
        for known in about["baselines"].values():
            value, (low, high) = known["metrics"]["test"][metric], known["intervals"]["test"][metric]
            assert low <= value <= high
        said = finetune.format_result(about, output)
        assert "test, with 95 % intervals" in said
        assert "regression on frozen vectors" in said
        # Two steps teach nothing: that plain letters know more is said.
        assert any(note.startswith("on test baselines reach this run's") for note in about["notes"])
        # The artifact that is there keeps them.
        again = finetune.finetune(config(base, tables[task], output, task=task, steps=2, baselines=True), say=str)
        assert again["already_trained"]
        assert again["baselines"].keys() == about["baselines"].keys()


def test_several_seeds_are_reported_with_their_spread(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path
) -> None:
    output = tmp_path / "artifact"
    files = {"train": tables["binary"]["train"]}
    about = local.run(config(base, files, output, steps=1, seeds=2, seed=4))
    seeds = about["seeds"]
    assert (seeds["seeds"], seeds["split"], seeds["metric"]) == ([4, 5], "test", "mcc")
    values = [
        json.loads(file.read_text())["metrics"]["test"]["mcc"]
        for file in (output / "dnafeat.json", tmp_path / "artifact.seeds/5/dnafeat.json")
    ]
    assert seeds["scores"]["this run"] == values
    assert json.loads((output / "dnafeat.json").read_text())["seeds"] == seeds
    assert "mcc on test  mean  sd  seed 4  seed 5" in re.sub(" {2,}", "  ", finetune.format_result(about, str(output)))
    # Seed 4 alone is the same run.
    assert finetune.finetune(config(base, files, output, steps=1, seed=4), say=str)["already_trained"]


def test_one_table_is_divided(base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path) -> None:
    def rows(**changes: Any) -> dict[str, int]:
        found = prepare(config(base, {"train": tables["binary"]["train"]}, tmp_path / "artifact", **changes))
        return {name: len(split) for name, split in found.splits.items()}

    assert rows(dev_share=0.2, test_share=0.3) == pytest.approx({"train": 50, "dev": 20, "test": 30}, abs=2)
    assert rows(test=tables["binary"]["test"]) == pytest.approx({"train": 90, "dev": 10, "test": 30}, abs=2)
    files = {name: tables["binary"][name] for name in ("train", "dev")}
    about = local.run(config(base, files, tmp_path / "artifact", steps=2))
    assert about["rows"] == {"train": 100, "dev": 30}
    assert list(about["metrics"]) == ["train", "dev"]


def test_what_is_measured_at_the_end_is_in_float32(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path
) -> None:
    """Of a run in bfloat16, on a machine set to reduced products: the artifact, loaded, answers as the training process did."""
    output = str(tmp_path / "artifact")
    chosen = config(base, tables["binary"], output, precision="bfloat16")
    torch.set_float32_matmul_precision("medium")
    try:
        about = local.run(chosen)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert about["encoding"]["precision"] == "bfloat16"
    assert_answers(output, prepare(chosen).data, within=2e-6)
    # While it trains, dev is measured as it trains.
    assert about["metrics"]["dev"]["loss"] != pytest.approx(history(output, "eval_loss")[about["best_step"]], abs=2e-6)


def test_dnabert2_in_its_width_leaves_an_adapter_for_peft(local: Local, tmp_path: Path) -> None:
    values = models.config(hidden_size=768, intermediate_size=3072, vocab_size=4096)
    base = models.write(tmp_path / "wide", values, models.state(values, std=0.02))
    files = {name: table(tmp_path / f"{name}.csv", "binary", 8, i) for i, name in enumerate(("train", "dev"))}
    output = tmp_path / "artifact"
    chosen = config(str(base), files, output, steps=3, batch_size=4, learning_rate=1e-3)
    local.run(chosen)
    found = load_file(output / "adapter_model.safetensors")
    widths = {
        "attention.self.Wqkv": (768, 2304),
        "attention.output.dense": (768, 768),
        "mlp.gated_layers": (768, 6144),
        "mlp.wo": (3072, 768),
    }
    shapes = {}
    for layer in range(2):
        for module, (inside, outside) in widths.items():
            shapes[f"base_model.model.encoder.layer.{layer}.{module}.lora_A.weight"] = (8, inside)
            shapes[f"base_model.model.encoder.layer.{layer}.{module}.lora_B.weight"] = (outside, 8)
    assert {name: tuple(value.shape) for name, value in found.items()} == shapes
    assert all(value.abs().max() > 0 for value in found.values())
    saved = peft.PeftConfig.from_pretrained(str(output))
    assert (saved.peft_type, saved.base_model_name_or_path, saved.inference_mode) == ("LORA", str(base), True)
    assert isinstance(saved, peft.LoraConfig)
    assert set(saved.target_modules or ()) == {"Wqkv", "attention.output.dense", "mlp.gated_layers", "mlp.wo"}
    data = prepare(chosen).data
    for merged in (False, True):
        assert_answers(output, data, merged=merged)


# The best state


def test_the_artifact_holds_the_best_state_and_patience_ends_the_run(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([0.5, 0.7, 0.7, 0.6, 0.65, 0.9])
    states: list[dict[str, torch.Tensor]] = []
    real = trainer.Trainer.measure

    def measure(self: trainer.Trainer, split: str, *, half: bool) -> tuple[dict[str, float | None], np.ndarray]:
        values, found = real(self, split, half=half)
        if self.is_in_train:
            states.append(self.tensors())
            return values | {"mcc": next(told)}, found
        return values, found

    monkeypatch.setattr(trainer.Trainer, "measure", measure)
    chosen = config(base, tables["binary"], tmp_path / "artifact", steps=12, eval_steps=2, metric="mcc", patience=3)
    about = local.run(chosen)
    # The second is the best, an equal one is no better, and after three without a better one it is over.
    assert (about["best_step"], about["steps"], len(states)) == (4, 10, 5)
    head = load_file(tmp_path / "artifact" / "head.safetensors")
    assert torch.equal(head["classifier.weight"], states[1]["head.classifier.weight"])
    assert not torch.equal(head["classifier.weight"], states[-1]["head.classifier.weight"])
    assert_answers(tmp_path / "artifact", prepare(chosen).data)


def test_a_rate_that_breaks_everything_still_ends_in_an_artifact(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path
) -> None:
    about = local.run(
        config(base, tables["binary"], tmp_path / "artifact", learning_rate=1e30, eval_steps=1, steps=6, method="full")
    )
    assert about["steps"] == 6
    for name in ("dnafeat.json", "history.json"):
        text = (tmp_path / "artifact" / name).read_text()
        assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


# Bad input


def bad(tmp_path: Path, name: str, *rows: str) -> str:
    (tmp_path / f"{name}.csv").write_text("\n".join(["sequence,label", *rows]) + "\n")
    return str(tmp_path / f"{name}.csv")


GOOD = [f"{letters},{'ab'[i % 2]}" for i, (letters, _) in enumerate(sequences(20))]
NUMBERS = [f"{letters},{share:g}" for letters, share in sequences(20)]


@pytest.mark.parametrize(
    ("train_rows", "dev_rows", "changes", "sentence"),
    [
        (GOOD, ["ACGTAC,c"], {}, "dev.csv:1: label 'c' is not among those of the training rows, a, b"),
        ([row.replace(",b", ",a") for row in GOOD], GOOD, {}, "every row has label 'a', so there is nothing to tell apart"),
        ([*NUMBERS, "ACGTTT,nan"], NUMBERS, {"task": "regression"}, "train.csv:21: target 'nan' is not a finite number"),
        (NUMBERS, [*NUMBERS, "ACGTTT,"], {"task": "regression"}, "dev.csv:21: the target is null"),
        (GOOD, [], {}, "dev.csv has no rows, and dev needs some"),
        (GOOD, None, {}, "dev.csv does not exist or holds no file"),
        (GOOD, ["ACGT"], {}, "dev.csv, row 1, 'ACGT': 1 fields in a row where the header has 2"),
        (GOOD, ["ACXT,a"], {}, "dev.csv, row 1, 'ACXT': letter 'X' at base 3 is outside A C G T N"),
        (GOOD, GOOD, {"lora_targets": "Wqv"}, "LoRA target 'Wqv' matches no module of {base}: there are attention.output.dense, "),
        (GOOD, GOOD, {"lora_options": '{"use_rslorra": true}'}, "peft does not take these LoRA settings: "),
        (GOOD, GOOD, {"metric": "rmse"}, "metric 'rmse' is not one of task binary: loss, accuracy, f1, mcc,"),
        (NUMBERS, NUMBERS, {"task": "regression", "metric": "f1"}, "metric 'f1' is not one of task regression: loss, pearson,"),
        (GOOD, GOOD, {"task": "nothing"}, "task 'nothing' is none of binary, multiclass, multilabel, regression, token"),
        (GOOD, GOOD, {"max_tokens": 2}, "max_tokens 2 leaves no room beside the 2 special tokens: give more"),
        (GOOD, GOOD, {"model": "nowhere"}, "model 'nowhere' is neither a folder"),
        (GOOD, GOOD, {"head": "pooler", "pooling": "mean"}, "head pooler is for pooling cls, and pooling is mean"),
        (GOOD, GOOD, {"label_column": "class"}, "train.csv has no column 'class' for labels"),
        (NUMBERS, NUMBERS, {"task": "regression", "class_weights": True}, "class weights need classes, and --task regression has none"),
        (["ACGT,xyxy", "GGCC,yyyx"], ["ACGT,xxxx"], {"task": "token", "head": "pooler"}, "head is for one label a sequence"),
        (["ACGT,xyxy", "GGCC,yyyx"], ["ACGT,xxxx"], {"task": "token", "pooling": "cls"}, "pooling is for one label a sequence"),
        (["ACGT,xyxy", "GGCC,yyyx"], ["ACGT,xxx"], {"task": "token"}, "dev.csv:1: label 'xxx' is neither one character per base"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_a_sentence_before_ray_is_started(
    base: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    train_rows: list[str],
    dev_rows: list[str] | None,
    changes: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.setattr(trainrun, "start_ray", lambda: pytest.fail("Ray was started"))
    dev = str(tmp_path / "dev.csv") if dev_rows is None else bad(tmp_path, "dev", *dev_rows)
    values = settings(base, {"train": bad(tmp_path, "train", *train_rows), "dev": dev}, tmp_path / "artifact", **changes)
    switches = [f"--{name.replace('_', '-')}" for name, value in changes.items() if value is True]
    assert main([*flags({name: value for name, value in values.items() if value is not True}), *switches]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dnafeat: ")
    assert err.count("\n") == 1
    assert sentence.format(base=base) in err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"train.csv", *(["dev.csv"] if dev_rows is not None else [])}
    )


def test_more_tokens_than_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(trainrun, "start_ray", lambda: pytest.fail("Ray was started"))
    values = models.bert_config(num_hidden_layers=1)
    folder = models.write(tmp_path / "bert", values, models.bert_state(values))
    files = {"train": bad(tmp_path, "train", *GOOD)}
    assert main(flags(settings(str(folder), files, tmp_path / "artifact", max_tokens=65))) == 2
    assert capsys.readouterr().err == "dnafeat: max_tokens 65 is more than the 64 positions of this model: give 64 or less\n"


def test_an_adapter_is_no_base(both: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, base: str) -> None:
    arguments = flags(settings(str(both["output"]), {"train": both["values"]["train"]}, tmp_path / "artifact"))
    assert main(arguments) == 2
    expected = f"dnafeat: model {both['output']} is an adapter: name the model it was made for, which is {base}\n"
    assert capsys.readouterr().err == expected


def test_what_is_cut_off_or_shared_is_said(base: str, tables: dict[str, dict[str, str]], tmp_path: Path) -> None:
    files = tables["binary"] | {"dev": tables["binary"]["train"]}
    prepared = prepare(config(base, files, tmp_path / "artifact", max_tokens=10))
    assert prepared.notes[0].startswith("100 of 100 dev rows have a sequence that train has too")
    cut = [note for note in prepared.notes if "lose their end" in note]
    longer = int((np.diff(prepared.data.tokenizer.ragged(prepared.splits["train"].sequences).offsets) > 8).sum())
    assert cut[0] == f"{longer} of 100 train sequences are longer than 10 tokens and lose their end: give --max-tokens to keep it"


def test_a_base_that_is_another_is_another_run(base: str, tables: dict[str, dict[str, str]], tmp_path: Path) -> None:
    def digest(model: str = base, **changes: Any) -> str:
        return prepare(config(model, tables["binary"], tmp_path / "artifact", **changes)).digest

    other = str(models.random_folder(tmp_path / "other", seed=1, num_hidden_layers=1))
    copied = str(shutil.copytree(base, tmp_path / "copied"))
    assert digest() == digest(copied) == digest(num_workers=2) == digest(rows_per_worker=3)
    assert len({digest(), digest(other), digest(learning_rate=0.5), digest(max_tokens=10), digest(seed=3)}) == 5
