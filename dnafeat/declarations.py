"""One declared setting: its type, choices and bounds, the values that it accepts, and the sentence for those that it refuses."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal

if typing.TYPE_CHECKING:
    from dnafeat.settings import Settings

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class Declared:
    """One setting as a command line needs it.

    Attributes
    ----------
    name : str
        In YAML and in `to_dict`; the flag has - for _.
    attribute : str
        In Python: the name, with _ behind what is a word of the language.
    kind : type
        int, float, str, bool, tuple or dict.
    item : type
        Type of a list's members, str or int; otherwise `kind`.
    optional : bool
        Whether None is a value.
    choices : tuple of str
        The values that are accepted, or those that a list's members may have; empty when any is.
    default : Any
        `dataclasses.MISSING` for a required setting.
    owner : type of Settings
        The class that declares it, which can be a part of the class asked about.
    """

    name: str
    attribute: str
    kind: type
    item: type
    optional: bool
    choices: tuple[str, ...]
    default: Any
    help: str
    section: str
    shapes: bool
    late: bool
    unless: str | None
    positional: bool
    repeated: bool
    ge: float | None
    gt: float | None
    le: float | None
    lt: float | None
    env: str | None
    owner: type[Settings]

    @classmethod
    def of(cls, owner: type[Settings], name: str, hint: Any, default: Any, metadata: Mapping[str, Any]) -> Declared:
        """The declaration of a field: its choices are those of a `Literal`, and None is a value of `... | None`."""
        accepted = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
        kind = next(a for a in accepted if a is not type(None))
        several = typing.get_origin(kind) is tuple
        item = typing.get_args(kind)[0] if several else kind
        choices = typing.get_args(item) if typing.get_origin(item) is Literal else ()
        item = type(choices[0]) if choices else typing.get_origin(item) or item
        return cls(
            name=setting_name(name),
            attribute=name,
            kind=tuple if several else item,
            item=item,
            optional=type(None) in accepted,
            choices=choices,
            default=default,
            owner=owner,
            **{**metadata, "section": metadata["section"] or owner.section},
        )

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def flag(self) -> str:
        """How the command line names it; a positional argument has its plain name."""
        return self.name if self.positional else "--" + self.name.replace("_", "-")

    def parse(self, text: Any) -> Any:
        """Convert the text of a flag or of an environment variable; what cannot be converted stays text, which the checks refuse."""
        if self.kind is tuple:
            texts = [text] if isinstance(text, str) else text
            whole = self.positional or self.repeated
            items = [item for t in texts for item in ([t] if whole or not isinstance(t, str) else _split(t))]
            return tuple(_converted(item, self.item) for item in items)
        return _converted(text, self.kind)

    def accept(self, value: Any) -> Any:
        """A value in the setting's type. Raises ValueError with the predicate of a sentence whose subject is the setting."""
        if value is None and self.optional:
            return None
        if self.kind is dict:
            if not isinstance(value, dict):
                raise ValueError(f"must be a mapping of names to values, not {shown(value)}")
            return dict(value)
        if self.kind is not tuple:
            return self._accept_single(value)
        items = [value] if isinstance(value, str) and self.item is str else value
        if not isinstance(items, list | tuple) or not all(_is(item, self.item) for item in items):
            raise ValueError(f"must be a list of {'texts' if self.item is str else 'whole numbers'}, not {shown(value)}")
        unknown = [item for item in items if self.choices and item not in self.choices]
        if unknown:
            raise ValueError(f"names {', '.join(unknown)[:200]}: there are {', '.join(self.choices)}")
        for item in items:
            self._check_bounds(item)
        return tuple(items)

    def _accept_single(self, value: Any) -> Any:
        if self.kind is float and _is(value, int):
            value = _finite(value)
        if not _is(value, self.kind):
            wanted = _alternatives(self.choices) or _KINDS[self.kind]
            raise ValueError(f"must be {wanted}, not {shown(value)}")
        if self.choices and value not in self.choices:
            raise ValueError(f"{shown(value)} is {_none_of(self.choices)}")
        self._check_bounds(value)
        return value

    def _check_bounds(self, value: Any) -> None:
        if self.kind is float and not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number: give {self.bounds or 'one'}")
        low = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        high = (self.le is None or value <= self.le) and (self.lt is None or value < self.lt)
        if not low or not high:
            raise ValueError(f"{shown(value)} is too {'high' if low else 'low'}: give {self.bounds}")

    @property
    def bounds(self) -> str:
        """The bounds in words; empty without any."""
        if self.ge is not None and self.le is not None:
            return f"{self.ge:g} to {self.le:g}"
        lower = f"{self.ge:g} or more" if self.ge is not None else f"more than {self.gt:g}" if self.gt is not None else ""
        upper = f"{self.le:g} or less" if self.le is not None else f"less than {self.lt:g}" if self.lt is not None else ""
        return " and ".join(words for words in (lower, upper) if words)


def setting_name(attribute: str) -> str:
    """The name of a setting whose attribute may have _ at its end, because the name is a word of the language."""
    return attribute.removesuffix("_")


def _is(value: Any, kind: type) -> bool:
    # True is an int to Python, and no number to a reader.
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _converted(text: Any, kind: type) -> Any:
    if not isinstance(text, str) or kind is str:
        return text
    try:
        if kind is bool:
            return {"true": True, "false": False}.get(text.lower(), text)
        return json.loads(text) if kind is dict else kind(text)
    except (ValueError, RecursionError):
        return text


def _finite(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: Any) -> str:
    """A value for a sentence, shortened where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else text[:200] + "…"


def _alternatives(choices: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), *choices[-1:])))


def _none_of(choices: tuple[str, ...]) -> str:
    if len(choices) == 1:
        return f"not {choices[0]}"
    return f"neither {choices[0]} nor {choices[1]}" if len(choices) == 2 else f"none of {', '.join(choices)}"
