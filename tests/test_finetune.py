"""Fine-tuning on real Ray Train, from tables to an artifact: any number of workers, killed ones among them, and every task."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import psutil
import pytest
import ray
import torch
from accelerate.state import AcceleratorState
from ray import train
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event

from dnafeat import artifact, finetune, trainer
from dnafeat.cli import main
from dnafeat.encoder import Encoder
from dnafeat.errors import EncodingError, UsageError
from dnafeat.finetune import prepare
from dnafeat.finetuneconfig import FinetuneConfig
from dnafeat.metrics import METRICS
from dnafeat.models.adapter import Source, attach, merge
from dnafeat.models.checkpoint import load_encoder
from dnafeat.models.finetuned import FineTuned

DNAFEAT = [sys.executable, "-c", "import sys; from dnafeat.cli import main; sys.exit(main())"]
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


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    """Ray of this module's own, with two CPUs whatever the machine has; `finetune` uses the Ray that runs."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=128 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


class Local:
    """Ray Train's worker in this process: its loop is the same, and no process has to be started for it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.checkpoints = folder, list[Path]()
        self.resume: Path | None = None
        real_scaling, real_report = train.ScalingConfig, train.report

        def report(metrics: dict[str, Any], checkpoint: Any = None) -> None:
            # Where there are real workers, this is copied to storage.
            kept = self.folder / f"checkpoint-{len(self.checkpoints)}"
            shutil.copytree(checkpoint.path, kept)
            self.checkpoints.append(kept)
            real_report(metrics, checkpoint=train.Checkpoint(str(kept)))

        class Steps:
            class remote:
                class tell:
                    remote = staticmethod(lambda *told: None)

        patch.setattr(train, "ScalingConfig", lambda num_workers, use_gpu, resources_per_worker: real_scaling(num_workers=0))
        patch.setattr(train, "report", report)
        patch.setattr(train, "get_checkpoint", lambda: self.resume and train.Checkpoint(str(self.resume)))
        patch.setattr(finetune, "Steps", Steps)

    def run(self, config: FinetuneConfig) -> dict[str, Any]:
        self.checkpoints.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        threads = torch.get_num_threads()
        # As a lone worker has it; Ray Train takes it down again.
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            return finetune.finetune(config, show=False, say=lambda line: None)
        finally:
            torch.set_num_threads(threads)
            AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def local(two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    return Local(tmp_path / "reported", monkeypatch)


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
    return FinetuneConfig.make(settings(*arguments, **changes))


def flags(values: dict[str, Any]) -> list[str]:
    return ["finetune", *(f"--{name.replace('_', '-')}={value}" for name, value in values.items())]


def network(uri: str, *, merged: bool = True) -> FineTuned:
    """What was trained, from nothing but the artifact."""
    found = artifact.load(uri)
    source = Source.find(found.encoding())
    encoder = load_encoder(source.checkpoint)
    if source.adapter is not None:
        encoder = (merge if merged else attach)(encoder, source.adapter)
    return FineTuned(encoder, found.head()).eval()


def logits(uri: str, config: FinetuneConfig, split: str, *, merged: bool = True) -> np.ndarray:
    """What an artifact answers for a split, one sequence at a time: (n, width)."""
    data, model = prepare(config).data, network(uri, merged=merged)
    collate, rows = data.collate(split), []
    for i in range(len(data.splits[split])):
        inputs = collate([(i, 1.0, False)])
        with torch.no_grad():
            rows.append(model(inputs["input_ids"], inputs["attention_mask"], inputs["content"])[0].numpy())
    return np.stack(rows)


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


# One run, and what is left of it


@pytest.fixture(scope="module")
def both(
    base: str, tables: dict[str, dict[str, str]], two_cpus: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Settings of a run on two workers that hold three sequences at a time, through the command line, and what it printed."""
    output = tmp_path_factory.mktemp("both") / "artifact"
    values = settings(
        base, tables["binary"], output, **STEADY, num_workers=2, rows_per_worker=3, learning_rate=0.02, reverse_complement=True
    ) | {"reverse_complement": True}
    arguments = [flag for flag in flags(values) if "reverse" not in flag] + ["--reverse-complement", "--json"]
    # In a process of its own, as a user's: what it says is all there is.
    done = subprocess.run([*DNAFEAT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {"values": values, "output": output, "out": done.stdout, "err": done.stderr, "config": FinetuneConfig.make(values)}


def test_the_last_line_is_the_summary_and_nothing_else_is_said(both: dict[str, Any]) -> None:
    lines = both["out"].splitlines()
    assert len(lines) == 1
    summary = json.loads(lines[0])
    about = json.loads((both["output"] / "dnafeat.json").read_text())
    assert summary == about | {"already_trained": False, "artifact": str(both["output"])}
    assert (summary["steps"], summary["workers"], summary["device"]) == (12, 2, "CPU")
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
    (file,) = both["output"].parent.glob("artifact.runs/*/tensorboard/*")
    assert sorted(set(events(file))) == list(range(1, 13))


@pytest.mark.parametrize("merged", [False, True])
def test_reloaded_it_measures_what_training_measured(both: dict[str, Any], merged: bool) -> None:
    data, about = prepare(both["config"]).data, artifact.load(str(both["output"])).about
    for split in ("train", "dev", "test"):
        found = torch.from_numpy(logits(str(both["output"]), both["config"], split, merged=merged))
        loss = trainer.losses("binary", found, torch.from_numpy(data.splits[split].targets), None).mean()
        assert float(loss) == pytest.approx(about["metrics"][split]["loss"], abs=1e-5)


def test_the_same_command_trains_nothing_and_another_is_refused(
    both: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "start_ray", lambda: pytest.fail("Ray was started"))
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
    """Two workers with two micro-batches each, and one with one or three: 12 steps, the ninth of 4 sequences."""
    output = tmp_path / "artifact"
    about = local.run(FinetuneConfig.make(both["values"] | {"output": str(output), "num_workers": 1, "rows_per_worker": rows}))
    one, two = history(output, "loss"), history(both["output"], "loss")
    assert list(one) == list(two) == list(range(1, 13))
    assert [one[step] for step in range(1, 6)] == pytest.approx([two[step] for step in range(1, 6)], abs=1e-5)
    assert list(one.values()) == pytest.approx(list(two.values()), abs=1e-3)
    assert about["digest"] == json.loads(both["out"])["digest"]
    for file in ("adapter_model.safetensors", "head.safetensors"):
        ours, theirs = load_file(output / file), load_file(both["output"] / file)
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=2e-3)
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
    chosen = config(base, tables["binary"], tmp_path / "whole", steps=16, eval_steps=4, reverse_complement=True)
    local.run(chosen)
    assert len(local.checkpoints) == 5
    kept = [shutil.copytree(checkpoint, tmp_path / f"kept-{i}") for i, checkpoint in enumerate(local.checkpoints)]
    # In the first and the second epoch, at the end before it was measured, and finished.
    for i, left in ((0, 4), (2, 2), (3, 1), (4, 1)):
        local.resume = Path(kept[i])
        output = tmp_path / f"from-{i}"
        about = local.run(config(base, tables["binary"], output, steps=16, eval_steps=4, reverse_complement=True))
        assert len(local.checkpoints) == left
        assert about["steps"] == 16
        for name in ("loss", "eval_loss"):
            assert history(output, name) == pytest.approx(history(tmp_path / "whole", name), abs=1e-6)
        for file in ("adapter_model.safetensors", "head.safetensors"):
            for key, value in load_file(tmp_path / "whole" / file).items():
                torch.testing.assert_close(load_file(output / file)[key], value, rtol=0, atol=1e-6)


# Killed processes


def killed_after_a_checkpoint(output: Path, victim: Callable[[], psutil.Process]) -> threading.Thread:
    """Kills a process with signal 9 once Ray Train has written down a checkpoint: one it has not is not gone on from."""

    def known() -> bool:
        files = output.parent.glob(f"{output.name}.runs/finetune-*/checkpoint_manager_snapshot.json")
        return any("checkpoint_2" in file.read_text() for file in files)

    def wait() -> None:
        end = time.monotonic() + 120
        while not known() and time.monotonic() < end:
            time.sleep(0.02)
        victim().send_signal(signal.SIGKILL)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "RayTrainWorker" in child.name()]


def assert_went_on(output: Path, steps: int, every: int) -> None:
    """That the artifact's run was done by two processes, the second of which began where a checkpoint of the first was."""
    files = sorted(output.parent.glob(f"{output.name}.runs/*/tensorboard/*"), key=lambda file: file.stat().st_mtime)
    first, second = map(events, files)
    assert first[0] == 1
    assert every <= first[-1] < steps
    assert every < second[0] <= first[-1] + 1
    assert (second[0] - 1) % every == 0
    about = artifact.load(str(output)).about
    assert about["steps"] == steps
    assert [None for values in about["metrics"].values() if not set(values) > {"loss", "accuracy"}] == []
    assert all(math.isfinite(values["loss"]) for values in about["metrics"].values())
    assert list(history(output, "loss")) == list(range(1, steps + 1))


def test_a_killed_worker(base: str, tables: dict[str, dict[str, str]], two_cpus: None, tmp_path: Path) -> None:
    output = tmp_path / "artifact"
    killer = killed_after_a_checkpoint(output, lambda: workers_of(psutil.Process())[-1])
    chosen = config(base, tables["binary"], output, steps=100, eval_steps=20, num_workers=2, max_failures=1)
    finetune.finetune(chosen, show=False, say=lambda line: None)
    killer.join()
    assert_went_on(output, 100, 20)


def test_a_killed_driver(base: str, tables: dict[str, dict[str, str]], two_cpus: None, tmp_path: Path) -> None:
    output = tmp_path / "artifact"
    values = settings(base, tables["binary"], output, steps=100, eval_steps=20)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [*DNAFEAT, *flags(values)]
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    family: list[psutil.Process] = []

    def victim() -> psutil.Process:
        family.extend(psutil.Process(driver.pid).children(recursive=True))
        return psutil.Process(driver.pid)

    killed_after_a_checkpoint(output, victim).join()
    assert driver.wait(10) == -signal.SIGKILL, (tmp_path / "log").read_text()
    # Ray's own processes end with it; until they have, its worker may still train.
    _, alive = psutil.wait_procs(family, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert not output.exists() or not (output / "dnafeat.json").exists()
    finetune.finetune(FinetuneConfig.make(values), show=False, say=lambda line: None)
    assert_went_on(output, 100, 20)


def test_more_workers_than_this_machine_can_hold(
    base: str, tables: dict[str, dict[str, str]], two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray would wait for another machine, and here none will come.
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    chosen = config(base, tables["binary"], tmp_path / "artifact", num_workers=3)
    with pytest.raises(UsageError) as error:
        finetune.finetune(chosen, show=False, say=lambda line: None)
    assert str(error.value) == "3 workers with 1 CPU each are more than the 2 CPUs of this machine hold: give fewer --num-workers"


def test_a_run_that_fails_says_of_what(
    base: str, tables: dict[str, dict[str, str]], two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.random_folder(tmp_path / "gone", num_hidden_layers=1)
    chosen = config(str(folder), tables["binary"], tmp_path / "artifact", max_failures=0)
    real = finetune.TorchTrainer

    def removed(*arguments: Any, **options: Any) -> Any:
        (folder / "config.json").unlink()
        return real(*arguments, **options)

    monkeypatch.setattr(finetune, "TorchTrainer", removed)
    with pytest.raises(EncodingError) as error:
        finetune.finetune(chosen, show=False, say=lambda line: None)
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
    assert finetune._cause(RuntimeError(story)) == cause


# Tasks, methods and heads


@pytest.mark.parametrize("task", list(LABELS))
def test_tasks(base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path, task: str) -> None:
    output = str(tmp_path / "artifact")
    chosen = config(base, tables[task], output, task=task, steps=60, eval_steps=30, class_weights=task not in ("regression",))
    about = local.run(chosen)
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
    assert dev[60] < dev[30] or test["loss"] < 0.2
    floor = {"binary": ("accuracy", 0.8), "multiclass": ("accuracy", 0.6), "multilabel": ("f1", 0.8), "token": ("accuracy", 0.8)}
    name, least = floor.get(task, ("pearson", 0.9))
    assert test[name] > least
    if task == "regression":
        # On the scale of the labels, which spread over 50 units, and not of the z-scores.
        data = prepare(chosen).data
        targets = data.splits["test"].targets * data.labels.std + data.labels.mean
        assert (targets.min() > 99, np.std(targets) > 5) == (True, True)
        predicted = data.labels.choices(logits(output, chosen, "test"))
        assert test["rmse"] == pytest.approx(float(np.sqrt(np.mean((predicted - targets) ** 2))), rel=1e-4)
        assert about["labels"]["mean"] == pytest.approx(float(data.labels.mean))
    if task == "token":
        assert about["head"] is None
        matrix = json.loads((local.checkpoints[-1] / trainer.RESULTS).read_text())["confusion"]["test"]
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
    about = local.run(chosen)
    data = prepare(chosen).data
    for split in ("dev", "test"):
        found = torch.from_numpy(logits(output, chosen, split))
        loss = trainer.losses("binary", found, torch.from_numpy(data.splits[split].targets), None).mean()
        assert float(loss) == pytest.approx(about["metrics"][split]["loss"], abs=1e-5)
    encoder = Encoder.load(artifact.load(output).encoding())
    plain = Encoder.from_pretrained(base)
    moved = np.abs(encoder.encode(["ACGTACGTTTGACC"]).mean - plain.encode(["ACGTACGTTTGACC"]).mean).max()
    assert (moved > 1e-4) == (changes.get("method") != "probe")


def test_one_table_is_divided(base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path) -> None:
    one = {"train": tables["binary"]["train"]}
    about = local.run(config(base, one, tmp_path / "a", steps=2, dev_share=0.2, test_share=0.3))
    assert about["rows"] == pytest.approx({"train": 50, "dev": 20, "test": 30}, abs=2)
    about = local.run(config(base, one | {"test": tables["binary"]["test"]}, tmp_path / "b", steps=2))
    assert about["rows"] == pytest.approx({"train": 90, "dev": 10, "test": 30}, abs=2)
    about = local.run(config(base, one | {"dev": tables["binary"]["dev"]}, tmp_path / "c", steps=2))
    assert about["rows"] == {"train": 100, "dev": 30}
    assert list(about["metrics"]) == ["train", "dev"]


# The best state


def test_the_artifact_holds_the_best_state_and_patience_ends_the_run(
    base: str, tables: dict[str, dict[str, str]], local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([0.5, 0.7, 0.7, 0.6, 0.65, 0.9])
    states: list[dict[str, torch.Tensor]] = []
    real = trainer.Trainer.measure

    def measure(self: trainer.Trainer, split: str) -> tuple[dict[str, float | None], np.ndarray]:
        values, found = real(self, split)
        if self.is_in_train:
            states.append(self._state())
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
    data = prepare(chosen).data
    found = torch.from_numpy(logits(str(tmp_path / "artifact"), chosen, "dev"))
    loss = trainer.losses("binary", found, torch.from_numpy(data.splits["dev"].targets), None).mean()
    assert about["metrics"]["dev"]["loss"] == pytest.approx(float(loss), abs=1e-5)


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
    monkeypatch.setattr(finetune, "start_ray", lambda: pytest.fail("Ray was started"))
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
    monkeypatch.setattr(finetune, "start_ray", lambda: pytest.fail("Ray was started"))
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
