"""The versions of libraries that a job was meant to run with, and those it finds."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_TOLD = 5


@functools.cache
def installed() -> dict[str, str]:
    """Versions of Python and of all installed packages, by canonical name."""
    # A name may stand twice on the path; the first counts, as it does for imports.
    found = {"python": platform.python_version()}
    for package in metadata.distributions():
        found.setdefault(canonicalize_name(package.metadata["Name"]), package.version)
    return found


def constraints(file: Path = Path(__file__).parents[2] / "constraints.txt") -> dict[str, str]:
    """The exact versions that a constraints file names, by canonical name; none where the package stands alone."""
    pinned: dict[str, str] = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        wanted = Requirement(text)
        exact = [one.version for one in wanted.specifier if one.operator == "=="]
        if exact and (wanted.marker is None or wanted.marker.evaluate()):
            pinned[canonicalize_name(wanted.name)] = exact[0]
    return pinned


def differing(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What of `wanted` is there in another version, in words, the first few. What is not there at all is none.

    A build for one kind of machine (`2.13.0+cpu`) is the same version.
    """
    both = sorted(wanted.keys() & found.keys())
    others = [name for name in both if wanted[name].partition("+")[0] != found[name].partition("+")[0]]
    told = [f"{name} {found[name]} and not {wanted[name]}" for name in others[:_TOLD]]
    return told + ([f"{len(others) - _TOLD} more"] if len(others) > _TOLD else [])
