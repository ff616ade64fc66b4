"""Vector files: what stands in a footer, what is known again, and rewriting."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import A, digest, feature_rows, vectors

from dnafeat import storage
from dnafeat.store import Store, digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.data_file import DataFile
from dnafeat.store.vector_files import Receipt

NAMES = sorted(digest("ACGT" + "ACGT"[i % 4] + "ACGT"[i // 4]) for i in range(16))


@pytest.fixture
def store(store_uri: str) -> Store:
    store = Store(store_uri)
    store.create()
    return store


def written(store: Store, names: list[str], stem: str = "run-1", **about: object) -> Receipt:
    pieces = [feature_rows(names[:3]), feature_rows(names[3:])] if len(names) > 3 else [feature_rows(names)]
    return vectorfiles.write(store.features, pieces, stem=stem, version=A.digest, about=lambda: about)


def table(store: Store, file: DataFile) -> pa.Table:
    fs, path = storage.filesystem(storage.join(store.features.uri, file.path))
    with fs.open(path, "rb") as opened:
        return pq.read_table(opened)


def test_the_footer_holds_the_receipt(store: Store) -> None:
    receipt = written(store, NAMES, shard="x/shard-00000.parquet", truncated=3, computed=99, needed=90, began=1.5, ended=2.5)
    assert (receipt.tokens, receipt.windowed, receipt.truncated, receipt.not_finite) == (32, 0, 3, 0)
    assert vectorfiles.read_receipt(store.features, receipt.file.path, receipt.file.size, A.digest) == receipt
    assert Receipt.from_json(receipt.to_json()) == receipt
    norms = [np.linalg.norm(vectors(name)["mean"]) for name in NAMES]
    found = receipt.norms["mean"]
    assert (found.least, found.mean, found.largest) == pytest.approx((min(norms), np.mean(norms), max(norms)), rel=1e-6)
    assert (vectorfiles.read_digests(store.features, receipt.file.path) == np.array(NAMES, digests.DTYPE)).all()


def test_numbers_that_are_none_are_counted_and_in_no_norm(store: Store) -> None:
    rows = feature_rows(NAMES[:4])
    at = rows.schema.get_field_index("cls")
    strange = [[1.0, math.nan, 0.0], [math.inf, 0.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]
    rows = rows.set_column(at, rows.schema.field(at), pa.array(strange, rows.schema.field(at).type))
    receipt = vectorfiles.write(store.features, [rows], stem="x", version=A.digest)
    assert receipt.not_finite == receipt.norms["cls"].not_finite == 2
    assert (receipt.norms["cls"].least, receipt.norms["cls"].mean, receipt.norms["cls"].largest) == (1.0, 3.0, 5.0)


def test_files_of_others_and_cut_ones_are_not_known(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.create()
    good = written(store, NAMES)
    folder = Path(store.features.uri, f"feature_version={A.digest}")
    (folder / "cut.parquet").write_bytes((Path(store.features.uri) / good.file.path).read_bytes()[:-50])
    (folder / "empty.parquet").write_bytes(b"")
    pq.write_table(feature_rows(NAMES), folder / "other.parquet")
    for name in ("cut", "empty", "other", "missing"):
        assert vectorfiles.read_receipt(store.features, f"feature_version={A.digest}/{name}.parquet", 1, A.digest) is None


def test_rewriting_keeps_the_rows_asked_for_in_order(store: Store) -> None:
    odd, even = written(store, NAMES[1::2]), written(store, NAMES[::2])
    gone = np.array([NAMES[0], NAMES[3]], digests.DTYPE)
    receipt = vectorfiles.rewrite(
        store.features, [odd.file, even.file], lambda file, names: ~np.isin(names, gone), stem="sorted", version=A.digest
    )
    assert receipt is not None
    kept = [name for name in NAMES if name.encode() not in gone.tolist()]
    rows = table(store, receipt.file)
    assert rows["sequence_digest"].to_pylist() == kept
    assert rows.select(rows.column_names).to_pylist() == feature_rows(kept).select(rows.column_names).to_pylist()
    assert (receipt.file.minimum["sequence_digest"], receipt.file.maximum["sequence_digest"]) == (kept[0], kept[-1])
    norms = [np.linalg.norm(vectors(name)["max"]) for name in kept]
    assert receipt.norms["max"].mean == pytest.approx(np.mean(norms), rel=1e-6)
    nothing = vectorfiles.rewrite(
        store.features, [odd.file], lambda file, names: np.zeros(len(names), bool), stem="x", version=A.digest
    )
    assert nothing is None
