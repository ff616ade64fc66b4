"""A feature store: five Delta tables below one folder or prefix, and how they are read. Knows neither Ray nor torch."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat import digests, storage
from dnafeat.errors import StoreError
from dnafeat.schema import TABLES, VECTORS, arrow_schema
from dnafeat.tables import Refused, Table

DEFAULT_CHANNEL = "production"
_OWN = ("sequence_digest", "bases", "tokens", "windows", "run_id")
_COMMIT_ATTEMPTS = 20


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

    def versions(self) -> pa.Table:
        """One row for each feature version that has a published run, oldest first.

        Columns: `feature_version`, `model`, `adapter`, `precision`, `channels` (list of str), `sources` (list of str), `sequences`
        (rows of `read`), `recorded_at`, `lineage` (JSON).
        """
        published = self._published()
        self.sequences.reload()
        events = self._events()
        created = events.filter(pc.equal(events["event"], "created")).to_pylist()
        rows, seen = [], set()
        for event in created:
            version = event["feature_version"]
            if version in seen or version not in published:
                continue
            seen.add(version)
            lineage = json.loads(event["lineage"])
            rows.append(
                {
                    "feature_version": version,
                    "model": lineage["model"],
                    "adapter": lineage["adapter"],
                    "precision": lineage["precision"],
                    "channels": [name for name, at in self._channels(events).items() if at == version],
                    "sources": sorted(published[version]),
                    "sequences": self._entries(published[version], []).num_rows,
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
        more than one thing is meant.
        """
        published = sorted(self._published())
        if not published:
            raise StoreError(f"no run has been published in {self.uri} yet: fill it with `dnafeat embed`")
        channels = self._channels(self._events())
        wanted = channels.get(version if version is not None else DEFAULT_CHANNEL)
        if wanted in published:
            return str(wanted)
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
        raise StoreError(f"{self.uri} has no version or channel {version!r}: there are {', '.join([*published, *channels])}")

    def point(self, channel: str, version: str) -> str:
        """Points a channel at a published version, and returns the version's digest."""
        digest = self.resolve(version)
        self.record_version(digest, event="channel", name=channel)
        return digest

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, version: str | None = None, columns: Sequence[str] | None = None, source: str | None = None) -> pa.Table:
        """The entries of a version with their vectors.

        Parameters
        ----------
        version : str | None
            A version or channel; None: the channel `production`, or the only version there is.
        columns : sequence of str | None
            Any of cls, mean, max, projected, sequence_digest, bases, tokens, windows, run_id; vectors with plus signs between them,
            as in `cls+mean`, come end to end as one column of that name; None: the stored vectors.
        source : str | None
            One source's name; None: all sources that have filled the version.

        Returns
        -------
        pyarrow.Table
            `sequence_id`, `source_name`, the keys, and `columns`, in no particular order. A vector column is a fixed-size list of
            float32; `dnafeat.matrix(table["mean"])` is its (n, width) NumPy array.
        """
        batches = list(self.scan(version, columns, source))
        return pa.Table.from_batches(batches)

    def scan(
        self, version: str | None = None, columns: Sequence[str] | None = None, source: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """`read` in batches: ids and keys are held in memory, vectors pass through. At least one batch, which may be empty."""
        digest = self.resolve(version)
        published = self._published()[digest]
        if source is not None and source not in published:
            raise StoreError(f"no source {source!r} has filled version {digest}: there are {', '.join(sorted(published))}")
        chosen = self._columns(columns, digest)
        # Loaded after `runs`, both tables hold at least what the published runs name.
        self.features.reload()
        self.sequences.reload()
        keys = [name for name in self.sequences.schema().names if name not in arrow_schema("sequences").names]
        entries = self._entries({source: published[source]} if source else published, keys).sort_by("sequence_digest")
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
        arrays = [_one_array(left[name]) for name in names]
        for name in chosen:
            parts = [batch[part].take(rows) for part in name.split("+")]
            arrays.append(_end_to_end([_fixed(part) for part in parts]) if name.split("+")[0] in VECTORS else parts[0])
        return pa.RecordBatch.from_arrays(arrays, names=[*names, *chosen])

    def _columns(self, columns: Sequence[str] | None, version: str) -> list[str]:
        stored = self.lineage(version).get("vectors", list(VECTORS))
        if columns is None:
            return [name for name in VECTORS if name in stored]
        for name in columns:
            parts = name.split("+")
            if any(part not in VECTORS for part in parts) and name not in _OWN:
                raise StoreError(f"no column {name!r} to read: choose among {', '.join(VECTORS + _OWN)} (keys always come along)")
            if absent := [part for part in parts if part in VECTORS and part not in stored]:
                raise StoreError(f"version {version} does not store {absent[0]!r} but {', '.join(stored)}: read one of those")
        return list(dict.fromkeys(columns))

    # -- what the tables say -------------------------------------------------------------------------------------------

    def _published(self) -> dict[str, dict[str, int]]:
        """For each feature version, the number of the last published run of each source."""
        runs = self.runs.reload().read(["feature_version", "source_name", "run_number"])
        last: dict[str, dict[str, int]] = {}
        for row in runs.group_by(["feature_version", "source_name"]).aggregate([("run_number", "max")]).to_pylist():
            last.setdefault(row["feature_version"], {})[row["source_name"]] = row["run_number_max"]
        return last

    def _entries(self, published: dict[str, int], keys: Sequence[str]) -> pa.Table:
        """Rows of `sequences` that stood as of the given run of each source: source_name, sequence_id, sequence_digest, keys."""
        parts = []
        for source, number in published.items():
            where = (ds.field("source_name") == source) & (ds.field("from_run") <= number)
            where &= ds.field("until_run").is_null() | (ds.field("until_run") > number)
            columns = ["source_name", "sequence_id", "sequence_digest", *keys]
            parts.append(self.sequences.read(columns, where, [("source_name", "=", source)]))
        return pa.concat_tables(parts)

    def _events(self) -> pa.Table:
        return self._versions.reload().read().sort_by("recorded_at")

    @staticmethod
    def _channels(events: pa.Table) -> dict[str, str]:
        rows = events.filter(pc.equal(events["event"], "channel")).to_pylist()
        return {row["name"]: row["feature_version"] for row in rows}

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

    def lineage(self, version: str) -> dict:
        """What a version is made of, as it was recorded with it; empty where the store has no such version."""
        events = self._events()
        made = events.filter(pc.and_(pc.equal(events["event"], "created"), pc.equal(events["feature_version"], version)))
        return json.loads(made["lineage"][0].as_py()) if len(made) else {}

    def record_version(
        self, version: str, *, event: str, name: str | None = None, lineage: str | None = None, run_id: str | None = None
    ) -> None:
        """Appends an event to `versions`; a version is created once only."""
        table, app = self._versions, f"dnafeat/{uuid.uuid4().hex}"
        for _ in range(_COMMIT_ATTEMPTS):
            known = table.reload().read(["feature_version", "event"])
            if table.transaction(app) is not None:
                return
            if event == "created" and {"feature_version": version, "event": "created"} in known.to_pylist():
                return
            row = {"feature_version": version, "event": event, "name": name, "lineage": lineage, "recorded_at": datetime.now(UTC)}
            file = table.write(pa.Table.from_pylist([{**row, "run_id": run_id}], schema=arrow_schema("versions")), stem=event)
            try:
                table.commit([file], transactions={app: 1})
                return
            except Refused:
                continue
        raise StoreError(f"{table.uri} is being written by too many others at once: try again")


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _fixed(column: pa.Array) -> pa.Array:
    """A list column as a fixed-size list, without copying the numbers."""
    if column.null_count:
        raise StoreError("the store is damaged: rows of one version lack a vector that others of it have")
    values = column.flatten()
    return pa.FixedSizeListArray.from_arrays(values, len(values) // len(column) if len(column) else 1)


def _end_to_end(columns: Sequence[pa.Array]) -> pa.Array:
    """Fixed-size lists of the same rows, each row's put end to end."""
    if len(columns) == 1:
        return columns[0]
    whole = np.concatenate([matrix(column) for column in columns], axis=1)
    return pa.FixedSizeListArray.from_arrays(whole.ravel(), whole.shape[1])


def matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A vector column of `Store.read` as one contiguous (n, width) float32 array."""
    array = _one_array(column)
    return np.asarray(array.flatten()).reshape(len(array), array.type.list_size)
