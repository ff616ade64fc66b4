"""The labelled table of a probe."""

from __future__ import annotations

from pathlib import Path

import pytest
from files import write

from dnafeat.errors import UsageError
from dnafeat.pretrain.corpus import read_records
from dnafeat.pretrain.probe import read_labelled


def test_a_table_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    table = read_labelled(write(tmp_path / "a.csv", "sequence,label\nACgu,x\nAC GT,y\n"))
    assert (table.sequences, table.labels.tolist()) == (["ACGT", "ACGT"], ["x", "y"])
    for text, fault in (
        ("sequence,label\nACGT,x\nACGTAC CGTACG GTACGT,y\n", "row 2: the sequence is written as 3 overlapping 6-mers"),
        ('sequence,label\nACGT,"x\nCCCC,y\nGGGG,"z\n', "row 1: a line end stands in a cell"),
        ("<!doctype html>sequence,label\n", "an HTML page"),
    ):
        with pytest.raises(UsageError, match=fault):
            read_labelled(write(tmp_path / "a.csv", text))


def test_genomes_are_read_with_any_line_end_and_refused_with_a_header_behind_letters(tmp_path: Path) -> None:
    file = write(tmp_path / "a.FA", b"\xef\xbb\xbf>a\rAC\rGT\r\n\xef\xbb\xbf>b\nGG")
    assert read_records([file]) == {"a": b"ACGT", "b": b"GG"}
    with pytest.raises(UsageError, match="a header seems to stand behind the letters of line 2"):
        read_records([write(tmp_path / "b.fa", ">a\nAC>b\nGG\n")])
    with pytest.raises(UsageError, match="is UTF-16 text"):
        read_records([write(tmp_path / "c.fa", ">a\nACGT\n".encode("utf-16"))])
