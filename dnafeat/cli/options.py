"""argparse flags from a settings class."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dnafeat.settings import Declared, Settings, declared


def add_options(parser: argparse.ArgumentParser, config: type[Settings]) -> None:
    """Gives a parser one flag for each field of a configuration, `--config FILE` first. Values default to None: not given."""
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with these settings, named as the flags with _ for -; flags win"
    )
    options = declared(config)
    positional = any(d.positional for d in options)
    # What must be given comes first, whichever class it was declared in.
    for d in sorted(options, key=lambda d: not d.required):
        text = d.help.replace("%", "%%") + _default_note(d)
        if d.positional:
            several = d.kind is tuple
            metavar = d.name.upper().removesuffix("S" if several else "")
            parser.add_argument(d.name, nargs="*" if several else "?", default=None, metavar=metavar, help=text)
        elif d.repeated:
            # Several at a time where they cannot be taken for positional arguments.
            many: Any = {} if positional else {"nargs": "+"}
            parser.add_argument(
                d.flag, action="append" if positional else "extend", default=None, metavar="TEXT", help=text, **many
            )
        elif d.kind is tuple and d.item is int:
            parser.add_argument(d.flag, type=int, nargs="+", default=None, metavar="N", help=text)
        elif d.kind is tuple:
            parser.add_argument(d.flag, type=d.parse, default=None, metavar="A,B,…", help=text)
        elif d.kind is dict:
            parser.add_argument(d.flag, type=_mapping, default=None, metavar="JSON", help=text)
        elif d.kind is bool:
            parser.add_argument(d.flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            metavar = {int: "N", float: "X"}.get(d.kind, "TEXT")
            parser.add_argument(d.flag, type=d.kind, default=None, metavar=metavar, help=text)


def _mapping(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"name": 1}}')
    return values


def _default_note(d: Declared) -> str:
    shown = not d.required and d.default not in (None, False, ())
    default = ",".join(map(str, d.default)) if isinstance(d.default, tuple) else d.default
    return f" (default: {default})" if shown else ""


def given(arguments: argparse.Namespace, config: type[Settings]) -> dict[str, Any]:
    """The flags of a configuration that were given; an empty list of positional arguments counts as not given."""
    values = {d.name: getattr(arguments, d.name) for d in declared(config)}
    return {key: value for key, value in values.items() if value not in (None, [])}
