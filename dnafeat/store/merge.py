"""Small files of a table merged into larger ones, in the order of their digests, sources or ids."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from dnafeat import storage
from dnafeat.errors import ConflictError, StoreError
from dnafeat.parquet import DISTINCT
from dnafeat.store import cut
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.rewriting import Draft, settle
from dnafeat.store.table import Table
from dnafeat.store.upkeep import Upkeep

_TARGET = 128 * 2**20  # bytes of a merged file; in memory it is about three times as much
# Rows of a merged file. A run that closes an entry rewrites the file that it stands in, and a refused entry has up to 10,000 characters.
_TARGET_ROWS = {
    **dict.fromkeys(("sequences", "haplotypes", "effects"), 1_000_000),
    **dict.fromkeys(("rejects", "runs", "versions"), 50_000),
}
_FEWEST = 4  # small files that are worth a merge
_TOO_MANY = 64  # files of a table that is read whole
_ORDER = {
    "sequences": ["source_name", "sequence_id", "from_run"],
    "rejects": ["source_name", "run_id", "file", "row"],
    "runs": ["run_number"],
    "haplotypes": ["source_name", "region_id", "sequence_digest", "from_run"],
    "effects": ["source_name", "feature_version", "scope", "contig", "position", "region_id", "alternate_digest", "vector"],
    "versions": ["recorded_at"],
}
_RANGE = {
    "features": ("sequence_digest",),
    "sequences": ("source_name", cut.MEASURED[0]),
    **dict.fromkeys(("haplotypes", "effects"), ("source_name",)),
}


def merge(upkeep: Upkeep, waiting: set[str]) -> None:
    """Merge small files of every table but the files of `features` that hold vectors `waiting` to be collected."""
    for name, groups in _merges(upkeep, waiting):
        _merge(upkeep, name, groups)


def compact(table: Table) -> None:
    """Merge the small files of `runs` or `versions`, which every command reads, once there are too many of them.

    What fails is left to the next run or to `maintain`.
    """
    with contextlib.suppress(ConflictError, StoreError, *storage.STORAGE_ERRORS):
        files = sorted(table.reload().files(), key=lambda one: one[1])
        if len(files) >= _TOO_MANY:
            for group in _grouped([file for file, _ in files], _TARGET_ROWS[table.name]):
                _replace(table, group)


def _merges(upkeep: Upkeep, waiting: set[str]) -> Iterator[tuple[str, list[list[DataFile]]]]:
    """For each table, and each version of `features`, the files to be merged with each other."""
    for name in upkeep.tables:
        columns = _RANGE.get(name, ())
        files = sorted(
            upkeep.files[name],
            key=lambda one: (*(str(end.get(column, "")) for column in columns for end in _ends(one[0])), one[1]),
        )
        small = [file for file, _ in files if file.path not in waiting]
        if name == "rejects":
            small = _of_published_runs(upkeep, small)
        kinds: dict[object, list[DataFile]] = {}
        for file in small:
            with contextlib.suppress(FileNotFoundError), upkeep.damage.noted():
                kinds.setdefault(_kind(upkeep.tables[name], file), []).append(file)
        for own in kinds.values():
            if groups := _grouped(own, _TARGET_ROWS.get(name)):
                yield name, groups


def _kind(table: Table, file: DataFile) -> object:
    """What files that are merged with each other have in common: a feature version, or a bucket of a cohort's subjects."""
    if table.name == "sequences":
        # Of a file that stays, no footer is read.
        return (
            cut.cut_of(table, file.path)
            if cut.is_cut(file) and _is_small(file.size, file.rows, _TARGET_ROWS[table.name])
            else None
        )
    return file.partition.get("feature_version", "")


def _of_published_runs(upkeep: Upkeep, files: Sequence[DataFile]) -> list[DataFile]:
    """Files of `rejects` with the refused entries of published runs alone."""
    table = upkeep.tables["rejects"]
    small = [file for file in files if _is_small(file.size, file.rows, _TARGET_ROWS["rejects"])]
    if len(small) < _FEWEST:
        return []
    published: set[str] = set()
    with upkeep.damage.noted():
        published = set(upkeep.tables["runs"].reload().read(["run_id"])["run_id"].to_pylist())
    found = []
    for file in small:
        # Another maintenance has merged a file that is gone.
        with contextlib.suppress(FileNotFoundError), upkeep.damage.noted():
            if published.issuperset(vectorfiles.read_columns(table, file.path, ["run_id"])["run_id"].unique().to_pylist()):
                found.append(file)
    return found


def _merge(upkeep: Upkeep, name: str, groups: Iterable[list[DataFile]]) -> None:
    table = upkeep.tables[name]
    for group in groups:
        paths = {file.path for file in group}
        done = upkeep.dry_run
        with upkeep.damage.noted():
            done = done or _replace(table, group)
        if done:
            upkeep.replaced[name] |= paths
            kept = [one for one in upkeep.files[name] if one[0].path not in paths]
            upkeep.files[name] = [*kept, (group[0], upkeep.now)]


def _ends(file: DataFile) -> tuple:
    return file.minimum, file.maximum


def _is_small(size: int, rows: int, most_rows: int | None) -> bool:
    return size < _TARGET // 2 and (most_rows is None or rows < most_rows // 2)


def _grouped(files: Sequence[DataFile], most_rows: int | None) -> list[list[DataFile]]:
    """Small files, neighbours in their order, that together make one of about the target.

    Groups are made until no more can be: where all of them have been merged, nothing is left to do.
    """
    piles = [[file] for file in files]
    while True:
        merged = _merged_once(piles, most_rows)
        if len(merged) == len(piles):
            return [pile for pile in piles if len(pile) > 1]
        piles = merged


def _merged_once(piles: list[list[DataFile]], most_rows: int | None) -> list[list[DataFile]]:
    done: list[list[DataFile]] = []
    run: list[list[DataFile]] = []
    size = rows = 0

    def end() -> None:
        nonlocal run, size, rows
        done.extend([[file for pile in run for file in pile]] if len(run) >= _FEWEST else run)
        run, size, rows = [], 0, 0

    for pile in piles:
        own_size, own_rows = sum(file.size for file in pile), sum(file.rows for file in pile)
        if not _is_small(own_size, own_rows, most_rows):
            done.append(pile)
            continue
        if size + own_size > _TARGET or (most_rows is not None and rows + own_rows > most_rows):
            end()
        run.append(pile)
        size, rows = size + own_size, rows + own_rows
    end()
    return done


def _replace(table: Table, group: Sequence[DataFile]) -> bool:
    """Put one file in the place of several, unless another job has replaced some of them."""
    paths = {file.path for file in group}
    new: DataFile | None = None

    def change(draft: Draft) -> Change | None:
        nonlocal new
        if not paths.issubset(table.paths()):
            return None
        if new is None or new.path in table.removed_paths():
            new = draft(_rewritten(table, group))
        return Change(added=[new], removed=sorted(paths), rows_change=False)

    return settle(table, change) is not None


def _rewritten(table: Table, group: Sequence[DataFile]) -> DataFile:
    if table.name == "features":
        version = group[0].partition["feature_version"]
        receipt = vectorfiles.rewrite(table, group, lambda _, own: np.ones(len(own), bool), stem="sorted", version=version)
        assert receipt is not None
        return receipt.file
    rows = pa.concat_tables([table.read_file(file.path) for file in group])
    packing = cut.packing_of(table, group[0].path)
    order = _ORDER[table.name] if packing is DISTINCT else [name for name in cut.ORDER if name in rows.column_names]
    # Not `sorted` alone, which a run may be called: what it finds in `rejects` under its own name it replaces.
    ordered = rows.sort_by([(column, "ascending") for column in order])
    return table.write(ordered, stem=f"sorted-{uuid.uuid4().hex}", packing=packing)
