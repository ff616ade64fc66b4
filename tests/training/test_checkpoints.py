"""Checkpoints: the best state of a run, and what a folder holds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import transformers

from dnafeat.errors import CheckpointError
from dnafeat.training.checkpoints import (
    STATE,
    Best,
    TrainingProgress,
    decided,
    is_finished,
    read_finished,
    write_finished,
)


def lower(a: float, b: float) -> bool:
    return a < b


def test_an_equal_value_or_one_that_is_undefined_is_no_better() -> None:
    best = Best()
    for step, value in enumerate([None, math.nan, 0.5, 0.5, math.inf, 0.4, None], 1):
        best.update(value, step, lambda step=step: {"x": torch.full((1,), float(step))}, lower)  # type: ignore[misc]
        if step == 2:
            assert (best.value, best.worse_since, best.tensors) == (None, 2, {})
        if step == 5:
            assert (best.value, best.step, best.worse_since) == (0.5, 3, 2)
    assert (best.value, best.step, best.worse_since) == (0.4, 6, 1)
    assert best.tensors["x"].item() == 6
    assert [best.exhausted(patience) for patience in (0, 1, 2)] == [False, True, False]


def saved(folder: Path, progress: TrainingProgress) -> Path:
    progress.save(folder, {"w": torch.arange(3.0)})
    transformers.TrainerState(global_step=4).save_to_json(str(folder / STATE))
    return folder


def test_a_checkpoint_gives_back_what_was_saved_and_time_goes_on(tmp_path: Path) -> None:
    progress = TrainingProgress(Best(0.25, 3, 1, {"w": torch.ones(3)}), seconds=100.0, decided={"precision": "bfloat16"})
    folder = saved(tmp_path / "checkpoint", progress)
    again, trained = TrainingProgress.load(folder)
    assert (again.best.value, again.best.step, again.best.worse_since) == (0.25, 3, 1)
    assert torch.equal(again.best.tensors["w"], torch.ones(3))
    assert torch.equal(trained["w"], torch.arange(3.0))
    assert again.decided == decided(folder) == {"precision": "bfloat16"}
    assert 100 <= again.seconds <= again.elapsed() < 160
    assert not is_finished(folder)


def test_without_a_best_state_there_is_none_after_resuming(tmp_path: Path) -> None:
    again, _ = TrainingProgress.load(saved(tmp_path / "checkpoint", TrainingProgress()))
    assert again.best == Best()


def test_a_checkpoint_of_fine_tuning_by_the_release_before_can_be_resumed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "checkpoint", TrainingProgress())
    (folder / "best.json").write_text('{"value": 0.5, "step": 2, "worse_since": 0}')
    again, _ = TrainingProgress.load(folder)
    assert (again.best.value, again.seconds, again.decided) == (0.5, 0.0, {})


@pytest.mark.parametrize("lacking", ["trained.safetensors", "best.json", "trainer_state.json"])
def test_another_format_is_one_sentence(tmp_path: Path, lacking: str) -> None:
    folder = saved(tmp_path / "checkpoint", TrainingProgress())
    (folder / lacking).unlink()
    with pytest.raises(CheckpointError, match="was written by another release of dnafeat: remove the run's folder") as error:
        TrainingProgress.load(folder)
    assert "\n" not in str(error.value)


def test_a_finished_run_has_its_results(tmp_path: Path) -> None:
    folder = tmp_path / "final"
    write_finished(folder, {"w": torch.ones(2)}, {"steps": 3, "history": [{"loss": None}]})
    assert is_finished(folder)
    tensors, results = read_finished(folder)
    assert torch.equal(tensors["w"], torch.ones(2))
    assert results == {"steps": 3, "history": [{"loss": None}]}
