"""The configuration of fine-tuning: what is wrong is refused before anything is read, and what decides the result names the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dnafeat.cli.main import main
from dnafeat.errors import UsageError
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.settings import declared


def config(**changes: Any) -> FinetuneConfig:
    return FinetuneConfig.make({"train": "train.csv", "output": "artifact", **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "qlora"}, "method 'qlora' is none of lora, full, probe"),
        ({"task": "ner"}, "task 'ner' is none of binary, multiclass, multilabel, regression, token"),
        ({"metric": "f2"}, "metric 'f2' is none of accuracy, auprc, auroc, f1, f1_micro, loss, mcc, pearson,"),
        ({"epochs": 0}, "epochs 0 is too low: give 1 or more"),
        ({"batch_size": 0}, "batch_size 0 is too low"),
        ({"lora_rank": 0}, "lora_rank 0 is too low"),
        ({"num_workers": 0}, "num_workers 0 is too low"),
        ({"steps": 0}, "steps 0 is too low"),
        ({"max_tokens": 0}, "max_tokens 0 is too low"),
        ({"patience": -1}, "patience -1 is too low: give 0 or more"),
        ({"dropout": 1.0}, "dropout 1.0 is too high: give 0 or more and less than 1"),
        ({"encoder_dropout": -0.1}, "encoder_dropout -0.1 is too low: give 0 or more and less than 1"),
        ({"dev_share": 0.0}, "dev_share 0.0 is too low: give more than 0 and less than 1"),
        ({"dev_share": 0.5, "test_share": 0.5}, "dev_share and test_share leave nothing to train on"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 is too low: give more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan is not a finite number: give more than 0"),
        ({"weight_decay": -1.0}, "weight_decay -1.0 is too low: give 0 or more"),
        ({"num_workers": 2, "min_workers": 3}, "min_workers 3 is more than num_workers 2"),
        ({"gpus_per_worker": -1.0}, "gpus_per_worker -1.0 is too low: give 0 or more"),
        ({"precision": "fp16"}, "precision 'fp16' is none of auto, float32, bfloat16"),
        ({"kmer": -1}, "kmer -1 is too low: give 0 or more"),
        ({"lora_options": ["use_rslora"]}, "lora_options must be a mapping of names to values, not ['use_rslora']"),
        ({"epochs": 1.5}, "epochs must be a whole number, not 1.5"),
        ({"lora_ranks": 8}, "no setting 'lora_ranks' (did you mean lora_rank?): there are train, output, "),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        config(**changes)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "metric"), [("binary", "rmse"), ("regression", "f1"), ("multilabel", "recall"), ("token", "r2")]
)
def test_a_metric_of_another_task(task: str, metric: str) -> None:
    with pytest.raises(UsageError) as error:
        config(metric=metric).training(task, 768)
    assert str(error.value).startswith(f"metric {metric!r} is not one of task {task}: loss, ")


def test_the_rate_is_the_methods_own_and_falls_with_the_width_unless_given() -> None:
    for hidden in (768, 192):
        rates = {m: config(method=m).training("binary", hidden)["learning_rate"] for m in ("lora", "full", "probe")}
        scale = (768 / hidden) ** 2
        assert rates == pytest.approx({"lora": 1e-4 * scale, "full": 3e-5 * scale, "probe": 6e-4 * scale})
    assert config(learning_rate=0.5).training("binary", 192)["learning_rate"] == 0.5


OTHER: dict[str, Any] = {
    "dev_share": 0.2,
    "test_share": 0.2,
    "iupac": True,
    "task": "multiclass",
    "kmer": 3,
    "special_tokens": True,
    "method": "full",
    "head": "pooler",
    "pooling": "cls",
    "lora_rank": 4,
    "lora_alpha": 4,
    "lora_dropout": 0.5,
    "lora_targets": ("Wqkv",),
    "lora_options": {"use_rslora": True},
    "dropout": 0.5,
    "encoder_dropout": 0.5,
    "reverse_complement": True,
    "class_weights": True,
    "epochs": 9,
    "steps": 5,
    "batch_size": 5,
    "learning_rate": 1.0,
    "weight_decay": 1.0,
    "warmup_steps": 1,
    "metric": "mcc",
    "eval_steps": 5,
    "patience": 5,
    "seed": 5,
}


def test_what_decides_the_result_and_nothing_else_names_the_run() -> None:
    # Files are named by what is in them, a base by its weights, and max_tokens once it is known.
    # Groups act through the splits, whose content is named.
    others = (
        *("train", "output", "dev", "test", "model", "sequence_column", "label_column", "max_tokens"),
        *("group_column", "group_similar", "seeds", "baselines"),
    )
    machines = (
        "rows_per_worker",
        "precision",
        "runner",
        "num_workers",
        "min_workers",
        "cpus_per_worker",
        "gpus_per_worker",
        "max_failures",
        "storage",
    )
    assert {d.name for d in declared(FinetuneConfig)} == {*OTHER, *others, *machines}
    before = config().shaping()
    for name, value in OTHER.items():
        assert config(**{name: value}).shaping() != before, name
    assert config(output="b", runner="ray", num_workers=2, rows_per_worker=1, max_failures=0, storage="s").shaping() == before
    assert config(group_column="c", group_similar=False, seeds=3, baselines=False).shaping() == before


def test_a_file_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train: nowhere.csv\noutput: out\nlora_targets: [Wqkv]\nlora_options: {use_rslora: true}\n")
    loaded = FinetuneConfig.load(str(file), {"epochs": 7})
    assert (loaded.lora_targets, loaded.lora_options, loaded.epochs) == (("Wqkv",), {"use_rslora": True}, 7)
    assert main(["finetune", "--config", str(file)]) == 2
    assert capsys.readouterr().err == "dnafeat: nowhere.csv does not exist or holds no file\n"
    assert main(["finetune", "--train", "a.csv"]) == 2
    assert capsys.readouterr().err == "dnafeat: output is missing: give --output; a.csv does not exist or holds no file\n"
