"""Vectors that no entry names: found by comparing all digests, and taken out of `features`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat.errors import DamagedError
from dnafeat.spill import Spill
from dnafeat.store import digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.retention import ABANDONED_AFTER
from dnafeat.store.rewriting import NONE, take_vectors
from dnafeat.store.upkeep import Upkeep

_PARTITION_ROWS = 1_000_000


@dataclass
class Unnamed:
    """Vectors that no entry names.

    Attributes
    ----------
    digests : dict of str to np.ndarray
        For each file of `features`, the sorted digests that may go from it.
    waiting : set of str
        Files with some that a run may count on.
    forgotten : bool
        Whether some of them are of a subject that was forgotten.
    """

    digests: dict[str, np.ndarray] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    forgotten: bool = False


def find_unnamed(upkeep: Upkeep) -> Unnamed:
    """Look through all digests of `features`, and then of `sequences`, a range at a time.

    Nothing is collected where a file is damaged that might name a vector, and none is collected of a damaged file.
    """
    try:
        return _found(upkeep)
    except DamagedError as error:
        upkeep.damage.note(error)
        # Some vectors may be unnamed, and a merged file would be a new one.
        return Unnamed(waiting={file.path for file, _ in upkeep.files["features"]})


def _found(upkeep: Upkeep) -> Unnamed:
    damaged: set[str] = set()
    features, sequences = upkeep.tables["features"].reload(), upkeep.tables["sequences"]
    files = upkeep.files["features"] = features.files()
    entries = sum(file.rows for file, _ in upkeep.files["sequences"])
    partitions = min(digests.MAX_PARTITIONS, 1 + (entries + sum(file.rows for file, _ in files)) // _PARTITION_ROWS)
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        stored = Spill(Path(folder), "stored", pa.schema([("digest", pa.string()), ("file", pa.int64())]), partitions)
        for number, (file, _) in enumerate(files):
            try:
                own = vectorfiles.read_digests(features, file.path)
            except DamagedError as error:
                upkeep.damage.note(error)
                damaged.add(file.path)
                continue
            columns = [digests.to_arrow(own), pa.array(np.full(len(own), number))]
            batch = pa.RecordBatch.from_arrays(columns, schema=stored.schema)
            stored.add(batch, digests.partition(own, partitions))
        stored.close()
        names = Spill(Path(folder), "names", pa.schema([("digest", pa.string())]), partitions)
        for rows in sequences.reload().batches(["sequence_digest"], pc.scalar(True), [], 131_072):
            own = np.unique(digests.to_numpy(rows["sequence_digest"]))
            batch = pa.RecordBatch.from_arrays([digests.to_arrow(own)], schema=names.schema)
            names.add(batch, digests.partition(own, partitions))
        names.close()
        found: dict[int, list[np.ndarray]] = {}
        for i in range(partitions):
            one = stored.table(i)
            own, number = digests.to_numpy(one["digest"]), one["file"].to_numpy()
            gone = np.flatnonzero(~np.isin(own, np.unique(digests.to_numpy(names.table(i)["digest"]))))
            gone = gone[np.argsort(number[gone], kind="stable")]
            at, starts = np.unique(number[gone], return_index=True)
            for one_file, part in zip(at, np.split(own[gone], starts[1:]), strict=False):
                found.setdefault(int(one_file), []).append(part)
    unnamed = _old_enough(upkeep, {number: np.unique(np.concatenate(parts)) for number, parts in found.items()})
    unnamed.waiting |= damaged
    return unnamed


def _old_enough(upkeep: Upkeep, found: dict[int, np.ndarray]) -> Unnamed:
    """Of the vectors that no entry names, by number of the file, those that no run can count on."""
    unnamed = Unnamed()
    features = upkeep.tables["features"]
    published = upkeep.tables["runs"].reload().read(["run_id"])["run_id"] if found else None
    for number, names in found.items():
        file, added = upkeep.files["features"][number]
        rows = vectorfiles.read_columns(features, file.path, ["sequence_digest", "run_id"])
        # All that a published run has encoded was named by it: only a forgotten subject leaves such a vector.
        of_published = pc.is_in(rows["run_id"], value_set=published).to_numpy()
        taken = np.intersect1d(names, digests.to_numpy(rows["sequence_digest"])[of_published])
        unnamed.forgotten |= len(taken) > 0
        if upkeep.now - added > ABANDONED_AFTER:
            taken = names
        if len(taken):
            # The rest of it, if any waits, waits in a new file anyway.
            unnamed.digests[file.path] = taken
        else:
            unnamed.waiting.add(file.path)
    _with_children(upkeep, unnamed, found)
    return unnamed


def _with_children(upkeep: Upkeep, unnamed: Unnamed, found: dict[int, np.ndarray]) -> None:
    """Rows that lose those of their parent go with them, in the same commit, however young: they could not be read any more.

    A run that counts on such a row finds out when it names the row (`publish`).
    """
    events = upkeep.tables["versions"].reload().read(["feature_version", "parent"]).to_pylist() if unnamed.digests else []
    parents = {event["feature_version"]: event["parent"] for event in events if event["parent"]}
    gone: dict[str, list[np.ndarray]] = {}
    for file, _ in upkeep.files["features"]:
        if file.path in unnamed.digests:
            gone.setdefault(file.partition["feature_version"], []).append(unnamed.digests[file.path])
    for number, names in found.items():
        file, _ = upkeep.files["features"][number]
        lost = gone.get(parents.get(file.partition["feature_version"], ""), [])
        taken = np.intersect1d(names, np.concatenate(lost)) if lost else NONE
        if len(taken):
            unnamed.digests[file.path] = np.union1d(taken, unnamed.digests.get(file.path, NONE))
            unnamed.waiting.discard(file.path)


def collect(upkeep: Upkeep, unnamed: Unnamed) -> int:
    """Take unnamed vectors out of `features`, and return how many; a dry run only counts them."""
    if not unnamed.digests:
        return 0
    if not upkeep.dry_run:
        rows, paths = take_vectors(
            upkeep.store,
            lambda file: unnamed.digests.get(file.path, NONE),
            forgotten=unnamed.forgotten,
            damage=upkeep.damage,
        )
        upkeep.replaced["features"] |= paths
        upkeep.files["features"] = upkeep.tables["features"].reload().files()
        return rows
    upkeep.replaced["features"] |= set(unnamed.digests)
    left = []
    for file, added in upkeep.files["features"]:
        rows = file.rows - len(unnamed.digests.get(file.path, ()))
        if rows:
            left.append((replace(file, rows=rows, size=file.size * rows // file.rows), added))
    upkeep.files["features"] = left
    return sum(map(len, unnamed.digests.values()))
