"""Environments with some distributions and what those need, and no others: links to what is installed here."""

from __future__ import annotations

import importlib.metadata
import venv
from pathlib import Path

from packaging.requirements import Requirement

import dnafeat


def closure(name: str) -> set[str]:
    """Distributions that come with one when it is installed without extras of its own."""
    found: set[str] = set()
    waiting = [Requirement(name)]
    while waiting:
        one = waiting.pop()
        if one.name in found and not one.extras:
            continue
        found.add(one.name)
        for text in importlib.metadata.requires(one.name) or []:
            wanted = Requirement(text)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in one.extras or {""}):
                waiting.append(wanted)
    return found


def make(folder: Path, names: set[str]) -> Path:
    """The interpreter of an environment with these distributions, and with dnafeat as its wheel lays it out."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in names - {"dnafeat"}:
        for file in importlib.metadata.files(name) or []:
            top = Path(str(file)).parts[0]
            if top not in ("..", "__pycache__") and not (packages / top).exists():
                (packages / top).symlink_to(Path(str(file.locate())).parents[len(Path(str(file)).parts) - 1] / top)
    here = Path(dnafeat.__file__).parent
    (packages / "dnafeat").mkdir()
    for path in here.iterdir():
        (packages / "dnafeat" / path.name).symlink_to(path)
    if not (here / "schemas").exists():
        (packages / "dnafeat" / "schemas").symlink_to(here.parent / "schemas")
    return folder / "bin" / "python"
