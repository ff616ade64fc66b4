"""Label columns of Parquet that hold lists: the names of each row as they stand, and a sentence for what is no list of names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import parquet
from labelled import sentence
from s3 import S3

from dnafeat.errors import UsageError
from dnafeat.finetune import columns as labelcolumn
from dnafeat.finetune.labels import Label, Labels
from dnafeat.finetune.splits import Split, format_overlaps, overlaps, random_splits, read_split

SEQUENCES = ["ACgu", "AC GT", "GGCC", "TTTT"]
NAMES = [["b;x", "a"], [], [" c", "c"], ["a", "a"]]
LABELS = [("a", "b;x"), (), (" c", "c"), ("a",)]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.string()),
        pa.list_(pa.large_string()),
        pa.list_(pa.field("names", pa.string(), nullable=False)),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)
def test_a_list_is_the_set_of_labels_of_a_row(kind: pa.DataType, tmp_path: Path) -> None:
    # The list stands before the other columns, which are numbered by what lies in the file.
    file = parquet(tmp_path / "a.parquet", label=pa.array(NAMES, kind), sequence=SEQUENCES, id=list("wxyz"))
    found = read_split("train", file)
    assert (found.sequences, found.labels, found.ids) == (["ACGT", "ACGT", "GGCC", "TTTT"], LABELS, list("wxyz"))
    assert [found.place(i) for i in (0, 3)] == [f"{file}:1", f"{file}:4"]
    labels = Labels.fit(found.labels, "multilabel", found.place)
    assert labels.names == (" c", "a", "b;x", "c")
    assert np.array_equal(labels.encode(found.labels, found.place), [[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0]])
    with pytest.raises(UsageError) as error:
        Labels.fit(found.labels, None, found.place)
    assert str(error.value) == (
        f"{file}:1: the label is a list, ['a', 'b;x']; give --task multilabel, or a column with one label a row"
    )


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint32()], ids=str)
def test_whole_numbers_are_names(kind: pa.DataType, tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", seq=["AC", "GG", "TT"], target=pa.array([[10, 9], [], [9]], pa.list_(kind)))
    found = read_split("train", file)
    assert found.labels == [("10", "9"), (), ("9",)]
    assert found.ids == ["a.parquet:1", "a.parquet:2", "a.parquet:3"]
    assert Labels.fit(found.labels, "multilabel", found.place).names == ("9", "10")


def test_many_rows_and_row_groups_keep_their_order(tmp_path: Path) -> None:
    rows = 20_000
    table = pa.table(
        {"sequence": [f"{'ACGT' * 3}{'A' * (i % 7)}" for i in range(rows)], "label": [[str(i)] for i in range(rows)]}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3_000)
    found = read_split("train", str(tmp_path / "a.parquet"))
    assert found.labels == [(str(i),) for i in range(rows)]
    assert found.rows == list(range(1, rows + 1))


def test_files_of_lists_and_of_texts_stand_together(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("sequence,label\nAC,b;a\nGG,\n")
    parquet(tmp_path / "2.parquet", sequence=["TT"], label=[["b;a"]])
    parquet(tmp_path / "3.parquet", sequence=["CC"], label=["a"])
    found = read_split("train", str(tmp_path))
    assert found.labels == ["b;a", None, ("b;a",), "a"]
    assert [Path(file).name for file in found.files] == ["1.csv", "1.csv", "2.parquet", "3.parquet"]
    assert Labels.fit(found.labels, "multilabel", found.place).names == ("a", "b", "b;a")


def test_s3(s3: S3) -> None:
    uri = f"{s3.uri('labelled')}/a.parquet"
    with s3.client().open(uri, "wb") as file:
        pq.write_table(pa.table({"sequence": SEQUENCES, "labels": NAMES}), file)
    assert read_split("dev", uri).labels == LABELS


@pytest.mark.parametrize(
    ("kind", "cell", "fault"),
    [
        (pa.string(), None, "the label is null, and where there is none the list should be empty"),
        (pa.string(), ["a", None], "the list of labels holds a null or an empty name"),
        (pa.string(), ["a", " "], "the list of labels holds a null or an empty name"),
        (pa.int32(), None, "the label is null, and where there is none the list should be empty"),
        (pa.int32(), [1, None], "the list of labels holds a null or an empty name"),
        (
            pa.int32(),
            [0, 1, 0],
            "the list of labels repeats a number, and should have the number of each label of the row, once",
        ),
    ],
)
def test_what_is_no_list_of_names_ends_the_reading(kind: pa.DataType, cell: Any, fault: str, tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", sequence=["AC", "GGTT"], label=pa.array([[], cell], pa.list_(kind)))
    assert sentence(file) == f"{file}, row 2, 'GGTT': {fault}; mend the row or take it out, for training leaves out none"


def test_sequences_and_ids_beside_lists_are_judged_as_ever(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", sequence=["AC", "AX"], label=[["a"], ["b"]])
    assert sentence(file).startswith(f"{file}, row 2, 'AX': letter 'X' at base 2")
    file = parquet(tmp_path / "b.parquet", id=["", "x"], sequence=["AC", "AG"], label=[["a"], ["b"]])
    assert sentence(file).startswith(f"{file}, row 1, 'AC': the id column 'id' is empty")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.bool_()), pa.list_(pa.string(), 1), pa.list_(pa.list_(pa.string()))], ids=str
)
def test_other_lists_are_no_labels(kind: pa.DataType, tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", sequence=["AC"], label=pa.array([None], kind))
    shown = str(kind).replace("item", "element")  # as Parquet calls it
    assert sentence(file) == f"{file}: column 'label' holds {shown}, which cannot be kept as text; take the column out"


def test_lists_stand_in_the_label_column_alone(tmp_path: Path) -> None:
    lists = [["a"]]
    refused = "holds list<element: string>, which cannot be kept as text; take the column out"
    file = parquet(tmp_path / "a.parquet", sequence=["AC"], label=["x"], tags=lists)
    assert sentence(file) == f"{file}: column 'tags' {refused}"
    file = parquet(tmp_path / "b.parquet", sequence=["AC"], label=lists, tags=lists)
    assert sentence(file) == f"{file}: column 'tags' {refused}"
    file = parquet(tmp_path / "c.parquet", sequence=["AC"], tags=lists, more=["x"])
    assert read_split("train", file, label_column="tags").labels == [("a",)]
    assert sentence(file) == f"{file}: column 'tags' {refused}"
    file = parquet(tmp_path / "e.parquet", sequence=["AC"], y=lists, target=["x"])
    assert sentence(file) == f"{file} could have its labels in 'y', 'target'; name the label column, or call it 'label'"
    file = parquet(tmp_path / "f.parquet", label=lists, letters=["AC"])
    assert "no column 'sequence' or 'seq'" in sentence(file)
    assert read_split("train", file, sequence_column="letters").labels == [("a",)]


def test_list_columns_of_what_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sequence,label\nAC,x\n")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    assert labelcolumn.list_columns(str(tmp_path / "a.csv")) == []
    assert labelcolumn.list_columns(str(tmp_path / "b.parquet")) == []
    assert "b.parquet cannot be read" in sentence(str(tmp_path / "b.parquet"))


def split(labels: list[Label], sequences: list[str] | None = None) -> Split:
    count = len(labels)
    letters = sequences or [f"{'ACGT' * 2}{np.base_repr(i, 2).translate(str.maketrans('01', 'AC'))}" for i in range(count)]
    return Split("all", letters, labels, [f"r{i}" for i in range(count)], ["a.parquet"] * count, list(range(1, count + 1)))


def test_fingerprints_tell_lists_and_texts_apart() -> None:
    labels: list[Label] = ["a;b", ("a", "b"), ("a;b",), ("a",), (), None, "[1:a]", ("1:a",), ("a1:b",)]
    assert len({split([label], ["AC"]).fingerprint for label in labels}) == len(labels)


def test_lists_are_divided_by_what_they_hold() -> None:
    kinds: list[Label] = [("a",), ("a", "b;c"), (), "a", None]
    whole = split([kinds[i % 5] for i in range(200)])
    parts = random_splits(whole, seed=3)
    assert sum(map(len, parts.values())) == 200
    for part in parts.values():
        share = len(part) / 200
        # An empty list and an empty cell are both a row without labels.
        for kind, rows in ((("a",), 40), (("a", "b;c"), 40), ("a", 40)):
            assert abs(part.labels.count(kind) - share * rows) <= 2
    # As many kinds as rows are no classes, and lists no numbers.
    different = split([(str(i),) for i in range(100)])
    assert random_splits(different, seed=3) == random_splits(different, seed=3, stratify=False)


def test_conflicts_show_lists() -> None:
    found = overlaps({"train": split([("a", "b"), ()], ["AACC", "AACC"])})
    assert format_overlaps(found)[0] == (
        "1 sequence of train has more than one label: ['a', 'b'] at a.parquet:1, and no label at a.parquet:2"
    )
