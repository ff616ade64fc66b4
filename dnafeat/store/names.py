"""Names of versions: fixed ones, such as `promoter-lora@3`, and channels, which move, such as `production`.

Every version has a name of its own, `dnafeat-mini@1`, that is written down nowhere: it is the name of its adapter, or else of its model,
and its number among the versions of that name in the order in which they were recorded. Events are never taken out and new ones come
last, so that it stays. A number that was given to another version by hand is passed over, and those that are taken cannot be given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from dnafeat.errors import StoreError, UsageError
from dnafeat.store.lineages import loaded

EFFECTS = "effects:"
"""How the name of a source begins whose entries are windows of variants."""

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:@([1-9][0-9]*))?")


class Names:
    """The names and channels of a store at one moment.

    Parameters
    ----------
    uri : str
        The store's, for what is said.
    events : pyarrow.Table
        All of `versions`.
    """

    def __init__(self, uri: str, events: pa.Table) -> None:
        self.uri = uri
        self.channels: dict[str, str] = {}
        """For each channel, the version it points at, published or not."""
        self.given: dict[str, str] = {}
        """For each name, its version, published or not."""
        created: dict[str, str | None] = {}
        for event in events.sort_by("recorded_at").select(["event", "name", "feature_version", "lineage"]).to_pylist():
            if event["event"] == "channel":
                self.channels[event["name"]] = event["feature_version"]
            elif event["event"] == "name":
                self.given.setdefault(event["name"], event["feature_version"])
            elif event["event"] == "created":
                created.setdefault(event["feature_version"], event["lineage"])
        self.own: dict[str, str] = {}
        """For each name that a version has by itself, its version, published or not."""
        numbers: dict[str, int] = {}
        for version, lineage in created.items():
            base = _base(loaded(lineage) or {})
            numbers[base] = numbers.get(base, 0) + 1
            while self.given.get(f"{base}@{numbers[base]}", version) != version:
                numbers[base] += 1
            self.own[f"{base}@{numbers[base]}"] = version

    def pointing_at(self, version: str) -> list[str]:
        """The channels that point at a version."""
        return [channel for channel, of in self.channels.items() if of == version]

    def names_of(self, version: str) -> list[str]:
        """The names of a version."""
        return [name for name, of in self.given.items() if of == version]

    def own_name(self, version: str) -> str | None:
        """The name that a version has by itself; None where it was not recorded."""
        return next((name for name, of in self.own.items() if of == version), None)

    def find(self, text: str, published: Sequence[str]) -> str | None:
        """The version that a name, a name without its number (the highest one), or a channel stands for; None for anything else.

        Of one text, a name that was given comes before a channel, and a channel before a name that a version has by itself.

        Raises StoreError where that version is not among the published ones: another in its place would be an answer to a question
        nobody asked.
        """
        name = text if text in self.given else highest(text, self.given)
        if name is None and text not in self.channels:
            # Of those without a published run nobody has heard.
            own = {one: version for one, version in self.own.items() if version in published}
            name = text if text in own else highest(text, own)
            return None if name is None else own[name]
        version = self.given[name] if name is not None else self.channels[text]
        if version in published:
            return version
        gone = f"version {version}, whose runs have all been withdrawn"
        if name is not None:
            raise StoreError(f"{name} of {self.uri} is {gone}: name another, such as one of {', '.join(published)}")
        raise StoreError(
            f"channel {text!r} of {self.uri} points at {gone}: point it at one of {', '.join(published)} with `dnafeat publish`"
        )

    def new_name(self, version: str, asked: str) -> str:
        """The name that a version is to get where `asked` was asked for; it may have that already.

        Without a number the next one is given, unless the highest so far is the version's own. Raises UsageError for what is no name,
        and StoreError for one that another version or a channel has.
        """
        base, number = split(asked)
        if base in self.channels:
            raise StoreError(
                f"{base!r} is a channel of {self.uri}: take another name, or point the channel with --channel {base}"
            )
        taken = {**self.own, **self.given}
        if number is None:
            last = highest(base, taken)
            return last if last and taken[last] == version else f"{base}@{split(last)[1] + 1 if last else 1}"  # type: ignore[operator]
        if taken.get(asked, version) != version:
            raise StoreError(
                f"{asked} of {self.uri} is version {taken[asked]} and stays so: give {version} another number, or leave it out"
            )
        return asked

    def check_channel(self, channel: str) -> None:
        """Raise StoreError for a channel that would be taken for the name of a version."""
        if "@" in channel:
            raise StoreError(
                f"channel {channel!r} has an @, which is for names that never move: leave it out, or give it with --name"
            )
        if last := highest(channel, self.given):
            raise StoreError(f"{channel!r} cannot be a channel of {self.uri}: versions have it as their name, such as {last}")


def _base(lineage: Mapping[str, Any]) -> str:
    """What a version is called by itself, without its number: the last part of its adapter's or its model's name."""
    asked = lineage.get("adapter") or lineage.get("model")
    last = asked.rstrip("/").rpartition("/")[2].partition("@")[0] if isinstance(asked, str) else ""
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]+", "", last) or "version"


def split(text: str) -> tuple[str, int | None]:
    """A name's base and number, or None in place of one that was left out. Raises UsageError for what cannot be a name."""
    found = _NAME.fullmatch(text)
    if not found:
        raise UsageError(
            f"{text!r} cannot name a version: write letters, digits, '.', '_' and '-', and a number or none, as in promoter-lora@3"
        )
    return found[1], int(found[2]) if found[2] else None


def highest(base: str, names: Iterable[str] | Mapping[str, Any]) -> str | None:
    """Return the name with the highest number among `base@1`, `base@2`, …, or None."""
    numbered = [name for name in names if name.rpartition("@")[0] == base]
    return max(numbered, key=lambda name: int(name.rpartition("@")[2]), default=None)
