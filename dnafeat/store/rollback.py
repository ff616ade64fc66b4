"""Withdraw a published run: its row goes from `runs` into `versions`, and readers see its source as it was in the run before it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from dnafeat import storage
from dnafeat.errors import StoreError
from dnafeat.store.catalog import Store
from dnafeat.store.data_file import Change, plain
from dnafeat.store.history import History, described
from dnafeat.store.table import Table
from dnafeat.text import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """The result of a withdrawal: what readers see now.

    Attributes
    ----------
    run : Mapping[str, Any]
        The withdrawn run's row as it stood in `runs`.
    done : bool
        False: it had been withdrawn before, or nothing was to be done.
    later : list of str
        Ids of later runs of its source and version, newest first, that were withdrawn with it.
    others : dict of str to str
        Other versions that its source fills, each with the run that their readers see: what the withdrawn run brought, they may have, too.
    dry_run : bool
        Whether nothing was changed, and the rest says what readers would see.
    now : Mapping[str, Any] | None
        The run that readers of its source and version see now; None where there is none.
    sources, channels : list of str
        Sources that fill the version still, and channels that point at it.
    children : list of str
        Versions that read their vectors from it. They go on doing so, since vectors stay.
    """

    run: Mapping[str, Any]
    done: bool
    now: Mapping[str, Any] | None
    sources: list[str]
    channels: list[str]
    children: list[str]
    later: list[str] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False

    def __repr__(self) -> str:
        return format_rollback(self)


def rollback(store: Store, run_id: str, *, and_later: bool = False, dry_run: bool = False) -> Rollback:
    """Withdraw a published run.

    What it left in `sequences` and `features` stays there, and no published run names it: the next run of the source puts it right,
    in mode `merge`, too (`publish`). The run id may be published again.

    First the row is recorded in `versions`, then it is taken out of `runs`. In between the run is published still, and the same call
    goes on there; a run that is withdrawn already is therefore no error.

    Parameters
    ----------
    store : Store
    run_id : str
    and_later : bool
        Whether to withdraw the later runs of its source under its version, too, the newest first. Without, a run that is not the last is
        withdrawn alone: readers of the newest state see no difference, since later runs have kept what it brought (`later_runs`).
    dry_run : bool
        Whether to change nothing, and only find what readers would see.

    Raises
    ------
    StoreError
        No run of that id has ever been published, or the store cannot be read or written.
    """
    run = store.published_run(run_id)
    history = store.history()
    before = [row for row in history.withdrawn() if row["run_id"] == run_id]
    if run is None and not before:
        hint = did_you_mean(run_id, [row["run_id"] for row in history.listing()])
        raise StoreError(f"{store.uri} has published no run {run_id!r}: `dnafeat runs` lists those there are{hint}")
    gone = run or before[-1]
    later = later_runs(history, gone) if and_later else []
    leaving = [*later, *([run_id] if run is not None else [])]
    if not dry_run:
        for one in leaving:
            _withdraw(store, one)
        history = store.history()
    version, source = gone["feature_version"], gone["source_name"]
    left = history.filled_by(version, without=leaving)
    seen = {other: history.filled_by(other).get(source) for other in history.versions() if other != version}
    return Rollback(
        run=gone,
        done=bool(leaving) and not dry_run,
        now=left.get(source),
        sources=sorted(left),
        channels=history.names.pointing_at(version),
        children=history.children(version),
        later=later,
        others={other: row["run_id"] for other, row in seen.items() if row is not None},
        dry_run=dry_run,
    )


def later_runs(history: History, run: Mapping[str, Any]) -> list[str]:
    """Ids of the published runs of a run's source and version that came after it, newest first."""
    same = [row for row in history.listing() if row["withdrawn_at"] is None and row["run_number"] > run["run_number"]]
    return [
        row["run_id"]
        for row in same
        if (row["source_name"], row["feature_version"]) == (run["source_name"], run["feature_version"])
    ]


def check_last(store: Store, run_id: str) -> None:
    """Raise StoreError for a published run whose entries later runs of its source and version have kept."""
    run = store.published_run(run_id)
    if run is None or not (later := later_runs(store.history(), run)):
        return
    shown = ", ".join(later[:5]) + (f" and {len(later) - 5:,} more" if len(later) > 5 else "")
    raise StoreError(
        f"run {run_id} is not the last of source {run['source_name']} under version {run['feature_version']}: {shown} came later, and "
        f"readers would go on seeing what it brought; withdraw those, too, with --and-later"
    )


def _withdraw(store: Store, run_id: str) -> None:
    run = store.published_run(run_id)
    if run is None:
        return
    # Readers of `runs` need not know of withdrawals: what is not published is not there.
    lineage = json.dumps({name: value.isoformat() if isinstance(value, datetime) else value for name, value in run.items()})
    store.record_version(run["feature_version"], event="withdrawn", lineage=lineage, run_id=run_id)
    with storage.reached(store.uri):
        _take_out(store.runs, run)


def _take_out(table: Table, run: Mapping[str, Any]) -> None:
    """Take a row out of `runs`, by number as well as by id: others may have withdrawn the id and published it again meanwhile."""

    def change() -> Change | None:
        # A run's own file comes first; it may have been compacted with others.
        own = f"{plain(run['run_id'])}-"
        for path in sorted(table.paths(), key=lambda path: not path.startswith(own)):
            rows = table.read_file(path)
            gone = pc.and_(pc.equal(rows["run_id"], run["run_id"]), pc.equal(rows["run_number"], run["run_number"]))
            if pc.any(gone).as_py():
                kept = rows.filter(pc.invert(gone))
                # Not by a predicate, which would stand in the log.
                return Change(added=[table.write(kept, stem="runs")] if len(kept) else [], removed=[path])
        return None

    table.settle(f"dnafeat/{uuid.uuid4().hex}", change)


def format_rollback(done: Rollback) -> str:
    """Describe a withdrawal and what readers see now, in a few lines."""
    run = done.run
    source, version = run["source_name"], run["feature_version"]
    ids = f"run {run['run_id']} (number {run['run_number']})"
    if done.later:
        ids += f" and {len(done.later):,} later ones ({', '.join(done.later)})"
    if done.dry_run:
        lines = [f"{ids} would be withdrawn (nothing was changed)"]
    else:
        lines = [f"{ids} {'are' if done.later else 'is'} withdrawn" + ("" if done.done else " already: nothing to do")]
    if done.now:
        lines.append(f"  readers of source {source} under version {version} see {described(done.now)}")
    elif done.sources:
        lines.append(f"  source {source} does not fill version {version} any more; these do: {', '.join(done.sources)}")
    else:
        lines.append(f"  version {version} has no published run any more")
    for channel in done.channels:
        remedy = "" if done.sources else ", and cannot be read: point it at another with `dnafeat publish`"
        lines.append(f"  channel {channel} points at this version{remedy}")
    for child in done.children:
        lines.append(
            f"  version {child}, which reads its vectors from this one, has what it has: withdraw its runs for themselves"
        )
    for other, one in done.others.items():
        lines.append(f"  readers of source {source} under version {other} see run {one}, as before")
    return "\n".join(lines)
