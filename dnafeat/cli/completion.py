"""Completion scripts for bash, zsh and fish, made of the table of commands and their settings."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dnafeat.cli.commands import COMMANDS
from dnafeat.cli.output import Report
from dnafeat.cli.parser import choices_of, is_switch, parser_of, positionals, value_flags

if TYPE_CHECKING:
    from dnafeat.cli.config import CompletionConfig

_LEADING = ("--help", "--version", "--quiet", "--verbose")
_HELP_WIDTH = 60


@dataclass(frozen=True)
class Option:
    """An option as a shell completes it."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]
    repeated: bool


@dataclass(frozen=True)
class Completed:
    """A command as a shell completes it: `values` are those of its positional argument."""

    name: str
    summary: str
    options: tuple[Option, ...]
    values: tuple[str, ...]


def completion(config: CompletionConfig) -> Report:
    """`dnafeat completion SHELL`."""
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[config.shell](list(_table()))
    return Report(document={"shell": config.shell, "script": script}, text=script)


def _table() -> Iterator[Completed]:
    names = tuple(command.name for command in COMMANDS)
    for command in COMMANDS:
        parser, settings = parser_of(command), command.settings_class()
        options = tuple(
            Option(
                names=tuple(action.option_strings),
                help=_brief(action.help or ""),
                takes_value=not is_switch(action),
                choices=choices_of(action, settings),
                repeated=isinstance(action, argparse._AppendAction),
            )
            for action in value_flags(parser)
        )
        values = names if command.name in ("help", "config") else ()
        for action in positionals(parser):
            values = values or choices_of(action, settings)
        yield Completed(command.name, command.summary, options, values)


def _brief(text: str) -> str:
    """The beginning of a help text."""
    first = re.split(r" \(|[:;]", text.replace("%%", "%"))[0]
    return first if len(first) <= _HELP_WIDTH else first[:_HELP_WIDTH].rsplit(" ", 1)[0]


def _words(option: Option) -> list[str]:
    return list(option.names)


# -- bash --------------------------------------------------------------------------------------------------------------


def _bash(commands: list[Completed]) -> str:
    """A function for `complete -F`; files are bash's own completion."""
    lines = [
        "# bash completion of dnafeat; made by `dnafeat completion bash`",
        "_dnafeat() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="" job="" words="" i',
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "${COMP_WORDS[i]}" in',
        "            -*) ;;",
        '            *) if [ -z "$command" ]; then command="${COMP_WORDS[i]}"; else job="${COMP_WORDS[i]}"; break; fi ;;',
        "        esac",
        "    done",
        "    COMPREPLY=()",
        '    if [ -z "$command" ]; then',
        f'        COMPREPLY=($(compgen -W "{" ".join([*(one.name for one in commands), *_LEADING])}" -- "$current"))',
        "        return",
        "    fi",
        '    if [ "$command" = config ] && [ -n "$job" ]; then command="$job"; fi',
        '    case "$command $before" in',
    ]
    for one in commands:
        for option in one.options:
            if option.choices:
                pattern = "|".join(f'"{one.name} {name}"' for name in option.names)
                lines.append(
                    f'        {pattern}) COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$current")); return ;;'
                )
    lines += ["    esac", '    case "$command" in']
    for one in commands:
        words = [name for option in one.options for name in option.names]
        lines.append(f"        {one.name})")
        lines.append(f'            words="{" ".join(words)}"')
        if one.values:
            lines.append(f'            if [[ "$current" != -* ]]; then words="{" ".join(one.values)}"; fi')
        elif one.name:
            lines.append('            if [[ "$current" != -* ]]; then return; fi')
        lines.append("            ;;")
    lines += ["    esac", '    COMPREPLY=($(compgen -W "$words" -- "$current"))', "}", "complete -o default -F _dnafeat dnafeat"]
    return "\n".join(lines)


# -- zsh ---------------------------------------------------------------------------------------------------------------


def _zsh(commands: list[Completed]) -> str:
    """A function for `compdef`, to be sourced or to lie as `_dnafeat` in a folder of fpath."""
    lines = [
        "#compdef dnafeat",
        "# zsh completion of dnafeat; made by `dnafeat completion zsh`",
        "_dnafeat() {",
        "    local -a commands",
        "    commands=(",
        *(f"        {shlex.quote(f'{one.name}:{one.summary}')}" for one in commands),
        "    )",
        "    if (( CURRENT == 2 )); then",
        "        _describe -t commands command commands",
        f"        compadd -- {' '.join(_LEADING)}",
        "        return",
        "    fi",
        "    shift words",
        "    (( CURRENT-- ))",
        "    # The settings of a command are those that its own options set.",
        '    if [[ "$words[1]" == config ]] && (( CURRENT > 2 )); then',
        "        shift words",
        "        (( CURRENT-- ))",
        "    fi",
        '    case "$words[1]" in',
    ]
    for one in commands:
        lines += [f"        {one.name})", "            _arguments -s \\"]
        lines += [f"                {_zsh_option(option, name)} \\" for option in one.options for name in option.names]
        values = f"'*:value:({' '.join(one.values)})'" if one.values else "'*:file:_files'"
        lines += [f"                {values}", "            ;;"]
    lines += ["    esac", "}", 'if [ "$funcstack[1]" = _dnafeat ]; then _dnafeat "$@"; else compdef _dnafeat dnafeat; fi']
    return "\n".join(lines)


def _zsh_option(option: Option, name: str) -> str:
    others = [one for one in option.names if one != name]
    excluded = "*" if option.repeated else f"({' '.join(others)})" if others else ""
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
    value = ""
    if option.takes_value:
        value = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files"
    return shlex.quote(f"{excluded}{name}[{text}]{value}")


# -- fish --------------------------------------------------------------------------------------------------------------


def _fish(commands: list[Completed]) -> str:
    """Lines of `complete`."""
    lines = ["# fish completion of dnafeat; made by `dnafeat completion fish`"]
    for one in commands:
        lines.append(f"complete -c dnafeat -n __fish_use_subcommand -f -a {one.name} -d {_fish_quoted(one.summary)}")
    for name in _LEADING:
        lines.append(f"complete -c dnafeat -n __fish_use_subcommand -f -l {name[2:]}")
    for one in commands:
        where = f"-n {_fish_quoted(f'__fish_seen_subcommand_from {one.name}')}"
        for option in one.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            value = f" -x -a {_fish_quoted(' '.join(option.choices))}" if option.choices else " -r" if option.takes_value else ""
            lines.append(f"complete -c dnafeat {where} {names}{value} -d {_fish_quoted(option.help)}")
        if one.values:
            lines.append(f"complete -c dnafeat {where} -f -a {_fish_quoted(' '.join(one.values))}")
    return "\n".join(lines)


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
