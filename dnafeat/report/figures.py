"""Figures of a page as SVG: matplotlib's, and a map whose points name their entries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#2f7fc1", "#d9772b", "#3a9d5d", "#b04fa3", "#8b6f4e", "#d04a57", "#2aa3a3", "#8a8f3c", "#777777")
_INK = "#010203"  # replaced by the page's own colour of text
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "dnafeat",
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SIZE = 480


def svg(figure: Figure, label: str) -> Markup:
    """A figure as an SVG element with a label for screen readers, in the page's colour of text and with no background."""
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Ids of several figures on one page must differ, or all clip paths are those of the first.
    prefix = re.sub(r"\W", "-", label)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def bars(values: np.ndarray, label: str) -> Markup:
    """A histogram of (n,) numbers."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 2.4), layout="constrained")
        axes = figure.subplots()
        finite = values[np.isfinite(values)].astype(np.float64)
        spread = float(np.ptp(finite)) if len(finite) else 0.0
        if spread <= 1e-9 * float(np.abs(finite).max(initial=0)):
            # Bins cannot be cut narrower than float64 tells numbers apart.
            axes.bar([f"{finite[0]:.6g}" if len(finite) else "none"], [len(finite)], color=COLOURS[0], width=0.3)
        else:
            axes.hist(finite, bins=30, color=COLOURS[0])
        axes.set(xlabel=label, ylabel="entries")
        return svg(figure, label)


def shares(values: np.ndarray) -> Markup:
    """Shares of the variance by principal component."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.bar(np.arange(1, len(values) + 1), 100 * values, color=COLOURS[0])
        axes.set(xlabel="principal component", ylabel="% of the variance")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg(figure, "variance by component")


def history(runs: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Entries read, sequences encoded, bytes and seconds of each run: a figure each."""
    numbers = [str(row["run_number"]) for row in runs]
    found = []
    for name, label in (("read", "entries read"), ("encoded", "sequences encoded"), ("bytes", "bytes"), ("seconds", "seconds")):
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(4.2, 2.4), layout="constrained")
            axes = figure.subplots()
            values = [row[name] for row in runs]
            axes.plot(numbers, values, marker="o", markersize=3, color=COLOURS[0])
            axes.set(xlabel="run", ylabel=label, ylim=(0, 1.1 * max(values) or 1))
            axes.set_xticks(numbers[:: max(1, -(-len(numbers) // 10))])
            found.append(svg(figure, f"{label} by run"))
    return found


def colours(groups: Sequence[str]) -> dict[str, str]:
    """A colour for each group, the most frequent first."""
    return {name: COLOURS[i % len(COLOURS)] for i, (name, _) in enumerate(Counter(groups).most_common())}


def points(places: np.ndarray, ids: Sequence[str], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Points of the map in a square of 480 units: place, colour, and what a pointer over it shows."""
    low, high = places.min(0), places.max(0)
    extent = max(float((high - low).max()), 1e-12)
    centred = (places - (low + high) / 2) / extent * (_SIZE - 24) + _SIZE / 2
    of = colours(groups)
    return [
        {"x": f"{x:.1f}", "y": f"{_SIZE - y:.1f}", "colour": of[group], "title": f"{name} · {group}"}
        for (x, y), name, group in zip(centred, ids, groups, strict=True)
    ]
