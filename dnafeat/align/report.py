"""What an alignment measured, as one table and one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnafeat.align.scores import KS, Scores
from dnafeat.text import aligned
from dnafeat.training.figures import DEV, INK, MUTED, png, series

_GENES = 20  # that are drawn


def format_scores(told: Mapping[str, Any]) -> str:
    """One table: a line for each measure with its 95 % interval, what chance gives, the ceiling, and p."""
    rows = [["", "value", "95 % interval", "chance", "ceiling", "p"]]
    for way, found in told["retrieval"].items():
        for k in KS:
            one = found[f"recall@{k}"]
            rows.append([f"recall@{k}, {way}", _percent(one["value"]), _interval(one, _percent), _percent(one["chance"])])
            rows[-1] += [_percent(one["ceiling"]), ""]
        one = found["median_rank"]
        rows.append([f"median rank, {way}", f"{one['value']:g}", _interval(one, "{:g}".format), f"{one['chance']:g}", "", ""])
    for what, one in told["tests"].items():
        rows.append([what, f"{one['value']:.3f}", "", "0", "", f"{one['p']:.3g}"])
    for which, one in told.get("explained", {}).items():
        rows.append(
            [f"variance of {which} that covariates still explain", _percent(one["value"]), "", "0", "", f"{one['p']:.3g}"]
        )
    if "probe" in told:
        for block, metrics in told["probe"]["blocks"].items():
            for metric, one in metrics.items():
                chance = {"r2": "0", "pearson": "0", "auroc": "0.5"}.get(metric, "")
                shown = [_number(one["value"]), _interval(one, _number), chance, "", ""]
                rows.append([f"{told['probe']['phenotype']} by {block}, {metric}", *shown])
    for one in told.get("genes", ()):
        cost = one["cost"]["recall@5"]
        rows.append([f"recall@5 lost without {one['gene']}", _percent(cost["value"]), _interval(cost, _percent), "0", "", ""])
    return aligned(rows, right=range(1, 6))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(one: Mapping[str, Any], shown: Any) -> str:
    return "" if one["low"] is None else f"{shown(one['low'])} to {shown(one['high'])}"


def picture(scores: Scores, history: Sequence[Mapping[str, Any]], name: str) -> bytes:
    """Loss over steps, recall over k, tests among those of shuffled subjects, and probes and genes where there are any; a PNG."""
    told = scores.told
    more = [one for one in ("probe", "genes") if one in told]
    figure = Figure(figsize=(3.6 * (3 + len(more)), 3.4), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, 3 + len(more))
    _losses(axes[0], history)
    _recall(axes[1], scores)
    _tests(axes[2], scores)
    for one, own in zip(more, axes[3:], strict=True):
        (_probe if one == "probe" else _genes)(own, told, name)
    return png(figure)


def _losses(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(*series(history, "loss"), color=INK, linewidth=1, label="train")
    axes.plot(*series(history, "eval_loss"), color=DEV, marker="o", markersize=3, label="dev")
    axes.legend(fontsize=8, frameon=False)
    axes.set(xlabel="optimiser step", ylabel="contrastive loss")


def _recall(axes: Axes, scores: Scores) -> None:
    count = scores.told["subjects"]
    ks = np.unique(np.geomspace(1, count, 60).astype(int))
    for (way, found), colour in zip(scores.ranks.items(), (INK, DEV), strict=True):
        axes.plot(ks, [found.recalled(int(k)).mean() for k in ks], color=colour, label=way)
    axes.plot(ks, ks / count, color=MUTED, linestyle=":", label="chance")
    axes.set(xscale="log", xlabel="k", ylabel="recall@k", ylim=(0, 1.02), title=f"{count:,} held-out subjects")
    axes.legend(fontsize=8, frameon=False)


def _tests(axes: Axes, scores: Scores) -> None:
    for row, (what, one) in enumerate(scores.tests.items()):
        if len(one.null):
            shares = np.percentile(one.null, [0, 2.5, 97.5, 100])
            axes.plot(shares[[0, 3]], [row, row], color=MUTED, linewidth=1)
            axes.plot(
                shares[1:3], [row, row], color=MUTED, linewidth=5, solid_capstyle="butt", label="shuffled" if row == 0 else None
            )
        axes.plot([one.value], [row], color=INK, marker="D", linestyle="", markersize=6, label="measured" if row == 0 else None)
        axes.annotate(f"{what}, p = {one.p:.3g}", (0.03, row + 0.18), xycoords=("axes fraction", "data"), fontsize=8)
    axes.set(yticks=[], ylim=(-0.5, len(scores.tests) - 0.3), xlabel="value (bar: 95 % of shuffled, line: all)")
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _probe(axes: Axes, told: Mapping[str, Any], name: str) -> None:
    blocks = told["probe"]["blocks"]
    metric = "r2" if told["probe"]["kind"] == "number" else "auroc"
    for row, metrics in enumerate(reversed(blocks.values())):
        one = metrics[metric]
        if one["value"] is not None:
            if one["low"] is not None:
                axes.plot([one["low"], one["high"]], [row, row], color=INK, linewidth=1)
            axes.plot([one["value"]], [row], color=INK, marker="o", linestyle="")
    axes.set_yticks(range(len(blocks)), list(reversed(blocks)), fontsize=8)
    axes.axvline(0 if metric == "r2" else 0.5, color=MUTED, linestyle=":")
    axes.set(xlabel={"r2": "R²", "auroc": "AUROC"}[metric], title=f"{told['probe']['phenotype']} told by")


def _genes(axes: Axes, told: Mapping[str, Any], name: str) -> None:
    genes = sorted(told["genes"], key=lambda one: one["cost"]["recall@5"]["value"])[-_GENES:]
    for row, one in enumerate(genes):
        cost = one["cost"]["recall@5"]
        axes.barh(row, 100 * cost["value"], color=INK)
        if cost["low"] is not None:
            axes.plot([100 * cost["low"], 100 * cost["high"]], [row, row], color=MUTED, linewidth=1)
    axes.set_yticks(range(len(genes)), [one["gene"] for one in genes], fontsize=8)
    axes.set(xlabel="points of recall@5 lost", title=f"without a gene, dna to {name}")
