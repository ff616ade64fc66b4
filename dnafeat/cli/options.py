"""argparse flags from a settings class."""

from __future__ import annotations

import argparse
import json
import typing
from dataclasses import MISSING, Field, fields
from typing import Any

from dnafeat.settings import _kind


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Gives a parser one flag for each field of a configuration, `--config FILE` first. Values default to None: not given."""
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with these settings, named as the flags with _ for -; flags win"
    )
    hints = typing.get_type_hints(config)
    positional = any(f.metadata["positional"] for f in fields(config))
    # What must be given comes first, whichever class it was declared in.
    for f in sorted(fields(config), key=lambda f: f.default is not MISSING):
        kind = _kind(hints[f.name])
        text = f.metadata["help"].replace("%", "%%") + _default_note(f)
        flag = "--" + f.name.replace("_", "-")
        if f.metadata["positional"]:
            several = typing.get_origin(kind) is tuple
            metavar = f.name.upper().removesuffix("S" if several else "")
            parser.add_argument(f.name, nargs="*" if several else "?", default=None, metavar=metavar, help=text)
        elif f.metadata["repeated"]:
            # Several at a time where they cannot be taken for positional arguments.
            many: Any = {} if positional else {"nargs": "+"}
            parser.add_argument(
                flag, action="append" if positional else "extend", default=None, metavar="TEXT", help=text, **many
            )
        elif typing.get_origin(kind) is tuple:
            parser.add_argument(flag, type=_split, default=None, metavar="A,B,…", help=text)
        elif typing.get_origin(kind) is dict:
            parser.add_argument(flag, type=_mapping, default=None, metavar="JSON", help=text)
        elif kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(flag, type=kind, default=None, metavar={int: "N", float: "X"}.get(kind, "TEXT"), help=text)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _mapping(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"name": 1}}')
    return values


def _default_note(f: Field) -> str:
    shown = f.default not in (MISSING, None, False, ())
    default = ",".join(f.default) if isinstance(f.default, tuple) else f.default
    return f" (default: {default})" if shown else ""


def given(arguments: argparse.Namespace, config: type) -> dict[str, Any]:
    """The flags of a configuration that were given; an empty list of positional arguments counts as not given."""
    values = {f.name: getattr(arguments, f.name) for f in fields(config)}
    return {key: value for key, value in values.items() if value not in (None, [])}
