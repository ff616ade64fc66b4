"""What a fine-tuning run reports: its metrics beside those of the baselines on the same split, with intervals, and over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dnafeat.finetune.metrics import cell
from dnafeat.finetune.tasks import LOWER_IS_BETTER
from dnafeat.text import aligned

_THIS = "this run"
# Metrics that have an interval, the first of which is compared.
_COMPARED = {"multilabel": ("f1", "accuracy"), "regression": ("r2", "pearson", "rmse")}
_OF_CLASSES = ("mcc", "accuracy", "f1")
_KINDS = {"majority": "majority", "one-hot": "one-hot regression", "frozen": "regression on frozen vectors"}


def compared(task: str, asked: str = "loss") -> list[str]:
    """Metrics that are shown beside the baselines', the one that is compared first: `asked` where it has an interval."""
    names = list(_COMPARED.get(task, _OF_CLASSES))
    return sorted(names, key=lambda name: name != asked)


def measured_on(about: Mapping[str, Any]) -> str:
    """The split on which runs are compared: test where there is one."""
    return "test" if "test" in about["metrics"] else "dev"


def scores(about: Mapping[str, Any], metric: str, split: str) -> dict[str, float | None]:
    """A metric of the run and of each baseline, by name."""
    found = {_THIS: about["metrics"][split].get(metric)}
    return found | {name: known["metrics"][split].get(metric) for name, known in (about.get("baselines") or {}).items()}


def better_baselines(about: Mapping[str, Any]) -> list[str]:
    """A sentence where baselines are not worse than the run, by the metric that is compared; none where they all are."""
    split, metric = measured_on(about), _metric(about)
    found = scores(about, metric, split)
    own = found.pop(_THIS)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    ahead = [(value, name) for name, value in found.items() if value is not None and (own is None or sign * value >= sign * own)]
    if not ahead:
        return []
    told = ", ".join(f"{_label(name)} {cell(metric, value)}" for value, name in sorted(ahead, key=lambda pair: -sign * pair[0]))
    return [f"on {split} baselines reach this run's {metric} of {cell(metric, own)}: {told}"]


def format_baselines(about: Mapping[str, Any]) -> str:
    """A row for the run and for each baseline, a column for each metric that has an interval; empty without baselines."""
    if not about.get("baselines"):
        return ""
    split, metrics = measured_on(about), compared(about["labels"]["task"], _asked(about))
    rows = [[f"{split}, with 95 % intervals", *metrics]]
    own = {"metrics": about["metrics"], "intervals": about.get("intervals") or {}}
    for name, known in {_THIS: own, **about["baselines"]}.items():
        bounds = known["intervals"].get(split, {})
        rows.append(
            [_label(name), *(_bounded(metric, known["metrics"][split].get(metric), bounds.get(metric)) for metric in metrics)]
        )
    return aligned(rows, right=range(1, len(rows[0])))


def over_seeds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several seeds reached: the compared metric of the run and of each baseline, a value for each seed."""
    split, metric = measured_on(summaries[0]), _metric(summaries[0])
    found = [scores(about, metric, split) for about in summaries]
    return {
        "seeds": [about["config"]["seed"] for about in summaries],
        "split": split,
        "metric": metric,
        "scores": {name: [values.get(name) for values in found] for name in found[0]},
    }


def format_seeds(seeds: Mapping[str, Any]) -> str:
    """Mean, standard deviation and values of each, a row each."""
    metric = seeds["metric"]
    rows = [[f"{metric} on {seeds['split']}", "mean", "sd", *(f"seed {seed}" for seed in seeds["seeds"])]]
    for name, values in seeds["scores"].items():
        known = [value for value in values if value is not None]
        mean = statistics.fmean(known) if known else None
        spread = statistics.stdev(known) if len(known) > 1 else None
        rows.append([_label(name), *(cell(metric, value) for value in (mean, spread, *values))])
    return aligned(rows, right=range(1, len(rows[0])))


def _metric(about: Mapping[str, Any]) -> str:
    return compared(about["labels"]["task"], _asked(about))[0]


def _asked(about: Mapping[str, Any]) -> str:
    return str(about.get("config", {}).get("metric", "loss"))


def _label(name: str) -> str:
    return f"{name} regression" if name.endswith("-mers") else _KINDS.get(name, name)


def _bounded(metric: str, value: float | None, bounds: Sequence[float] | None) -> str:
    if value is None or bounds is None:
        return cell(metric, value)
    return f"{cell(metric, value)} ({cell(metric, bounds[0])} to {cell(metric, bounds[1])})"
