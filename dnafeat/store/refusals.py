"""Refused entries of a store, and how often each reason stands there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat.errors import StoreError
from dnafeat.store.catalog import Store
from dnafeat.store.retry import looking_again
from dnafeat.text import did_you_mean, fitted

_BATCH_ROWS = 131_072
_COLUMNS = ["run_id", "source_name", "file", "row", "sequence_id", "reason"]
# Places, texts in quotes that are longer than a letter, and numbers: what differs between entries that are refused for the same reason.
_VARYING = re.compile(r"(?<=\bat )\S+:[\d,]+|'[^']{2,}'|\"[^\"]{2,}\"|(?<![\w-])\d[\d,.]*\b")


@dataclass(frozen=True, kw_only=True)
class Refusals:
    """Refused entries.

    Attributes
    ----------
    store : str
    run_id : str | None
        None: of all runs.
    rejected : int
    reasons : dict of str to int
        How many were refused for each, the most frequent first; … stands for numbers and names, which differ.
    entries : list of dict
        Some of them: run_id, source_name, file, row, sequence_id, reason.
    """

    store: str
    run_id: str | None
    rejected: int
    reasons: dict[str, int]
    entries: list[dict[str, Any]]

    def __repr__(self) -> str:
        return format_refusals(self)


def reasons_of(batches: Iterable[pa.RecordBatch]) -> dict[str, int]:
    """Count the reasons of refused entries, the most frequent first, with … for what differs between entries."""
    counted: Counter[str] = Counter()
    for batch in batches:
        for one in pc.value_counts(batch["reason"]).to_pylist():
            counted[_VARYING.sub("…", one["values"] or "")] += one["counts"]
    return dict(counted.most_common())


def refusals(store: Store, run: str | None = None, limit: int = 20) -> Refusals:
    """Count the refused entries of a store, and list some.

    Parameters
    ----------
    store : Store
    run : str | None
        Id of a run, published or not, or the number of a published one; None: all runs.
    limit : int
        Most entries that are listed.

    Raises
    ------
    StoreError
        No such run has refused an entry or was published.
    """
    listed = {row["run_id"]: row["run_number"] for row in store.history().listing()}
    asked = run
    if run is not None and run not in listed and run.isascii() and run.isdigit():
        asked = next((one for one, number in listed.items() if number == int(run)), run)
    entries: list[dict[str, Any]] = []
    rejected = 0

    def counted() -> dict[str, int]:
        nonlocal rejected, entries
        rejected, entries = 0, []
        return reasons_of(every())

    def every() -> Iterable[pa.RecordBatch]:
        nonlocal rejected
        where = pc.scalar(True) if asked is None else ds.field("run_id") == asked
        for batch in store.rejects.reload().batches(_COLUMNS, where, [], _BATCH_ROWS):
            rejected += len(batch)
            entries.extend(batch.slice(0, max(0, limit - len(entries))).to_pylist())
            yield batch

    reasons = looking_again(counted)
    if asked is not None and not rejected and asked not in listed:
        there = {*listed, *store.rejects.read(["run_id"])["run_id"].unique().to_pylist()}
        raise StoreError(
            f"no run {run!r} of {store.uri} has refused an entry or was published: `dnafeat runs` lists runs{did_you_mean(asked, there)}"
        )
    return Refusals(store=store.uri, run_id=asked, rejected=rejected, reasons=reasons, entries=entries)


def format_refusals(found: Refusals, width: int | None = None) -> str:
    """The reasons with their numbers, and the entries as a small table."""
    of = f"run {found.run_id}" if found.run_id is not None else found.store
    if not found.rejected:
        return f"no entry of {of} was refused"
    head = f"{found.rejected:,} refused {'entry' if found.rejected == 1 else 'entries'} of {of}"
    reasons = fitted([["entries", "reason"], *([f"{number:,}", why] for why, number in found.reasons.items())], {0}, width=width)
    lines = [head, "", reasons]
    if found.entries:
        rows = [["run", "file", "row", "id", "reason"]]
        for one in found.entries:
            place = "-" if one["row"] is None else str(one["row"])
            rows.append([one["run_id"], one["file"], place, one["sequence_id"] or "-", one["reason"]])
        lines += ["", fitted(rows, {2}, width=width, lead=4)]
    if found.rejected > len(found.entries):
        lines += ["", f"{len(found.entries):,} of them are shown; --limit shows more"]
    return "\n".join(lines)
