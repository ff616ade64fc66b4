"""The 28 tasks of the Genome Understanding Evaluation with the published DNABERT-2 settings, one table beside the published scores.

Settings and scores: Zhou et al. 2023 (arXiv:2306.15006) and its training script. Batches of 32, best state by dev loss, full fine-tuning
through [CLS], pooler and classifier; other methods and heads are settings, and stand in the table.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dnafeat import storage
from dnafeat.encoder.models.checkpoint import load_tokenizer
from dnafeat.errors import DnafeatError, UsageError
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.job import finetune
from dnafeat.text import did_you_mean

_log = logging.getLogger(__name__)
_SPLITS = ("train", "dev", "test")
_PUBLISHED_TOKENS = "BPE, 4,096 entries"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: its published settings and score in percent (Matthews correlation; macro F1 for covid)."""

    name: str
    folder: str
    max_tokens: int
    published: float
    epochs: int = 3
    steps: int | None = None
    metric: str = "mcc"


def _tasks() -> Iterable[Task]:
    marks = {
        "H3": 78.27, "H3K14ac": 52.57, "H3K36me3": 56.88, "H3K4me1": 50.52, "H3K4me2": 31.13, "H3K4me3": 36.27, "H3K79me3": 67.39,
        "H3K9ac": 55.63, "H4": 80.71, "H4ac": 50.43,
    }  # fmt: skip
    for mark, score in marks.items():
        yield Task(name=f"emp_{mark}", folder=f"EMP/{mark}", max_tokens=128, published=score)
    promoters = {"all": (86.77, 69.37), "notata": (94.27, 68.04), "tata": (71.59, 74.17)}
    for part, scores in promoters.items():
        epochs = 10 if part == "tata" else 4
        for region, tokens, score in (("300", 70, scores[0]), ("core", 20, scores[1])):
            name = f"prom_{region}_{part}"
            yield Task(name=name, folder=f"prom/{name}", max_tokens=tokens, epochs=epochs, published=score)
    for i, score in enumerate((71.99, 76.06, 66.52, 58.54, 77.43)):
        yield Task(name=f"tf_{i}", folder=f"tf/{i}", max_tokens=30, published=score)
    for i, score in enumerate((56.76, 84.77, 79.32, 66.47, 52.66)):
        yield Task(name=f"mouse_{i}", folder=f"mouse/{i}", max_tokens=30, steps=1000, published=score)
    yield Task(name="covid", folder="virus/covid", max_tokens=256, epochs=8, metric="f1", published=71.02)
    yield Task(name="splice", folder="splice/reconstructed", max_tokens=80, epochs=5, published=84.99)


TASKS = {task.name: task for task in _tasks()}


def find(data: str, names: Iterable[str]) -> dict[str, str]:
    """The folder of each task below `data`, as the published archive lays them out (`EMP/H3`) or by name (`emp_H3`).

    Raises UsageError for an unknown task, or one asked for by name that is not there; `all` takes what there is.
    """
    asked = list(names)
    strange = [name for name in asked if name not in TASKS and name != "all"]
    if strange:
        raise UsageError(
            f"there is no GUE task {strange[0]!r}: there are {', '.join(TASKS)}, and all{did_you_mean(strange[0], TASKS)}"
        )
    found = {}
    for task in TASKS.values():
        if "all" not in asked and task.name not in asked:
            continue
        for folder in (task.name, task.folder, f"GUE/{task.folder}"):
            place = storage.join(data, folder)
            fs, path = storage.filesystem(storage.join(place, "train.csv"))
            if fs.exists(path):
                found[task.name] = place
                break
    missing = [name for name in asked if name != "all" and name not in found]
    if missing or not found:
        raise UsageError(f"{data} holds no folder of {', '.join(missing) or 'any GUE task'} with train.csv, dev.csv and test.csv")
    return found


def run(
    data: str, names: Iterable[str], output: str, settings: Mapping[str, Any], say: Callable[[str], None] = _log.info
) -> list[dict[str, Any]]:
    """Fine-tunes on each task, one artifact each below `output`, and returns the rows of the table.

    A task whose artifact is there is not trained again; one that fails is told and stands in the table without a score.

    Parameters
    ----------
    settings : mapping
        Fields of `FinetuneConfig` that override the published ones.
    """
    rows = []
    # The published lengths are in tokens of DNABERT-2's BPE; with others the longest sequence decides.
    bpe = load_tokenizer(str(settings.get("model") or "dnafeat-mini")).kind == _PUBLISHED_TOKENS
    for name, place in find(data, names).items():
        task = TASKS[name]
        published = {
            "max_tokens": task.max_tokens if bpe else None,
            "epochs": task.epochs,
            "steps": task.steps,
            "method": "full",
            "head": "pooler",
        }
        own = {**published, "eval_steps": 200, "patience": 0, **settings}
        files = {split: storage.join(place, f"{split}.csv") for split in _SPLITS}
        say(f"{name}: {place}")
        row: dict[str, Any] = {
            "task": name,
            "metric": task.metric,
            "published": task.published,
            "score": None,
            "artifact": storage.join(output, name),
        }
        try:
            config = FinetuneConfig.make({**own, **files, "output": row["artifact"]})
            row |= {key: getattr(config, key) for key in ("method", "head", "seed")}
            about = finetune(config, say=say)
        except DnafeatError as error:
            say(f"{name}: {error}")
            rows.append(row | {"fault": str(error)})
            continue
        kept = {key: about[key] for key in ("steps", "seconds", "truncated", "notes")}
        kept |= {"model": about["base"]["model"], "score": _percent(about["metrics"]["test"][task.metric])}
        rows.append(row | kept | _beside(about, task.metric))
    text = json.dumps(rows, indent=1).encode()
    storage.write_whole(storage.join(output, "gue.json"), lambda file: file.write(text))
    table = (format_rows(rows) + "\n").encode()
    storage.write_whole(storage.join(output, "gue.md"), lambda file: file.write(table))
    return rows


def _percent(score: float | None) -> float | None:
    return None if score is None else round(100 * score, 2)


def _beside(about: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """What stands beside a score: its interval, the baselines' scores, all in percent, and those of all seeds where there are several."""
    bounds = about.get("intervals", {}).get("test", {}).get(metric)
    baselines = about.get("baselines") or {}
    found: dict[str, Any] = {
        "interval": None if bounds is None else [_percent(bound) for bound in bounds],
        "baselines": {name: _percent(known["metrics"]["test"][metric]) for name, known in baselines.items()},
        # Chosen on dev, since the best on test of several would be too good.
        "kmers": max(
            (name for name in baselines if name.endswith("-mers")),
            key=lambda name: baselines[name]["metrics"]["dev"][metric] or -1.0,
            default=None,
        ),
    }
    if "seeds" in about:
        found["seeds"] = about["seeds"]
    return found


def format_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table as Markdown: scores of the first seed, and of the baselines on the same split.

    The k-mers are those of 3 to 6 bases that do best on dev.
    """
    lines = [
        "| task | model | method | head | seed | metric | test, % | DNABERT-2 as published, % | 95 % interval | majority | k-mers | "
        "one-hot | frozen vectors | all seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [row.get(key, "-") for key in ("task", "model", "method", "head", "seed", "metric")]
        score = "failed" if "fault" in row else _cell(row["score"])
        known, bounds, kmers = row.get("baselines", {}), row.get("interval"), row.get("kmers")
        beside = [
            f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else "-",
            _cell(known.get("majority")),
            f"{_cell(known.get(kmers))} ({kmers})" if kmers else "-",
            _cell(known.get("one-hot")),
            _cell(known.get("frozen")),
            _all_seeds(row),
        ]
        lines.append("| " + " | ".join(map(str, [*cells, score, f"{row['published']:.2f}", *beside])) + " |")
    return "\n".join(lines)


def _cell(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


def _all_seeds(row: Mapping[str, Any]) -> str:
    """Mean and standard deviation over seeds, with the metric's name where it is another than the row's."""
    seeds = row.get("seeds")
    values = [100 * value for value in seeds["scores"]["this run"] if value is not None] if seeds else []
    if len(values) < 2:
        return "-"
    metric = "" if seeds is None or seeds["metric"] == row["metric"] else f"{seeds['metric']} "
    return f"{metric}{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} ({len(values)})"
