"""Files into entries: what is read, what is refused and where it is said to be, and that no chunk, block or packing shows."""

from __future__ import annotations

import bz2
import contextlib
import datetime
import gzip
import io
import itertools
import lzma
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from counts import examples
from files import write
from hypothesis import given, settings
from hypothesis import strategies as st

from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.sequence import normalise
from dnafeat.sources import delimited, entries
from dnafeat.sources.entries import FIXED, Piece, tiles, whole
from dnafeat.sources.fasta import read_fasta
from dnafeat.sources.fastq import read_fastq
from dnafeat.sources.folders import partition
from dnafeat.sources.reader import RESERVED, ReadOptions, expand, key_columns, read


def rows(files: str | list[str], **options: Any) -> list[dict[str, Any]]:
    files = [files] if isinstance(files, str) else files
    return [row for batch in read(files, ReadOptions(**options)) for row in batch.to_pylist()]


def plain(files: str | list[str], **options: Any) -> list[tuple[Any, ...]]:
    """(id, letters, row) of every entry; no entry may have a problem."""
    found = rows(files, **options)
    assert [r["problem"] for r in found] == [None] * len(found)
    return [(r["sequence_id"], r["sequence"], r["row"]) for r in found]


def refused(files: str | list[str], **options: Any) -> list[tuple[int, str]]:
    return [(r["row"], r["problem"]) for r in rows(files, **options) if r["problem"] is not None]


def sentence(files: str | list[str], **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        rows(files, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# FASTA


FASTA = ">one first\nACGT\nacgu\n\n>  two\r\nAC GT\r\n>three\n>four\nNN\n;a comment\n; >no\nAC"
FASTA_ROWS = [("one", b"ACGTACGT", 1), ("two", b"ACGT", 5), ("three", b"", 7), ("four", b"NNAC", 8)]


@pytest.mark.parametrize("name", ["a.fa", "a.FASTA", "a.fna", "a.ffn", "a.fas", "a.fsa", "a.mpfa", "a.unknown"])
def test_fasta(tmp_path: Path, name: str) -> None:
    assert plain(write(tmp_path / name, FASTA)) == FASTA_ROWS
    assert plain(write(tmp_path / name, b"\xef\xbb\xbf" + FASTA.encode())) == FASTA_ROWS


@pytest.mark.parametrize("chunk", range(1, 40))
def test_fasta_does_not_depend_on_chunks(chunk: int) -> None:
    for text in (FASTA, ";top\n" + FASTA, FASTA.replace("\n", "\r\n"), "\n\n" + FASTA + "\n\n"):
        found = [(p.sequence_id, p.letters) for p in whole(read_fasta(io.BytesIO(text.encode()), "x", chunk))]
        assert found == [(name, letters) for name, letters, _ in FASTA_ROWS]


@pytest.mark.parametrize(("pack", "extension"), [(gzip.compress, "gz"), (bz2.compress, "bz2"), (lzma.compress, "xz")])
def test_packed_files_read_like_plain_ones(tmp_path: Path, pack: Any, extension: str) -> None:
    assert plain(write(tmp_path / f"a.fa.{extension}", pack(FASTA.encode()))) == FASTA_ROWS
    assert plain(write(tmp_path / f"a.bin.{extension}", pack(FASTA.encode()))) == FASTA_ROWS
    assert plain(write(tmp_path / f"a.csv.{extension}", pack(b"id,seq\na,AC\n"))) == [("a", b"AC", 1)]


@st.composite
def fasta_files(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, bytes, int]]]:
    """A FASTA file in any layout, and what must be read from it."""
    text, expected, newline = b"", [], draw(st.sampled_from([b"\n", b"\r\n"]))
    for number in range(draw(st.integers(1, 5))):
        letters = draw(st.text("ACGTNacgtn", max_size=60)).encode()
        text += draw(st.sampled_from([b"", newline, b";comment > x" + newline]))
        expected.append((f"r{number}", letters.upper(), text.count(b"\n") + 1))
        text += (
            f">{draw(st.sampled_from(['', ' ', chr(9)]))}r{number}{draw(st.sampled_from(['', ' > x ; y']))}".encode() + newline
        )
        while letters:
            width = draw(st.integers(1, 60))
            line, letters = letters[:width], letters[width:]
            text += line + newline + draw(st.sampled_from([b"", b"", newline, b";c" + newline]))
    return text.removesuffix(newline) if draw(st.booleans()) else text, expected


@settings(max_examples=examples(60, 300))
@given(fasta_files(), st.integers(1, 80))
def test_fasta_in_any_layout_and_chunk(case: tuple[bytes, list[tuple[str, bytes, int]]], chunk: int) -> None:
    text, expected = case
    found = [(p.sequence_id, p.letters, p.row) for p in whole(read_fasta(io.BytesIO(text), "x", chunk))]
    assert found == expected


def test_fasta_problems_have_their_line(tmp_path: Path) -> None:
    file = write(tmp_path / "a.fa", b"\n acgt\nAC\n>\nAA\n>good\nCC\n> \t\r\nGG\n>caf\xe9\nTT\n>last\nA")
    assert refused(file) == [
        (2, "letters before the first header line"),
        (4, "the header has no id"),
        (8, "the header has no id"),
        (10, "the id in the header is not UTF-8"),
    ]
    found = rows(file)
    assert [(r["sequence_id"], r["sequence"]) for r in found] == [
        *((None, b"acgt\nAC"), (None, b"AA"), ("good", b"CC"), (None, b"GG"), (None, b"TT"), ("last", b"A")),
    ]
    assert {r["file"] for r in found} == {file}
    assert [r["problem"] for r in rows(file, tile=9)] == [r["problem"] for r in found]
    # A record without an id that spans chunks is one problem, and the next record is whole.
    text = b">\n" + b"A" * 99 + b"\n>b\n" + b"C" * 99
    found_pieces = list(whole(read_fasta(io.BytesIO(text), "x", 10)))
    assert [(p.sequence_id, p.problem is None) for p in found_pieces] == [(None, False), ("b", True)]
    assert found_pieces[1].letters == b"C" * 99


@pytest.mark.parametrize("content", ["", "\n \n", ";only\n", "ACGT\nACGT\n", b"\xef\xbb\xbf"])
def test_fasta_without_a_record_is_refused(tmp_path: Path, content: str | bytes) -> None:
    file = write(tmp_path / "a.fa", content)
    assert sentence(file) == f"{file} has no FASTA record: no line starts with '>'"


def test_endless_header_is_refused(tmp_path: Path) -> None:
    assert "line 3, is a FASTA header of more than" in sentence(write(tmp_path / "a.fa", b">a\nAC\n>" + b"x" * 3_000_000))


def test_damaged_packing_is_one_sentence(tmp_path: Path) -> None:
    noise = "".join(random.Random(0).choices("ACGT", k=10_000))
    packed = gzip.compress(f">a\n{noise}\n".encode())
    for content in (packed[:-900], b"not gzip", packed[:200] + b"????" + packed[204:]):
        file = write(tmp_path / "a.fa.gz", content)
        assert sentence(file).startswith(f"{file} cannot be read: ")
        assert sentence(write(tmp_path / "a.csv.gz", content)).startswith(str(tmp_path / "a.csv.gz"))


# FASTQ


def test_fastq(tmp_path: Path) -> None:
    text = "@a x\nACgt\n+\nII@I\n@b\n\n+b\n\n\n@c\r\nGU\r\n+\r\n@@\r\n@d\nA\n+\nI"
    expected = [("a", b"ACGT", 1), ("b", b"", 5), ("c", b"GT", 10), ("d", b"A", 14)]
    assert plain(write(tmp_path / "a.fq", text)) == expected
    assert plain(write(tmp_path / "a.fastq.gz", gzip.compress(text.encode()))) == expected
    assert plain(write(tmp_path / "a.reads", text)) == expected
    for chunk in range(1, 30):
        assert [(p.sequence_id, p.letters, p.row) for p in read_fastq(io.BytesIO(text.encode()), "x", chunk)] == expected


def test_broken_fastq_records_have_their_line_and_cost_no_other(tmp_path: Path) -> None:
    good = "@good{}\nACGT\n+\nIIII\n"
    broken = [
        "@short\nACGT\n+\nIII\n",
        "@noquality\nACGT\n+\n",
        "@noplus\nACGT\nIIII\n",
        "junk\nmore\n",
        "@\nA\n+\nI\n",
        "@multi\nAC\nAC\n+\nII\nII\n",
    ]
    text = "".join(good.format(i) + bad for i, bad in enumerate(broken)) + good.format(6) + "@cut\nAC\n+"
    for chunk in (3, 10, 1000):
        found = list(read_fastq(io.BytesIO(text.encode()), "x", chunk))
        assert [p.sequence_id for p in found if p.problem is None] == [f"good{i}" for i in range(7)]
        assert [(p.row, p.problem) for p in found if p.problem] == [
            (5, "4 letters have 3 qualities"),
            (13, "4 letters have 6 qualities"),
            (20, "the third line of a FASTQ record starts with '+'"),
            (27, "a FASTQ record starts with '@'"),
            (33, "the header has no id"),
            (41, "the third line of a FASTQ record starts with '+'"),
            (51, "the file ends inside this FASTQ record"),
        ]
    assert refused(write(tmp_path / "a.fq", text))[0] == (5, "4 letters have 3 qualities")
    two = write(tmp_path / "b.fq", broken[0] * 2 + good)
    assert [row for row, _ in refused(two)] == [1, 5]


@pytest.mark.parametrize("content", ["", "\n\n", "no\nfastq\nat\nall\n", "@a\nAC\n"])
def test_fastq_without_a_record_is_refused(tmp_path: Path, content: str) -> None:
    assert "has no FASTQ record" in sentence(write(tmp_path / "a.fq", content))


# Tiles


def cut(letters: bytes, tile: int, stride: int) -> list[tuple[str, bytes]]:
    """The definition of tiles, on the whole sequence."""
    found = []
    for start in range(0, max(len(letters), 1), stride):
        found.append((f"r:{start}-{min(start + tile, len(letters))}", letters[start : start + tile]))
        if start + tile >= len(letters):
            break
    return found


@settings(max_examples=examples(60, 300))
@given(st.text("ACGTacgt \n", max_size=80), st.integers(1, 12), st.integers(1, 12), st.integers(1, 60))
def test_tiles_are_slices_of_the_whole(text: str, tile: int, stride: int, chunk: int) -> None:
    file = io.BytesIO(f">r\n{text}\n>s\n".encode())
    found = [(p.sequence_id, p.letters) for p in tiles(read_fasta(file, "x", chunk), tile, stride)]
    assert found == [*cut(normalise(text.encode()), tile, stride), ("s:0-0", b"")]


def test_tiles_of_every_small_shape() -> None:
    letters = b"ACGTTGCAACGGTTA"
    for length, tile, stride, split in itertools.product(range(16), range(1, 8), range(1, 8), range(0, 16, 3)):
        whole_letters = letters[:length]
        pieces = [Piece("r", 1, whole_letters[:split], more=True), Piece("r", 1, whole_letters[split:])]
        assert [(p.sequence_id, p.letters) for p in tiles(pieces, tile, stride)] == cut(whole_letters, tile, stride)


def test_tiles_of_every_format(tmp_path: Path) -> None:
    expected = [("a:0-4", b"ACGT"), ("a:3-7", b"TACG"), ("a:6-8", b"GT")]
    files = {
        "a.fa": ">a\nACGT\nACGT",
        "a.fq": "@a\nACGTACGT\n+\nIIIIIIII\n",
        "a.csv": "id,seq,label\na,ACGTACGT,x\n",
        "a.tsv": "id\tseq\na\tACGTACGT\n",
    }
    for name, text in files.items():
        found = rows(write(tmp_path / name, text), tile=4, stride=3)
        assert [(r["sequence_id"], r["sequence"]) for r in found] == expected
        assert {r["row"] for r in found} == {1}
        if name == "a.csv":
            assert [r["label"] for r in found] == ["x"] * 3
    assert plain(str(tmp_path / "a.fa"), tile=8) == [("a:0-8", b"ACGTACGT", 1)]
    assert plain(write(tmp_path / "e.fa", ">e\n"), tile=8) == [("e:0-0", b"", 1)]


def test_genome_of_the_size_of_e_coli(tmp_path: Path) -> None:
    letters = "".join(random.Random(1).choices("ACGT", k=1000)) * 4939
    letters = letters[:4_938_920]
    file = write(tmp_path / "a.fna", ">chr\n" + "\n".join(letters[i : i + 70] for i in range(0, len(letters), 70)))
    found = plain(file, tile=300, stride=300)
    assert len(found) == 16_464
    assert (found[-1][0], len(found[-1][1])) == ("chr:4938900-4938920", 20)
    assert b"".join(f[1] for f in found).decode() == letters


class Endless(io.RawIOBase):
    """A FASTA record of 200 MB on one line, made as it is read."""

    left = 200_000_000

    def read(self, size: int = -1) -> bytes:
        if self.left == 200_000_000:
            self.left -= 4
            return b">r\nA"
        size = min(size, self.left)
        self.left -= size
        return b"A" * size


def test_tiling_does_not_grow_with_the_record() -> None:
    tracemalloc.start()
    file: Any = Endless()
    bases = sum(len(p.letters) for p in tiles(read_fasta(file, "x"), 100_000, 100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bases == 200_000_000 - 3
    assert peak < 20_000_000


@pytest.mark.parametrize(
    "options", [{"tile": 0}, {"tile": 5, "stride": 0}, {"tile": -1}, {"stride": 5}, {"id_column": "a", "sequence_column": "a"}]
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ReadOptions(**options)


# Tables


def test_csv(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbfid,Sequence,label,"no,te"\r\na,ACgu,1,NA\r\n\r\nNA,,007,"x\n""y"""\r\n"c"," A\nC ",,null'
    found = rows(write(tmp_path / "a.csv", text))
    names = ("sequence_id", "sequence", "row", "problem", "label", "no,te")
    assert [tuple(r[n] for n in names) for r in found] == [
        ("a", b"ACGT", 1, None, "1", None),
        ("NA", b"", 2, None, "007", 'x\n"y"'),
        ("c", b"AC", 3, None, None, None),
    ]
    for name in ("a.tsv", "a.txt", "a.tab"):
        assert plain(write(tmp_path / name, "id\tseq\na\tAC\n")) == [("a", b"AC", 1)]


def test_keys_are_spelled_by_the_rule_in_text_and_in_parquet_and_ids_stay(tmp_path: Path) -> None:
    text = "id,seq,subject,site\n a ,AC, S1 ,n/a\n1000017.0,AC,1000017.0,NULL\n007,AC,007,x\n"
    found = rows(write(tmp_path / "a.csv", text))
    assert [(row["sequence_id"], row["subject"], row["site"]) for row in found] == [
        (" a ", "S1", None),
        ("1000017.0", "1000017", None),
        ("007", "007", "x"),
    ]
    columns = {"id": ["a", "b", "c"], "seq": ["AC"] * 3, "eid": [1e10, None, 0.5], "other": [float("nan"), 2.0**53, 1.0]}
    found = rows(parquet(tmp_path / "a.parquet", columns))
    assert [(row["eid"], row["other"]) for row in found] == [("10000000000", None), (None, "9.007199254740992e+15"), ("0.5", "1")]


def test_keys_in_the_names_of_folders_are_spelled_by_the_rule() -> None:
    assert partition("/data/subject=1000017.0/site=NA/run=007/part-0.parquet") == {
        "subject": "1000017",
        "site": None,
        "run": "007",
    }


def test_an_id_that_was_a_float_of_several_numbers_is_refused_with_the_reason(tmp_path: Path) -> None:
    found = rows(parquet(tmp_path / "a.parquet", {"id": [2.0**53, 7.0, None], "seq": ["AC"] * 3}))
    assert [row["sequence_id"] for row in found][1] == "7"
    assert "stands for several whole numbers" in found[0]["problem"]
    assert found[2]["problem"] == "the id column 'id' is empty"


def test_columns_that_are_no_keys_stay_as_they_are_written(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "id,seq,label,subject\na,AC, NA,1.0\n")
    (row,) = rows(file, verbatim=("label",))
    assert (row["label"], row["subject"]) == (" NA", "1")


def test_every_batch_of_a_run_has_one_schema(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.fa", ">a\nAC\n"),
        write(tmp_path / "b.csv", "id,seq,gene,age\nb,CC,g1,7\n"),
        write(tmp_path / "c.tsv", "sequence_id\tid\tsequence\tage\nc\tx\tGG\t8\n"),
    ]
    assert key_columns(files, ReadOptions()) == ["gene", "age", "id"]
    found = list(read(files, ReadOptions()))
    assert {tuple(batch.schema.names) for batch in found} == {(*FIXED, "gene", "age", "id")}
    assert len({str(batch.schema) for batch in found}) == 1
    assert [str(t) for t in found[0].schema.types] == ["string", "large_binary", "string", "int64", "string", *["string"] * 3]
    keys = [[row[k] for k in ("sequence_id", "gene", "age", "id")] for row in rows(files)]
    assert keys == [["a", None, None, None], ["b", "g1", "7", None], ["c", None, "8", "x"]]
    assert [r["file"] for r in rows(files)] == files


def test_ids_of_tables_without_an_id_column(tmp_path: Path) -> None:
    text = "sequence,label\nAC,1\nGG,0\n"
    one = write(tmp_path / "x/mouse_3/train.csv", text)
    two = write(tmp_path / "x/tf_4/train.csv", text)
    three = write(tmp_path / "y/tf_4/train.csv", text)
    other = write(tmp_path / "x/tf_4/dev.csv", text)
    assert [r[0] for r in plain(one)] == ["train.csv:1", "train.csv:2"]
    assert [r[0] for r in plain([one, two, three, other])][::2] == [
        *("mouse_3/train.csv:1", "x/tf_4/train.csv:1", "y/tf_4/train.csv:1", "dev.csv:1"),
    ]
    assert plain([two, one, other]) == plain([two, one, other, one])
    assert [r[0] for r in plain(one, tile=1)] == ["train.csv:1:0-1", "train.csv:1:1-2", "train.csv:2:0-1", "train.csv:2:1-2"]


def test_columns_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "name,dna,id\nn,AC,5\n")
    found = rows(file, id_column="name", sequence_column="dna")
    assert (found[0]["sequence_id"], found[0]["sequence"], found[0]["id"]) == ("n", b"AC", "5")
    assert "no column 'sequence' or 'seq'; name the sequence column, which is one of 'name', 'dna', 'id'" in sentence(file)
    assert "no column 'dnas'" in sentence(file, sequence_column="dnas")
    assert "no id column 'who'; name one of 'name', 'dna', 'id'" in sentence(file, sequence_column="dna", id_column="who")
    with pytest.raises(UsageError, match="no id column"):
        key_columns([file], ReadOptions(sequence_column="dna", id_column="who"))


@pytest.mark.parametrize("name", [n for n in RESERVED if n not in ("sequence_id", "sequence")])
def test_reserved_key_names_are_refused(tmp_path: Path, name: str) -> None:
    for spelled in (name, name.upper()):
        file = write(tmp_path / "a.csv", f"id,seq,{spelled}\na,AC,1\n")
        assert sentence(file) == f"{file}: the column name {spelled!r} is taken by the store's own columns; rename the column"


def test_clashing_column_names_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "sequence_id,id,seq\na,b,AC\n")
    assert "'sequence_id' is taken" in sentence(file, id_column="id")
    assert plain(file) == [("a", b"AC", 1)]
    assert "two columns are named 'x'" in sentence(write(tmp_path / "b.csv", "id,seq,x,x\n"))
    assert "column 1 has no name" in sentence(write(tmp_path / "c.csv", ",sequence,label\n0,AC,1\n"))
    files = [write(tmp_path / "d.csv", "id,seq,Age\na,A,1\n"), write(tmp_path / "e.csv", "id,seq,age\na,A,1\n")]
    assert "differ in case alone" in sentence(files)


@settings(max_examples=examples(20, 60))
@given(st.randoms(use_true_random=False))
def test_rows_keep_their_numbers_among_broken_ones(tmp_path_factory: pytest.TempPathFactory, rng: random.Random) -> None:
    lines, expected = ["id,seq,k"], []
    for row in range(1, rng.randint(1, 120)):
        kind = rng.choice(["good", "good", "quoted", "long", "few", "many", "noid"])
        letters = {"quoted": "AC\nGT", "long": "A" * 300}.get(kind, "ACGT")
        line = {"few": f"r{row},AC", "many": f"r{row},AC,G,T", "noid": ",ACGT,x"}.get(kind, f'r{row},"{letters}",x')
        problem = {"few": "2 fields in a row where the header has 3", "many": "4 fields in a row where the header has 3"}.get(
            kind
        )
        problem = "the id column 'id' is empty" if kind == "noid" else problem
        expected.append((row, problem, normalise(letters.encode()) if problem is None or kind == "noid" else line.encode()))
        lines += [line] + [""] * rng.choice([0, 0, 0, 2])
    file = write(tmp_path_factory.getbasetemp() / "random.csv", "\n".join(lines) + "\n" * rng.choice([0, 1, 3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCKS", (128, 256, 1 << 20))
        assert [(r["row"], r["problem"], r["sequence"]) for r in rows(file)] == expected


def test_a_field_of_20_mb(tmp_path: Path) -> None:
    long = "ACGTT" * 4_000_000
    file = write(tmp_path / "a.csv", f"id,seq,k\na,AC,1\nbad,row\nb,{long},2\nc,GG,3\n")
    found = list(read([file], ReadOptions()))
    assert [batch.num_rows for batch in found] == [2, 1, 1]
    table = pa.Table.from_batches(found)
    assert table["row"].to_pylist() == [1, 2, 3, 4]
    assert table["k"].to_pylist() == ["1", None, "2", "3"]
    assert table["sequence"][2].as_py() == long.encode()
    first = write(tmp_path / "b.csv", f"id,seq,k\nb,{long},2\n")
    assert plain(first)[0][1] == long.encode()
    assert len(plain(first, tile=1_000_000)) == 20


def test_a_row_longer_than_every_block_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCKS", (128, 256))
    file = write(tmp_path / "a.csv", 'id,seq\na,"AC\n' + "b,ACGT\n" * 200)
    assert "has a row of more than 256 bytes; is a quote left open" in sentence(file)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", b"id,seq,k\na,AC,x\nb\xe9,AC,x\nc,A\xe9C,x\nd,AC,\xe9\n")
    problem = "column {!r} is not UTF-8 text; save the file as UTF-8"
    assert refused(file) == [(2, problem.format("id")), (4, problem.format("k"))]
    assert rows(file)[2]["sequence"] == b"A\xe9C"
    assert "header line is not UTF-8" in sentence(write(tmp_path / "b.csv", b"id,s\xe9q\na,b\n"))
    assert "header line is not UTF-8" in sentence(write(tmp_path / "c.csv", "id,seq\na,AC\n".encode("utf-16")))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_broken_row_that_is_not_utf8_names_the_row(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", b"id,seq\na,AC\nb,\xe9,c\n")
    assert sentence(file) == f"{file}, row 2, is not UTF-8 text; save the file as UTF-8"


def test_endless_header_line_is_refused(tmp_path: Path) -> None:
    assert "has a header line of more than 1,048,576 bytes" in sentence(write(tmp_path / "a.csv", "id,seq," + "x" * 2_000_000))


def test_tables_without_rows(tmp_path: Path) -> None:
    for text in ("id,seq\n", "id,seq", "id,seq\r\n\r\n"):
        assert rows(write(tmp_path / "a.csv", text)) == []
    for text in ("", "\n\n"):
        file = write(tmp_path / "a.csv", text)
        assert sentence(file) == f"{file} is empty: it has no header line"
    assert "cannot be read" in sentence(write(tmp_path / "a.parquet", ""))


# Parquet


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> str:
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def test_parquet(tmp_path: Path) -> None:
    columns = {
        "id": pa.array([1, 2, None, 4]),
        "seq": pa.array(["ACgu", None, "AC", ""]),
        "n": pa.array([1.0, 2.5, None, 4.0]),
        "flag": pa.array([True, False, None, True]),
        "day": pa.array([datetime.date(2024, 1, 2), None, None, None]),
        "when": pa.array([datetime.datetime(2024, 1, 2, 3, 4), None, None, None]),
        "group": pa.array(["a", "b", "a", ""]).dictionary_encode(),
        "raw": pa.array([b"x", b"\xe9", b"z", b""]),
        "nothing": pa.nulls(4),
    }
    for row_group_size in (1, 3, 100):
        file = parquet(tmp_path / "a.parquet", columns, row_group_size=row_group_size)
        found = rows(file)
        assert [(r["sequence_id"], r["sequence"], r["row"], r["problem"]) for r in found] == [
            ("1", b"ACGT", 1, None),
            ("2", b"", 2, "column 'raw' is not UTF-8 text; save the file as UTF-8"),
            (None, b"AC", 3, "the id column 'id' is empty"),
            ("4", b"", 4, None),
        ]
        assert {k: found[0][k] for k in columns if k not in ("id", "seq")} == {
            "n": "1",
            "flag": "true",
            "day": "2024-01-02",
            "when": "2024-01-02 03:04:00.000000",
            "group": "a",
            "raw": "x",
            "nothing": None,
        }
        assert found[3]["group"] is None
    Path(file).rename(tmp_path / "part-0000")
    assert rows(str(tmp_path / "part-0000")) == [{**row, "file": str(tmp_path / "part-0000")} for row in found]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view(), pa.binary_view(), pa.binary(4)]
)
def test_parquet_sequences_of_every_text_type(tmp_path: Path, kind: pa.DataType) -> None:
    letters = pa.array([b"ACGT", None, b"GGCC"]).cast(pa.binary() if kind != pa.binary(4) else kind).cast(kind)
    expected = [("a.parquet:1", b"ACGT", 1), ("a.parquet:2", b"", 2), ("a.parquet:3", b"GGCC", 3)]
    assert plain(parquet(tmp_path / "a.parquet", {"sequence": letters})) == expected
    if kind in (pa.string(), pa.large_string()):
        assert plain(parquet(tmp_path / "a.parquet", {"sequence": letters.dictionary_encode()})) == expected


def test_parquet_columns_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    good = {"seq": pa.array(["AC"])}
    for value in (pa.array([[1.0]]), pa.array([{"a": 1}])):
        message = sentence(parquet(tmp_path / "a.parquet", {**good, "deep": value}))
        assert "column 'deep' holds" in message
        assert "cannot be kept as text" in message
    assert "sequence column 'seq' holds int64" in sentence(parquet(tmp_path / "a.parquet", {"seq": pa.array([1])}))
    assert "cannot be read" in sentence(write(tmp_path / "b.parquet", "no parquet"))


# Files and batches


def test_files_of_unknown_kind(tmp_path: Path) -> None:
    message = sentence(write(tmp_path / "a.docx", "hello"))
    assert "a.docx is of no kind that is read here" in message
    assert all(part in message for part in (".fa", ".fastq", ".csv", ".tsv", ".parquet", ".gz"))
    assert "no kind" in sentence(write(tmp_path / "empty", ""))
    assert "does not exist" in sentence(str(tmp_path / "no.fa"))


def test_expand(tmp_path: Path) -> None:
    names = ["b.fa", "a.fa", "deep/c.csv", "_SUCCESS", ".hidden"]
    for name in names:
        write(tmp_path / name, ">a\nA\n")
    at = str(tmp_path)
    assert expand([at]) == [f"{at}/a.fa", f"{at}/b.fa", f"{at}/deep/c.csv"]
    assert expand([f"{at}/b.fa", f"{at}/*.fa", at]) == [f"{at}/b.fa", f"{at}/a.fa", f"{at}/deep/c.csv"]
    assert expand([f"{at}/_SUCCESS"]) == [f"{at}/_SUCCESS"]
    for wrong in (f"{at}/no.fa", f"{at}/*.gz", f"{at}/_*"):
        with pytest.raises(UsageError):
            expand([wrong])


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = write(tmp_path / "many.fa", "".join(f">r{i}\nACGT\n" for i in range(20_000)))
    found = list(read([many], ReadOptions()))
    assert [batch.num_rows for batch in found] == [8192, 8192, 3616]
    assert [row for batch in found for row in batch["row"].to_pylist()] == list(range(1, 40_001, 2))
    monkeypatch.setattr(entries, "MAX_BYTES", 10)
    few = write(tmp_path / "few.csv", "id,seq\na,AAAA\nb,CCCC\nc,GGGG\nd," + "T" * 99 + "\ne,A\n")
    assert [batch["sequence_id"].to_pylist() for batch in read([few], ReadOptions())] == [["a", "b"], ["c"], ["d"], ["e"]]


@settings(max_examples=examples(60, 300))
@given(
    st.lists(
        st.sampled_from([b">", b"@", b"+", b";", b"\n", b"\r", b",", b'"', b"\t", b"AC", b"id,seq\n", b"\x00", b"\xff"]),
        max_size=30,
    ),
    st.sampled_from(["a.fa", "a.fq", "a.csv", "a.tsv", "a.parquet", "a.fa.gz", "a"]),
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_garbage_is_at_most_a_usage_error(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], name: str) -> None:
    file = write(tmp_path_factory.getbasetemp() / name, b"".join(parts))
    with contextlib.suppress(UsageError):
        assert all(row["sequence_id"] for row in rows(file) if row["problem"] is None)


def test_files_that_are_not_local(tmp_path: Path) -> None:
    fs, _ = storage.filesystem("memory://sources")
    fs.pipe("/sources/a/x.fa.gz", gzip.compress(b">a\nAC\n") + gzip.compress(b">b\nGG\n"))
    fs.pipe("/sources/b/x.csv", b"seq\nAC\n")
    fs.pipe("/sources/c/x.csv", b"seq\nGG\n")
    pq.write_table(pa.table({"id": ["p"], "seq": ["AC"]}), tmp_path / "p.parquet")
    fs.pipe("/sources/p.parquet", (tmp_path / "p.parquet").read_bytes())
    files = expand(["memory://sources"])
    assert [(r["sequence_id"], r["file"]) for r in rows(files)] == [
        ("a", "memory:///sources/a/x.fa.gz"),
        ("b", "memory:///sources/a/x.fa.gz"),
        ("b/x.csv:1", "memory:///sources/b/x.csv"),
        ("c/x.csv:1", "memory:///sources/c/x.csv"),
        ("p", "memory:///sources/p.parquet"),
    ]


def test_whole_puts_pieces_together() -> None:
    pieces = [Piece("a", 1, b"AC", more=True), Piece("a", 1, b"G", more=True), Piece("a", 1, b""), Piece("b", 4, b"T")]
    assert [(p.sequence_id, p.letters, p.more) for p in whole(pieces)] == [("a", b"ACG", False), ("b", b"T", False)]
