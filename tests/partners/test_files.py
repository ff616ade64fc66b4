"""Files as other projects write them: every format and every way to say whose an array is, and what is wrong with one."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from dnafeat.errors import UsageError
from dnafeat.partners import arrays as partnerarrays
from dnafeat.partners import files as partnerfiles
from dnafeat.partners import tables as partnertables
from dnafeat.partners.config import PartnerConfig
from dnafeat.partners.items import Item, Problem

UKB = "1000017_20227_2_0"
VECTOR = np.array([0.5, -2.0, 3.0], np.float32)
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def config(**changes: Any) -> PartnerConfig:
    return PartnerConfig.make({"kind": "generic", "input": ["in"], "output": "out", **changes})


def items(path: Path, **changes: Any) -> list[Item]:
    found = list(partnerfiles.read(str(path), config(**changes)))
    assert all(isinstance(one, Item) for one in found), found
    return found  # type: ignore[return-value]


def problems(path: Path, **changes: Any) -> list[str]:
    found = list(partnerfiles.read(str(path), config(**changes)))
    assert all(isinstance(one, Problem) for one in found), found
    return [str(one).removeprefix(str(path)) for one in found]


def told(path: Path, **changes: Any) -> list[tuple[Any, ...]]:
    """Subject, session, window and vector of every row, and the name of its file."""
    rows = []
    for item in items(path, **changes):
        arrays = item.array if item.batched else [item.array] * len(item.names)
        for at, (name, array) in enumerate(zip(item.names, arrays, strict=True)):
            assert name is not None
            window = item.windows[at] if item.windows is not None else name.window
            rows.append((name.subject, name.session, window, np.asarray(array, np.float64).tolist(), item.file))
    return rows


def test_one_array_is_named_by_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / f"{UKB}.npy", VECTOR)
    np.savez(tmp_path / f"{UKB}.npz", VECTOR)
    torch.save(torch.tensor(VECTOR, requires_grad=True), tmp_path / f"{UKB}.pt")
    torch.save(torch.tensor(VECTOR, dtype=torch.bfloat16), tmp_path / f"{UKB}.pth")
    save_file({"embedding": torch.tensor(VECTOR)}, tmp_path / f"{UKB}.safetensors")
    for ending in ("npy", "npz", "pt", "pth", "safetensors"):
        assert told(tmp_path / f"{UKB}.{ending}") == [("1000017", "2", None, VECTOR.tolist(), f"{UKB}.{ending}")]


SAVERS: dict[str, Callable[[dict[str, np.ndarray], Path], Any]] = {
    "npz": lambda arrays, path: np.savez(path, **arrays),
    "pt": lambda arrays, path: torch.save({name: torch.from_numpy(one) for name, one in arrays.items()}, path),
    "safetensors": lambda arrays, path: save_file({name: torch.from_numpy(one) for name, one in arrays.items()}, path),
}


@pytest.mark.parametrize("ending", SAVERS)
def test_arrays_are_named_by_their_subjects(ending: str, tmp_path: Path) -> None:
    SAVERS[ending]({UKB: VECTOR, "sub-9_ses-b": VECTOR + 1}, path := tmp_path / f"all.{ending}")
    assert sorted(told(path)) == [
        ("1000017", "2", None, VECTOR.tolist(), f"all.{ending}#{UKB}"),
        ("9", "b", None, (VECTOR + 1).tolist(), f"all.{ending}#sub-9_ses-b"),
    ]


@pytest.mark.parametrize("ending", SAVERS)
@pytest.mark.parametrize("ids", ["subject_id", "subject", "eid", "participant_id", "ids"])
def test_an_array_has_its_ids_beside_it(ending: str, ids: str, tmp_path: Path) -> None:
    arrays = {"anything": ROWS, ids: np.array([1000017, 25]), "session": np.array([2.0, 3.0]), "window": np.array([7, 8])}
    SAVERS[ending](arrays, path := tmp_path / f"x.{ending}")
    rows = ROWS.tolist()
    assert told(path) == [("1000017", "2", 7, rows[0], path.name), ("25", "3", 8, rows[1], path.name)]


def test_ids_are_texts_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", vector=ROWS, ids=np.array(["0017", UKB]))
    torch.save({"vector": torch.tensor(ROWS), "subject_id": ["0017", UKB]}, tmp_path / "x.pt")
    for name in ("x.npz", "x.pt"):
        assert [row[:2] for row in told(tmp_path / name)] == [("0017", None), ("1000017", "2")]


def test_one_id_is_of_the_whole_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", last_hidden_state=ROWS, subject_id="0017", session=3)
    (item,) = items(tmp_path / "x.npz")
    assert (item.names, item.batched, item.array.shape) == ([("0017", "3", None)], False, (2, 3))
    np.savez(tmp_path / f"{UKB}.npz", vector=ROWS, window=np.array([0, 20]))
    assert [row[:3] for row in told(tmp_path / f"{UKB}.npz")] == [("1000017", "2", 0), ("1000017", "2", 20)]


def test_what_stands_beside_brainlms_tokens_is_no_vector(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", states=ROWS, mask=np.zeros(2), ids_restore=np.arange(2))
    (item,) = items(tmp_path / "x.npz")
    assert item.array.tolist() == ROWS.tolist()
    assert sorted(item.companions) == ["ids_restore", "mask"]


def test_which_array_has_the_vectors(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", cls_token=VECTOR, attentions=ROWS)
    assert told(tmp_path / "x.npz")[0][3] == VECTOR.tolist()
    assert told(tmp_path / "x.npz", vector_column="attentions")[0][3] == ROWS.tolist()
    assert (
        "has no array 'nothing'; name one of 'cls_token', 'attentions'"
        in problems(tmp_path / "x.npz", vector_column="nothing")[0]
    )
    np.savez(tmp_path / "y.npz", cls=VECTOR, embedding=VECTOR)
    assert "holds several arrays, 'cls', 'embedding'; say which with --vector-column" in problems(tmp_path / "y.npz")[0]
    np.savez(tmp_path / "z.npz", a=ROWS, b=ROWS, who=np.array([1, 2]))
    assert [row[0] for row in told(tmp_path / "z.npz", id_column="who", vector_column="b")] == ["1", "2"]
    assert "has no array 'eid'" in problems(tmp_path / "z.npz", id_column="eid")[0]
    np.savez(tmp_path / "w.npz", eid=np.array([1, 2]))
    assert "holds no array with vectors" in problems(tmp_path / "w.npz")[0]


def test_each_array_is_read_when_it_is_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", **{f"s{i}": VECTOR for i in range(9)})
    asked: list[str] = []
    real = partnerarrays._an_array
    monkeypatch.setattr(partnerarrays, "_an_array", lambda value, key: (asked.append(key), real(value, key))[1])
    stream = partnerfiles.read(str(tmp_path / "x.npz"), config())
    assert asked == []
    next(stream)
    next(stream)
    assert asked == ["s0", "s1"]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"")
    assert problems(path) == [": is empty: it has no bytes; write it again"]
    np.save(path, np.array([{}], object), allow_pickle=True)
    assert "holds Python objects, which are not loaded" in problems(path)[0]
    for ending in ("npy", "npz", "pt", "safetensors", "parquet", "csv.gz"):
        damaged = tmp_path / f"damaged.{ending}"
        damaged.write_bytes(bytes(range(1, 200)) * 3)
        (sentence,) = problems(damaged)
        assert "write it again" in sentence or "not loaded" in sentence, (ending, sentence)
        assert "\n" not in sentence
    whole = tmp_path / "whole.npz"
    np.savez(whole, a=np.ones(9999), b=np.ones(9999))
    whole.write_bytes(whole.read_bytes()[:-5000])
    assert "cannot be read; write it again" in problems(whole)[0]
    (tmp_path / "no.npy").symlink_to(tmp_path / "nowhere")
    assert "No such file" in problems(tmp_path / "no.npy")[0]


def test_what_a_pt_must_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"model": Path("x")}, path)
    assert "holds more than tensors, numbers and texts, which is not loaded; save those alone" in problems(path)[0]
    torch.save([torch.ones(3)], path)
    assert problems(path) == [": holds a list and no tensor; save a tensor, or a dict of tensors"]
    torch.save({(1, 2): torch.ones(3)}, path)
    assert "keys that are neither texts nor numbers" in problems(path)[0]
    torch.save({"a": {"cls": torch.ones(3)}, "b": torch.ones(3)}, path)
    found = list(partnerfiles.read(str(path), config()))
    assert [type(one) for one in found] == [Problem, Item]
    assert str(found[0]) == f"{path}, a: 'a' is a dict and no array; save it as a tensor or an array"


def test_texts_in_an_npz_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", vector=ROWS, ids=np.array(["a", "b"], object))
    assert problems(tmp_path / "x.npz") == [": 'ids' holds Python objects, which are not loaded; save texts as ids.astype(str)"]


def test_ids_are_as_many_as_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", vector=ROWS, eid=np.arange(3))
    assert problems(tmp_path / "x.npz") == [": has 3 of 'eid' for 2 rows of 'vector'; write one for each row"]


def test_safetensors_are_read_in_all_their_types_and_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
    numbers = torch.tensor([[0, 1, 2], [3, 100, 7]])
    save_file({f"s{i}": numbers.to(kind) for i, kind in enumerate(kinds)}, tmp_path / "x.safetensors", {"a": "b"})
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    rows = told(tmp_path / "x.safetensors")
    assert {row[0] for row in rows} == {f"s{i}" for i in range(len(kinds))}
    assert all(row[3] == numbers.tolist() for row in rows)
    save_file({"a": torch.tensor([True])}, tmp_path / "y.safetensors")
    assert "'a' is of type BOOL, which is not read here" in problems(tmp_path / "y.safetensors")[0]


def test_a_safetensors_file_that_lies_about_its_sizes(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "another size than its shape says" in problems(tmp_path / "x.safetensors")[0]
    (tmp_path / "y.safetensors").write_bytes((10**9).to_bytes(8, "little") + b"{}")
    assert "longer than the format allows" in problems(tmp_path / "y.safetensors")[0]


COLUMNS: dict[str, pa.Array] = {
    "list": pa.array(ROWS.tolist(), pa.list_(pa.float64())),
    "large": pa.array(ROWS.tolist(), pa.large_list(pa.float32())),
    "fixed": pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 3),
    "half": pa.array(ROWS.astype(np.float16).tolist(), pa.list_(pa.float16())),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_parquet_column_of_lists(kind: str, tmp_path: Path) -> None:
    table = pa.table({"subject_id": ["0017", "b"], "age": [50, 60], "vector": COLUMNS[kind], "window": [0, None]})
    pq.write_table(table, tmp_path / "x.parquet")
    rows = ROWS.tolist()
    assert told(tmp_path / "x.parquet") == [("0017", None, 0, rows[0], "x.parquet"), ("b", None, None, rows[1], "x.parquet")]


def test_parquet_with_tokens_nested_or_flat_with_their_shape(tmp_path: Path) -> None:
    tokens = np.arange(12.0).reshape(2, 2, 3)
    pq.write_table(pa.table({"eid": [1, 2], "last_hidden_state": tokens.tolist()}), tmp_path / "nested.parquet")
    flat = {"eid": [1, 2], "states": tokens.reshape(2, 6).tolist(), "shape": [[2, 3], [1, 2, 3]]}
    pq.write_table(pa.table(flat), tmp_path / "flat.parquet")
    assert [row[3] for row in told(tmp_path / "nested.parquet")] == tokens.tolist()
    assert [row[3] for row in told(tmp_path / "flat.parquet")] == [tokens[0].tolist(), [tokens[1].tolist()]]
    pq.write_table(pa.table(flat | {"shape": [[2, 3], [4]]}), tmp_path / "flat.parquet")
    found = list(partnerfiles.read(str(tmp_path / "flat.parquet"), config()))
    assert isinstance(found[0], Item)
    assert str(found[1]).endswith("flat.parquet, row 2: holds 6 numbers where its shape says [4]; write the vectors again")


def test_parquet_with_what_stands_beside_brainlms_tokens(tmp_path: Path) -> None:
    table = {"eid": [1, 2], "cls": ROWS.tolist(), "ids_restore": [[1, 0], [0, 1]], "mask": [[0, 0], [0, 1]]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    found = items(tmp_path / "x.parquet")
    assert [item.companions["mask"].tolist() for item in found] == [[[0, 0]], [[0, 1]]]
    assert [item.companions["ids_restore"].tolist() for item in found] == [[[1, 0]], [[0, 1]]]


def test_a_table_keyed_by_file_names(tmp_path: Path) -> None:
    pd.DataFrame({"filename": [f"img/{UKB}.nii.gz", "sub-9_ses-b.npy"], "f0": [1.0, 2.0], "f1": [3.0, 4.0]}).to_parquet(
        tmp_path / "x.parquet", index=False
    )
    assert [row[:4] for row in told(tmp_path / "x.parquet")] == [("1000017", "2", None, [1.0, 3.0]), ("9", "b", None, [2.0, 4.0])]
    pd.DataFrame({"who": [UKB, "0017"], "f0": [1.0, 2.0]}).to_parquet(tmp_path / "y.parquet", index=False)
    assert [row[:2] for row in told(tmp_path / "y.parquet", id_column="who")] == [("1000017", "2"), ("0017", None)]
    assert "has no column subject_id, subject, eid, participant_id, ids, file," in problems(tmp_path / "y.parquet")[0]


def test_a_table_of_numbers_as_pandas_writes_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"subject_id": [1000017.0, 25.0], "session": ["2", "b"], "f1": [1.5, 2.0], "f0": [3, 4]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_csv(tmp_path / "x.csv.gz", index=False)
    frame.to_csv(tmp_path / "x.tsv", sep="\t", index=False)
    frame.set_index("subject_id").to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.csv.gz", "x.tsv", "x.parquet"):
        rows = told(tmp_path / name)
        assert [row[:4] for row in rows] == [("1000017", "2", None, [1.5, 3.0]), ("25", "b", None, [2.0, 4.0])]
    frame.to_csv(tmp_path / "y.csv")
    assert "column 1 has no name; if it is the index that pandas writes" in problems(tmp_path / "y.csv")[0]


def test_leading_zeros_and_chosen_columns_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("subject_id,age,f0,f1\n0017,50, 1,2\n0018,60,3,4e-1\n")
    assert [row[:4] for row in told(tmp_path / "x.csv", vector_column="f*")] == [
        ("0017", None, None, [1.0, 2.0]),
        ("0018", None, None, [3.0, 0.4]),
    ]
    assert told(tmp_path / "x.csv", vector_column="*")[0][3] == [50.0, 1.0, 2.0]
    assert told(tmp_path / "x.csv")[0][3] == [1.0, 2.0]
    assert (
        "has no column 'g*'; --vector-column is one of 'age', 'f0', 'f1'" in problems(tmp_path / "x.csv", vector_column="g*")[0]
    )


def test_a_csv_row_is_told_by_its_number_and_value(tmp_path: Path) -> None:
    lines = ["eid,f0,f1", "1,1,2", "2,x,2", "3,1", "4,,2", "5,5,5", "6,1,2,3"]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    found = list(partnerfiles.read(str(tmp_path / "x.csv"), config()))
    good = [(item.row, item.array.tolist()) for item in found if isinstance(item, Item)]
    assert good == [(1, [[1.0, 2.0]]), (5, [[5.0, 5.0]])]
    where = f"{tmp_path / 'x.csv'}, row "
    remedy = "; mend it, or say with --vector-column which columns are the vector"
    assert sorted(str(one) for one in found if isinstance(one, Problem)) == [
        f"{where}2: column 'f0' holds 'x', which is no number{remedy}",
        f"{where}3: has 2 fields where the header has 3; mend the row",
        f"{where}4: column 'f0' is empty{remedy}",
        f"{where}6: has 4 fields where the header has 3; mend the row",
    ]


def test_rows_are_numbered_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partnertables, "_CSV_BLOCK", 64)
    monkeypatch.setattr(partnertables, "_BATCH_ROWS", 3)
    lines = [f"{i},{i}.5" if i % 7 else f"{i}" for i in range(1, 60)]
    (tmp_path / "x.csv").write_text("eid,f0\n" + "\n".join(lines) + "\n")
    found = list(partnerfiles.read(str(tmp_path / "x.csv"), config()))
    rows = {item.row + at: float(one[0]) for item in found if isinstance(item, Item) for at, one in enumerate(item.array)}
    assert rows == {i: i + 0.5 for i in range(1, 60) if i % 7}
    assert sorted(one.row or 0 for one in found if isinstance(one, Problem)) == [i for i in range(1, 60) if i % 7 == 0]
    pq.write_table(pa.table({"eid": range(1, 60), "f0": [i + 0.5 for i in range(1, 60)]}), tmp_path / "x.parquet")
    found = items(tmp_path / "x.parquet")
    assert [item.row for item in found] == list(range(1, 60, 3))


def test_a_table_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partnertables, "_BATCH_BYTES", 4096)
    rows = np.random.default_rng(0).normal(size=(100, 64))
    pq.write_table(pa.table({"eid": range(100), "vector": rows.tolist()}), tmp_path / "x.parquet")
    sizes = [len(item.array) for item in items(tmp_path / "x.parquet")]
    assert sum(sizes) == 100
    assert max(sizes) * 64 * 8 <= 4096


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"eid": [1], "vector": pa.array([None], pa.list_(pa.float32()))},
            ", row 1: column 'vector' is empty; leave the row out",
        ),
        ({"eid": [1], "vector": [[1.0, None]]}, ", row 1: holds an empty value (null) among its numbers; write it again without"),
        (
            {"eid": [1], "vector": [[[1.0], [2.0, 3.0]]]},
            ", row 1: holds lists of several lengths, such as 1 and 2; all must be equally",
        ),
        ({"eid": [1], "vector": [["a"]]}, ", row 1: holds lists of string and no numbers; say which column has the vectors"),
        ({"eid": [1], "a": [[1.0]], "b": [[1.0]]}, ": holds several columns of lists, 'a', 'b'; say which with --vector-column"),
        ({"eid": [1]}, ": has no column with vectors beside the ids"),
        ({"eid": [0.5], "vector": [[1.0]]}, ": column 'eid' holds 0.5, which is no id"),
        ({"eid": [1], "window": ["x"], "vector": [[1.0]]}, ": column 'window' holds what is no whole number; number the windows"),
        ({"eid": [1], "born": pa.array([1], pa.timestamp("ms"))}, ": column 'born' holds timestamp[ms] and no numbers; say with"),
        ({"eid": pa.array([], pa.int64()), "vector": pa.array([], pa.list_(pa.float32()))}, ": has no rows"),
    ],
)
def test_what_a_table_must_not_hold(columns: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    (found,) = problems(tmp_path / "x.parquet")
    assert found.startswith(sentence)


def test_a_csv_without_rows_or_with_a_name_twice(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("eid,f0\n")
    assert problems(tmp_path / "x.csv") == [": has no rows"]
    (tmp_path / "x.csv").write_text("eid,f0,f0\n1,2,3\n")
    assert problems(tmp_path / "x.csv") == [": two columns are named 'f0'; rename one"]
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"eid,f0\n1,2\n")[:-9])
    assert "cannot be read; write it again" in problems(tmp_path / "x.csv.gz")[0]


def test_ragged_rows_are_handed_on_one_by_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"eid": [1, 2, 3], "vector": [[1.0], [1.0, 2.0], [3.0]]}), tmp_path / "x.parquet")
    assert [item.array.shape for item in items(tmp_path / "x.parquet")] == [(1, 1), (1, 2), (1, 1)]


def test_which_files_are_read(tmp_path: Path) -> None:
    for name in ("a/x.npy", "a/_SUCCESS", "a/log.txt", "b/y.pt", "b/.z.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert partnerfiles.find(config(input=[a, b, f"{a}/*.npy"])) == ([f"{a}/x.npy", f"{b}/y.pt"], 1)
    for pattern in (f"{a}/log.txt", f"{a}/*"):
        with pytest.raises(UsageError, match=r"log\.txt is of no kind that is read here, which are \.pt, \.pth, \.npy"):
            partnerfiles.find(config(input=[pattern]))
    with pytest.raises(UsageError, match="does not exist or holds no file"):
        partnerfiles.find(config(input=[f"{a}/c"]))


def test_what_is_written_is_not_read_again(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VECTOR)
    for output in (str(tmp_path / "t"), str(tmp_path), str(tmp_path / "t.parquet")):
        with pytest.raises(UsageError, match="lies in the input"):
            partnerfiles.find(config(input=[str(tmp_path)], output=output))
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log" / "00000000000000000000.json").write_text("{}")
    with pytest.raises(UsageError, match="is a Delta table, and its folder holds files that are not part of it"):
        partnerfiles.find(config(input=[str(tmp_path)]))


def test_columns_that_describe_subjects_are_no_part_of_the_vector(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("subject_id,age,sex,f0,f1,f2\nS1,34,0,0.1,0.2,0.3\n")
    (item,) = items(file)
    assert item.array.tolist() == [[0.1, 0.2, 0.3]]
    assert item.note == "3 columns, 'f0' to 'f2'; 'age' and 'sex' left out, since not numbered as those"
    (item,) = items(file, vector_column="*")
    assert item.array.shape == (1, 5)
    file.write_text("subject_id,left,right\nS1,1,2\n")
    (item,) = items(file)
    assert (item.array.tolist(), item.note) == ([[1.0, 2.0]], "2 columns, 'left' to 'right'")


@pytest.mark.parametrize("header", ["subject_id,age,hippocampus", "subject_id,extra,f0,f1,f2", "subject_id,SEX,thickness,volume"])
def test_columns_that_may_or_may_not_be_the_vector_are_asked_about(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\nS1{',1' * header.count(',')}\n")
    (told,) = problems(tmp_path / "a.csv")
    assert "it is not clear which are the vector; say so with --vector-column" in told


def test_ids_are_spelled_by_the_rule_and_missing_ones_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("subject_id,f0\n S1 ,1\n1000017.0,2\n007,3\nNA,4\nn/a,5\n")
    (item,) = items(tmp_path / "a.csv")
    assert [name and name.subject for name in item.names] == ["S1", "1000017", "007", None, None]
    np.savez(tmp_path / "b.npz", vectors=np.zeros((1, 2)), ids=np.array(["9007199254740993.0"]))
    assert "a float that stands for several ids" in problems(tmp_path / "b.npz")[0]
