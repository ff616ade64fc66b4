"""Help pages: the list of commands by group, and one page for each command."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from dnafeat.cli.command import COMMON, Command
from dnafeat.cli.commands import BY_NAME, COMMANDS, GROUPS
from dnafeat.cli.output import Report, terminal_width
from dnafeat.errors import UsageError
from dnafeat.text import did_you_mean

if TYPE_CHECKING:
    from dnafeat.cli.config import HelpConfig
    from dnafeat.cli.parser import Parser

_WIDTH, _WIDEST, _NAMES = 80, 100, 26
EXIT_CODES = {
    0: "done",
    1: "entries were refused and --strict is set",
    2: "the command or its input is wrong",
    3: "commit conflict, or a subject was erased during the run; retry",
    4: "the audit, or another check of the result, failed; nothing was published",
    5: "workers failed, or Ray does not start or answer; retry",
    6: "storage cannot be reached, refuses or is full; retry",
    7: "the source lacks most of its entries; nothing was published (--max-closed)",
    8: "statistics of the run moved and the gate holds the channel (--accept)",
    70: "a fault of dnafeat that nobody foresaw",
    130: "interrupted (143: ended by SIGTERM); retry",
}
ENVIRONMENT = {
    "DNAFEAT_STORE": "store of commands that are given no --store",
    "RAY_ADDRESS": "Ray cluster to run on (default: this machine)",
    "DNAFEAT_STORAGE_TIMEOUT": "seconds in which S3 has to answer (default: 60)",
    "NO_COLOR": "if set, headings are not bold",
}


def width_of(stream: IO[str]) -> int:
    """Columns of a help page."""
    return min(terminal_width(stream) or _WIDTH, _WIDEST)


def overview() -> str:
    """The page of `dnafeat --help`: commands in groups, exit codes, environment."""
    import dnafeat

    lines = [
        f"dnafeat {dnafeat.__version__}: a DNA feature store filled by jobs on Ray.",
        "",
        "Usage: dnafeat COMMAND [OPTIONS]",
        "       dnafeat COMMAND --help",
        "       dnafeat --version",
    ]
    for group, title in GROUPS.items():
        rows = {command.name: command.summary for command in COMMANDS if command.group == group}
        lines += ["", f"{title}:", *_rows(rows, 15)]
    lines += ["", "Environment:", *_rows(ENVIRONMENT, 15)]
    lines += ["", "Exit codes:", *_rows({str(code): text for code, text in EXIT_CODES.items()}, 5)]
    return "\n".join(lines)


def _rows(rows: dict[str, str], indent: int) -> list[str]:
    lines = []
    for name, text in rows.items():
        lines += textwrap.wrap(text, _WIDTH, initial_indent=f"  {name:<{indent}}", subsequent_indent=" " * (indent + 2))
    return lines


def page(command: Command, parser: Parser, width: int = _WIDTH) -> str:
    """The page of one command: what it does, usage, examples, options in sections."""
    lines = [command.sentence]
    if command.about:
        lines += ["", textwrap.fill(command.about, width, break_on_hyphens=False)]
    lines += ["", usage(command, parser, width), "", "Examples:"]
    for example in command.examples:
        lines += continued(f"dnafeat {example}", width)
    formatter = _Formatter(parser.prog, max_help_position=_NAMES, width=width)
    for group in parser._action_groups:
        if actions := [action for action in group._group_actions if action.help is not argparse.SUPPRESS]:
            formatter.start_section(_title(group.title))
            formatter.add_arguments(actions)
            formatter.end_section()
    lines += ["", formatter.format_help().strip("\n")]
    if command.group != "help":
        lines += ["", "dnafeat --help lists exit codes and environment variables."]
    return "\n".join(lines)


def _title(title: str | None) -> str:
    named = {"positional arguments": "arguments", "required": "required"}.get(title or "", f"options {title}")
    title = "worker" if title == "workers" else title
    named = named if named in ("arguments", "required", f"options {COMMON}") else f"{title} options"
    return named[0].upper() + named[1:]


def usage(command: Command, parser: Parser, width: int = _WIDTH) -> str:
    """The line of usage: what is required, and [OPTIONS]."""
    if command.name == "config":
        words = ["dnafeat config JOB", "[OPTIONS OF JOB]"]
    else:
        words = [f"dnafeat {command.name}"]
        for action in parser._actions:
            if not action.option_strings:
                words.append(f"{action.metavar}{' …' if action.nargs == '*' else ''}")
        required = next((group for group in parser._action_groups if group.title == "required"), None)
        for action in required._group_actions if required else ():
            words.append(f"{action.option_strings[0]} {action.metavar}")
        words.append("[OPTIONS]")
    return "\n".join(_joined(words, width, "Usage: ", " " * 11))


def continued(line: str, width: int) -> list[str]:
    r"""A shell command, indented, and where it is too long in several lines with \ at their ends."""
    return _joined(line.split(" "), width, "  ", "      ", end=" \\")


def _joined(words: Sequence[str], width: int, first: str, further: str, end: str = "") -> list[str]:
    lines = [first + words[0]]
    units: list[str] = []
    for word in words[1:]:
        # An option and its value stay together.
        if units and units[-1].startswith("--") and " " not in units[-1] and not word.startswith("-"):
            units[-1] += f" {word}"
        else:
            units.append(word)
    for unit in units:
        if len(lines[-1]) + 1 + len(unit) + len(end) > width:
            lines[-1] += end
            lines.append(further + unit)
        else:
            lines[-1] += f" {unit}"
    return lines


class _Formatter(argparse.HelpFormatter):
    """Options without the noise: `--[no-]iupac` for a switch with two positions, and words that stay whole."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return f"--[no-]{action.option_strings[0][2:]}"
        if not action.option_strings:
            return str(action.metavar)
        value = "" if action.nargs == 0 else f" {action.metavar}{' …' if action.nargs == '+' else ''}"
        return ", ".join(action.option_strings) + value

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def help_command(config: HelpConfig, *, stdout: IO[str]) -> Report:
    """`dnafeat help [COMMAND]`."""
    if config.command is None:
        listed = [{"name": one.name, "group": one.group, "summary": one.summary} for one in COMMANDS]
        return Report(document=listed, text=overview(), headings=True)
    from dnafeat.cli.parser import parser_of

    command = command_named(config.command)
    about = {"name": command.name, "group": command.group, "summary": command.summary, "examples": list(command.examples)}
    return Report(document=about, text=page(command, parser_of(command), width_of(stdout)), headings=True)


def command_named(name: str) -> Command:
    """The command of a name. Raises UsageError where there is none."""
    if name not in BY_NAME:
        raise UsageError(f"there is no command {name!r}{did_you_mean(name, BY_NAME)}: `dnafeat --help` lists them")
    return BY_NAME[name]
