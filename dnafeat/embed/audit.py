"""What is checked before a run's vector files are committed. A failing check publishes nothing and is named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import parquet, storage
from dnafeat.errors import AuditError, StoreError
from dnafeat.store import Store, digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.data_file import DataFile
from dnafeat.store.matrices import fixed, matrix, one_array
from dnafeat.store.table import Table
from dnafeat.store.vector_files import Norms, Receipt
from dnafeat.vectors import VECTORS

_HISTORY_FILES = 16
_PAGE_ROWS = 2_048
# How far a vector that is encoded again may be from the one that was written, relative to the largest number in it. In float32 the order
# of sums differs between processors; bfloat16 keeps 8 bits, and in int8 what lies between two levels may go either way.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "int8": 5e-2}
# A number half way between two of bfloat16's comes out as the one or the other, which are up to so much of it apart.
_STEP = 2**-7


def audit(
    store: Store,
    version: str,
    precision: str,
    receipts: Sequence[Receipt],
    *,
    rows: int,
    rounding: str | None = None,
    check: str | None = None,
    refused: Sequence[str] = (),
) -> None:
    """Checks vector files before they are committed.

    Parameters
    ----------
    store : Store
    version, precision : str
        Feature version, and the precision it is encoded in.
    receipts : sequence of Receipt
        All files of the run.
    rows : int
        Sequences that they have to hold.
    rounding : str | None
        What the version's vectors are rounded to.
    check : str | None
        URI of a Parquet file with vectors of some of these sequences, encoded another time.
    refused : sequence of str
        Digests that need not be in the files though they may be in that one.

    Raises
    ------
    AuditError
        Names each check that failed: counts, shards, files, order, finite, norms, sample.
    """
    table = store.features
    faults = [*_counts(receipts, rows), *_files(table, receipts), *_norms(table, version, receipts)]
    if not faults and check is not None:
        faults += _sample(table, [receipt.file for receipt in receipts], precision, rounding, check, refused)
    if faults:
        raise AuditError(f"the audit failed and nothing was published: {'; '.join(faults)}")


def _counts(receipts: Sequence[Receipt], rows: int) -> list[str]:
    faults = []
    written = sum(receipt.file.rows for receipt in receipts)
    if written != rows:
        faults.append(f"counts: {written} sequences were written and {rows} were to be")
    shards = [receipt.shard for receipt in receipts if receipt.shard]
    if len(set(shards)) != len(shards):
        faults.append("shards: one of them has two receipts")
    if strange := sum(receipt.not_finite for receipt in receipts):
        faults.append(f"finite: {strange} vectors hold a NaN or an infinity")
    return faults


def _files(table: Table, receipts: Sequence[Receipt]) -> list[str]:
    """Each file is there with the size and the rows it was written with, and no digest stands twice."""
    faults = []
    last = ""
    for receipt in sorted(receipts, key=lambda one: one.file.minimum["sequence_digest"]):
        file = receipt.file
        fs, path = storage.filesystem(storage.join(table.uri, file.path))
        try:
            size = int(fs.size(path))
            names = vectorfiles.read_digests(table, file.path)
        except (*storage.STORAGE_ERRORS, StoreError, pa.ArrowException):
            faults.append(f"files: {file.path} is gone or cannot be read")
            continue
        if (size, len(names)) != (file.size, file.rows):
            faults.append(
                f"files: {file.path} has {size} bytes and {len(names)} rows and was written with {file.size} and {file.rows}"
            )
        if not (names[1:] > names[:-1]).all():
            faults.append(f"order: {file.path} holds a sequence twice or out of order")
        if len(names) and last >= names[0].decode() and _shared(table, receipts, file, names):
            faults.append(f"order: a sequence of {file.path} stands in another file too")
        last = max(last, names[-1].decode()) if len(names) else last
    return faults


def _shared(table: Table, receipts: Sequence[Receipt], file: DataFile, names: np.ndarray) -> bool:
    """Whether another file whose range overlaps holds a sequence of this one."""
    for other in receipts:
        low, high = other.file.minimum["sequence_digest"], other.file.maximum["sequence_digest"]
        if other.file.path == file.path or high < names[0].decode() or low > names[-1].decode():
            continue
        if np.isin(names, vectorfiles.read_digests(table, other.file.path)).any():
            return True
    return False


def _norms(table: Table, version: str, receipts: Sequence[Receipt]) -> list[str]:
    """The mean norm of what is new lies between half the smallest and twice the largest norm that the version has."""
    faults = []
    history = _history(table, version)
    for name in VECTORS:
        new = [(receipt.file.rows, receipt.norms[name]) for receipt in receipts if name in receipt.norms]
        old = [norms[name] for norms in history if name in norms and norms[name].largest > 0]
        if not new:
            continue
        mean = sum(rows * norms.mean for rows, norms in new) / sum(rows for rows, _ in new)
        low, high = (min(one.least for one in old) / 2, 2 * max(one.largest for one in old)) if old else (0.0, np.inf)
        if mean == 0 or not low <= mean <= high:
            bounds = f"between {low:.3g} and {high:.3g}" if old else "above 0"
            faults.append(f"norms: {name} vectors have a mean norm of {mean:.3g}, which should be {bounds}")
    return faults


def _history(table: Table, version: str) -> list[dict[str, Norms]]:
    """Norms of some files that the version has, from their footers."""
    paths = table.reload().paths([("feature_version", "=", version)])
    chosen = paths[:: max(1, -(-len(paths) // _HISTORY_FILES))]
    found = (vectorfiles.read_receipt(table, path, 0, version) for path in chosen)
    return [dict(receipt.norms) for receipt in found if receipt is not None]


def _sample(
    table: Table, files: Sequence[DataFile], precision: str, rounding: str | None, check: str, refused: Sequence[str]
) -> list[str]:
    """Vectors that were encoded a second time agree with the written ones."""
    # `projected` is made of rounded numbers and rounded itself.
    steps = {name: 0 if rounding is None else 2 if name == "projected" else 1 for name in VECTORS}
    again = parquet.read(check)
    again = again.filter(pc.invert(pc.is_in(again["sequence_digest"], value_set=pa.array(refused, pa.string()))))
    names = digests.to_numpy(again["sequence_digest"])
    compared = 0
    faults, worst = [], dict.fromkeys(VECTORS, (0.0, ""))
    for file in files:
        first, last = file.minimum["sequence_digest"].encode(), file.maximum["sequence_digest"].encode()
        if not ((names >= first) & (names <= last)).any():
            continue
        rows = _rows_of(storage.join(table.uri, file.path), again["sequence_digest"])
        if not len(rows):
            continue
        at = np.searchsorted(names, digests.to_numpy(rows["sequence_digest"]))
        compared += len(rows)
        for name in VECTORS:
            if name in rows.column_names:
                one, other = (matrix(fixed(one_array(part[name]))) for part in (rows, again))
                other = other[at]
                distance = float((np.abs(one - other).max(1) / np.maximum(np.abs(other).max(1), 1e-12)).max())
                worst[name] = max(worst[name], (distance, file.path))
    if compared != len(names):
        faults.append(f"sample: {len(names)} sequences were encoded again and {compared} of them are in the files")
    for name, (distance, path) in worst.items():
        if distance > _TOLERANCE[precision] + steps[name] * _STEP:
            faults.append(f"sample: encoded again, a {name} vector of {path} differs by {distance:.2g} of its largest number")
    return faults


def _rows_of(uri: str, wanted: pa.ChunkedArray) -> pa.Table:
    """The rows of a vector file that have these digests, read a page at a time: some of 128 MB are not worth all of it in memory."""
    with parquet.opened(uri, **parquet.PAGED) as file:
        batches = file.iter_batches(_PAGE_ROWS, use_threads=False)
        found = [batch.filter(pc.is_in(batch["sequence_digest"], value_set=wanted)) for batch in batches]
        return pa.Table.from_batches(found, file.schema_arrow)
