"""Help pages: every command has one that fits 80 columns, with sections and examples that parse."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import on_terminal

from dnafeat.cli.command import Command, found
from dnafeat.cli.commands import BY_NAME, COMMANDS, GROUPS
from dnafeat.cli.help import EXIT_CODES, overview
from dnafeat.cli.main import main
from dnafeat.cli.parser import parsed, parser_of
from dnafeat.settings import declared

ROOT = Path(__file__).parents[2]
EVERY = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
# What the command line had before it became a table.
OLD = {
    *(
        "embed",
        "nightly",
        "finetune",
        "predict",
        "join",
        "fit-projector",
        "project",
        "partner",
        "align",
        "align-apply",
        "lineage",
        "read",
    ),
    *(
        "export",
        "files",
        "versions",
        "runs",
        "diff",
        "rollback",
        "publish",
        "maintain",
        "forget",
        "models",
        "model-info",
        "benchmark",
    ),
    *("demo", "demo-align"),
}


def page(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_every_old_command_is_there_and_names_are_unique() -> None:
    assert {command.name for command in COMMANDS} >= OLD
    assert len(BY_NAME) == len(COMMANDS)
    assert {command.group for command in COMMANDS} == set(GROUPS)


@EVERY
def test_import_paths_lead_somewhere(command: Command) -> None:
    for path in filter(None, (command.settings, command.job, command.form)):
        assert callable(found(path)), path
    names = {d.name for d in declared(command.settings_class())}
    assert {*command.reads} <= names


@EVERY
def test_every_page_has_its_sections_and_fits_80_columns(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, command.name, "--help")
    assert text == page(capsys, "help", command.name) == page(capsys, command.name, "-h")
    lines = text.splitlines()
    assert lines[0] == command.sentence
    assert lines[0][0].isupper()
    assert max(map(len, lines)) <= 80
    for heading in ("Examples:", "Options of every command:"):
        assert heading in lines
    assert f"Usage: dnafeat {command.name}" in text
    for flag in ("--json", "-q, --quiet", "-v, --verbose", "-h, --help"):
        assert re.search(rf"^  {flag}\b", text, re.MULTILINE), flag


@EVERY
def test_every_setting_is_explained_with_its_default_and_environment(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(page(capsys, command.name, "--help").split())
    for d in declared(command.settings_class()):
        assert d.positional or d.flag[2:] in text
        for choice in d.choices:
            assert str(choice) in text, d.name
        if d.env:
            assert d.env in text
        if d.kind in (int, float, str) and d.default is not None and not d.required:
            assert f"(default: {d.default})" in text, d.name


@EVERY
def test_examples_parse(command: Command) -> None:
    assert 1 <= len(command.examples) <= 3
    for example in command.examples:
        words = shlex.split(example.partition(" > ")[0].partition(" < ")[0])
        assert words[0] == command.name
        arguments, parser = words[1:], parser_of(command)
        if command.name == "config":
            parser = parser_of(BY_NAME[arguments.pop(0)])
        options, problems = parsed(parser, arguments)
        assert problems == [], example
        if command.name != "config":
            settings = command.settings_class()
            from dnafeat.cli.options import given

            settings.load(options.config and str(ROOT / options.config), given(options, settings))


def test_the_overview_lists_all_groups_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys)
    assert text == page(capsys, "--help") == page(capsys, "-h") == page(capsys, "help")
    assert max(map(len, text.splitlines())) <= 80
    for title in GROUPS.values():
        assert f"\n{title}:\n" in text
    for command in COMMANDS:
        assert re.search(rf"^  {command.name} +{re.escape(command.summary)}$", text, re.MULTILINE)
    for code in EXIT_CODES:
        assert re.search(rf"^  {code} ", text, re.MULTILINE)
    assert "DNAFEAT_STORE" in text
    assert text.index("Exit codes:") > text.index("Environment:")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    import dnafeat

    assert page(capsys, "--version") == f"dnafeat {dnafeat.__version__}\n"


def test_headings_are_bold_on_a_terminal_alone() -> None:
    bold = "\x1b[1mUsage:\x1b[0m"
    assert bold in on_terminal(["--help"])
    assert bold in on_terminal(["read", "--help"])
    assert "\x1b" not in on_terminal(["--help"], NO_COLOR="1")
    assert "\x1b" not in on_terminal(["--help"], TERM="dumb")
    assert "\x1b" not in overview()


def test_pages_use_the_room_of_a_wider_terminal() -> None:
    widths = [
        max(map(len, on_terminal(["embed", "--help"], columns=columns, NO_COLOR="1").splitlines())) for columns in (60, 80, 200)
    ]
    assert widths[0] <= 60 < widths[1] <= 80 < widths[2] <= 100


HEAVY = {
    *(
        "torch",
        "ray",
        "transformers",
        "pyarrow",
        "pandas",
        "deltalake",
        "numpy",
        "fsspec",
        "sklearn",
        "scipy",
        "matplotlib",
        "tqdm",
    ),
    "huggingface_hub",
}


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["help"], ["--version"], ["embed", "--help"], ["finetune", "--help"], ["rea"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import contextlib, io, sys\nfrom dnafeat.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(sys.argv[1:])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
        "print(*sorted(name for name in sys.modules if name.endswith('.config')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env={**os.environ}
    )
    loaded, configs = done.stdout.splitlines()
    assert not HEAVY & {*loaded.split()}
    if not arguments or arguments[0] in ("--help", "--version", "rea"):
        assert "yaml" not in loaded.split()
        assert configs.split() == []
    if arguments[:1] == ["embed"]:
        assert {*configs.split()} == {
            *("dnafeat.embed.config", "dnafeat.encoder.config", "dnafeat.cluster.config", "dnafeat.sources.regions.config")
        }
