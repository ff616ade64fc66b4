"""How a source's entries differ from its rows in `sequences`, and the files that make them the same.

Entries and rows are dealt out by hash of `sequence_id`, so that memory is bounded by a partition; every step goes over partitions or files.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import storage
from dnafeat.cluster.spread import Each
from dnafeat.embed import arrays
from dnafeat.embed.arrays import KEPT, PLACES
from dnafeat.embed.coded import CodedEntries
from dnafeat.embed.deal import Deal
from dnafeat.embed.intake import Intake
from dnafeat.embed.opening import Opening, write_opened
from dnafeat.keys import named, spelled
from dnafeat.spill import Spill
from dnafeat.store import Store, digests
from dnafeat.store.cut import packing_of
from dnafeat.store.data_file import DataFile
from dnafeat.store.digests import netstring
from dnafeat.store.schema import arrow_schema
from dnafeat.store.table import Table

_CURRENT = pa.schema(
    [
        *[("sequence_id", pa.string()), ("state", pa.string()), ("file", pa.int64()), ("row", pa.int64())],
        *[("withdrawn", pa.bool_()), ("ended", pa.bool_())],
    ]
)


class Difference(NamedTuple):
    """What makes a source's rows in some files of `sequences` what its entries are.

    Attributes
    ----------
    fresh : Opening
        Entries to open.
    closing, opening : Spill
        Rows to close, and rows to open again, by number of the file: row.
    kept : Spill
        Entries that a run in mode merge leaves as they are, by range of digest: sequence_digest.
    before, gone : int
        Entries that readers see of the source, and those of them that this ends without another in their place.
    """

    fresh: Opening
    closing: Spill
    opening: Spill
    kept: Spill
    before: int
    gone: int

    def returning(self) -> dict[str, int]:
        """Count entries whose id the source had before, and those among them that changed."""
        return {"returning": self.before - self.gone, "changed": max(0, self.closing.rows - self.gone)}


def compare(
    store: Store, source_name: str, intake: Intake, paths: Sequence[str], folder: Path | str, mode: str, each: Each
) -> Difference:
    """Compares entries with the rows in the files `paths` of `sequences`."""
    partitions, withdrawn = intake.entries.partitions, store.history().undone(source_name)
    if isinstance(intake.entries, CodedEntries) and intake.entries.samples is not None:
        looked = functools.partial(
            arrays.stored, store.sequences, source_name, withdrawn, partitions, str(folder), intake.deal, intake.entries
        )
        there = [] if not paths else each(looked, list(enumerate(paths)), "reading entries")
        by_number = [one for one in there if one is not None]
        if len(by_number) == len(there):
            return _matched(intake, intake.entries, by_number, mode, max(1, len(paths)), str(folder), each)
    find = functools.partial(_current, store.sequences, source_name, withdrawn, partitions, str(folder), intake.deal)
    found = each(find, list(enumerate(paths)), "reading entries")
    current = Spill.together(found) if found else Spill(folder, "current", _CURRENT, partitions)
    differ = functools.partial(_compare, intake.keys, mode, max(1, len(paths)), intake.sequences.partitions, str(folder))
    pairs = list(zip(intake.entries.each(), current.each(), strict=True))
    fresh, closing, opening, kept, before, gone = zip(*each(differ, pairs, "comparing entries"), strict=True)
    ended, again, left = (Spill.together(some) for some in (closing, opening, kept))
    return Difference(Opening([part for one in fresh for part in one.parts]), ended, again, left, sum(before), sum(gone))


def _matched(
    intake: Intake, entries: CodedEntries, there: Sequence[Spill], mode: str, files: int, folder: str, each: Each
) -> Difference:
    """The difference by arrays, of a cohort's entries and their source's rows in each file."""
    stored = Spill.together(there) if there else Spill(folder, "stored", arrays.STORED, entries.partitions)
    match = functools.partial(arrays.compare, mode, files, intake.sequences.partitions, folder)
    fresh, closing, kept, before, gone = zip(
        *each(match, list(zip(entries.each(), stored.each(), strict=True)), "comparing entries"), strict=True
    )
    again = Spill(folder, "opening", PLACES, files)
    return Difference(Opening(fresh), Spill.together(closing), again, Spill.together(kept), sum(before), sum(gone))


def write(
    table: Table, source_name: str, paths: Sequence[str], difference: Difference, run_id: str, number: int, each: Each
) -> tuple[list[DataFile], list[str]]:
    """Writes what a run changes. Returns the files to add and those of `paths` that they replace."""
    closing, opening = difference.closing, difference.opening
    ended = [(i, closing.part(i, i + 1), opening.part(i, i + 1)) for i in range(len(paths))]
    ended = [one for one in ended if one[1].rows or one[2].rows]
    added = each(functools.partial(_with_ends, table, paths, run_id, number), ended, "closing entries")
    return [*added, *write_opened(table, run_id, source_name, number, difference.fresh, each)], [paths[i] for i, _, _ in ended]


def _current(
    table: Table,
    source_name: str,
    withdrawn: Sequence[int],
    partitions: int,
    folder: str,
    deal: Deal,
    numbered: tuple[int, str],
) -> Spill:
    """A source's open rows in a file of `sequences`, spilled like the new entries, and those that a withdrawn run has closed.

    Columns: sequence_id, state, number of the file, row in it, whether a withdrawn run has opened it, whether one has closed it.
    Runs that are not published and were not withdrawn count: they may be about to be.
    """
    number, path = numbered
    current = Spill(storage.join(folder, uuid.uuid4().hex), "current", _CURRENT, partitions)
    keys = [name for name in table.schema().names if name not in arrow_schema("sequences").names]
    undone = pa.array(withdrawn, pa.int64())
    first = 0
    for rows in table.pieces(path):
        opened = pc.is_in(rows["from_run"], value_set=undone)
        ended = pc.and_(pc.is_in(rows["until_run"], value_set=undone), pc.invert(opened))
        mask = pc.and_(pc.equal(rows["source_name"], source_name), pc.or_(pc.is_null(rows["until_run"]), ended))
        at = pa.array(np.flatnonzero(mask.to_numpy()))
        kept = rows.take(at)
        places = [pa.array(np.full(len(at), number)), pc.add(at, first)]
        columns = [kept["sequence_id"], _state(kept, keys), *places, opened.take(at), ended.take(at)]
        dealt = deal(kept, partitions)
        for batch in pa.Table.from_arrays(columns, schema=_CURRENT).combine_chunks().to_batches():
            current.add(batch, dealt)
        first += len(rows)
    current.close()
    return current


def _compare(
    keys: Sequence[str], mode: str, files: int, ranges: int, folder: str, pair: tuple[Spill | CodedEntries, Spill]
) -> Difference:
    """Of the new entries and the current ones of a partition of ids."""
    folder = storage.join(folder, uuid.uuid4().hex)
    kept = Spill(folder, "kept", KEPT, ranges)
    closing, opening = Spill(folder, "closing", PLACES, files), Spill(folder, "opening", PLACES, files)
    if isinstance(pair[0], CodedEntries) and not pair[1].rows:
        # All of them are new, and are made rows when they are written.
        return Difference(Opening([pair[0]]), closing, opening, kept, 0, 0)
    new, old = pair[0].table(), pair[1].table()
    old = _as_now_spelled(old, new["sequence_id"])
    ended, old = old.filter(old["ended"]), old.filter(pc.invert(old["ended"]))
    before = pc.index_in(new["sequence_id"], value_set=old["sequence_id"])
    same = pc.fill_null(pc.equal(_state(new, keys), old["state"].take(before)), False)
    fresh: Spill | CodedEntries
    if isinstance(pair[0], CodedEntries):
        fresh = pair[0].chosen(~same.to_numpy(), folder)
    else:
        fresh = Spill(folder, "fresh", pair[0].schema)
        for batch in new.filter(pc.invert(same)).combine_chunks().to_batches(max_chunksize=65_536):
            fresh.add(batch)
        fresh.close()
    unread = pc.invert(pc.is_in(old["sequence_id"], value_set=new["sequence_id"]))
    # Readers see what a withdrawn run has closed, and not what it has opened.
    visible = [*old.filter(pc.invert(old["withdrawn"]))["sequence_id"].chunks, *ended["sequence_id"].chunks]
    before = pc.unique(pa.chunked_array(visible, pa.string()))
    gone = 0 if mode == "merge" else pc.sum(pc.invert(pc.is_in(before, value_set=new["sequence_id"]))).as_py() or 0
    stays = pc.and_(unread, pc.invert(old["withdrawn"])) if mode == "merge" else pc.and_(unread, False)
    unchanged = pc.is_in(old["sequence_id"], value_set=new.filter(same)["sequence_id"])
    _add_places(closing, old.filter(pc.invert(pc.or_(stays, unchanged))))
    if mode == "merge":
        again = ended.filter(pc.invert(pc.is_in(ended["sequence_id"], value_set=new["sequence_id"])))
        _add_places(opening, again)
        # A state begins with the digest.
        names = pc.utf8_slice_codeunits(pa.concat_tables([old.filter(stays), again])["state"], 0, digests.WIDTH)
        for batch in pa.table({"sequence_digest": names}, KEPT).combine_chunks().to_batches():
            kept.add(batch, digests.partition(digests.to_numpy(batch["sequence_digest"]), ranges))
    for spill in (closing, opening, kept):
        spill.close()
    return Difference(Opening([fresh]), closing, opening, kept, len(before), gone)


def _as_now_spelled(old: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    """Rename current entries to new ids that only the rule of spelling tells from theirs, so that an unchanged source closes nothing.

    An id that is there as it is keeps its entry, and of several that are spelled alike the first one takes the name.
    """
    before, after = old["sequence_id"].combine_chunks(), spelled(old["sequence_id"]).combine_chunks()
    moves = pc.and_(pc.not_equal(before, after), pc.invert(pc.is_in(before, value_set=ids)))
    if not moves.true_count:
        return old
    moves = pc.and_(moves, pc.invert(pc.is_in(after, value_set=before)))
    first = before.filter(moves).take(pc.index_in(after, value_set=after.filter(moves)))
    renamed = pc.if_else(pc.and_(moves, pc.fill_null(pc.equal(before, first), False)), after, before)
    return old.set_column(old.schema.get_field_index("sequence_id"), "sequence_id", renamed)


def _add_places(spill: Spill, chosen: pa.Table) -> None:
    """Takes rows of what `_current` gives."""
    for batch in chosen.select(["row"]).combine_chunks().to_batches():
        spill.add(batch, chosen["file"].to_numpy())


def _with_ends(table: Table, paths: Sequence[str], stem: str, number: int, ended: tuple[int, Spill, Spill]) -> DataFile:
    """A file of `sequences` anew, with rows of it closed at a run number and others opened again."""
    file, *places = ended
    ends = [(spill.table()["row"].to_numpy(), end) for spill, end in zip(places, (number, None), strict=True)]

    def pieces() -> Iterator[pa.Table]:
        first = 0
        for rows in table.pieces(paths[file]):
            until, at = rows["until_run"], rows.schema.get_field_index("until_run")
            for chosen, end in ends:
                mask = np.zeros(len(rows), bool)
                mask[chosen[(chosen >= first) & (chosen < first + len(rows))] - first] = True
                until = pc.if_else(pa.array(mask), pa.scalar(end, pa.int64()), until)
            first += len(rows)
            yield rows.set_column(at, rows.schema.field(at), until)

    return table.write(pieces(), stem=stem, packing=packing_of(table, paths[file]))


def _state(rows: pa.Table, keys: Iterable[str]) -> pa.ChunkedArray:
    """Digest and keys of each row as one string; keys that are null leave no trace, so that a new key column changes nothing by itself.

    Keys are spelled by the rule of today, so that those that older releases have stored are compared with them.
    """
    state = rows["sequence_digest"].cast(pa.string())
    for key in sorted(keys):
        cells = named(rows[key])
        value = pc.binary_join_element_wise(f"{len(key)}:{key}", netstring(cells), "")
        state = pc.binary_join_element_wise(state, pc.if_else(pc.is_null(cells), "", value), "")
    return state
