"""One frozen, checked configuration a job, from YAML and flags: the same names in both, flags win, unknown keys are errors."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, field, fields
from pathlib import Path
from typing import Any, Self

import yaml

from dnafeat.errors import UsageError


def option(help: str, default: Any = MISSING, *, shapes: bool = False, positional: bool = False, repeated: bool = False) -> Any:
    """A configuration field. `shapes` says whether it can change which entries a run stores (the feature version covers the vectors).

    A list is `positional` arguments, or a flag that is `repeated` for each item, or else a flag with commas between them.
    """
    return field(default=default, metadata={"help": help, "shapes": shapes, "positional": positional, "repeated": repeated})


class Settings:
    """What all configurations have: how they are made from a file and flags, and taken apart again."""

    def shaping(self) -> dict[str, Any]:
        """The settings that can change what comes out, other than the vectors' own."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["shapes"]}  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def load(cls, file: str | None, flags: Mapping[str, Any]) -> Self:
        """The configuration of a YAML file, overridden by those flags that are not None."""
        values = _read_yaml(file, cls) if file else {}
        values |= {key: value for key, value in flags.items() if value is not None}
        required = [f.name for f in fields(cls) if f.default is MISSING]  # type: ignore[arg-type]
        for name in required:
            require(name in values, f"{name} is missing: give it on the command line{' or in ' + file if file else ''}")
        return cls.make(values)

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of some settings by name, each of the type it should have. Raises UsageError."""
        hints = typing.get_type_hints(cls)
        strange = [name for name in values if name not in hints]
        require(not strange, f"no setting {strange[0] if strange else ''!r}: there are {', '.join(hints)}")
        return cls(**{name: _checked(name, value, hints[name]) for name, value in values.items()})


def require(condition: bool, sentence: str) -> None:
    """Raises UsageError with the sentence where the condition does not hold."""
    if not condition:
        raise UsageError(sentence)


def _read_yaml(file: str, config: type) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(file).read_text())
    except OSError as error:
        raise UsageError(f"configuration {file} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {file} is not valid YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values  # an empty file
    require(isinstance(values, dict), f"configuration {file} must be a mapping of settings to values")
    known = [f.name for f in fields(config)]
    strange = [str(key) for key in values if key not in known]
    require(not strange, f"configuration {file} has the unknown setting {', '.join(strange)}: known are {', '.join(known)}")
    return values


def _kind(hint: Any) -> Any:
    """The type a field has beside None."""
    accepted = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(a for a in accepted if a is not type(None))


def _checked(name: str, value: Any, hint: Any) -> Any:
    """A value as its field's type. Raises UsageError where YAML or a flag gave another."""
    if value is None and type(None) in typing.get_args(hint):
        return None
    kind = _kind(hint)
    if typing.get_origin(kind) is tuple:
        items = [value] if isinstance(value, str) else value
        require(
            isinstance(items, list | tuple) and all(isinstance(i, str) for i in items),
            f"{name} must be a list of texts, not {value!r}",
        )
        return tuple(items)
    if typing.get_origin(kind) is dict:
        require(isinstance(value, dict), f"{name} must be a mapping of names to values, not {value!r}")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    require(
        isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), f"{name} must be {words[kind]}, not {value!r}"
    )
    return value
