"""A feature store: five to seven Delta tables below one folder or prefix, and how they are read. Knows neither Ray nor torch."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import PurePath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat import storage
from dnafeat.errors import StoreError
from dnafeat.store import digests, durability
from dnafeat.store.conditions import stood
from dnafeat.store.data_file import Change
from dnafeat.store.history import LISTED, NAMED, History
from dnafeat.store.lineages import described, loaded, parsed
from dnafeat.store.names import EFFECTS, Names
from dnafeat.store.ownership import claim
from dnafeat.store.queries import Queries
from dnafeat.store.retry import looking_again
from dnafeat.store.schema import ON_DEMAND, TABLES, arrow_schema
from dnafeat.store.table import Table


class Store(Queries):
    """The store at a local folder or an `s3://` prefix. Nothing is read or made before it is needed."""

    def __init__(self, uri: str) -> None:
        if not isinstance(uri, str | PurePath):
            raise StoreError(f"a store is a folder or an s3:// prefix, and not {uri!r}")
        self.uri = storage.absolute(str(uri))
        tables = (Table(self.uri, name) for name in (*TABLES, *ON_DEMAND))
        self.features, self.sequences, self._versions, self.rejects, self.runs, self.haplotypes, self.effects = tables

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def _repr_markdown_(self) -> str:
        """Return the versions with their names, channels and sources, as Jupyter shows them. Two small tables are read for it."""
        try:
            history = self.history()
        except StoreError as error:
            return str(error)
        lines = [
            f"**Store** `{self.uri}`",
            "",
            "| version | names | channels | model | sources |",
            "| --- | --- | --- | --- | --- |",
        ]
        for event in history.created():
            version = event["feature_version"]
            called = [", ".join(names) for names in (history.names.names_of(version), history.names.pointing_at(version))]
            sources = f"{len(history.state(version)):,}"
            model = described(parsed(event, self.uri))["model"]
            lines.append("| " + " | ".join([f"`{version}`", *called, model, sources]) + " |")
        return "\n".join(lines)

    def create(self) -> None:
        """Make the tables that are not there yet. Raises StoreError for a place that cannot be written, or holds other files."""
        claim(self.uri)
        storage.check_writable(self.uri)
        for table in self.tables():
            table.create()

    def tables(self) -> tuple[Table, ...]:
        """The five tables that every store has, each at its snapshot."""
        return self.features, self.sequences, self._versions, self.rejects, self.runs

    def exists(self) -> bool:
        return self.runs.exists()

    # -- what there is -------------------------------------------------------------------------------------------------

    def history(self) -> History:
        """The runs and the names of versions as they are now."""
        runs = self.runs.reload().read([*LISTED, *NAMED])
        return History(self.uri, runs, self._versions.reload().read())

    def versions(self) -> pa.Table:
        """One row for each feature version that has a published run, oldest first.

        Columns: `feature_version`, `name` (that it has by itself), `names` (that were given, list of str), `model`, `adapter`,
        `precision`, `projection` (its name), `parent` (the version that `cls`, `mean` and `max` are read from, or null), `channels`
        (list of str), `sources` (list of str), `sequences` (rows of `read`), `recorded_at`, `lineage` (JSON).
        """
        history = self.history()

        def counted() -> dict[str, int]:
            self.sequences.reload()
            return {version: self.count_entries(history.state(version)) for version in history.versions()}

        counts = looking_again(counted)
        rows = []
        for event in history.created():
            version = event["feature_version"]
            state = history.state(version)
            rows.append(
                {
                    "feature_version": version,
                    "name": history.names.own_name(version),
                    "names": history.names.names_of(version),
                    **described(parsed(event, self.uri)),
                    "parent": history.parent(version),
                    "channels": history.names.pointing_at(version),
                    "sources": sorted(state),
                    "sequences": counts[version],
                    "recorded_at": event["recorded_at"],
                    "lineage": event["lineage"],
                }
            )
        text = pa.string()
        columns = {
            "feature_version": text,
            "name": text,
            "names": pa.list_(text),
            "model": text,
            "adapter": text,
            "precision": text,
            "projection": text,
            "parent": text,
            "channels": pa.list_(text),
            "sources": pa.list_(text),
            "sequences": pa.int64(),
            "recorded_at": pa.timestamp("us", "UTC"),
            "lineage": text,
        }
        schema = pa.schema(list(columns.items()))
        return pa.Table.from_pylist(rows, schema=schema)

    def resolve(self, version: str | None = None) -> str:
        """The feature version meant: a digest, a name (without its number: the highest), a channel, the beginning of a digest, or None.

        The first of these that the text can be counts. None stands for the channel `production`, and without one for the only version
        there is. Raises StoreError when nothing or more than one thing is meant, or a version whose runs have all been withdrawn.
        """
        return self.history().resolve(version)

    def lineage(self, version: str) -> dict:
        """The lineage of a version as it was recorded with it; empty where the store has no such version."""
        return self.history().lineage(version)

    def channels(self) -> dict[str, str]:
        """The version that each channel points at."""
        return self.history().names.channels

    def lacking(self, channel: str, version: str) -> list[str]:
        """Sources that the channel's version has and another lacks, sorted, but for windows of variants; none without a channel."""
        history = self.history()
        gone = history.filled_by(history.names.channels.get(channel, "")).keys() - history.filled_by(version).keys()
        return sorted(source for source in gone if not source.startswith(EFFECTS))

    def point(self, channel: str, version: str | None = None) -> str:
        """Point a channel at a published version, and return the version's digest. Raises StoreError for a name of versions."""
        digest = self.resolve(version)
        self.record_version(digest, event="channel", name=channel)
        return digest

    def name(self, name: str, version: str | None = None) -> tuple[str, str]:
        """Give a published version a name for good, and return the name and the version's digest.

        Parameters
        ----------
        name : str
            Such as `promoter-lora@3`; without the number the next one is given, unless the version has the highest already.
        version : str | None
            As `resolve` takes it.

        Raises
        ------
        StoreError
            Another version has the name, or a channel has it.
        """
        digest = self.resolve(version)
        return self.record_version(digest, event="name", name=name) or name, digest

    # -- what the tables say -------------------------------------------------------------------------------------------

    def check_whole(self, history: History, numbers: Collection[int] | None = None) -> None:
        """Raise StoreError where some of these runs, or any, count on commits to `sequences` or `features` that are not there.

        Both are looked at as they were loaded last, which must be after `history` was.
        """
        history.check_whole({table.name: table.version() for table in (self.sequences, self.features)}, numbers)

    def count_entries(self, state: Mapping[str, int]) -> int:
        """Count the entries that stood as of the given run of each source, at the present snapshot of `sequences`."""
        batches = (
            self.sequences.batches(["from_run"], stood(*at), [("source_name", "=", at[0])], 131_072) for at in state.items()
        )
        return sum(len(batch) for some in batches for batch in some)

    def count_current(self, source: str) -> int:
        """Count the entries of a source that readers see, under whichever version; 0 where it has no published run."""
        last = self.history().last_number(source)

        def counted() -> int:
            self.sequences.reload()
            return self.count_entries({source: last})

        return looking_again(counted) if last else 0

    def entry_digests(self, state: Mapping[str, int]) -> Iterator[np.ndarray]:
        """The `sequence_digest` of each of these entries, in arrays of dtype S35."""
        for at in state.items():
            for batch in self.sequences.batches(["sequence_digest"], stood(*at), [("source_name", "=", at[0])], 131_072):
                yield digests.to_numpy(batch["sequence_digest"])

    def published_run(self, run_id: str) -> dict | None:
        """The row of `runs` of that id, or None."""
        return next(iter(self.runs.reload().read(where=ds.field("run_id") == run_id).to_pylist()), None)

    def stored_digests(self, version: str, first: str, last: str) -> Iterator[np.ndarray]:
        """Digests from `first` to `last` that have vectors of the version at the present snapshot, in arrays of dtype S35."""
        name = "sequence_digest"
        pruned_by = [("feature_version", "=", version), (name, ">=", first), (name, "<=", last)]
        where = (ds.field("feature_version") == version) & (ds.field(name) >= first) & (ds.field(name) <= last)
        for batch in self.features.batches([name], where, pruned_by, 131_072):
            yield digests.to_numpy(batch[name])

    def record_version(
        self,
        version: str,
        *,
        event: str,
        name: str | None = None,
        lineage: str | None = None,
        run_id: str | None = None,
        parent: str | None = None,
        unless: Callable[[], bool] | None = None,
    ) -> str | None:
        """Append an event to `versions`, and return the name it has there.

        A version is created once only, a run of one number withdrawn once only, and a name given once only. One that is created with a
        parent and was there without gets the parent by an event of its own. Where `unless` returns True nothing is recorded: it is asked
        before each attempt, and what it has read of `versions` is what is committed from. Raises StoreError where the version cannot have
        that parent, or the store cannot be written.
        """
        table, given = self._versions, name
        if lineage is not None and (projector := (loaded(lineage) or {}).get("projector_sha256")):
            # An encoder has put it there, and the version counts on it.
            durability.sync(self.uri, [f"projectors/{projector}.{ending}" for ending in ("json", "safetensors")])

        def change() -> Change | None:
            nonlocal given
            if unless is not None and unless():
                return None
            if event in ("name", "channel"):
                assert name is not None
                # Asked of the very snapshot that is committed from, so that no two versions get one name.
                names = Names(self.uri, table.read())
                if event == "channel":
                    names.check_channel(name)
                elif (given := names.new_name(version, name)) in names.given:
                    return None
            same = (ds.field("feature_version") == version) & (ds.field("event") == event)
            if event == "withdrawn":
                same &= ds.field("lineage") == lineage
            kind = event
            if event in ("created", "withdrawn") and len(table.read(["event"], same)):
                if parent is None or not self.takes_parent(version, parent):
                    return None
                kind = "parent"
            elif parent is not None:
                self.takes_parent(version, parent)
            # The latest event wins, whatever the clocks of two machines say.
            last = pc.max(table.read(["recorded_at"])["recorded_at"]).as_py()
            now = max(datetime.now(UTC), last + timedelta(microseconds=1)) if last else datetime.now(UTC)
            row = {"feature_version": version, "event": kind, "name": given, "parent": parent, "recorded_at": now}
            details = {"lineage": lineage if kind == event else None, "run_id": run_id}
            rows = pa.Table.from_pylist([{**row, **details}], schema=arrow_schema("versions"))
            return Change(added=[table.write(rows, stem=kind)])

        with storage.reached(self.uri):
            table.settle(f"dnafeat/{uuid.uuid4().hex}", change)
        return given

    def takes_parent(self, version: str, parent: str) -> bool:
        """Return whether a version is without this parent, at the present snapshot of `versions`.

        Raises StoreError where it cannot get it. One join must do to read a version: a parent has no parent.
        """
        rows = self._versions.read(["feature_version", "parent"]).to_pylist()
        parents = {row["feature_version"]: row["parent"] for row in rows if row["parent"]}
        if parents.get(version) == parent:
            return False
        remedy = "a version with a parent is nobody's parent: project from the one that holds the vectors"
        if parent in parents or parent == version:
            raise StoreError(f"version {parent} of {self.uri} has the parent {parents.get(parent, version)}: {remedy}")
        if version in parents:
            raise StoreError(
                f"version {version} of {self.uri} has the parent {parents[version]}, and gets no other: project from that"
            )
        if children := sorted(child for child, its in parents.items() if its == version):
            raise StoreError(f"version {version} of {self.uri} is the parent of {', '.join(children)}: {remedy}")
        return True
