"""Columns of subjects from any table: what is no value, and what contradicts itself."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from dnafeat import pseudonyms as keyhash
from dnafeat.align import columns as subjectcolumns
from dnafeat.errors import UsageError

TEXT = "subject_id,age,site\nS1, 31 ,A\nS2,NA,\nS1,31,\n007,4.5,B\n"


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz"])
def test_delimited_tables_keep_zeros_and_leave_out_what_is_no_value(tmp_path: Path, name: str) -> None:
    content = ("\ufeff" + TEXT.replace(",", "\t" if "tsv" in name else ",")).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = subjectcolumns.read(str(tmp_path / name), "subject_id", ["age", "site"], what="the table")
    assert found == {"age": {"S1": "31", "007": "4.5"}, "site": {"S1": "A", "007": "B"}}


def test_parquet_and_delta_have_numbers_nulls_and_whole_floats(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"eid": [1001, 1002, 1003], "age": [30, np.nan, 0.1], "site": [2.0, 3.0, np.nan], "ill": [True, None, False]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    write_deltalake(tmp_path / "delta", pa.Table.from_pandas(frame))
    write_deltalake(tmp_path / "delta", pa.Table.from_pandas(frame.assign(age=1.0)), mode="overwrite")
    for uri, version in ((tmp_path / "t.parquet", None), (tmp_path / "delta", 0)):
        found = subjectcolumns.read(str(uri), "eid", ["age", "site", "ill"], what="it", version=version)
        assert found["site"] == {"1001": "2", "1002": "3"}
        assert {key: float(value) for key, value in found["age"].items()} == {"1001": 30, "1003": 0.1}
        assert found["ill"] == {"1001": "True", "1003": "False"}


def test_keys_are_hashed_under_a_salt(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TEXT)
    salt = b"0123456789abcdef"
    found = subjectcolumns.read(str(tmp_path / "t.csv"), "subject_id", ["site"], what="it", salt=salt)
    assert found["site"] == dict(zip(keyhash.pseudonyms(["S1", "007"], salt), "AB", strict=True))


def test_what_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TEXT)
    (tmp_path / "two.csv").write_text("subject_id,age\nS1,31\nS1,32\n")
    (tmp_path / "broken.csv").write_text('subject_id,age\n"S1,31\n')
    (tmp_path / "empty.csv").write_text("")
    pq.write_table(pa.table({"subject_id": ["a"], "vector": [[1.0]]}), tmp_path / "v.parquet")
    for name, column, sentence in (
        ("t.csv", "sex", r"it has no column 'sex': there are 'subject_id', 'age', 'site'"),
        ("two.csv", "age", r"it gives subject_id 'S1' the values '31' and '32' in column 'age', and a subject has one"),
        ("broken.csv", "age", r"it cannot be read: "),
        ("empty.csv", "age", r"it cannot be read: "),
        ("absent.csv", "age", r"absent.csv does not exist"),
        ("v.parquet", "sex", r"it has no column 'sex': it needs 'subject_id' and 'sex', and has 'subject_id', 'vector'"),
        ("v.parquet", "vector", r"it holds list<.*> in column 'vector', and a subject has one value"),
        ("folder", "age", r"folder does not exist"),
    ):
        with pytest.raises(UsageError, match=sentence) as error:
            subjectcolumns.read(str(tmp_path / name), "subject_id", [column], what="it")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("word", ["n/a", "NA", "NULL", "nan", "None", "<NA>", " "])
def test_every_missing_value_is_no_value_and_no_key(tmp_path: Path, word: str) -> None:
    (tmp_path / "t.csv").write_text(f"subject_id,age\nS1,31\nS2,{word}\n{word},40\n1000017.0,50\n S3 ,60\n")
    found = subjectcolumns.read(str(tmp_path / "t.csv"), "subject_id", ["age"], what="the table")
    assert found == {"age": {"S1": "31", "1000017": "50", "S3": "60"}}


def test_numbers_beside_words_and_beside_floats_are_told_or_made_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("subject_id,site,age\nS1,1,30\nS2,1.0,unknown\nS3,2.0,31\nS4,2.0,32\nS1,1.0,30\n")
    found = subjectcolumns.read(str(tmp_path / "t.csv"), "subject_id", ["site", "age"], what="the table")
    assert found["site"] == {"S1": "1", "S2": "1", "S3": "2.0", "S4": "2.0"}
    columns = {name: [*values.values(), None] for name, values in found.items()}
    (told,) = subjectcolumns.half_numbers(columns, ["site", "age"])
    assert told.startswith("age is taken as 4 classes, since 1 of its 4 values are no numbers, such as 'unknown'")
    assert subjectcolumns.half_numbers({"sex": ["f", "m", "1"]}, ["sex"]) == []
