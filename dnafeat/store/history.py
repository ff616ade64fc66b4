"""History of a store at one moment: published and withdrawn runs, names of versions, and states as of a run or a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from numbers import Integral
from typing import Any

import pyarrow as pa

from dnafeat.errors import StoreError
from dnafeat.store.lineages import parsed, vectors_of
from dnafeat.store.names import Names
from dnafeat.text import did_you_mean

DEFAULT_CHANNEL = "production"
AsOf = str | int | date
"""A run id, a run number, or a time; as text, it is the first of them that it can be."""

LISTED = (
    "run_id",
    "run_number",
    "source_name",
    "feature_version",
    "finished_at",
    "read",
    "encoded",
    "opened",
    "closed",
    "rejected",
    "seconds",
)


# Of each run, the versions of the tables that it counts on.
NAMED = ("features_version", "sequences_version", "rejects_version")


class History:
    """The runs of a store and the events of its versions, as they were when this was loaded.

    Parameters
    ----------
    uri : str
        The store's, for what is said.
    runs : pyarrow.Table
        Rows of `runs` with the columns `LISTED` and `NAMED`, taken before `events`: whatever is published then has its version recorded.
    events : pyarrow.Table
        All of `versions`.
    """

    def __init__(self, uri: str, runs: pa.Table, events: pa.Table) -> None:
        self.uri = uri
        self._runs = sorted(runs.select(LISTED).to_pylist(), key=lambda row: row["run_number"])
        self._named = runs.select([name for name in ("run_id", "run_number", *NAMED) if name in runs.column_names]).to_pylist()
        self._events = events.sort_by("recorded_at").to_pylist()
        self.names = Names(uri, events)

    # -- versions ------------------------------------------------------------------------------------------------------

    def versions(self) -> list[str]:
        """Versions with a published run, sorted."""
        return sorted({row["feature_version"] for row in self._runs})

    def created(self) -> list[dict[str, Any]]:
        """The events that recorded these versions, oldest first, one for each."""
        published = set(self.versions())
        first: dict[str, dict[str, Any]] = {}
        for event in self._of("created"):
            if event["feature_version"] in published:
                first.setdefault(event["feature_version"], event)
        return list(first.values())

    def lineage(self, version: str) -> dict[str, Any]:
        """The lineage of a version as it was recorded with it; empty where the store has no such version or it cannot be read."""
        return next((parsed(event, self.uri) for event in self._of("created") if event["feature_version"] == version), {})

    def vectors(self, version: str) -> list[str]:
        """The vectors that a version stores."""
        return vectors_of(self.lineage(version))

    def parent(self, version: str) -> str | None:
        """The version whose `cls`, `mean` and `max` a version reads where its own rows have none; None where it has no parent."""
        return next((row["parent"] for row in self._events if row["feature_version"] == version and row["parent"]), None)

    def children(self, version: str) -> list[str]:
        """The versions that have it as their parent, sorted."""
        return sorted({row["feature_version"] for row in self._events if row["parent"] == version})

    def resolve(self, version: str | None = None) -> str:
        """The feature version meant, as `Store.resolve` says."""
        published = self.versions()
        if not published:
            never = "no run has been published in {} yet" if not self.withdrawn() else "every run of {} has been withdrawn"
            raise StoreError(f"{never.format(self.uri)}: fill it with `dnafeat embed`")
        if version in published:
            return version
        if found := self.names.find(DEFAULT_CHANNEL if version is None else version, published):
            return found
        matches = published if version is None else [one for one in published if version and one.startswith(version)]
        if len(matches) == 1:
            return matches[0]
        if version is None:
            raise StoreError(
                f"{self.uri} has {len(published)} versions and no channel {DEFAULT_CHANNEL!r}: name one of {', '.join(published)}, "
                f"or point the channel at one with `dnafeat publish`"
            )
        if matches:
            raise StoreError(f"{version!r} is the beginning of {' and of '.join(matches)} in {self.uri}: give more of it")
        there = [*published, *self.names.given, *self.names.channels]
        hint = did_you_mean(version or "", [*there, *self.names.own])
        raise StoreError(f"{self.uri} has no version, name or channel {version!r}: there are {', '.join(there)}{hint}")

    def _of(self, event: str) -> Iterable[dict[str, Any]]:
        return (row for row in self._events if row["event"] == event)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def state(self, version: str, as_of: AsOf | None = None, source: str | None = None) -> dict[str, int]:
        """The number of the last published run of each source of a published version.

        Parameters
        ----------
        version : str
            As `resolve` gives it.
        as_of : str | int | date | None
            Runs with a greater number than it stands for are left out. A time stands for the greatest number among the runs that had
            finished by then; a date without a time is its end, and a time without a zone is UTC.
        source : str | None
            This one alone.

        Raises
        ------
        StoreError
            The source has not filled the version, `as_of` is nothing that was published, or nothing was published by then.
        """
        runs = [row for row in self._runs if row["feature_version"] == version]
        if source is not None:
            if all(row["source_name"] != source for row in runs):
                there = sorted({row["source_name"] for row in runs})
                hint = did_you_mean(source, there)
                raise StoreError(f"no source {source!r} has filled version {version}: there are {', '.join(there)}{hint}")
            runs = [row for row in runs if row["source_name"] == source]
        number = runs[-1]["run_number"] if as_of is None else self._number(as_of)
        then = {row["source_name"]: row["run_number"] for row in runs if row["run_number"] <= number}
        if not then:
            whose = f"version {version}" if source is None else f"source {source!r} under version {version}"
            asked = as_of if isinstance(as_of, str) else str(as_of)
            raise StoreError(f"{whose} of {self.uri} had no published run as of {asked}: the first is {described(runs[0])}")
        return then

    def filled_by(self, version: str, without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """The last published run of each source of a version, with the columns `LISTED`; empty where there is none.

        Runs with an id of `without` do not count.
        """
        return {
            row["source_name"]: row for row in self._runs if row["feature_version"] == version and row["run_id"] not in without
        }

    def run(self, asked: str | int) -> dict[str, Any]:
        """A published run by its id or number: `LISTED`. Raises StoreError where there is none, or it was withdrawn."""
        text = str(asked)
        numbered = [("run_number", int(text))] if text.isascii() and text.isdigit() else []
        for key, value in [("run_id", text), *numbered]:
            for row in self._runs:
                if row[key] == value:
                    return row
            if any(row[key] == value for row in self.withdrawn()):
                raise StoreError(f"run {asked!r} of {self.uri} was withdrawn: name another (`dnafeat runs` lists them)")
        hint = did_you_mean(text, [row["run_id"] for row in self._runs])
        raise StoreError(f"{self.uri} has published no run {asked!r}: `dnafeat runs` lists those there are{hint}")

    def highest_number(self) -> int:
        """The greatest number that a run has, withdrawn ones counted; 0 where there is none."""
        return max((row["run_number"] for row in (*self._runs, *self.withdrawn())), default=0)

    def check_whole(self, versions: Mapping[str, int], numbers: Collection[int] | None = None) -> None:
        """Look whether the tables are as new as the runs say that count on them.

        Parameters
        ----------
        versions : mapping of str to int
            The Delta version that tables have now, by their names.
        numbers : collection of int | None
            Of these runs; None: of all.

        Raises
        ------
        StoreError
            A run names a later version: commits that were made before it are lost.
        """
        for row in sorted(self._named, key=lambda row: row["run_number"], reverse=True):
            if numbers is not None and row["run_number"] not in numbers:
                continue
            for table, newest in versions.items():
                named = row.get(f"{table}_version") or 0
                if named > newest:
                    raise StoreError(
                        f"{self.uri} is damaged: run {row['run_id']} counts on version {named} of table {table}, whose log ends at "
                        f"{newest} now, as after a loss of power or in a copy of a store at work: restore the log from a backup, or "
                        f"withdraw the run (`dnafeat rollback {row['run_id']}`) and send it again"
                    )

    def _number(self, as_of: AsOf) -> int:
        """The run number it stands for; 0 for a time before any run."""
        if isinstance(as_of, str):
            return self._number_of_text(as_of)
        if isinstance(as_of, date):
            end = _end(as_of)
            return max((row["run_number"] for row in self._runs if row["finished_at"] <= end), default=0)
        if isinstance(as_of, Integral) and not isinstance(as_of, bool):
            if as_of > self._runs[-1]["run_number"]:
                raise StoreError(f"{self.uri} has published no run number {as_of}: the newest is {described(self._runs[-1])}")
            return int(as_of)
        raise StoreError(f"as_of {as_of!r} is neither a run id, nor a run number, nor a date")

    def _number_of_text(self, text: str) -> int:
        for row in self._runs:
            if row["run_id"] == text:
                return row["run_number"]
        # Not a date, even where the id looks like one: a nightly run's does, and means that run.
        if any(row["run_id"] == text for row in self.withdrawn()):
            raise StoreError(
                f"run {text!r} of {self.uri} was withdrawn: name another (`dnafeat runs` lists them), or a time of day"
            )
        if text.isascii() and text.isdigit() and len(text) < 19:
            return self._number(int(text))
        for parse in (date.fromisoformat, datetime.fromisoformat):
            try:
                return self._number(parse(text))
            except ValueError:
                continue
        raise StoreError(
            f"{self.uri} has published no run {text!r}, which is neither a run number nor a date such as 2026-11-20 or "
            f"2026-11-20T06:00 either: `dnafeat runs` lists the runs"
        )

    def withdrawn(self) -> list[dict[str, Any]]:
        """Rows that were taken out of `runs`, as they stood there and with `withdrawn_at`, by number.

        A row that is recorded as withdrawn and stands in `runs` still is published: its withdrawal has not come to the end.
        """
        published = {row["run_number"] for row in self._runs}
        rows = {}
        for event in self._of("withdrawn"):
            row = parsed(event, self.uri)
            if row.keys() >= {*LISTED, "started_at"} and row["run_number"] not in published:
                times = {name: datetime.fromisoformat(row[name]) for name in ("started_at", "finished_at")}
                rows[row["run_number"]] = {**row, **times, "withdrawn_at": event["recorded_at"]}
        return [rows[number] for number in sorted(rows)]

    def last_number(self, source: str) -> int:
        """The number of a source's last published run, of whichever version; 0 where there is none."""
        return max((row["run_number"] for row in self._runs if row["source_name"] == source), default=0)

    def undone(self, source: str) -> list[int]:
        """Numbers of a source's withdrawn runs since its last published one: what they did to its entries is not part of its state."""
        last = self.last_number(source)
        return [row["run_number"] for row in self.withdrawn() if row["source_name"] == source and row["run_number"] > last]

    def listing(self) -> list[dict[str, Any]]:
        """List all runs that were ever published, newest first: `LISTED`, and `withdrawn_at`, which is None for runs that still count."""
        rows = [{**row, "withdrawn_at": None} for row in self._runs] + self.withdrawn()
        rows.sort(key=lambda row: row["run_number"], reverse=True)
        return [{name: row[name] for name in (*LISTED, "withdrawn_at")} for row in rows]


def _end(when: date) -> datetime:
    """The last moment that a date or time stands for."""
    if not isinstance(when, datetime):
        return datetime.combine(when, time.max, UTC)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def second(when: datetime) -> str:
    """A time in UTC to the second, rounded up: a state as of what is printed has the run in it that finished then."""
    whole = when.astimezone(UTC) + timedelta(microseconds=-when.microsecond % 1_000_000)
    return f"{whole:%Y-%m-%dT%H:%M:%SZ}"


def described(run: Mapping[str, Any]) -> str:
    """A run's id, number and end, for use inside a sentence."""
    return f"run {run['run_id']}, number {run['run_number']}, finished {second(run['finished_at'])}"
