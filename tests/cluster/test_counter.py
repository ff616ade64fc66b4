"""A count in a log: whole lines, now and then, and no carriage returns."""

from __future__ import annotations

import io
import re
import sys

import pytest

from dnafeat.cluster import counter as module
from dnafeat.cluster.counter import Lines, counter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with counter(total=400, desc="encoding", unit="sequences") as bar:
        for _ in range(4):
            bar.set_postfix_str("12 tokens/s")
            bar.update(100)
    err = capsys.readouterr().err
    assert "\r" not in err
    lines = err.splitlines()
    assert len(lines) >= 2
    for line in lines:
        assert re.fullmatch(r"encoding: \d00 of 400 sequences \(\d+ %\), [\d.]+ sequences/s, 12 tokens/s", line)
    assert lines[-1].startswith("encoding: 400 of 400 sequences (100 %)")


@pytest.mark.parametrize(("ends", "lines"), [(False, 0), (True, 1)])
def test_what_ends_soon_leaves_one_line_or_none(ends: bool, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    with counter(total=3, desc="planning", unit="parts", ends=ends) as bar:
        bar.update(3)
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_nothing_is_shown_where_nothing_is_asked_or_something_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with counter(total=3, desc="x", unit="parts", disable=True, ends=True) as bar:
        bar.update(3)
    with pytest.raises(ValueError, match="broken"), counter(total=3, desc="x", unit="parts", ends=True):
        raise ValueError("broken")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_counts_in_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with counter(total=3, desc="encoding", unit="sequences") as bar:
        assert not isinstance(bar, Lines)
        bar.update(3)
    assert "3/3" in screen.getvalue()
