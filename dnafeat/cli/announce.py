"""What a command is about to do, said before heavy imports, and files that are missing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnafeat.cli.command import Command
from dnafeat.text import count

_LOADS = "loading libraries …"
# More files than that are not looked at for a line on the terminal.
_MOST_LOOKED_AT = 1_000
_SHOWN = 200  # characters of a name that cannot be one


def missing_packages(command: Command) -> str | None:
    """The first package that a command needs and that is not installed."""
    for name in command.needs:
        try:
            if importlib.util.find_spec(name) is None:
                return name
        except (ValueError, ModuleNotFoundError):
            return name
    return None


def missing_files(command: Command, values: Mapping[str, Any]) -> list[str]:
    """A sentence for each local file that is named and does not exist."""
    problems = []
    for setting in command.reads:
        value = values.get(setting)
        for pattern in (value,) if isinstance(value, str) else value or ():
            if not isinstance(pattern, str) or "://" in pattern or pattern == "-":
                continue
            try:
                there = bool(_files(pattern))
            except (OSError, ValueError) as error:
                problems.append(f"{pattern[:_SHOWN]} is no name of a file here: {getattr(error, 'strerror', None) or error}")
                continue
            if not there:
                marked = any(mark in pattern for mark in "*?[")
                problems.append(f"{pattern} matches no file" if marked else f"{pattern} does not exist or holds no file")
    return problems


def _files(pattern: str) -> list[Path]:
    """The files behind a local path, folder or glob."""
    path = Path(os.path.expanduser(pattern))  # noqa: PTH111
    if path.is_dir():
        # Enough to know that there are some, and to count a few.
        return [one for one, _ in zip((one for one in path.rglob("*") if one.is_file()), range(_MOST_LOOKED_AT), strict=False)]
    if path.exists():
        return [path]
    parts = path.parts
    if not any(mark in pattern for mark in "*?["):
        return []
    # Python's globs are relative to a folder.
    root = Path(path.anchor) if path.is_absolute() else Path()
    return [one for one in root.glob(str(Path(*parts[1:]) if path.is_absolute() else path)) if not one.is_dir()]


def _read(values: Mapping[str, Any], name: str) -> str:
    """What is read: files, or regions of a genome and a cohort."""
    if values["genome"] is None:
        return _inputs(values[name])
    return f"regions of {values['genome']}" + (f" of the people in {_inputs(values['vcf'])}" if values["vcf"] else "")


def _inputs(patterns: Sequence[str]) -> str:
    """Input files in words: `2 files (1.2 MB)`."""
    if "-" in patterns:
        return "standard input"
    if any("://" in pattern for pattern in patterns):
        return count(len(patterns), "source")
    files = [file for pattern in patterns for file in _files(pattern)]
    size = sum(file.stat().st_size for file in files[:_MOST_LOOKED_AT])
    if len(files) >= _MOST_LOOKED_AT:
        return f"{_MOST_LOOKED_AT:,} files or more"
    return f"{count(len(files), 'file')} ({_bytes(size)})"


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} bytes"


def beginning(command: Command, values: Mapping[str, Any]) -> str:
    """What a command with heavy imports is about to do."""
    return _BEGINNINGS.get(command.name, _work)(values)


def _embed(values: Mapping[str, Any]) -> str:
    """What embedding is about to do."""
    encoder = values["model"] or (f"adapter {values['adapter']}" if values["adapter"] else "dnafeat-mini")
    return f"reading {_read(values, 'sources')} into {values['store']} with {encoder}; {_LOADS}"


def _finetune(values: Mapping[str, Any]) -> str:
    """What fine-tuning is about to do."""
    files = [values[name] for name in ("train", "dev", "test") if values[name]]
    return f"fine-tuning {values['model'] or 'dnafeat-mini'} on {_inputs(files)} into {values['output']}; {_LOADS}"


def _predict(values: Mapping[str, Any]) -> str:
    """What prediction is about to do."""
    return f"reading {_read(values, 'input')} for {values['artifact']}; {_LOADS}"


def _demo(values: Mapping[str, Any]) -> str:
    """What a demo is about to do."""
    return f"writing to {values.get('store') or values.get('folder')}, offline, a minute or two on two cores; {_LOADS}"


def _work(values: Mapping[str, Any]) -> str:
    """What any other job is about to do."""
    place = values.get("output") or values.get("store") or values.get("name")
    return f"{f'{place}: ' if place else ''}{_LOADS}"


_BEGINNINGS = {
    "embed": _embed,
    "nightly": _embed,
    "finetune": _finetune,
    "predict": _predict,
    "demo": _demo,
    "demo-align": _demo,
}
