"""A feature store: five Delta tables below one folder or prefix, and how they are read. Knows neither Ray nor torch."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat import digests, storage
from dnafeat.errors import StoreError
from dnafeat.history import LISTED, AsOf, History
from dnafeat.matrices import end_to_end, fixed, one_array
from dnafeat.matrices import matrix as matrix
from dnafeat.schema import TABLES, VECTORS, arrow_schema
from dnafeat.tables import Change, Table

_OWN = ("sequence_digest", "bases", "tokens", "windows", "run_id")


class Store:
    """The store at a local folder or an `s3://` prefix. Nothing is read or made before it is needed."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self.features, self.sequences, self._versions, self.rejects, self.runs = (Table(self.uri, name) for name in TABLES)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def create(self) -> None:
        """Makes the tables that are not there yet. Raises StoreError when the place cannot be written."""
        storage.check_writable(self.uri)
        for table in (self.features, self.sequences, self._versions, self.rejects, self.runs):
            table.create()

    def exists(self) -> bool:
        return self.runs.exists()

    # -- what there is -------------------------------------------------------------------------------------------------

    def history(self) -> History:
        """The runs and the names of versions as they are now."""
        runs = self.runs.reload().read(list(LISTED))
        return History(self.uri, runs, self._versions.reload().read())

    def versions(self) -> pa.Table:
        """One row for each feature version that has a published run, oldest first.

        Columns: `feature_version`, `model`, `adapter`, `precision`, `channels` (list of str), `sources` (list of str), `sequences`
        (rows of `read`), `recorded_at`, `lineage` (JSON).
        """
        history = self.history()
        self.sequences.reload()
        rows = []
        for event in history.created():
            version, lineage = event["feature_version"], json.loads(event["lineage"])
            state = history.state(version)
            rows.append(
                {
                    "feature_version": version,
                    "model": lineage["model"],
                    "adapter": lineage["adapter"],
                    "precision": lineage["precision"],
                    "channels": history.pointing_at(version),
                    "sources": sorted(state),
                    "sequences": self.count_entries(state),
                    "recorded_at": event["recorded_at"],
                    "lineage": event["lineage"],
                }
            )
        text = pa.string()
        columns = {
            "feature_version": text,
            "model": text,
            "adapter": text,
            "precision": text,
            "channels": pa.list_(text),
            "sources": pa.list_(text),
            "sequences": pa.int64(),
            "recorded_at": pa.timestamp("us", "UTC"),
            "lineage": text,
        }
        schema = pa.schema(list(columns.items()))
        return pa.Table.from_pylist(rows, schema=schema)

    def resolve(self, version: str | None = None) -> str:
        """The feature version meant: a digest or an unambiguous beginning of one, a channel's name, or None.

        None stands for the channel `production`, and without one for the only version there is. Raises StoreError when nothing or
        more than one thing is meant, or a version whose runs have all been withdrawn.
        """
        return self.history().resolve(version)

    def lineage(self, version: str) -> dict:
        """What a version is made of, as it was recorded with it; empty where the store has no such version."""
        return self.history().lineage(version)

    def channels(self) -> dict[str, str]:
        """For each channel, the version it points at."""
        return self.history().channels()

    def lacking(self, channel: str, version: str) -> list[str]:
        """Sources that the channel's version has and another lacks, sorted; none where the channel points nowhere."""
        history = self.history()
        now = history.channels().get(channel)
        return sorted(set(history.filled_by(now)) - set(history.filled_by(version))) if now else []

    def point(self, channel: str, version: str) -> str:
        """Points a channel at a published version, and returns the version's digest."""
        digest = self.resolve(version)
        self.record_version(digest, event="channel", name=channel)
        return digest

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(
        self,
        version: str | None = None,
        columns: Sequence[str] | None = None,
        source: str | None = None,
        as_of: AsOf | None = None,
    ) -> pa.Table:
        """The entries of a version with their vectors.

        Parameters
        ----------
        version : str | None
            A version or channel, as they are named now; None: the channel `production`, or the only version there is.
        columns : sequence of str | None
            Any of cls, mean, max, projected, sequence_digest, bases, tokens, windows, run_id; vectors with plus signs between them,
            as in `cls+mean`, come end to end as one column of that name; None: the stored vectors.
        source : str | None
            One source's name; None: all sources that have filled the version.
        as_of : str | int | datetime.date | None
            The state as it was when a run was published, by its id or number, or at a time: a datetime (without a zone: UTC), a date
            (its end, UTC), or either in ISO format; None: the newest. Of each source its last published run up to then counts, less
            what has been withdrawn or forgotten since.

        Returns
        -------
        pyarrow.Table
            `sequence_id`, `source_name`, the keys, and `columns`, in no particular order. A vector column is a fixed-size list of
            float32; `dnafeat.matrix(table["mean"])` is its (n, width) NumPy array.

        Raises
        ------
        StoreError
            Something that was asked for is not there, nothing was published by then, or the store is damaged.
        """
        batches = list(self.scan(version, columns, source, as_of))
        return pa.Table.from_batches(batches)

    def scan(
        self,
        version: str | None = None,
        columns: Sequence[str] | None = None,
        source: str | None = None,
        as_of: AsOf | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """`read` in batches: ids and keys are held in memory, vectors pass through. At least one batch, which may be empty."""
        history = self.history()
        digest = history.resolve(version)
        state = history.state(digest, as_of, source)
        chosen = _columns(columns, digest, history.lineage(digest).get("vectors", list(VECTORS)))
        # Loaded after `runs`, both tables hold at least what the published runs name.
        self.features.reload()
        self.sequences.reload()
        keys = [name for name in self.sequences.schema().names if name not in arrow_schema("sequences").names]
        entries = self._entries(state, keys).sort_by("sequence_digest")
        wanted = digests.to_numpy(entries["sequence_digest"])
        distinct, first, count = np.unique(wanted, return_index=True, return_counts=True)
        where, pruned_by = ds.field("feature_version") == digest, [("feature_version", "=", digest)]
        found, nothing = 0, True
        plain = [name for name in dict.fromkeys(part for name in chosen for part in name.split("+")) if name != "sequence_digest"]
        for batch in self.features.batches(["sequence_digest", *plain], where, pruned_by, 16_384):
            own = digests.to_numpy(batch["sequence_digest"])
            place = np.searchsorted(distinct, own)
            place[place == len(distinct)] = 0
            hit = np.flatnonzero(distinct[place] == own) if len(distinct) else np.empty(0, np.int64)
            if not len(hit):
                continue
            place = place[hit]
            found += len(hit)
            # One row of features for each entry that names it: `first` is where its run of equal digests begins.
            rows = np.repeat(hit, count[place])
            run = np.arange(len(rows)) - np.repeat(np.cumsum(count[place]) - count[place], count[place])
            at = np.repeat(first[place], count[place]) + run
            yield self._joined(entries, pa.array(at), batch, pa.array(rows), chosen)
            nothing = False
        if found != len(distinct):
            lacks = len(distinct) - found
            fault = f"lacks the vectors of {lacks}" if lacks > 0 else f"has {-lacks} vectors more than once among the"
            raise StoreError(f"{self.uri} is damaged: it {fault} published sequences of version {digest}")
        if nothing:
            empty = pa.RecordBatch.from_pylist(
                [], schema=pa.schema([self.features.schema().field(n) for n in ["sequence_digest", *plain]])
            )
            yield self._joined(entries, pa.array([], pa.int64()), empty, pa.array([], pa.int64()), chosen)

    def _joined(
        self, entries: pa.Table, at: pa.Array, batch: pa.RecordBatch, rows: pa.Array, chosen: Sequence[str]
    ) -> pa.RecordBatch:
        left = entries.take(at).combine_chunks()
        names = [name for name in left.column_names if name != "sequence_digest"]
        names = ["sequence_id", *(name for name in names if name != "sequence_id")]
        arrays = [one_array(left[name]) for name in names]
        for name in chosen:
            parts = [batch[part].take(rows) for part in name.split("+")]
            arrays.append(end_to_end([fixed(part) for part in parts]) if name.split("+")[0] in VECTORS else parts[0])
        return pa.RecordBatch.from_arrays(arrays, names=[*names, *chosen])

    # -- what the tables say -------------------------------------------------------------------------------------------

    def _entries(self, state: Mapping[str, int], keys: Sequence[str]) -> pa.Table:
        """Rows of `sequences` that stood as of the given run of each source: source_name, sequence_id, sequence_digest, keys."""
        columns = ["source_name", "sequence_id", "sequence_digest", *keys]
        parts = [self.sequences.read(columns, _stood(*at), [("source_name", "=", at[0])]) for at in state.items()]
        return pa.concat_tables(parts)

    def count_entries(self, state: Mapping[str, int]) -> int:
        """How many entries stood as of the given run of each source, at the present snapshot of `sequences`."""
        return sum(self.sequences.read([], _stood(*at), [("source_name", "=", at[0])]).num_rows for at in state.items())

    def entry_digests(self, state: Mapping[str, int]) -> Iterator[np.ndarray]:
        """The `sequence_digest` of each of these entries, in arrays of dtype S35."""
        for at in state.items():
            for batch in self.sequences.batches(["sequence_digest"], _stood(*at), [("source_name", "=", at[0])], 131_072):
                yield digests.to_numpy(batch["sequence_digest"])

    def published_run(self, run_id: str) -> dict | None:
        """The row of `runs` of that id, or None."""
        rows = self.runs.reload().read(where=ds.field("run_id") == run_id).to_pylist()
        return rows[0] if rows else None

    def stored_digests(self, version: str, first: str, last: str) -> Iterator[np.ndarray]:
        """Digests from `first` to `last` that have vectors of the version at the present snapshot, in arrays of dtype S35."""
        name = "sequence_digest"
        pruned_by = [("feature_version", "=", version), (name, ">=", first), (name, "<=", last)]
        where = (ds.field("feature_version") == version) & (ds.field(name) >= first) & (ds.field(name) <= last)
        for batch in self.features.batches([name], where, pruned_by, 131_072):
            yield digests.to_numpy(batch[name])

    def record_version(
        self, version: str, *, event: str, name: str | None = None, lineage: str | None = None, run_id: str | None = None
    ) -> None:
        """Appends an event to `versions`. A version is created once only, and a run of one number withdrawn once only."""
        table = self._versions

        def change() -> Change | None:
            same = (ds.field("feature_version") == version) & (ds.field("event") == event)
            if event == "withdrawn":
                same &= ds.field("lineage") == lineage
            if event != "channel" and len(table.read(["event"], same)):
                return None
            # The latest event wins, whatever the clocks of two machines say.
            last = pc.max(table.read(["recorded_at"])["recorded_at"]).as_py()
            now = max(datetime.now(UTC), last + timedelta(microseconds=1)) if last else datetime.now(UTC)
            row = {"feature_version": version, "event": event, "name": name, "lineage": lineage, "recorded_at": now}
            rows = pa.Table.from_pylist([{**row, "run_id": run_id}], schema=arrow_schema("versions"))
            return Change(added=[table.write(rows, stem=event)])

        table.settle(f"dnafeat/{uuid.uuid4().hex}", change)


def _stood(source: str, number: int) -> pc.Expression:
    """Which rows of `sequences` a source had as of a run number."""
    where = (ds.field("source_name") == source) & (ds.field("from_run") <= number)
    return where & (ds.field("until_run").is_null() | (ds.field("until_run") > number))


def _columns(columns: Sequence[str] | None, version: str, stored: Sequence[str]) -> list[str]:
    """The columns to read of a version that stores these vectors."""
    if columns is None:
        return [name for name in VECTORS if name in stored]
    for name in columns:
        parts = name.split("+")
        if any(part not in VECTORS for part in parts) and name not in _OWN:
            raise StoreError(f"no column {name!r} to read: choose among {', '.join(VECTORS + _OWN)} (keys always come along)")
        if absent := [part for part in parts if part in VECTORS and part not in stored]:
            raise StoreError(f"version {version} does not store {absent[0]!r} but {', '.join(stored)}: read one of those")
    return list(dict.fromkeys(columns))
