"""The argument parser of one command: everything that is wrong is found before anything is imported, and reported at once."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from dnafeat.cli.command import COMMON, Command
from dnafeat.cli.options import add_options
from dnafeat.errors import UsageError
from dnafeat.text import did_you_mean

# What argparse says, in words of our own.
_SENTENCES = {
    r"argument ([^:]+): expected .*": r"\1 needs a value",
    r"argument ([^:]+): ignored explicit argument .*": r"\1 takes no value",
    r"ambiguous option: (\S+) could match (.+)": r"\1 can mean \2: write more of it",
}


class Parser(argparse.ArgumentParser):
    """Raises UsageError for what it cannot parse, in one sentence."""

    def error(self, message: str) -> NoReturn:
        for pattern, sentence in _SENTENCES.items():
            message = re.sub(pattern, sentence, message)
        raise UsageError(f"{message} ({self.prog} --help lists the options)")


def parser_of(command: Command) -> Parser:
    """The parser of a command. Imports its settings and nothing else."""
    parser = Parser(prog=f"dnafeat {command.name}", add_help=False)
    settings = command.settings_class()
    add_options(parser, settings)
    common = next(group for group in parser._action_groups if group.title == COMMON)
    common.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    common.add_argument("-q", "--quiet", action="store_true", help="print the result alone, without progress and summary")
    common.add_argument("-v", "--verbose", action="store_true", help="log more to standard error")
    common.add_argument("-h", "--help", action="store_true", help="show this page")
    return parser


def parsed(parser: Parser, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse arguments; options that are not known come back as sentences, so that they are reported with all else that is wrong."""
    options, strange = parser.parse_known_args(arguments)
    flags = [one for one in strange if one.startswith("-") and one != "-"]
    known = [name for action in parser._actions for name in action.option_strings]
    problems = [f"there is no option {flag.partition('=')[0]}{did_you_mean(flag.partition('=')[0], known)}" for flag in flags]
    # What follows an unknown option may be its value.
    if strange and not flags:
        problems.append(f"{' '.join(strange)} is more than {parser.prog} takes")
    return options, problems


def value_flags(parser: Parser) -> list[argparse.Action]:
    """The options of a parser, in the order of its help page."""
    return [action for group in parser._action_groups for action in group._group_actions if action.option_strings]


def positionals(parser: Parser) -> list[argparse.Action]:
    """The positional arguments of a parser."""
    return [action for action in parser._actions if not action.option_strings]


def is_switch(action: argparse.Action) -> bool:
    """Whether an option takes no value."""
    return action.nargs == 0


def choices_of(action: argparse.Action, settings: Any) -> tuple[str, ...]:
    """The values that a setting accepts, for completion."""
    from dnafeat.settings import declared

    return next((tuple(map(str, d.choices)) for d in declared(settings) if d.name == action.dest), ())
