"""`Store.get`: vectors in the order asked, of few pages, and a sentence for what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import madevectors
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import Entry, digest, fill, refused, vectors

from dnafeat import parquet
from dnafeat.errors import DamagedError, StoreError, UsageError
from dnafeat.store import Store, matrix
from dnafeat.store.float_pages import FloatColumn, UnusualPageError

ENTRIES = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "ACGT", {"subject": "s2"}), Entry("c", "GGCC"), Entry("d", "NNAC")]
ROWS, WIDTH = 6_000, 48


def values(numbers: np.ndarray) -> dict[str, np.ndarray]:
    return {"mean": np.random.default_rng(int(numbers[0])).standard_normal((len(numbers), WIDTH), np.float32)}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Store:
    uri = str(tmp_path_factory.mktemp("large") / "store")
    madevectors.make(uri, ROWS, values, file_rows=2_500)
    return Store(uri)


def test_vectors_come_in_the_order_asked(large: Store) -> None:
    whole = large.read(columns=["mean"])
    known = dict(zip(whole["sequence_id"].to_pylist(), matrix(whole["mean"]), strict=True))
    ids = [f"e{i}" for i in np.random.default_rng(0).permutation(ROWS)[:70]] + ["e0", f"e{ROWS - 1}", "e0"]
    found = large.get(ids, columns=["mean", "bases"])
    assert found["sequence_id"].to_pylist() == ids
    assert found.column_names == ["sequence_id", "mean", "bases"]
    np.testing.assert_array_equal(matrix(found["mean"]), np.stack([known[one] for one in ids]))


def test_pages_without_a_wanted_row_are_not_unpacked(large: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    real = FloatColumn._numbers

    def counted(self: FloatColumn, header: Any, place: int, count: int, uri: str) -> np.ndarray:
        unpacked.append(count)
        return real(self, header, place, count, uri)

    def no_whole_groups(self: pq.ParquetFile, number: int, columns: list[str]) -> pa.Table:
        assert "mean" not in columns, "all vectors of a row group were read"
        return read(self, number, columns=columns)

    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(FloatColumn, "_numbers", counted)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", no_whole_groups)
    large.get(["e17", "e4000"], columns=["mean"])
    assert 0 < sum(unpacked) < ROWS * WIDTH // 4


def test_every_row_of_every_page_is_found(large: Store) -> None:
    # Rows begin in one page and end in the next.
    path = next(Path(large.features.uri).rglob("*.parquet"))
    with parquet.opened(str(path)) as file:
        group, whole = file.metadata.row_group(0), matrix_of(file.read_row_group(0, columns=["mean"]))
    column, content = group.column(1), path.read_bytes()
    rows = np.arange(group.num_rows)
    for some in (rows, rows[::7], rows[-1:], rows[:1]):
        found = FloatColumn.of(content, 0, column, group.num_rows).take(some, "file")
        np.testing.assert_array_equal(found, whole[some])


def matrix_of(table: pa.Table) -> np.ndarray:
    return np.asarray(table["mean"].combine_chunks().flatten()).reshape(len(table), -1)


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd"])
def test_pages_of_other_codecs_are_read(tmp_path: Path, codec: str) -> None:
    rows = np.random.default_rng(0).standard_normal((900, 33)).astype(np.float32)
    table = pa.table({"mean": pa.array(list(rows), pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "f.parquet", compression=codec, use_dictionary=False, data_page_size=1000)
    group = pq.read_metadata(tmp_path / "f.parquet").row_group(0)
    found = FloatColumn.of((tmp_path / "f.parquet").read_bytes(), 0, group.column(0), 900).take(np.array([0, 5, 899]), "file")
    np.testing.assert_array_equal(found, rows[[0, 5, 899]])


@pytest.mark.parametrize("options", [{"use_dictionary": True}, {"data_page_version": "2.0"}, {"nulls": True}, {"all_null": True}])
def test_columns_that_are_written_otherwise_are_left_to_arrow(tmp_path: Path, options: dict[str, Any]) -> None:
    rows: list[Any] = list(np.ones((8, 7), np.float32))
    if options.pop("nulls", False):
        # As many values as 8 rows of 4.
        rows = [None, None, None, None, *rows[4:]]
    if options.pop("all_null", False):
        rows = [None] * 8
    table = pa.table({"mean": pa.array(rows, pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "f.parquet", **{"use_dictionary": False, **options})
    group = pq.read_metadata(tmp_path / "f.parquet").row_group(0)
    content = (tmp_path / "f.parquet").read_bytes()
    with pytest.raises(UnusualPageError):
        FloatColumn.of(content, 0, group.column(0), 8).take(np.array([0]), "file")


def test_a_page_that_was_changed_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    madevectors.make(uri, 500, values)
    path = next(Path(uri, "features").rglob("*.parquet"))
    column = pq.read_metadata(path).row_group(0).column(1)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="differs from its checksum"):
        Store(uri).get([f"e{i}" for i in range(500)], columns=["mean"])


@pytest.mark.parametrize("seed", range(20))
def test_headers_of_any_bytes_end_in_a_sentence(seed: int) -> None:
    dice = np.random.default_rng(seed)
    column = FloatColumn(dice.bytes(400), 0, 400, 10, 30, "zstd")
    with pytest.raises((DamagedError, UnusualPageError)):
        column.take(np.arange(10), "file")


def test_entries_and_sequences_of_a_store(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, ENTRIES, tmp_path, source="one")
    fill(store, [Entry("a", "TTTT"), Entry("z", "GGCC")], tmp_path, source="two")
    found = Store(store).get(["c", "b", "z"], columns=["cls+mean", "run_id"])
    expected = [vectors(digest(one)) for one in ("GGCC", "ACGT", "GGCC")]
    np.testing.assert_array_equal(matrix(found["cls+mean"]), [[*one["cls"], *one["mean"]] for one in expected])
    by_letters = Store(store).get(sequences=["ggcc", "ACGU"], columns=["max"])
    np.testing.assert_array_equal(matrix(by_letters["max"]), [vectors(digest(one))["max"] for one in ("GGCC", "ACGT")])
    with pytest.raises(StoreError) as error:
        Store(store).get(["a"])
    refused(error, "'a'", "'one'", "'two'", "name the source")
    assert len(Store(store).get(["a"], source="two")) == 1


def test_what_is_missing_is_named_with_the_closest_id(large: Store) -> None:
    with pytest.raises(StoreError) as error:
        large.get(["e5", "e17x", "nothing", "e6"])
    refused(error, "2 of 4", "e17x", "nothing", "did you mean e17")
    found = large.get(["e5", "nothing", "e6"], missing="null", columns=["mean", "bases"])
    assert found["mean"].is_valid().to_pylist() == [True, False, True]
    assert found["bases"].to_pylist() == [300, None, 300]
    assert large.get(["nothing"], missing="null", columns=["mean"])["mean"].null_count == 1
    assert len(large.get([], columns=["mean"])) == 0


def test_wrong_arguments_are_told(large: Store) -> None:
    with pytest.raises(UsageError, match="ids or sequences"):
        large.get()
    with pytest.raises(UsageError, match="give a list"):
        large.get("e5")
    with pytest.raises(UsageError, match="'7'"):
        large.get([7])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="letter '!' at base 3"):
        large.get(sequences=["AC!"])
    with pytest.raises(StoreError, match="does not store 'cls'"):
        large.get(["e5"], columns=["cls"])
