"""Settings of a command, declared once: the YAML file, the command line and the checks are all read from the declaration.

    @dataclass(frozen=True, kw_only=True)
    class ScanConfig(Settings, section="input"):
        actors: ActorsConfig = part(ActorsConfig)
        store: str = option("feature store", env="DNAFEAT_STORE")
        strands: Literal["forward", "both"] = option("strands to encode", "forward", section="encoder")
        tile: int | None = option("bases per tile (default: not tiled)", None, ge=1)

Choices are in the type and bounds in the field. A part's fields have flat names in YAML, in flags and in `to_dict`, and are attributes
of the part in Python: `config.actors.num_actors`.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import yaml

from dnafeat.declarations import Declared, setting_name, shown
from dnafeat.errors import UsageError
from dnafeat.untrusted import open_file

# A settings file has tens of lines. The limits keep a hostile one from filling the memory.
_MAX_FILE_BYTES = 1_000_000
_MAX_DEPTH = 16
_MAX_VALUES = 10_000
_MAX_UNKNOWN = 10

_OWN: dict[type, tuple[Declared, ...]] = {}


def option(
    help: str,
    default: Any = MISSING,
    *,
    section: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    shapes: bool = False,
    late: bool = False,
    unless: str | None = None,
    positional: bool = False,
    repeated: bool = False,
    env: str | None = None,
) -> Any:
    """Declare a setting.

    Parameters
    ----------
    help : str
    default : Any
        Without one the setting is required.
    section : str, optional
        Group of the setting in help pages (default: the section of its class).
    ge, gt, le, lt : float, optional
        Bounds of a number, or of every member of a list: at least, more than, at most, less than.
    shapes : bool
        Whether the setting can change which entries a run stores, or what a training run learns. The feature version covers the vectors.
    late : bool
        Whether runs had digests of their settings before it came: its default then leaves no trace in `shaping`.
    unless : str, optional
        Another setting that stands in for this list where it is given, so that this one is required only without it.
    positional, repeated : bool
        A list is given by positional arguments, or by a flag for each member; otherwise by one flag with commas.
    env : str, optional
        Environment variable that `Settings.load` reads when neither a flag nor the file gives the setting.
    """
    declaration = {"help": help, "section": section, "ge": ge, "gt": gt, "le": le, "lt": lt}
    return field(
        default=default,
        metadata={
            **declaration,
            "shapes": shapes,
            "late": late,
            "unless": unless,
            "positional": positional,
            "repeated": repeated,
            "env": env,
        },
    )


def part(settings: type[Settings], **defaults: Any) -> Any:
    """Declare nested settings, whose fields have flat names outside Python. `defaults` replace defaults of those fields."""
    metadata = {"part": settings, "defaults": defaults}
    if any(f.required and f.name not in defaults for f in declared(settings)):
        return field(metadata=metadata)
    return field(default_factory=functools.partial(settings.make, defaults), metadata=metadata)


class Settings:
    """Base of all settings classes: frozen dataclasses of options and parts. A subclass checks between its fields in `check`."""

    section: ClassVar[str] = "advanced"

    def __init_subclass__(cls, section: str | None = None) -> None:
        if section is not None:
            cls.section = section

    def __post_init__(self) -> None:
        problems = []
        for d in _own(type(self)):
            try:
                object.__setattr__(self, d.attribute, d.accept(getattr(self, d.attribute)))
            except ValueError as error:
                problems.append(f"{d.name} {error}")
        require(not problems, "; ".join(problems))
        self.check()

    def check(self) -> None:
        """Check what one field cannot: fields against each other. Raises UsageError."""

    def to_dict(self) -> dict[str, Any]:
        """All settings by their flat names."""
        return {d.name: value for d, value in self._values()}

    def shaping(self) -> dict[str, Any]:
        """The settings that can change the result, other than those that only change the vectors."""
        return {d.name: value for d, value in self._values() if d.shapes and not (d.late and value == d.default)}

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, by flat names."""
        return self.make({**self.to_dict(), **changes})

    def _values(self) -> Iterator[tuple[Declared, Any]]:
        own = {d.attribute: d for d in _own(type(self))}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.name in own:
                yield own[f.name], value
            else:
                yield from value._values()

    @classmethod
    def make(cls, values: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """Make settings from values by flat names, a mapping or keywords. Raises one UsageError that names all problems."""
        return _make(cls, {**(values or {}), **more}, _Origin())

    @classmethod
    def load(cls, file: str | None, flags: Mapping[str, Any]) -> Self:
        """Make settings from a YAML file and flags.

        Flags that are not None override the file; environment variables fill in what both leave out.

        Parameters
        ----------
        file : str, optional
        flags : Mapping[str, Any]
            By setting name: values, or the texts of the command line, which are converted.

        Raises
        ------
        UsageError
            Names every setting that is missing, unknown or wrong.
        """
        found = read_yaml(file) if file else {}
        known = {d.name: d for d in declared(cls)}
        given = {name: known[name].parse(value) if name in known else value for name, value in flags.items() if value is not None}
        environment = cls.environment({**found, **given})
        elsewhere = (found.keys() | environment.keys()) - given.keys()
        origin = _Origin(file, frozenset(known.keys() - elsewhere), frozenset(environment))
        return _make(cls, {**environment, **found, **given}, origin)

    @classmethod
    def environment(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings from environment variables, for those that are not given."""
        texts = {d: os.environ.get(d.env, "") for d in declared(cls) if d.env and d.name not in given}
        return {d.name: d.parse(text) for d, text in texts.items() if text}


def declared(settings: type[Settings]) -> tuple[Declared, ...]:
    """All settings of a class and of its parts, in the order of their declaration."""
    own = {d.attribute: d for d in _own(settings)}
    found: list[Declared] = []
    for f in fields(settings):  # type: ignore[arg-type]
        if f.name in own:
            found.append(own[f.name])
        else:
            defaults = f.metadata["defaults"]
            found += [replace(d, default=defaults.get(d.name, d.default)) for d in declared(f.metadata["part"])]
    names = [d.name for d in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise TypeError(f"{settings.__name__} declares {', '.join(sorted(twice))} twice")
    return tuple(found)


def require(condition: bool, sentence: str) -> None:
    """Raise UsageError with the sentence unless the condition holds."""
    if not condition:
        raise UsageError(sentence)


def _own(settings: type[Settings]) -> tuple[Declared, ...]:
    """The options of a class without those of its parts."""
    if settings not in _OWN:
        hints = typing.get_type_hints(settings)
        options = [f for f in fields(settings) if "help" in f.metadata]  # type: ignore[arg-type]
        _OWN[settings] = tuple(Declared.of(settings, f.name, hints[f.name], f.default, f.metadata) for f in options)
    return _OWN[settings]


@dataclass(frozen=True)
class _Origin:
    """Where values come from, so that a message names a setting as it was given. `flags`: what was or can be given by a flag."""

    file: str | None = None
    flags: frozenset[str] = frozenset()
    environment: frozenset[str] = frozenset()

    def sentence(self, d: Declared, predicate: str) -> str:
        if d.name in self.flags:
            return f"{d.flag} {predicate}"
        source = d.env if d.name in self.environment else self.file
        return f"{d.name} {predicate}{f' (in {source})' if source else ''}"

    def missing(self, d: Declared) -> str:
        if d.name not in self.flags:  # made in Python
            return f"{d.name} is missing"
        ways = ["name it on the command line" if d.positional else f"give {d.flag}"]
        ways += [f"add it to {self.file}"] if self.file else []
        ways += [f"set {d.env}"] if d.env else []
        ways += [f"give --{d.unless}"] if d.unless else []
        return f"{d.name} is missing: {' or '.join(ways)}"

    def unknown(self, names: list[str], known: list[str]) -> str:
        described = []
        for name in names[:_MAX_UNKNOWN]:
            close = difflib.get_close_matches(name.replace("-", "_")[:100], known, 1)
            described.append(f"{shown(name)} (did you mean {close[0]}?)" if close else shown(name))
        named = ", ".join(described) + (f" and {len(names) - _MAX_UNKNOWN:,} more" if len(names) > _MAX_UNKNOWN else "")
        where = f"configuration {self.file} has " if self.file else ""
        return f"{where}no setting {named}: there are {', '.join(known)}"

    def rendered(self, sentence: str, known: Mapping[str, Declared]) -> str:
        """Name settings as flags in the sentence of a check between fields, where that is unambiguous: a name that is no other word."""
        for name in self.flags & known.keys():
            if "_" in name:
                sentence = re.sub(rf"(?<![\w/'\"-]){name}(?![\w/'\"=])", known[name].flag, sentence)
            elif sentence.startswith(f"{name} "):
                sentence = known[name].flag + sentence.removeprefix(name)
        return sentence


def _make(settings: type[Any], values: Mapping[str, Any], origin: _Origin) -> Any:
    known = {d.name: d for d in declared(settings)}
    problems = []
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        problems.append(origin.unknown(unknown, list(known)))
    accepted = {}
    for d in known.values():
        if d.name in values:
            try:
                accepted[d.name] = d.accept(values[d.name])
            except ValueError as error:
                problems.append(origin.sentence(d, str(error)))
        elif d.unless is not None and values.get(d.unless) is not None:
            accepted[d.name] = ()
        elif d.required:
            problems.append(origin.missing(d))
    require(not problems, "; ".join(problems))
    made = _construct(settings, accepted, lambda sentence: problems.append(origin.rendered(sentence, known)))
    require(not problems, "; ".join(problems))
    return made


def _construct(settings: type[Any], values: Mapping[str, Any], fault: Callable[[str], None]) -> Any:
    """An instance from checked values; what the checks between fields refuse goes to `fault`, and then the result is None."""
    arguments = {}
    for f in fields(settings):
        if "part" in f.metadata:
            names = {d.name for d in declared(f.metadata["part"])}
            inner = {**f.metadata["defaults"], **{name: value for name, value in values.items() if name in names}}
            arguments[f.name] = _construct(f.metadata["part"], inner, fault)
        elif (name := setting_name(f.name)) in values:
            arguments[f.name] = values[name]
    if any(f.metadata.get("part") and arguments[f.name] is None for f in fields(settings)):
        return None
    try:
        return settings(**arguments)
    except UsageError as error:
        fault(str(error))
        return None


class _Loader(yaml.SafeLoader):
    """Refuse aliases, which can expand to any size, and nesting and lengths that no setting needs."""

    depth = 0
    values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not accepted: write the value out")
        if self.depth == _MAX_DEPTH:
            raise yaml.YAMLError(f"values are nested more than {_MAX_DEPTH} deep")
        self.values += 1
        if self.values > _MAX_VALUES:
            raise yaml.YAMLError(f"there are more than {_MAX_VALUES:,} values: name many files by folders or globs")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_yaml(file: str) -> dict[str, Any]:
    """The settings of a YAML file. Raises UsageError, which names the file, for one that cannot be read or is no mapping."""
    try:
        with open_file(file) as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"configuration {file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    require(len(content) <= _MAX_FILE_BYTES, f"configuration {file} is larger than 1 MB: it is not a file of settings")
    try:
        values = yaml.load(content.decode(), _Loader)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        # Values that a tag makes something else of, such as `!!bool x`, raise whatever Python does.
        raise UsageError(f"configuration {file} is not valid YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values  # an empty file
    require(isinstance(values, dict), f"configuration {file} must be a mapping of settings to values")
    # YAML 1.1 reads the name `on` as a truth value.
    return {"on" if name is True else name: value for name, value in values.items()}
