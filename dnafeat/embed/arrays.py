"""How a cohort's entries differ from a source's rows in `sequences`, compared as arrays: codes with stored digests.

An entry is found by the numbers of its region, subject and haplotype, which its id is made of. Where a row is named in another way, as of
an earlier source, and where a run was withdrawn, `changes` compares ids.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import storage
from dnafeat.embed.coded import CodedEntries, with_codes
from dnafeat.embed.deal import Deal
from dnafeat.keys import named, spelled
from dnafeat.sources.cohort.layout import HAPLOTYPE, SUBJECT
from dnafeat.spill import Spill
from dnafeat.store import digests
from dnafeat.store.carriers import REGION
from dnafeat.store.rewriting import NONE
from dnafeat.store.schema import arrow_schema
from dnafeat.store.table import Table

# Haplotypes that a name can count up to.
_MOST_HAPLOTYPES = 1000

STORED = pa.schema(
    [
        *[("region", pa.int32()), ("subject", pa.int32()), ("haplotype", pa.int32()), ("same_keys", pa.bool_())],
        *[("sequence_digest", pa.string()), ("file", pa.int64()), ("row", pa.int64())],
    ]
)
PLACES = pa.schema([("row", pa.int64())])
KEPT = pa.schema([("sequence_digest", pa.string())])


class Matched(NamedTuple):
    """What a partition of a cohort's entries changes.

    Attributes
    ----------
    fresh : CodedEntries
        Entries to open.
    closing : Spill
        Rows to close, by number of the file.
    kept : Spill
        Digests of entries that a run in mode merge leaves as they are, by range.
    before, gone : int
        Entries that readers see, and those of them that this ends without another in their place.
    """

    fresh: CodedEntries
    closing: Spill
    kept: Spill
    before: int
    gone: int


def stored(
    table: Table,
    source_name: str,
    withdrawn: Sequence[int],
    partitions: int,
    folder: str,
    deal: Deal,
    entries: CodedEntries,
    numbered: tuple[int, str],
) -> Spill | None:
    """A source's open rows in a file of `sequences` by numbers of the new entries; None where a row has to be compared by its id.

    Of `STORED`, by partition of regions: the number of the region, the subject (-1: of none that was read) and the haplotype, whether
    the other keys are those of the region, and where the row stands.
    """
    number, path = numbered
    found = Spill(storage.join(folder, uuid.uuid4().hex), "stored", STORED, partitions)
    keys = [name for name in table.schema().names if name not in (*arrow_schema("sequences").names, SUBJECT, HAPLOTYPE, REGION)]
    undone = pa.array(withdrawn, pa.int64())
    first = 0
    for rows in table.pieces(path):
        is_undone = pc.or_(pc.is_in(rows["from_run"], value_set=undone), pc.is_in(rows["until_run"], value_set=undone))
        mine = pc.and_(pc.equal(rows["source_name"], source_name), pc.or_(pc.is_null(rows["until_run"]), is_undone))
        at = np.flatnonzero(mine.to_numpy())
        if len(at):
            batch = rows.take(pa.array(at)).combine_chunks().to_batches()[0]
            is_named = {SUBJECT, HAPLOTYPE, REGION} <= set(batch.schema.names)
            numbers = _numbers(batch, entries) if is_named and not pc.any(is_undone.take(pa.array(at))).as_py() else None
            if numbers is None:
                return None
            columns = [*map(pa.array, numbers), _same_keys(batch, keys, numbers[0], entries), batch["sequence_digest"]]
            places = [pa.array(np.full(len(at), number)), pa.array(at + first)]
            found.add(pa.RecordBatch.from_arrays([*columns, *places], schema=STORED), deal(batch, partitions))
        first += len(rows)
    found.close()
    return found


def _numbers(batch: pa.RecordBatch, entries: CodedEntries) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Region, subject and haplotype of rows, int32; None unless their ids are made of the three, and spelled as they are today."""
    coded = [batch[name].dictionary_encode() for name in (REGION, SUBJECT, HAPLOTYPE)]
    ids = pc.binary_join_element_wise(batch[REGION], batch[HAPLOTYPE], "/")
    ids = pc.binary_join_element_wise(batch[SUBJECT], ids, "/")
    if ids.null_count or not pc.all(pc.equal(ids, batch["sequence_id"])).as_py():
        return None
    known = [pc.fill_null(pc.index_in(coded[i].dictionary, value_set=names), -1) for i, names in enumerate(_names(entries))]
    # One that is not known may be so by another spelling.
    strangers = coded[1].dictionary.filter(pc.equal(known[1], -1))
    if not spelled(strangers).equals(strangers):
        return None
    counts = {str(at + 1): at for at in range(_MOST_HAPLOTYPES)}
    haplotypes = [counts.get(name) for name in coded[2].dictionary.to_pylist()]
    if None in haplotypes:
        return None
    found = [*known, pa.array(haplotypes, pa.int32())]
    region, subject, haplotype = (
        value.to_numpy()[one.indices.to_numpy()].astype(np.int32) for value, one in zip(found, coded, strict=True)
    )
    return region, subject, haplotype


def _names(entries: CodedEntries) -> tuple[pa.Array, pa.Array]:
    assert entries.samples is not None
    return entries.regions[REGION].combine_chunks(), entries.samples


def _same_keys(batch: pa.RecordBatch, keys: Sequence[str], region: np.ndarray, entries: CodedEntries) -> pa.Array:
    """Whether rows have the keys of their region, and no others; one that is null is none."""
    same = np.ones(len(batch), bool)
    place = pa.array(np.maximum(region, 0))
    for key in keys:
        coded = batch[key].dictionary_encode()
        own = named(coded.dictionary).take(coded.indices)
        wanted = named(entries.regions[key]).combine_chunks() if key in entries.regions.column_names else None
        wanted = pa.nulls(len(batch), pa.string()) if wanted is None else wanted.take(place)
        same &= pc.if_else(pc.is_null(wanted), pc.is_null(own), pc.fill_null(pc.equal(own, wanted), False)).to_numpy(
            zero_copy_only=False
        )
    return pa.array(same)


class _Entries(NamedTuple):
    """The new entries of a partition: of each haplotype of each subject of each region a digest by number, -1 for none.

    Attributes
    ----------
    rows : list of pa.RecordBatch
        Of the regions, as they are spilled.
    digests : np.ndarray, shape=(n,), S35
    codes : np.ndarray, shape=(places,), int32
    first : np.ndarray, shape=(regions + 1,), int64
        Where the places of each begin.
    widths : np.ndarray, shape=(regions,), int64
        Haplotypes of a subject there.
    """

    rows: list[pa.RecordBatch]
    digests: np.ndarray
    codes: np.ndarray
    first: np.ndarray
    widths: np.ndarray


def _loaded(entries: CodedEntries) -> _Entries:
    rows, names, codes, widths, before = [], [], list[np.ndarray](), [], 0
    for row in entries.rows_of_regions(0):
        own = row["digests"].flatten()
        accepted = np.append(own.is_valid().to_numpy(zero_copy_only=False), False)
        given = np.frombuffer(row["codes"][0].as_buffer(), np.int32)
        codes.append(np.where(accepted[given], given + before, -1).astype(np.int32))
        names.append(digests.to_numpy(pc.fill_null(own, " " * digests.WIDTH)))
        widths.append(row["width"][0].as_py())
        rows.append(row.drop_columns(["variants", "skipped", "is_reference"]))
        before += len(own)
    first = np.cumsum([0, *map(len, codes)])
    every_name, every_code = np.concatenate([NONE, *names]), np.concatenate([np.empty(0, np.int32), *codes])
    return _Entries(rows, every_name, every_code, first, np.array(widths))


def compare(mode: str, files: int, ranges: int, folder: str, pair: tuple[CodedEntries, Spill]) -> Matched:
    """Compare the new entries of a partition with the stored ones.

    In memory are a code, a digest and a place for each haplotype of the partition: of a region times subjects, or of a million.

    Parameters
    ----------
    mode : str
        `merge` leaves entries that were not read as they are.
    files, ranges : int
        Of the spills of rows to close, and of digests that are kept.
    """
    folder = storage.join(folder, uuid.uuid4().hex)
    closing, kept = Spill(folder, "closing", PLACES, files), Spill(folder, "kept", KEPT, ranges)
    entries, old = pair[0], pair[1].table()
    if not len(old):
        # All of them are new, and are made rows when they are written.
        return Matched(entries, closing, kept, 0, 0)
    new = _loaded(entries)
    region, subject, haplotype = (old[name].to_numpy() for name in ("region", "subject", "haplotype"))
    names = digests.to_numpy(old["sequence_digest"])
    there = _places(new, entries, region, subject, haplotype)
    known = there >= 0
    place = there[known]
    # Of two rows of one name the first is compared, as where ids are.
    first = np.full(len(new.codes), -1, np.int64)
    first[place[::-1]] = np.flatnonzero(known)[::-1]
    stored_too = first >= 0
    same = stored_too & (new.codes >= 0)
    at = np.flatnonzero(same)
    same[at] = (new.digests[new.codes[at]] == names[first[at]]) & old["same_keys"].to_numpy()[first[at]]
    unread, unchanged = np.ones(len(old), bool), np.zeros(len(old), bool)
    unread[known] = new.codes[place] < 0
    unchanged[known] = same[place]
    stays = unread if mode == "merge" else np.zeros(len(old), bool)
    ending = ~unchanged & ~stays
    closing.add(
        pa.RecordBatch.from_arrays([pa.array(old["row"].to_numpy()[ending])], schema=PLACES), old["file"].to_numpy()[ending]
    )
    if mode == "merge" and unread.any():
        left = np.unique(names[unread])
        kept.add(pa.RecordBatch.from_arrays([digests.to_arrow(left)], schema=KEPT), digests.partition(left, ranges))
    strangers = int((~known).sum())
    before = strangers + int(stored_too.sum())
    gone = 0 if mode == "merge" else strangers + int((stored_too & (new.codes < 0)).sum())
    fresh = _fresh(entries, new, same, folder)
    for spill in (closing, kept):
        spill.close()
    return Matched(fresh, closing, kept, before, gone)


def _places(new: _Entries, entries: CodedEntries, region: np.ndarray, subject: np.ndarray, haplotype: np.ndarray) -> np.ndarray:
    """The place of stored rows among the new entries, (rows,) int64; -1 where the region or the subject was not read."""
    if not new.rows:
        return np.full(len(region), -1, np.int64)
    # Of each region of the source its place in the partition.
    local = np.full(len(entries.regions) + 1, -1, np.int64)
    own = pa.array([row[REGION][0].as_py() for row in new.rows], pa.string())
    local[pc.index_in(own, value_set=_names(entries)[0]).to_numpy()] = np.arange(len(own))
    at = local[region]
    width = new.widths[at]
    known = (at >= 0) & (subject >= 0) & (haplotype < width)
    return np.where(known, new.first[at] + subject.astype(np.int64) * width + haplotype, -1)


def _fresh(entries: CodedEntries, new: _Entries, same: np.ndarray, folder: str) -> CodedEntries:
    """The new entries without those that are stored as they are."""
    spill = Spill(folder, "fresh", entries.spill.schema)
    codes = np.where(same, -1, new.codes)
    before = 0
    for number, row in enumerate(new.rows):
        own = codes[new.first[number] : new.first[number + 1]]
        count = len(row["digests"].flatten())
        if (own >= 0).any():
            columns = {name: row[name] for name in row.schema.names}
            arrays = [columns[field.name] if field.name in columns else pa.nulls(1, field.type) for field in entries.spill.schema]
            whole = pa.RecordBatch.from_arrays(arrays, schema=entries.spill.schema)
            spill.add(with_codes(whole, np.where(own >= 0, own - before, -1)))
        before += count
    spill.close()
    return entries.with_spill(spill, int((codes >= 0).sum()))
