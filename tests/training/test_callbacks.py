"""What a worker reports: to who watches, to TensorBoard, and when it asks whether a node goes away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from tensorboardX.proto.event_pb2 import Event

from dnafeat.training.callbacks import Reporter, Reports


class Watched:
    """A worker whose reports are kept, on a node that goes away after step 12."""

    def __init__(self, rank: int = 0, events: str | None = None) -> None:
        self.rank, self.world_size, self.device, self.events = rank, 2, torch.device("cpu"), events
        self.step, self.asked, self.saved, self.logged = 0, list[int](), list[str](), list[Any]()

    def last_checkpoint(self, folder: Path) -> Path | None:
        return None

    def save(self, folder: Path, values: Mapping[str, float]) -> None:
        self.saved.append(folder.name)

    def preempted(self) -> bool:
        self.asked.append(self.step)
        return self.step > 12

    def log(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        self.logged.append((step, steps, dict(values)))


def test_whether_a_machine_goes_away_is_asked_at_every_tenth_step() -> None:
    context = Watched()
    reporter, saved = Reporter(context), []
    for context.step in range(1, 51):
        saved += [context.step] * reporter.preempted(context.step)
    assert (context.asked, saved) == ([10, 20], [20])


def test_transformers_trainer_saves_when_a_machine_goes_away_and_evaluates_at_the_end(tmp_path: Path) -> None:
    context = Watched()
    reports, saved, evaluated = Reports(context), [], []
    args, state = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(global_step=0, max_steps=30)
    for state.global_step in range(1, 31):
        context.step = state.global_step
        control = transformers.TrainerControl()
        reports.on_step_end(args, state, control)
        saved += [context.step] * control.should_save
        evaluated += [context.step] * control.should_evaluate
        if control.should_save:
            reports.on_save(args, state, control)
    assert (context.asked, saved, evaluated, context.saved) == ([10, 20], [20], [30], ["checkpoint-20"])
    reports.on_log(args, state, control, {"loss": 0.5})
    assert context.logged == [(30, 30, {"loss": 0.5})]


def test_the_first_worker_alone_reports_and_texts_are_no_curves(tmp_path: Path) -> None:
    for rank in (0, 1):
        context = Watched(rank, str(tmp_path / str(rank)))
        reporter = Reporter(context)
        reporter.log(1, 9, {"loss": 2.0, "word": "x"})  # type: ignore[dict-item]
        reporter.log(2, 9, {"loss": 1.0})
        reporter.close()
        assert len(context.logged) == (2 if rank == 0 else 0)
    assert not (tmp_path / "1").exists()
    (file,) = (tmp_path / "0").iterdir()
    content, at, found = file.read_bytes(), 0, []
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        at += size + 16
    assert found == [(1, "loss", 2.0), (2, "loss", 1.0)]
