"""Rows of the speed table: a measured number with its spread, its target, and whether the target is met. Needs nothing but Python."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dnafeat.text import aligned

_WIDTH = 118


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number, or one fact about the machine.

    Attributes
    ----------
    name : str
        Parts with points between: `cpu.float32.over_padded`. The first part is the section it was measured in.
    value : float | str | None
        The median of the repeats; a text for a fact; None where it was not measured, which `note` explains.
    unit : str
    least, most : float | None
        The target: the value should be at least, or at most, this. None in both: it has no target.
    spread : tuple of float | None
        Lowest and highest of the repeats.
    repeats : int
    note : str
    """

    name: str
    value: float | str | None
    unit: str = ""
    least: float | None = None
    most: float | None = None
    spread: tuple[float, float] | None = None
    repeats: int = 1
    note: str = ""

    @property
    def target(self) -> str | None:
        """In words, such as `at least 0.9`."""
        ends = [f"{word} {end:g}" for word, end in (("at least", self.least), ("at most", self.most)) if end is not None]
        return " and ".join(ends) or None

    @property
    def met(self) -> bool | None:
        """None where there is no target, or nothing was measured."""
        if self.target is None or not isinstance(self.value, int | float):
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in bench.json."""
        first = {"name": self.name, "value": self.value, "unit": self.unit, "target": self.target, "met": self.met}
        return first | {"spread": self.spread, "repeats": self.repeats, "note": self.note}

    def fields(self) -> dict[str, Any]:
        """What `Row(**fields)` makes it of again, in another process."""
        return asdict(self)


def measured(name: str, values: Sequence[float], unit: str, **more: Any) -> Row:
    """The median of some repeats and their ends, six digits of each."""
    value, low, high = (_rounded(one) for one in (statistics.median(values), min(values), max(values)))
    return Row(name=name, value=value, unit=unit, spread=(low, high) if len(values) > 1 else None, repeats=len(values), **more)


def not_measured(name: str, why: str, unit: str = "", **target: float) -> Row:
    return Row(name=name, value=None, unit=unit, repeats=0, note=f"not measured: {why}", **target)  # type: ignore[arg-type]


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Ratios of what was measured side by side, pair by pair, so that what slows the whole machine for a while drops out."""
    return [a / b for a, b in zip(over, under, strict=True)]


def without_target(row: Row, why: str) -> Row:
    """The row of something smaller than its target is meant for."""
    return replace(row, least=None, most=None, note=f"{row.note}; {why}" if row.note else why)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def to_json(rows: Iterable[Row]) -> str:
    """A list of objects, one a line, so that two runs can be compared line by line."""
    return "[\n" + ",\n".join(json.dumps(row.to_dict(), ensure_ascii=False) for row in rows) + "\n]\n"


def format_rows(rows: Sequence[Row], foot: Sequence[str] = ()) -> str:
    """One table, a block for each section, with notes by number below it."""
    notes: list[str] = []

    def number(row: Row) -> str:
        if not row.note:
            return ""
        if row.note not in notes:
            notes.append(row.note)
        return f"[{notes.index(row.note) + 1}]"

    lines = [("", "value", "", "lowest – highest", "target", "met", "")]
    section = ""
    for row in rows:
        if row.name.partition(".")[0] != section:
            section = row.name.partition(".")[0]
            lines.append(("",) * 7)
        ends = f"{_shown(row.spread[0])} – {_shown(row.spread[1])}" if row.spread else ""
        met = {True: "yes", False: "NO", None: ""}[row.met]
        lines.append((row.name, _shown(row.value), row.unit, ends, row.target or "", met, number(row)))
    numbers = [line for line in lines if not _is_fact(line)]
    table = iter(aligned(numbers, right={1}).split("\n"))
    width = max(len(line[0]) for line in numbers)
    # Facts are as long as they are, and no column is as wide as they.
    text = [f"{line[0].ljust(width)}  {line[1]} {line[2]}".rstrip() if _is_fact(line) else next(table) for line in lines]
    told = [textwrap.fill(f"[{i + 1}] {note}", _WIDTH, subsequent_indent="    ") for i, note in enumerate(notes)]
    return "\n".join([*text, "", *told, *(textwrap.fill(one, _WIDTH) for one in foot)]).rstrip()


def _is_fact(line: tuple[str, ...]) -> bool:
    return line[0].startswith("machine.")


def _shown(value: float | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
