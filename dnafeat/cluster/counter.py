"""A count that rises: a bar on a terminal, and in a log a plain line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

# Between lines of a log. What ends sooner leaves none.
_LINE_SECONDS = 15.0
# Smaller numbers are shown in full.
_SCALED_FROM = 100_000


def counter(*, total: int | None, desc: str, unit: str, disable: bool = False, ends: bool = False) -> tqdm[Any] | Lines:
    """A counter on standard error, to be used in a `with`.

    Parameters
    ----------
    total : int | None
        What it counts to, where that is known.
    desc, unit : str
        What is done, and what is counted: "encoding", "sequences".
    disable : bool
        Show nothing.
    ends : bool
        Print the last line in a log however soon it is reached.
    """
    if disable or sys.stderr.isatty():
        return tqdm(
            total=total,
            desc=desc,
            unit=f" {unit}",
            unit_scale=total is not None and total >= _SCALED_FROM,
            smoothing=0.1,
            dynamic_ncols=True,
            disable=disable,
        )
    return Lines(total, desc, unit, ends)


class Lines:
    """As much of tqdm as is used here, in whole lines: `encoding: 120 of 300 sequences (40 %), 35.2 sequences/s, 350 tokens/s`."""

    def __init__(self, total: int | None, desc: str, unit: str, ends: bool = False) -> None:
        self.total, self.n = total, 0
        self._desc, self._unit, self._postfix, self._ends = desc, unit, "", ends
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None and (self._ends or self._last > self._began):
            print(self.line(), file=sys.stderr, flush=True)

    def update(self, count: float = 1) -> None:
        """Add to the count, and print it when a line is due."""
        self.n += int(count)
        now = time.monotonic()
        if now - self._last >= _LINE_SECONDS:
            self._last = now
            print(self.line(), file=sys.stderr, flush=True)

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Set what stands behind the count."""
        self._postfix = text

    def line(self) -> str:
        """The count in words."""
        share = f" of {self.total:,} {self._unit} ({100 * self.n / self.total:.0f} %)" if self.total else f" {self._unit}"
        rate = self.n / max(time.monotonic() - self._began, 1e-9)
        return f"{self._desc}: {self.n:,}{share}, {rate:,.1f} {self._unit}/s" + (f", {self._postfix}" if self._postfix else "")
