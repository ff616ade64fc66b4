"""Figures of a training run: learning curves and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

INK, DEV, MUTED = "#1b4b7a", "#c0562f", "#8a8a8a"
_NAMED = 12  # classes whose numbers are written into the confusion matrix


def curves(history: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> bytes:
    """Draw loss on train and dev, the learning rate, and dev metrics, over optimiser steps, as a PNG.

    Parameters
    ----------
    history : sequence of mappings
        What transformers' Trainer logs: `step` with `loss` and `learning_rate`, or with `eval_…`.
    metrics : sequence of str
        Dev metrics to draw, without `eval_`.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    train, dev = series(history, "loss"), series(history, "eval_loss")
    left.plot(*train, color=INK, linewidth=1, label="train loss")
    left.plot(*dev, color=DEV, marker="o", markersize=3, label="dev loss")
    rate = left.twinx()
    rate.plot(*series(history, "learning_rate"), color=MUTED, linewidth=1, linestyle=":", label="learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    handles = [*left.get_legend_handles_labels()[0], *rate.get_legend_handles_labels()[0]]
    left.legend(handles=handles, fontsize=8, frameon=False)
    left.set(xlabel="optimiser step", ylabel="loss")
    for name, style in zip(metrics, ("-", "--", "-.", ":"), strict=False):
        right.plot(*series(history, f"eval_{name}"), color=DEV, linestyle=style, marker="o", markersize=3, label=f"dev {name}")
    right.set(xlabel="optimiser step")
    if metrics:
        right.legend(fontsize=8, frameon=False)
    return png(figure)


def confusion(matrix: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """Draw a confusion matrix as a PNG: rows are true classes, shaded by their shares, with counts written in where there is room."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(10.0, 2.2 + 0.45 * len(names))
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(names) <= _NAMED:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        for (i, j), count in np.ndenumerate(counts):
            axes.text(j, i, f"{count:,}", ha="center", va="center", fontsize=8, color="white" if shares[i, j] > 0.55 else "black")
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return png(figure)


def series(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Return the steps and the values that a history logs under a name."""
    rows = [row for row in history if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


def png(figure: Figure) -> bytes:
    """Render a figure as a PNG file."""
    file = BytesIO()
    with matplotlib.rc_context({"font.size": 9}):
        figure.savefig(file, format="png", dpi=130)
    return file.getvalue()
