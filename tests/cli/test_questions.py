"""Questions before what cannot be taken back: asked on a terminal alone, below what would be done."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from stores import Entry, fill

from dnafeat.cli.main import main
from dnafeat.store import Store

ENTRIES = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "AACC", {"subject": "s1"}), Entry("c", "GGCC", {"subject": "s2"})]
COMMANDS = {
    "forget": ["forget", "--where", "subject=s1"],
    "rollback": ["rollback", "one"],
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("NO_COLOR", "1")
    fill(str(tmp_path / "store"), ENTRIES, tmp_path, run_id="one")
    return Store(str(tmp_path / "store"))


def state(store: Store) -> list[int]:
    return [table.reload().version() for table in store.tables()]


def answered(monkeypatch: pytest.MonkeyPatch, answer: str, arguments: list[str]) -> tuple[int, str]:
    """The exit code, and what is shown on standard error, which is a terminal like standard input."""
    shown = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", Terminal(answer))
        patch.setattr(sys, "stderr", shown)
        code = main(arguments)
    return code, shown.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("answer", ["n\n", "\n", "", "later\n"])
def test_nothing_is_changed_without_a_yes(store: Store, monkeypatch: pytest.MonkeyPatch, command: str, answer: str) -> None:
    before = state(store)
    code, shown = answered(monkeypatch, answer, [*COMMANDS[command], "--store", store.uri])
    assert code == 2
    assert "[y/N]" in shown
    assert "nothing was changed" in shown
    assert state(store) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_yes_goes_on_and_the_flag_asks_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    before = state(store)
    code, shown = answered(monkeypatch, "y\n", [*COMMANDS[command], "--store", store.uri])
    assert (code, state(store) != before) == (0, True)
    assert ("would be forgotten: 2 entries" if command == "forget" else "run one (number 1) would be withdrawn") in shown
    code, shown = answered(monkeypatch, "", [*COMMANDS[command], "--store", store.uri, "--yes"])
    assert (code, "[y/N]" in shown) == (0, False)


def test_a_script_is_asked_nothing(store: Store) -> None:
    assert main([*COMMANDS["forget"], "--store", store.uri]) == 0
    assert len(store.read()) == 1


def test_a_dry_run_counts_what_would_be_erased(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store.uri, [*ENTRIES[1:], Entry("s1-bad", "?", {"subject": "s1"})], tmp_path, run_id="two")
    before = state(store)
    assert main([*COMMANDS["forget"], "--store", store.uri, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "would be forgotten: 2 entries with subject=s1" in told
    assert "1 refused entries" in told
    assert "2 vectors that no other entry names" in told
    assert state(store) == before
    assert main([*COMMANDS["forget"], "--store", store.uri]) == 0
    done = capsys.readouterr().out
    assert all(line in done for line in told.replace("would be forgotten", "forgotten").splitlines() if "nothing" not in line)
