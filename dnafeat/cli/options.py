"""Options of a command from its settings class: one flag for each setting, whose text the settings convert and check."""

from __future__ import annotations

import argparse
import re
from typing import Any

from dnafeat.cli.command import COMMON
from dnafeat.settings import Declared, Settings, declared

# Longer lists of choices stand in the text and not beside the flag.
_CHOICES_WIDTH = 34
# In the order of a help page.
_SECTIONS = ("required", "input", "genome", "join", "encoder", "training", "output", "workers", "privacy", "advanced")
_DEFAULT = re.compile(r" \(default: ([^()]*)\)")
# What a value looks like, at the beginning of a help text: `NAME=URI: where it lies`.
_SHAPE = re.compile(r"^(\[?[A-Z]+[=:][][A-Z=:-]*[A-Z\]])[:,] ")
_METAVARS = {int: "N", float: "X", tuple: "A,B,…", dict: "JSON"}


def add_options(parser: argparse.ArgumentParser, settings: type[Settings]) -> None:
    """Give a parser `--config` and a flag for each setting, in sections. A setting that is not given is None."""
    options = declared(settings)
    positional = any(d.positional for d in options)
    titles = {d.name: "required" if d.required else d.section for d in options if not d.positional}
    ordered = sorted(
        {*titles.values()}, key=lambda title: (_SECTIONS.index(title) if title in _SECTIONS else len(_SECTIONS), title)
    )
    groups = {title: parser.add_argument_group(title) for title in ordered}
    for d in options:
        if d.positional:
            _positional(parser, d)
        else:
            _flag(groups[titles[d.name]], d, positional)
    common = parser.add_argument_group(COMMON)
    common.add_argument("--config", metavar="FILE", help="YAML file with these settings, _ for - in their names; flags win")


def _positional(parser: argparse.ArgumentParser, d: Declared) -> None:
    several = d.kind is tuple
    metavar = d.name.upper().removesuffix("S" if several else "")
    # What is missing is reported with all else that is wrong, so that nothing is required here.
    parser.add_argument(d.name, nargs="*" if several else "?", default=None, metavar=metavar, help=help_text(d))


def _flag(group: Any, d: Declared, positional: bool) -> None:
    if d.kind is bool:
        # Whatever is off by default needs no --no-.
        group.add_argument(d.flag, action=argparse.BooleanOptionalAction, default=None, help=help_text(d))
    elif d.repeated:
        # Several values at a time only where they cannot be taken for positional arguments.
        many: Any = {} if positional else {"nargs": "+"}
        action = "append" if positional else "extend"
        group.add_argument(d.flag, action=action, default=None, metavar=metavar_of(d), help=help_text(d), **many)
    else:
        # Numbers cannot be taken for files, so that several may follow a flag.
        many = {"nargs": "+"} if d.kind is tuple and d.item is int else {}
        group.add_argument(d.flag, default=None, metavar=metavar_of(d), help=help_text(d), **many)


def metavar_of(d: Declared) -> str:
    """What stands for the value in help."""
    choices = f"{{{','.join(map(str, d.choices))}}}"
    if d.choices and len(choices) <= _CHOICES_WIDTH and d.kind is not tuple:
        return choices
    if d.kind is tuple and d.item is int:
        return "N"
    if shape := _SHAPE.match(d.help):
        return shape[1]
    if d.repeated:
        return "COLUMN=VALUE" if d.name == "where" else "FILE" if d.name in ("input", "holdout", "probe", "vcf") else "TEXT"
    if d.name in ("store", "output", "storage"):
        return "URI"
    if d.name.endswith("_file") or d.name in ("train", "dev", "test", "genome", "regions", "samples"):
        return "FILE"
    if d.name.endswith("column"):
        return "COLUMN"
    return _METAVARS.get(d.kind, "TEXT")


def help_text(d: Declared) -> str:
    """The help of a setting with its choices, its environment variable and its default, for argparse to format."""
    noted = _DEFAULT.search(d.help)
    text, default = _SHAPE.sub("", _DEFAULT.sub("", d.help)), noted[1] if noted else ""
    listed = d.choices and not d.positional and metavar_of(d).startswith("{")
    if d.choices and not listed and not all(str(choice) in text for choice in d.choices):
        text += f"; one of {', '.join(map(str, d.choices))}"
    if d.env is not None:
        text += f" (environment: {d.env})"
    # A command may have another default than the part that declares the setting.
    if not d.required and d.default is not None and d.default is not False and d.default != ():
        default = _default(d.default)
    return (f"{text} (default: {default})" if default else text).replace("%", "%%")


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "on" if value is True else str(value)


def given(arguments: argparse.Namespace, settings: type[Settings]) -> dict[str, Any]:
    """The flags of a settings class that were given, converted; an empty list of positional arguments counts as not given.

    What cannot be converted stays text, which the settings refuse together with all else that is wrong.
    """
    found = {d: getattr(arguments, d.name) for d in declared(settings)}
    values = {d: value for d, value in found.items() if value not in (None, [])}
    # Whole numbers may stand apart, or have commas between them.
    joined = {d.name: ",".join(value) if d.kind is tuple and d.item is int else value for d, value in values.items()}
    return {d.name: joined[d.name] if d.positional else d.parse(joined[d.name]) for d in values}
