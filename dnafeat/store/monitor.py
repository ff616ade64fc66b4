"""Compare a run with the history of its source, hold it where it moved, and remember what was accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from dnafeat.errors import HeldError, StoreError
from dnafeat.store.catalog import Store
from dnafeat.store.comparison import HISTORY, LEVEL, StatisticTest, compare
from dnafeat.store.history import DEFAULT_CHANNEL, History
from dnafeat.store.lineages import parsed as parsed_event
from dnafeat.store.lookup import Lookup
from dnafeat.store.matrices import matrix
from dnafeat.store.profiles import Profile, parsed
from dnafeat.text import did_you_mean, fitted
from dnafeat.vectors import VECTORS

FARTHEST = 0.01
"""Median relative distance of the vectors of the same sequences above which another version counts as other vectors."""

_SAMPLE = 256  # sequences whose vectors of two versions are compared
_SHOWN = 5  # statistics in a sentence


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """A run beside its history.

    Attributes
    ----------
    run_id, source_name, feature_version : str
    against : str | None
        The version of the earlier runs; None without any.
    history : tuple of str
        Ids of the earlier runs, oldest first.
    level : float
        Rate of false alarms, for all tests together.
    tests : tuple of StatisticTest
    moved : tuple of str
        Names of the statistics that moved, the surest first.
    state : str
        `published`, `held` or `accepted`.
    note : str
        Why nothing was compared; else empty.
    """

    run_id: str
    source_name: str
    feature_version: str
    against: str | None = None
    history: tuple[str, ...] = ()
    level: float = LEVEL
    tests: tuple[StatisticTest, ...] = ()
    moved: tuple[str, ...] = field(init=False)
    state: str = "published"
    note: str = ""

    def __post_init__(self) -> None:
        moved = sorted((test for test in self.tests if test.moved), key=lambda one: one.p)
        object.__setattr__(self, "moved", tuple(test.name for test in moved))

    def __repr__(self) -> str:
        return format_monitoring(self)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that is to be compared, published or not."""

    run_id: str
    source_name: str
    feature_version: str
    number: int
    profile: Profile | None


def monitor(store: Store, run: str | None = None, *, level: float = LEVEL) -> Monitoring:
    """Compare a run with the earlier ones of its source.

    Parameters
    ----------
    store : Store
    run : str | None
        Id or number of a published run, or id of one that was held; None: the last published one.
    level : float
        Rate of false alarms of a run.

    Raises
    ------
    StoreError
        There is no such run.
    """
    history = store.history()
    held, accepted = _events(store, "held"), _events(store, "accepted")
    rows = _rows(store)
    if run is None:
        if not rows:
            raise StoreError(f"no run has been published in {store.uri} yet: fill it with `dnafeat embed`")
        run = rows[-1]["run_id"]
    if run in held and all(row["run_id"] != run for row in rows):
        candidate = _of_event(held[run])
    else:
        try:
            number = history.run(run)["run_number"]
        except StoreError as error:
            near = did_you_mean(run, held)
            raise StoreError(f"{error}{near}") from None if near else error
        row = next(row for row in rows if row["run_number"] == number)
        candidate = Candidate(profile=parsed(row), number=number, **{name: row[name] for name in _NAMES})
    state = "accepted" if candidate.run_id in accepted else "held" if candidate.run_id in held else "published"
    return _judged(store, history, candidate, rows, level, state)


_NAMES = ("run_id", "source_name", "feature_version")


def _rows(store: Store) -> list[dict[str, Any]]:
    """The published runs with their profiles, by number."""
    table = store.runs.reload().read([*_NAMES, "run_number", "profile"])
    return table.sort_by("run_number").to_pylist()


def _events(store: Store, event: str) -> dict[str, dict[str, Any]]:
    """The last event of a kind of each run."""
    found = store._versions.reload().read(where=ds.field("event") == event).sort_by("recorded_at").to_pylist()
    return {row["run_id"]: row for row in found}


def _of_event(event: Mapping[str, Any]) -> Candidate:
    about = parsed_event(dict(event), "")
    profile = Profile.from_json(about["profile"]) if about.get("profile") else None
    names = {"run_id": event["run_id"], "feature_version": event["feature_version"]}
    return Candidate(**names, source_name=about.get("source_name", ""), number=about.get("number", 0), profile=profile)


def _judged(
    store: Store,
    history: History,
    candidate: Candidate,
    rows: Sequence[Mapping[str, Any]],
    level: float,
    state: str = "published",
) -> Monitoring:
    about = {name: getattr(candidate, name) for name in _NAMES}
    held, accepted = _events(store, "held"), _events(store, "accepted")
    kept = [
        Candidate(profile=parsed(row), number=row["run_number"], **{name: row[name] for name in _NAMES})
        for row in rows
        if row["run_id"] not in held or row["run_id"] in accepted
    ]
    # What was held before it was published and then accepted is history, too.
    published = {row["run_id"] for row in rows}
    kept += [_of_event(event) for name, event in held.items() if name in accepted and name not in published]
    earlier = [
        one
        for one in sorted(kept, key=lambda one: one.number)
        if one.source_name == candidate.source_name and one.number <= candidate.number and one.run_id != candidate.run_id
    ]
    if candidate.profile is None:
        return Monitoring(**about, level=level, state=state, note="the run has no profile: it is of an earlier release")
    same = [one for one in earlier if one.feature_version == candidate.feature_version]
    against = candidate.feature_version if same else _reference(history, earlier)
    past = [one for one in earlier if one.feature_version == against and one.profile is not None][-HISTORY:]
    if not past:
        note = "nothing to compare with: it is the first run of its source" if not earlier else "earlier runs have no profile"
        return Monitoring(**about, level=level, state=state, note=note)
    profiles = [one.profile for one in past if one.profile is not None]
    tests = compare(candidate.profile, profiles, level=level, same_version=bool(same))
    if not same and against is not None:
        tests = [*_moved_vectors(store, history, against, candidate), *tests]
    return Monitoring(
        **about, against=against, history=tuple(one.run_id for one in past), level=level, tests=tuple(tests), state=state
    )


def _reference(history: History, earlier: Sequence[Candidate]) -> str | None:
    """The version that the first run of another is compared with: the channel's, else that of the last run."""
    there = {one.feature_version for one in earlier}
    channel = history.names.channels.get(DEFAULT_CHANNEL)
    return channel if channel in there else earlier[-1].feature_version if earlier else None


def _moved_vectors(store: Store, history: History, against: str, candidate: Candidate) -> Iterator[StatisticTest]:
    """Compare the vectors that two versions have of the same sequences: no test of chance, since one encoder gives the same ones."""
    version = candidate.feature_version
    store.features.reload().version()
    store.sequences.reload()
    source = candidate.source_name
    names = np.intersect1d(_some_digests(store, history, against, source), _some_digests(store, history, version, source))
    names = names[:: max(1, len(names) // _SAMPLE)][:_SAMPLE]
    for kind in [one for one in VECTORS if one in history.vectors(against) and one in history.vectors(version)]:
        name = f"same sequences/{kind}"
        before = f"version {against}"
        if not len(names):
            continue
        one, other = (_vectors(store, history, of, names, kind) for of in (against, version))
        if one.shape != other.shape:
            yield StatisticTest(name=name, p=0.0, now=f"{other.shape[1]} wide", before=f"{one.shape[1]} wide", moved=True)
            continue
        longer = np.maximum(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
        distance = float(np.median(np.linalg.norm(one - other, axis=1) / np.where(longer > 0, longer, 1)))
        moved = distance > FARTHEST
        yield StatisticTest(
            name=name, p=0.0 if moved else 1.0, now=f"median distance {100 * distance:.2f} %", before=before, moved=moved
        )


def _some_digests(store: Store, history: History, version: str, source: str) -> np.ndarray:
    """Sorted digests of a source under a version, (n,) of dtype S35: those of the lowest hash values, the same of every version."""
    number = history.filled_by(version).get(source)
    if number is None:
        return np.empty(0, "S35")
    parts = [np.unique(part)[: 64 * _SAMPLE] for part in store.entry_digests({source: number["run_number"]})]
    return np.unique(np.concatenate(parts))[: 64 * _SAMPLE] if parts else np.empty(0, "S35")


def _vectors(store: Store, history: History, version: str, names: np.ndarray, kind: str) -> np.ndarray:
    lookup = Lookup(store.features, version, history.parent(version))
    held: np.ndarray | None = None
    for place, batch in lookup.in_chunks(names, ["sequence_digest", kind]):
        rows = matrix(batch[kind]).astype(np.float64)
        held = np.zeros((len(names), rows.shape[1])) if held is None else held
        held[place] = rows
    assert held is not None
    return held


# -- the gate ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """What lets a run of a scheduled job pass, or holds it.

    Attributes
    ----------
    store : Store
    channel : str
    level : float
    """

    store: Store
    channel: str
    level: float = LEVEL

    def before(self, run_id: str, source: str, version: str, profile: Profile) -> None:
        """Raise HeldError, before anything is published, where readers of the channel would see a run that moved."""
        history = self.store.history()
        if history.names.channels.get(self.channel) == version:
            number = history.highest_number() + 1
            candidate = Candidate(run_id=run_id, source_name=source, feature_version=version, number=number, profile=profile)
            self._pass(history, candidate, published=False)

    def after(self, run_id: str) -> None:
        """Raise HeldError, before the channel moves to its version, where a published run moved."""
        history, rows = self.store.history(), _rows(self.store)
        row = next((row for row in rows if row["run_id"] == run_id), None)
        if row is not None:
            names = {name: row[name] for name in _NAMES}
            self._pass(history, Candidate(profile=parsed(row), number=row["run_number"], **names), published=True)

    def accept(self, run_id: str) -> None:
        """Record that a run may pass. Raises StoreError where the store has neither published nor held one of that id."""
        held, accepted = _events(self.store, "held"), _events(self.store, "accepted")
        rows = {row["run_id"]: row for row in _rows(self.store)}
        event = held.get(run_id) or rows.get(run_id)
        if event is None:
            near = did_you_mean(run_id, [*held, *rows])
            raise StoreError(f"{self.store.uri} has neither held nor published a run {run_id!r}{near}: `dnafeat runs` lists runs")
        if run_id not in accepted:
            self.store.record_version(event["feature_version"], event="accepted", run_id=run_id)

    def _pass(self, history: History, candidate: Candidate, *, published: bool) -> None:
        if candidate.run_id in _events(self.store, "accepted"):
            return
        found = _judged(self.store, history, candidate, _rows(self.store), self.level)
        if not found.moved:
            return
        assert candidate.profile is not None
        about = {"source_name": candidate.source_name, "number": candidate.number, "moved": list(found.moved)}
        lineage = json.dumps({**about, "profile": candidate.profile.to_json()}, sort_keys=True)
        self.store.record_version(candidate.feature_version, event="held", lineage=lineage, run_id=candidate.run_id)
        stays = history.names.channels.get(self.channel)
        where = f"channel {self.channel} stays at version {stays}" if stays else f"channel {self.channel} is not set"
        raise HeldError(
            f"run {candidate.run_id} of source {candidate.source_name} is held, since {_sentence(found)}: {where}"
            f"{'' if published else ' and nothing was published'}; look with `dnafeat monitor --store {self.store.uri} --run "
            f"{candidate.run_id}`, and let it pass with --accept {candidate.run_id}"
        )


def _sentence(found: Monitoring) -> str:
    more = f" and {len(found.moved) - _SHOWN} more" if len(found.moved) > _SHOWN else ""
    return (
        f"{', '.join(found.moved[:_SHOWN])}{more} moved ({len(found.moved)} of {len(found.tests)} statistics; {found.level:g} false alarms "
        f"per run)"
    )


def to_document(found: Monitoring) -> dict[str, Any]:
    """The comparison as JSON has it."""
    return asdict(found)


def format_monitoring(found: Monitoring, width: int | None = None) -> str:
    """The comparison as a sentence and a table."""
    head = f"run {found.run_id} of source {found.source_name}, version {found.feature_version} ({found.state})"
    if found.note:
        return f"{head}: {found.note}"
    past = f"{len(found.history)} earlier run{'' if len(found.history) == 1 else 's'}"
    of = past if found.against == found.feature_version else f"{past} of version {found.against}"
    said = (
        _sentence(found) if found.moved else f"none of {len(found.tests)} statistics moved ({found.level:g} false alarms per run)"
    )
    table = [["statistic", "p", "now", "before", ""]]
    for test in sorted(found.tests, key=lambda one: one.p):
        table.append([test.name, f"{test.p:.2g}", test.now, test.before, "moved" if test.moved else ""])
    return f"{head}, beside {of}: {said}\n\n{fitted(table, right={1}, width=width)}"
