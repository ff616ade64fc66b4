"""Tables of other modalities, however they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from dnafeat.errors import UsageError
from dnafeat.join import modalities
from dnafeat.join.modalities import as_text, open_partner, read_mapping

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)


def collected(table: modalities.PartnerTable) -> list[tuple[str | None, list[float] | None]]:
    """Key and vector of every row."""
    found: list[tuple[str | None, list[float] | None]] = []
    for file in range(table.files):
        for _, keys, has, vectors, _ in table.batches(file):
            values = iter(vectors.to_pylist())
            found += [(key, next(values) if there else None) for key, there in zip(keys.to_pylist(), has, strict=True)]
    return found


WANTED = [(str(i), VECTORS[i].tolist()) for i in range(4)]


@pytest.mark.parametrize("kind", ["list<float>", "list<double>", "large_list", "fixed_size_list", "half", "int", "tensor"])
def test_vectors_of_any_list_type_are_float32(tmp_path: Path, kind: str) -> None:
    plain = pa.array(VECTORS.tolist(), pa.list_(pa.float32()))
    column = {
        "list<float>": plain,
        "list<double>": plain.cast(pa.list_(pa.float64())),
        "large_list": plain.cast(pa.large_list(pa.float32())),
        "fixed_size_list": plain.cast(pa.list_(pa.float32(), 3)),
        "half": plain.cast(pa.list_(pa.float16())),
        "int": plain.cast(pa.list_(pa.int32())),
        "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(VECTORS),
    }[kind]
    pq.write_table(pa.table({"id": [0, 1, 2, 3], "v": column}), tmp_path / "t.parquet")
    table = open_partner("p", str(tmp_path / "t.parquet"), key="id")
    assert (table.vector, table.width, table.rows, table.files) == ("v", 3, 4, 1)
    assert collected(table) == WANTED


@pytest.mark.parametrize("folder", ["p%20q", "p\\q", "[p]", "a::b"])
def test_parquet_files_are_read_from_a_folder_of_any_name(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    pq.write_table(pa.table({"id": [0, 1, 2, 3], "v": VECTORS.tolist()}), tmp_path / folder / "t.parquet")
    assert open_partner("p", str(tmp_path / folder), key="id").rows == 4


def test_a_delta_table_in_a_folder_that_delta_readers_misread_is_refused(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "p q"), pa.table({"id": [0], "v": [[1.0]]}))
    (tmp_path / "p q").rename(tmp_path / "p%20q")
    with pytest.raises(UsageError, match="%20"):
        open_partner("p", str(tmp_path / "p%20q"), key="id")


def test_a_file_of_one_row_group_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modalities, "_BATCH_BYTES", 1)
    vectors = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    pq.write_table(pa.table({"id": np.arange(300), "v": vectors.tolist()}), tmp_path / "t.parquet")
    table = open_partner("p", str(tmp_path / "t.parquet"), key="id")
    pieces = list(table.batches(0))
    assert [first for first, *_ in pieces] == [1, 65, 129, 193, 257]
    np.testing.assert_array_equal(np.array([vector for _, vector in collected(table)], np.float32), vectors)


def test_files_of_a_folder_or_a_glob_are_one_table_and_hidden_ones_are_none_of_it(tmp_path: Path) -> None:
    for name, at in (("b/2.parquet", [2, 3]), ("a/1.parquet", [0, 1]), ("_temporary/9.parquet", [0]), (".x.parquet", [0])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"id": at, "v": VECTORS[at].tolist()}), tmp_path / name)
    (tmp_path / "_SUCCESS").write_text("")
    for uri in (str(tmp_path), f"{tmp_path}/[ab]/*.parquet"):
        assert collected(open_partner("p", uri, key="id")) == WANTED
    first = open_partner("p", str(tmp_path), key="id").fingerprint
    pq.write_table(pa.table({"id": [2, 3], "v": VECTORS[[3, 2]].tolist()}), tmp_path / "b/2.parquet")
    assert open_partner("p", str(tmp_path), key="id").fingerprint != first
    pq.write_table(pa.table({"id": [5]}), tmp_path / "b/3.parquet")
    with pytest.raises(UsageError, match=r"3.parquet has no column 'v', which the first file"):
        collected(open_partner("p", str(tmp_path), key="id"))


def test_a_delta_table_is_read_as_of_its_version_with_partition_columns_and_columns_that_came_later(tmp_path: Path) -> None:
    uri = str(tmp_path / "t")
    write_deltalake(uri, pa.table({"site": ["x", "x"], "id": [0, 1], "v": VECTORS[:2].tolist()}), partition_by=["site"])
    more = pa.table({"site": ["y", "y"], "id": [2, 3], "v": VECTORS[2:].tolist(), "visit": [7, 8]})
    write_deltalake(uri, more, mode="append", schema_mode="merge")
    table = open_partner("p", uri, key="id", order="visit")
    assert (table.version, table.fingerprint, table.rows) == (1, None, 4)
    assert sorted(collected(table)) == WANTED
    order = [value for file in range(2) for *_, values in table.batches(file) for value in values.to_pylist()]
    assert sorted(order, key=str) == [7, 8, None, None]
    assert {key for key, _ in collected(open_partner("p", uri, key="site"))} == {"x", "y"}
    assert len(collected(open_partner("p", uri, key="id", version=0))) == 2
    with pytest.raises(UsageError, match="cannot be read at version 7"):
        open_partner("p", uri, key="id", version=7)


def test_keys_become_text_and_what_is_no_name_is_refused() -> None:
    for values in (
        pa.array([1000017, None]),
        pa.array([1000017.0, None]),
        pa.array([1000017.0, float("nan")]),
        pa.array(["1000017", None]),
    ):
        assert as_text(values, "x").to_pylist() == ["1000017", None]
    assert as_text(pa.array(["007", "7"]), "x").to_pylist() == ["007", "7"]
    assert as_text(pa.nulls(2), "x").to_pylist() == [None, None]
    for bad, sentence in (
        (pa.array([1.0, 2.5]), "x holds 2.5, which is no name"),
        (pa.array([b"a"]), "x holds binary: keys are"),
    ):
        with pytest.raises(UsageError, match=sentence):
            as_text(bad, "x")


def test_a_mapping_needs_both_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"scan": ["a", "a", None], "subject_id": [1, 1, 2]}), tmp_path / "m.parquet")
    table, state = read_mapping("p", str(tmp_path / "m.parquet"), key="scan", on="subject_id")
    assert table.to_pylist() == [{"key": "a", "on": "1"}]
    assert len(state) == 64
    with pytest.raises(UsageError, match="has no column 'eid': it needs 'eid' and 'subject_id', and has 'scan', 'subject_id'"):
        read_mapping("p", str(tmp_path / "m.parquet"), key="eid", on="subject_id")
    with pytest.raises(UsageError, match="say with --key p=COLUMN"):
        read_mapping("p", str(tmp_path / "m.parquet"), key="subject_id", on="subject_id")
