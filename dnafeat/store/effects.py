"""Table `effects`: how a run replaces its rows, and what an erasure takes from it.

The windows of variants are entries of a source of their own in `sequences`, whose name begins with `effects:` and whose ids are digests:
so maintenance keeps their vectors, and `Store.read` finds them. A run replaces all rows of its source, version, scope and window.

An erasure changes the effects of a cohort that the store has as haplotypes: those of a run over one of the VCF files that the cohort was
embedded from. Of the variants that the erased entries carry, carriers are counted anew among the entries that stay, and a variant that
nobody has any more goes, with the entries of its windows. `alleles` stays as the run counted it. What was never embedded is not
known here: send the run again without the subject.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat import storage
from dnafeat.store import digests
from dnafeat.store.carriers import REGION
from dnafeat.store.catalog import Store
from dnafeat.store.damage import Damage
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.names import EFFECTS
from dnafeat.store.rewriting import BATCH_ROWS, Draft, raised, settle
from dnafeat.store.table import Table

Goes = Callable[[pa.Table | pa.RecordBatch], np.ndarray]
_Haplotype = tuple[str, str, str]


def rows_of(table: Table, key: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    """The rows with these values, at the table's snapshot."""
    where = pc.scalar(True)
    for name, value in key.items():
        where &= (ds.field(name) == value) if value is not None else ds.field(name).is_null()
    yield from table.batches(table.schema().names, where, [("source_name", "=", key["source_name"])], BATCH_ROWS)


def replace(table: Table, key: Mapping[str, Any], files: Sequence[DataFile], check: Callable[[], None]) -> None:
    """Put files in the place of all rows with the values of `key`, in one commit; `check` may refuse it by raising.

    Files that are not committed in the end are deleted.
    """

    def change(draft: Draft) -> Change | None:
        for file in files:
            draft(file)
        check()
        kept, removed = list[DataFile](), list[str]()
        for path in table.paths([("source_name", "=", key["source_name"])]):
            sizes = [(len(piece), int(_has(piece, key).sum())) for piece in table.pieces(path)]
            rows, mine = (sum(column) for column in zip(*sizes, strict=True))
            if mine:
                removed.append(path)
            if 0 < mine < rows:
                others = (piece.filter(pa.array(~_has(piece, key))) for piece in table.pieces(path))
                kept.append(draft(table.write(filter(len, others), stem=f"kept-{uuid.uuid4().hex}")))
        return Change(added=[*files, *kept], removed=removed) if files or removed else None

    settle(table, change)


def _has(rows: pa.Table, key: Mapping[str, Any]) -> np.ndarray:
    mask = np.ones(len(rows), bool)
    for name, value in key.items():
        own = pc.is_null(rows[name]) if value is None else pc.fill_null(pc.equal(rows[name], value), False)
        mask &= own.to_numpy(zero_copy_only=False)
    return mask


@dataclass
class PersonalEffects:
    """What an erasure changes in `effects`.

    Attributes
    ----------
    variants : dict of (str, str) to int
        Carriers that stay, by source of effects and variant, of the variants that erased entries carry.
    haplotypes : dict of (str, str, str) to int
        The same by source, region and digest, of the haplotypes that erased entries have.
    windows : dict of str to set of str
        Digests of the alternate windows that go, by source of effects.
    """

    variants: dict[tuple[str, str], int] = field(default_factory=dict)
    haplotypes: dict[_Haplotype, int] = field(default_factory=dict)
    windows: dict[str, set[str]] = field(default_factory=dict)

    @property
    def digests(self) -> np.ndarray:
        """Those of the windows that go, sorted: (n,) of dtype S35."""
        return np.unique(np.array([name.encode() for some in self.windows.values() for name in some], digests.DTYPE))

    def names(self, rows: pa.Table | pa.RecordBatch) -> np.ndarray:
        """Which rows of `sequences` are entries of windows that go, (rows,) bool."""
        mask = np.zeros(len(rows), bool)
        for source, names in self.windows.items():
            own = pc.and_(pc.equal(rows["source_name"], source), pc.is_in(rows["sequence_digest"], pa.array(sorted(names))))
            mask |= own.to_numpy(zero_copy_only=False)
        return mask


def personal(store: Store, goes: Goes, damage: Damage) -> PersonalEffects:
    """Find what of `effects` is about entries that are erased, before anything of them is.

    In memory are the haplotypes that have one of their variants.

    Parameters
    ----------
    goes : callable
        Which of some rows of `sequences` are erased, (rows,) bool.
    damage : Damage
        Gets the damaged files, of which nothing is known.
    """
    found = PersonalEffects()
    if not (store.effects.exists() and store.haplotypes.exists()) or REGION not in store.sequences.reload().schema().names:
        return found
    names = store.sequences.schema().names
    mine = {key for key, gone in _entries(store, names, goes, damage) if gone}
    if not mine:
        return found
    carried: dict[str, set[str]] = defaultdict(set)
    for key, variants in _haplotypes(store, damage):
        if key in mine:
            carried[key[0]].update(variants)
    having = {key: carried[key[0]].intersection(variants) for key, variants in _haplotypes(store, damage)}
    having = {key: some for key, some in having.items() if some or key in mine}
    counts: dict[_Haplotype, int] = defaultdict(int)
    for key, gone in _entries(store, names, goes, damage, current=True):
        counts[key] += key in having and not gone
    by_region: dict[tuple[str, str, str], int] = defaultdict(int)
    for key, some in having.items():
        for variant in some:
            by_region[key[0], variant, key[1]] += counts[key]
    staying: dict[tuple[str, str], int] = defaultdict(int)
    for (source, variant, _), count in by_region.items():
        staying[source, variant] = max(staying[source, variant], count)
    linked = _linked(store)
    for (source, variant), count in staying.items():
        for effects in linked.get(source, ()):
            found.variants[effects, variant] = max(count, found.variants.get((effects, variant), 0))
    found.haplotypes = {key: counts[key] for key in mine}
    _find_windows(store, found, damage)
    return found


def _entries(
    store: Store, names: list[str], goes: Goes, damage: Damage, *, current: bool = False
) -> Iterator[tuple[_Haplotype, bool]]:
    """Source, region and digest of each entry of a region, and whether it is erased."""
    where = pc.field(REGION).is_valid() & (pc.field("until_run").is_null() if current else pc.scalar(True))
    for piece in damage.pieces(store.sequences, names):
        rows = piece.filter(where)
        columns = (rows[name].to_pylist() for name in ("source_name", REGION, "sequence_digest"))
        yield from zip(zip(*columns, strict=True), goes(rows).tolist(), strict=True)


def _haplotypes(store: Store, damage: Damage) -> Iterator[tuple[_Haplotype, list[str]]]:
    for piece in damage.pieces(store.haplotypes.reload(), ["source_name", REGION, "sequence_digest", "variants"]):
        for row in piece.to_pylist():
            yield (row["source_name"], row[REGION], row["sequence_digest"]), row["variants"] or []


def _linked(store: Store) -> dict[str, list[str]]:
    """Of each source of a cohort, the sources of effects whose runs read one of the same files."""
    files: dict[str, set[str]] = defaultdict(set)
    for row in store.runs.reload().read(["source_name", "config"]).to_pylist():
        vcf = json.loads(row["config"] or "{}").get("vcf") or []
        files[row["source_name"]].update(storage.absolute(uri) for uri in vcf)
    effects = [name for name in files if name.startswith(EFFECTS)]
    cohorts = [name for name in files if not name.startswith(EFFECTS)]
    return {cohort: [name for name in effects if files[name] & files[cohort]] for cohort in cohorts}


def _find_windows(store: Store, found: PersonalEffects, damage: Damage) -> None:
    """Note the alternate windows of the variants that nobody has any more."""
    for piece in damage.pieces(store.effects.reload(), ["source_name", "variant_id", "alternate_digest", "carriers"]):
        for row in piece.filter(pc.field("carriers").is_valid()).to_pylist():
            if found.variants.get((row["source_name"], row["variant_id"])) == 0:
                found.windows.setdefault(row["source_name"], set()).add(row["alternate_digest"])


def recount_effects(table: Table, found: PersonalEffects, damage: Damage) -> int:
    """Bring the carriers of `effects` up to what stays, and take out the rows of what nobody has. Returns the rows taken out.

    Damaged files are noted and stay as they are.
    """
    if not (found.variants or found.haplotypes) or not table.exists():
        return 0
    gone = 0

    def change(draft: Draft) -> Change | None:
        nonlocal gone
        gone, added, removed = 0, list[DataFile](), list[str]()
        for path in table.paths():
            with damage.noted():
                before, kept = sum(map(len, table.pieces(path))), sum(map(len, _recounted(table, path, found)))
                if not any((_staying(piece, found) != _carriers(piece)).any() for piece in table.pieces(path)):
                    continue
                if kept:
                    added.append(draft(table.write(_recounted(table, path, found), stem=f"kept-{uuid.uuid4().hex}")))
                gone, removed = gone + before - kept, [*removed, path]
        return Change(added=added, removed=removed, transactions=raised(table)) if removed else None

    settle(table, change)
    return gone


def _carriers(rows: pa.Table) -> np.ndarray:
    """Carriers, -1 where they are not known."""
    return pc.fill_null(rows["carriers"], -1).to_numpy()


def _staying(rows: pa.Table, found: PersonalEffects) -> np.ndarray:
    """The carriers that stay, (rows,) int64."""
    carriers = _carriers(rows).copy()
    names = rows.select(["source_name", "variant_id", REGION, "alternate_digest"]).to_pylist()
    for at, (row, count) in enumerate(zip(names, carriers.tolist(), strict=True)):
        if row["variant_id"] is not None:
            left = found.variants.get((row["source_name"], row["variant_id"]))
        else:
            left = found.haplotypes.get((row["source_name"], row[REGION], row["alternate_digest"]))
        if left is not None and count >= 0:
            carriers[at] = min(count, left)
    return carriers


def _recounted(table: Table, path: str, found: PersonalEffects) -> Iterator[pa.Table]:
    for piece in table.pieces(path):
        before, staying = _carriers(piece), _staying(piece, found)
        at = piece.schema.get_field_index("carriers")
        changed = piece.set_column(at, piece.schema.field(at), pa.array(staying, mask=staying < 0))
        if len(kept := changed.filter(pa.array((staying != 0) | (before == 0)))):
            yield kept
