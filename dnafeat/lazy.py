"""Public names of a package, loaded when they are first asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def hand_out(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` of a package whose public names are loaded lazily.

    Parameters
    ----------
    package : str
        The package's `__name__`.
    names : mapping of str to str
        From each public name to the module that defines it.

    Examples
    --------
    >>> __getattr__, __dir__ = hand_out(__name__, {"Store": "dnafeat.store.catalog"})
    """

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(names[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted(names)

    return load, listed
