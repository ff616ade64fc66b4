"""`dnafeat align-apply`: subjects of a joined table in the space of an alignment, by what was fitted on its training subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from dnafeat import pseudonyms as keyhash
from dnafeat import storage
from dnafeat.align import artifact as alignartifact
from dnafeat.align.artifact import Aligned
from dnafeat.align.config import ApplyConfig
from dnafeat.align.subjects import read_columns, read_joined
from dnafeat.errors import UsageError
from dnafeat.join.config import DNA
from dnafeat.parquet import write_parquet
from dnafeat.store.matrices import as_nullable_lists, fixed, matrix, one_array


@dataclass(frozen=True, kw_only=True)
class AppliedSummary:
    """What was written.

    Attributes
    ----------
    output : str
    rows : int
    counts : mapping of str to int
        Rows that have each modality.
    notes : list of str
    """

    output: str
    rows: int
    counts: Mapping[str, int]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __repr__(self) -> str:
        return format_applied(self)


def apply(config: ApplyConfig) -> AppliedSummary:
    """Writes the table's keys, and for each modality a column of 512 numbers, null where a row has none.

    Raises UsageError where the table is not made as the one that was aligned, or a covariate is missing.
    """
    aligned = alignartifact.read(config.artifact)
    _, name = aligned.sides
    table, _, about = read_joined(config.joined, name, both=False)
    _check_alike(aligned, about, name, config)
    keys = one_array(table[about["on"]]).to_pylist()
    salt = keyhash.read_salt(config.salt_file) if config.salt_file else None
    covariates = aligned.covariates
    wanted = [] if covariates is None else [*covariates.numbers, *covariates.levels]
    columns = read_columns(wanted, keys, about, name, config.subjects, salt)
    design, strange = aligned.design(columns, keys)
    notes = [
        f"nothing of {one} is taken out of {count:,} row(s), whose value no training subject has"
        for one, count in strange.items()
    ]
    kept = [one for one in table.column_names if one not in (DNA, name, f"{DNA}_mask")]
    made, counts = {one: one_array(table[one]) for one in kept}, {}
    for one, side in aligned.sides.items():
        column = one_array(table[one])
        has = column.is_valid()
        rows = matrix(fixed(column.drop_null())) if len(column.drop_null()) else np.empty((0, len(side.steps.mean)), np.float32)
        own = None if design is None else design[has.to_numpy(zero_copy_only=False)]
        counts[one] = len(rows)
        made[one] = as_nullable_lists(side(rows, own), has)
        if config.prepared:
            made[f"{one}_prepared"] = as_nullable_lists(side.prepared(rows, own), has)
    write_parquet(storage.absolute(config.output), [pa.table(made)])
    return AppliedSummary(output=config.output, rows=len(table), counts=counts, notes=notes)


def _check_alike(aligned: Aligned, about: Mapping[str, Any], name: str, config: ApplyConfig) -> None:
    """Raises UsageError where the vectors of a joined table are not what the alignment takes."""
    before = aligned.about["joined"]
    # That of a tuned encoder is another than the one it was tuned from.
    before = {**before, "dna": {**before["dna"], "feature_version": aligned.about["takes"]}}

    def told(one: Mapping[str, Any]) -> dict[str, Any]:
        partner = next(each for each in one["partners"] if each["name"] == name)
        dna = {key: one["dna"][key] for key in ("feature_version", "vector", "width")}
        rows = {key: one[key] for key in ("level", "aggregate", "within", "genes")}
        return {**dna, **rows, f"width of {name}": partner["width"]}

    for (what, trained), now in zip(told(before).items(), told(about).values(), strict=True):
        if trained != now:
            raise UsageError(
                f"{config.joined} has {what.replace('_', ' ')} {now} and {config.artifact} was aligned with {trained}: join it in the "
                f"same way"
            )


def format_applied(applied: AppliedSummary) -> str:
    has = ", ".join(f"{count:,} with {name}" for name, count in applied.counts.items())
    return "\n".join([f"{applied.rows:,} rows in {applied.output}, {has}", *applied.notes])
