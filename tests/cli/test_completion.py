"""Completion scripts, as the shells themselves use them. zsh and fish are tried where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dnafeat.cli.commands import COMMANDS
from dnafeat.cli.main import main

CAPTURE = Path(__file__).parents[1] / "support" / "complete.zsh"
NAMES = {command.name for command in COMMANDS}
# What is typed, what must be offered, and what must not.
CASES = [
    ("dnafeat ", {"embed", "nightly", "help"}, {"--tile"}),
    ("dnafeat fine", {"finetune"}, {"embed"}),
    ("dnafeat embed --ti", {"--tile"}, {"--strands"}),
    ("dnafeat embed --precision ", {"auto", "float32", "bfloat16", "int8"}, {"--tile"}),
    ("dnafeat runs --", {"--store", "--json", "--quiet", "--help"}, {"--tile"}),
    ("dnafeat config nigh", {"nightly"}, set()),
    ("dnafeat config embed --ti", {"--tile"}, {"--json"}),
    ("dnafeat help fit", {"fit-projector"}, set()),
    ("dnafeat completion ", {"bash", "zsh", "fish"}, {"embed"}),
]


@pytest.fixture
def scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        (tmp_path / shell).write_text(capsys.readouterr().out)
    return tmp_path


def needs(shell: str) -> str:
    if (found := shutil.which(shell)) is None:
        pytest.skip(f"{shell} is not installed")
    return found


def bash(scripts: Path, line: str) -> set[str]:
    words = line.split(" ")
    listed = " ".join(f"'{word}'" for word in words)
    code = f"source {scripts}/bash; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _dnafeat; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run([needs("bash"), "--norc", "-ec", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {*done.stdout.split()}


def fish(scripts: Path, line: str) -> set[str]:
    code = f"source {scripts}/fish; complete -C '{line}'"
    command = [needs("fish"), "--no-config", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"HOME": str(scripts), "PATH": "/usr/bin:/bin"}
    )
    return {found.partition("\t")[0] for found in done.stdout.splitlines()}


def zsh(scripts: Path, line: str) -> set[str]:
    command = [needs("zsh"), "-f", str(CAPTURE), str(scripts / "zsh"), line]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return {*done.stdout.split()}


@pytest.mark.parametrize(("line", "wanted", "unwanted"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("shell", [bash, zsh, fish], ids=lambda shell: shell.__name__)
def test_a_shell_offers_commands_options_and_choices(
    scripts: Path, shell: object, line: str, wanted: set[str], unwanted: set[str]
) -> None:
    offered = shell(scripts, line)  # type: ignore[operator]
    assert wanted <= offered
    assert not unwanted & offered


@pytest.mark.parametrize("shell", [bash, zsh, fish], ids=lambda shell: shell.__name__)
def test_all_commands_are_offered(scripts: Path, shell: object) -> None:
    assert shell(scripts, "dnafeat ") >= NAMES  # type: ignore[operator]


def test_scripts_are_correct_in_their_shells(scripts: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run([needs(shell), "-n", str(scripts / shell)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), shell
