"""Fills a store the way `dnafeat.embed` does, step by step and without Ray or torch: the vectors are made up from the digests."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dnafeat
from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.cluster.spread import Each, here
from dnafeat.embed import plan
from dnafeat.embed.intake import Checks, take_in
from dnafeat.embed.publish import Publication
from dnafeat.embed.salvage import Salvage
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import StoreError
from dnafeat.sources.reader import ReadOptions, look
from dnafeat.store import Store
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.schema import arrow_schema
from dnafeat.vectors import VECTORS

WIDTHS = {"cls": 3, "mean": 4, "max": 5, "projected": 6}
STEPS = ("version", "features", "rejects", "sequences", "run")


class Entry(NamedTuple):
    """An entry of a source."""

    id: str
    sequence: str
    keys: Mapping[str, str | None] = {}


def feature_version(seed: int) -> FeatureVersion:
    """A made-up version, one for each seed."""
    return FeatureVersion(
        architecture={"family": "tests", "hidden_size": 4},
        weights_sha256=f"{seed:064x}",
        tokenizer_sha256="0" * 64,
        adapter_sha256=None,
        window_tokens=512,
        overlap_tokens=128,
        strands="forward",
        layer=-1,
        special_tokens_pooled=False,
        precision="float32",
        projector_sha256="0" * 64,
        names={"model": f"tests-{seed}", "adapter": None, "projector": "random@0"},
    )


A, B = feature_version(1), feature_version(2)


def vectors(digest: str, version: FeatureVersion = A) -> dict[str, list[float]]:
    """The vectors of a sequence: the same numbers whoever asks, others for every other digest and version."""
    numbers = hashlib.shake_256(f"{version.digest} {digest}".encode()).digest(sum(WIDTHS.values()))
    values = (np.frombuffer(numbers, np.uint8) / 8).tolist()
    ends = np.cumsum([0, *WIDTHS.values()])
    return {name: values[ends[i] : ends[i + 1]] for i, name in enumerate(WIDTHS)}


def bases(digest: str) -> int:
    """A made-up length of a sequence, the same whoever asks."""
    return 1 + hashlib.shake_256(digest.encode()).digest(1)[0]


def feature_rows(digests: Iterable[str], version: FeatureVersion = A, run_id: str = "run") -> pa.Table:
    """Rows of `features` as an actor writes them: without the partition column."""
    rows = [
        {"sequence_digest": one, **vectors(one, version), "bases": bases(one), "tokens": 2, "windows": 1, "run_id": run_id}
        for one in digests
    ]
    schema = arrow_schema("features")
    return pa.Table.from_pylist(rows, schema=schema.remove(schema.get_field_index("feature_version")))


def write_csv(path: Path, entries: Iterable[Entry], keys: Iterable[str] | None = None) -> str:
    """Entries as a CSV file with the columns id, sequence and the keys that any of them has (or `keys`)."""
    entries = list(entries)
    keys = list(dict.fromkeys(key for entry in entries for key in entry.keys)) if keys is None else list(keys)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", *keys])
        writer.writerows([entry.id, entry.sequence, *(entry.keys.get(key) for key in keys)] for entry in entries)
    return str(path)


def fasta(path: Path, sequences: Mapping[str, str]) -> str:
    """Sequences by name as a FASTA file."""
    path.write_text("".join(f">{name}\n{letters}\n" for name, letters in sequences.items()))
    return str(path)


class Run:
    """A run that can be stopped between any two of its steps.

    Parameters
    ----------
    store : str or Store
    entries : iterable of Entry
        The whole state of the source.
    folder : Path
        An existing local one for temporary files.
    source, version, run_id, keys
        `keys` names the columns of the source where no entry has a value.
    shard_rows : int
        Sequences of a vector file.
    """

    def __init__(
        self,
        store: str | Store,
        entries: Iterable[Entry],
        folder: Path,
        *,
        source: str = "cohort",
        version: FeatureVersion = A,
        run_id: str | None = None,
        keys: Iterable[str] | None = None,
        shard_rows: int = 1000,
        mode: str = "replace",
        each: Each = here,
    ) -> None:
        self.store = Store(store) if isinstance(store, str) else store
        self.each = each
        self.source, self.version, self.run_id = source, version, run_id or f"run-{uuid.uuid4().hex[:8]}"
        self.shard_rows, self.mode = shard_rows, mode
        self.started = datetime.now(UTC)
        self.folder = folder / uuid.uuid4().hex
        self.folder.mkdir()
        self.file = write_csv(self.folder / "source.csv", entries, keys)
        self.store.create()
        self.publication = Publication(self.store, self.run_id, source)
        self.committed: list = []
        self.number = self.opened = self.closed = 0
        self.published: bool | None = None

    def encode(self) -> Run:
        """Plans, and writes the vector files without making them part of the store."""
        return self.plan().write()

    def plan(self) -> Run:
        """Reads the source, and finds what is to be encoded."""
        spills = self.folder / "spills"
        spills.mkdir()
        self.intake = take_in(look([self.file], ReadOptions()), Checks(), spills, each=self.each)
        self.planned = self.store.features.reload().version()
        self.salvage = Salvage(self.store, self.version.digest, VECTORS)
        self.work = plan.subtract(self.intake, self.store, self.version.digest, spills, self.salvage, self.each)
        return self

    def write(self) -> Run:
        """Writes what is missing, and the claimed rows of salvaged files."""
        self.receipts = []
        for shard in plan.cut_shards(self.work.missing, self.shard_rows, str(self.folder / "work"), self.each):
            digests = pq.read_table(shard.uri)["sequence_digest"].to_pylist()
            name = storage.name(shard.uri)
            receipt = vectorfiles.write(
                self.store.features,
                [feature_rows(digests, self.version, self.run_id)],
                stem=f"{self.run_id}-{name[6:11]}",
                version=self.version.digest,
                about=functools.partial(dict, shard=name),
            )
            self.receipts.append(receipt)
        self.receipts += [*self.salvage.whole(), *self.salvage.rewritten(self.run_id)]
        self.files = [receipt.file for receipt in self.receipts]
        return self

    def step(self, name: str) -> None:
        """One commit: `STEPS` in their order are what a run does after it has encoded."""
        {
            "version": self._version,
            "features": self._features,
            "rejects": lambda: self.publication.commit_rejects(self.intake.rejects),
            "sequences": self._sequences,
            "run": self._run,
        }[name]()

    def publish(self) -> Run:
        for name in STEPS:
            self.step(name)
        return self

    def _version(self) -> None:
        self.store.record_version(self.version.digest, event="created", lineage=self.version.lineage(), run_id=self.run_id)

    def _features(self) -> None:
        self.vectors = self.publication.commit_features(self.files, self.version.digest, self.planned)
        self.committed = self.vectors.files

    def _sequences(self) -> None:
        self.number, self.opened, self.closed = self.publication.commit_sequences(
            self.intake, self.vectors, self.folder / "spills", self.mode, self.each
        )

    def _run(self) -> None:
        self.published = self.publication.commit_run(self.row())

    def row(self) -> dict[str, Any]:
        """The row of `runs`."""
        row = {
            "run_id": self.run_id,
            "run_number": self.number,
            "source_name": self.source,
            "source_fingerprint": self.intake.fingerprint,
            "config_digest": "0" * 64,
            "feature_version": self.version.digest,
            "started_at": self.started,
            "finished_at": datetime.now(UTC),
            "read": self.intake.read,
            "rejected": self.intake.rejects.rows,
            "distinct": self.work.distinct,
            "already_stored": self.work.stored,
            "encoded": self.work.missing.rows,
            "opened": self.opened,
            "closed": self.closed,
            "files": len(self.committed),
            "bytes": sum(file.size for file in self.committed),
            "tokens": 2 * self.work.missing.rows,
            "seconds": 0.0,
            "features_version": self.store.features.reload().version(),
            "sequences_version": self.store.sequences.reload().version(),
            "rejects_version": self.store.rejects.reload().version(),
            "config": json.dumps({}),
            "environment": json.dumps({}),
        }
        return {field.name: row[field.name] for field in arrow_schema("runs") if field.name in row or not field.nullable}


def fill(store: str | Store, entries: Iterable[Entry], folder: Path, **options: Any) -> Run:
    """Brings a source's state into a store and publishes it."""
    return Run(store, entries, folder, **options).encode().publish()


def copied(store: str, uri: str) -> str:
    """Copy a filled store of the local disk to a new place, local or on S3, which takes less time than to fill another. Returns `uri`."""
    if storage.is_local(uri):
        shutil.copytree(store, uri)
    else:
        storage.filesystem(uri)[0].put(f"{store}/", f"{uri}/", recursive=True)
    return uri


def splice_junctions() -> dict[str, str]:
    """Labels of real sequences: distinct ones of 60 bases, without those that have ambiguous letters."""
    with gzip.open(Path(dnafeat.__file__).parent / "bundled" / "data" / "uci_splice.csv.gz", "rt", newline="") as file:
        return {row["sequence"]: row["label"] for row in csv.DictReader(file) if set(row["sequence"]) <= set("ACGT")}


def stored_vectors(table: pa.Table, keys: Sequence[str] = ("sequence_id",)) -> dict[Any, dict[str, np.ndarray]]:
    """Rows that a reader got as {key: {name: vector}}; the key is a tuple where it has several columns."""
    columns = {name: dnafeat.matrix(table[name]) for name in VECTORS}
    named = [table[key].to_pylist() for key in keys]
    rows = named[0] if len(named) == 1 else zip(*named, strict=True)
    return {key: {name: columns[name][i] for name in VECTORS} for i, key in enumerate(rows)}


def digest(sequence: str) -> str:
    return dna.digest(dna.normalise(sequence.encode()))


def in_order(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in an order of their own, whatever the one they came in."""
    return sorted(rows, key=lambda row: [(value is not None, str(value)) for _, value in sorted(row.items())])


def rows(table: pa.Table) -> list[dict[str, Any]]:
    """A table as rows in a fixed order."""
    return in_order(table.to_pylist())


def expected(
    entries: Iterable[Entry], keys: Iterable[str] = (), *, source: str = "cohort", version: FeatureVersion = A
) -> list[dict[str, Any]]:
    """What `Store.read` has to give for the entries of a source, as `rows` puts it."""
    found, keys = [], list(keys)
    for entry in entries:
        own = {key: entry.keys.get(key) or None for key in keys}
        found.append({"sequence_id": entry.id, "source_name": source, **own, **vectors(digest(entry.sequence), version)})
    return in_order(found)


def refused(error: pytest.ExceptionInfo[StoreError], *words: str) -> None:
    """That an error is one sentence with some words in it."""
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def every_row(store: Store | str) -> Iterator[tuple[str, pa.Table]]:
    """All five tables as they are now."""
    store = Store(store) if isinstance(store, str) else store
    for table in (store.features, store.sequences, store._versions, store.rejects, store.runs):
        yield table.name, table.reload().dataset().to_table()


assert tuple(WIDTHS) == VECTORS
