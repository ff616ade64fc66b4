"""Withdraw a published run: its row goes from `runs` into `versions`, and readers see its source as it was in the run before it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from dnafeat.errors import StoreError
from dnafeat.store.catalog import Store
from dnafeat.store.data_file import Change, plain
from dnafeat.store.history import described
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
        False: it had been withdrawn before.
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

    def __repr__(self) -> str:
        return format_rollback(self)


def rollback(store: Store, run_id: str) -> Rollback:
    """Withdraw a published run.

    What it left in `sequences` and `features` stays there, and no published run names it: the next run of the source puts it right,
    in mode `merge`, too (`publish`). The run id may be published again.

    First the row is recorded in `versions`, then it is taken out of `runs`. In between the run is published still, and the same call
    goes on there; a run that is withdrawn already is therefore no error.

    Raises
    ------
    StoreError
        No run of that id has ever been published.
    """
    run = store.published_run(run_id)
    if run is not None:
        # Readers of `runs` need not know of withdrawals: what is not published is not there.
        lineage = json.dumps({name: value.isoformat() if isinstance(value, datetime) else value for name, value in run.items()})
        store.record_version(run["feature_version"], event="withdrawn", lineage=lineage, run_id=run_id)
        _take_out(store.runs, run)
    history = store.history()
    before = [row for row in history.withdrawn() if row["run_id"] == run_id]
    if run is None and not before:
        hint = did_you_mean(run_id, [row["run_id"] for row in history.listing()])
        raise StoreError(f"{store.uri} has published no run {run_id!r}: `dnafeat runs` lists those there are{hint}")
    gone = run or before[-1]
    left = history.filled_by(gone["feature_version"])
    return Rollback(
        run=gone,
        done=run is not None,
        now=left.get(gone["source_name"]),
        sources=sorted(left),
        channels=history.names.pointing_at(gone["feature_version"]),
        children=history.children(gone["feature_version"]),
    )


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
    lines = [f"run {run['run_id']} (number {run['run_number']}) is withdrawn" + ("" if done.done else " already: nothing to do")]
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
    return "\n".join(lines)
