"""`dnafeat config JOB`: the settings in force, with where each comes from, as a file that `--config` takes."""

from __future__ import annotations

import json
import sys
from typing import Any

import yaml

from dnafeat.cli.command import Command
from dnafeat.cli.commands import COMMANDS
from dnafeat.cli.help import command_named, page, width_of
from dnafeat.cli.options import given
from dnafeat.cli.output import styled
from dnafeat.cli.parser import parsed, parser_of
from dnafeat.errors import UsageError
from dnafeat.settings import declared, read_yaml
from dnafeat.text import visible

_WITHOUT = ("config", "completion", "help", "models")


def show(command: Command, arguments: list[str]) -> int:
    """Print the settings of the command that the first argument names, as the others set them."""
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(styled(page(command, parser_of(command), width_of(sys.stdout)), sys.stdout))
        return 0
    names = [one.name for one in COMMANDS if one.name not in _WITHOUT]
    job = next((one for one in arguments if one in names), None)
    if job is None:
        first = next((one for one in arguments if not one.startswith("-")), "")
        if not first:
            raise UsageError(f"name the command whose settings to show: {', '.join(names)}")
        raise UsageError(f"{command_named(first).name} has no settings: name one of {', '.join(names)}")
    target = command_named(job)
    at = arguments.index(job)
    parser = parser_of(target)
    options, problems = parsed(parser, [*arguments[:at], *arguments[at + 1 :]])
    if problems:
        raise UsageError("; ".join(problems))
    values, origins = in_force(target, options.config, given(options, target.settings_class()))
    if options.json:
        shown = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        missing = [d.name for d in declared(target.settings_class()) if d.name not in values]
        print(json.dumps({"command": job, "settings": shown, "origins": origins, "missing": missing}))
    else:
        print(as_yaml(target, values, origins), end="")
    return 0


def in_force(command: Command, file: str | None, flags: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of all settings but those that are required and missing, and where those that are no defaults come from.

    Raises UsageError as `Settings.load` for what is wrong, once nothing is missing.
    """
    kind = command.settings_class()
    options = {d.name: d for d in declared(kind)}
    from_file = read_yaml(file) if file else {}
    from_flags = {name: options[name].parse(value) for name, value in flags.items()}
    environment = kind.environment({**from_file, **from_flags})
    origins = (
        dict.fromkeys(environment, "environment")
        | dict.fromkeys(from_file, f"file {file}")
        | dict.fromkeys(from_flags, "command line")
    )
    found = {**environment, **from_file, **from_flags}
    required = {d.name for d in options.values() if d.required}
    if required <= found.keys() or not _are_right(options, found):
        # Its sentence names all that is wrong.
        return kind.load(file, flags).to_dict(), origins
    return {name: found.get(name, d.default) for name, d in options.items() if name in found or not d.required}, origins


def _are_right(options: dict[str, Any], values: dict[str, Any]) -> bool:
    try:
        for name, value in values.items():
            options[name].accept(value)
    except (KeyError, ValueError):
        return False
    return True


def _flow(value: Any) -> str:
    """A value as YAML on one line, with escapes where a terminal would obey its characters."""
    text = yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True).strip()[1:-1]
    if visible(text) == text:
        return text
    return yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=False).strip()[1:-1]


def as_yaml(command: Command, values: dict[str, Any], origins: dict[str, str]) -> str:
    """The settings in sections, comments behind those that are no defaults."""
    lines = [f"# Settings of dnafeat {command.name}; what has no comment behind it is the default."]
    section = None
    for d in sorted(declared(command.settings_class()), key=lambda d: not d.required):
        heading = "required" if d.required else d.section
        if heading != section:
            section = heading
            lines += ["", f"# {section}"]
        if d.name not in values:
            lines.append(f"# {d.name}:  # missing: {visible(d.help)}")
            continue
        value = values[d.name]
        # A list around it keeps a text on its line.
        plain = list(value) if isinstance(value, tuple) else value
        # `on` alone is a truth value in YAML 1.1, so that names are dumped, too.
        name, text = (_flow(one) for one in (d.name, plain))
        lines.append(f"{name}: {text}" + (f"  # {visible(origins[d.name])}" if d.name in origins else ""))
    return "\n".join(lines) + "\n"
