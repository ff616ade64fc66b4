"""Files as people have them: every record is read right, is a reject with its row, or its file is refused in a sentence."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from files import parquet, write

from dnafeat import storage
from dnafeat.embed import intake
from dnafeat.errors import DnafeatWarning, UsageError
from dnafeat.sequence import spelled_in_kmers
from dnafeat.sources import entries, reader
from dnafeat.sources.content import unique_ids
from dnafeat.sources.entries import whole
from dnafeat.sources.fasta import read_fasta
from dnafeat.sources.fastq import read_fastq
from dnafeat.sources.lists import read_list
from dnafeat.sources.quotes import Watched
from dnafeat.sources.reader import ReadOptions, expand, look, portions, read

A, B, C = b"GCTAAAGACAATTACATAAC", b"CTTAAGGGTTAAGTAAGTGT", b"TGGCATTTTTATTACACTCA"
FASTA = b">a first\n%b\n%b\n>b\n%b\n>c\n%b\n" % (A, B, B, C)
FASTQ = b"".join(
    b"@%b x\n%b\n+\n%b\n" % (name, letters, b"I" * 20) for name, letters in zip((b"a", b"b", b"c"), (A, B, C), strict=True)
)
CSV = b"id,sequence,k\n" + b"".join(b"%b,%b,v\n" % pair for pair in ((b"a", A), (b"b", B), (b"c", C)))


def rows(*files: str, **options: Any) -> list[dict[str, Any]]:
    return [row for batch in read(list(files), ReadOptions(**options)) for row in batch.to_pylist()]


def good(*files: str, **options: Any) -> list[tuple[Any, ...]]:
    found = rows(*files, **options)
    assert [row["problem"] for row in found] == [None] * len(found)
    return [(row["sequence_id"], row["sequence"]) for row in found]


def sentence(*files: str, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        rows(*expand(files), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Line ends, marks and blanks


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\r\r\n", "mixed", "some"])
@pytest.mark.parametrize(
    ("name", "text"), [("a.fa", FASTA), ("a.fq", FASTQ), ("a.csv", CSV), ("a.tsv", CSV.replace(b",", b"\t"))]
)
def test_every_line_end_ends_a_line(tmp_path: Path, name: str, text: bytes, end: Any) -> None:
    expected = good(write(tmp_path / name, text))
    assert len(expected) == 3
    lines = text.splitlines()
    if isinstance(end, bytes):
        changed = end.join(lines) + end
    else:
        ends = [b"\r", b"\n", b"\r\n"] if end == "mixed" else [b"\n", b"\r", b"\n", b"\n"]
        changed = b"".join(line + ends[i % len(ends)] for i, line in enumerate(lines))
    assert good(write(tmp_path / name, changed)) == expected
    assert good(write(tmp_path / f"{name}.gz", gzip.compress(changed))) == expected


@pytest.mark.parametrize("chunk", range(1, 30))
def test_chunks_hide_no_line_end_mark_or_blank(chunk: int) -> None:
    for text, lines in (
        (b">a\r%b\r>b\r\n%b\r\r\n>c\n%b" % (A, B, C), [1, 3, 5]),
        (b"\xef\xbb\xbf>a\n%b\n\xef\xbb\xbf>b\n%b\n\xef\xbb\xbf\xef\xbb\xbf>c\n%b\n" % (A, B, C), [1, 3, 5]),
        (b"  >a\n%b\n\t >b\n%b\n;n >x\n ; c\n >c\n%b\n" % (A, B, C), [1, 3, 7]),
    ):
        found = list(whole(read_fasta(io.BytesIO(text), "x", chunk)))
        assert [(p.sequence_id, p.letters, p.problem) for p in found] == [("a", A, None), ("b", B, None), ("c", C, None)]
        assert [p.row for p in found] == lines
    for text in (FASTQ.replace(b"\n", b"\r"), FASTQ.replace(b"\n@", b"@"), FASTQ.replace(b"\n@", b"\n\xef\xbb\xbf @")):
        found = list(read_fastq(io.BytesIO(text), "x", chunk))
        assert [(p.sequence_id, p.letters, p.problem) for p in found] == [("a", A, None), ("b", B, None), ("c", C, None)]


def test_a_header_behind_letters_counts_as_a_record(tmp_path: Path) -> None:
    text = b">a\n%b>b\n%b\n>c\n%b\n>d\n%b>e>f\n%b" % (A, B, C, A, B)
    found = rows(write(tmp_path / "a.fa", text))
    assert [(r["sequence_id"], r["row"], r["problem"] is None) for r in found] == [
        *(("a", 1, False), ("b", 2, False), ("c", 4, True), ("d", 6, False), ("e", 7, False), ("f", 7, False)),
    ]
    assert "behind the letters of line 2: put a line end before the '>'" in found[0]["problem"]
    # A record that is longer than a chunk is no good either, and what stands behind belongs to neither.
    text = b">a\n%b>b\n%b\n>c\n%b" % (A * 9, B * 9, C)
    for chunk in (10, 50, 100):
        pieces = list(whole(read_fasta(io.BytesIO(text), "x", chunk)))
        assert [p.problem is None for p in pieces] == [False, False, True]
        assert (pieces[-1].sequence_id, pieces[-1].letters) == ("c", C)
    cut = [p for p in reader.tiles(read_fasta(io.BytesIO(text), "x", 10), 20, 20) if p.problem is None]
    assert {p.letters for p in cut} == {A, C}
    assert cut[-1].sequence_id == "c:0-20"


def test_records_of_many_lines_in_fastq_are_counted_one_by_one(tmp_path: Path) -> None:
    many = b"".join(b"@%b\nACGT\nAC\n+\nIIII\nII\n" % name for name in (b"a", b"b", b"c"))
    found = rows(write(tmp_path / "a.fq", many + b"@d\nAC\n+\nII\n"))
    assert [(r["sequence_id"], r["row"], r["problem"] is None) for r in found] == [
        *(("a", 1, False), ("b", 7, False), ("c", 13, False), ("d", 19, True)),
    ]


def test_a_mark_inside_a_table_belongs_to_no_id(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfid,sequence\na,%b\n\xef\xbb\xbfb,%b\nc,%b\n" % (A, B, C)
    assert good(write(tmp_path / "a.csv", text)) == [("a", A), ("b", B), ("c", C)]
    for size in (3, 4, 5, 7):
        watched = Watched(io.BytesIO(text))
        assert b"".join(iter(lambda size=size, of=watched: of.read(size), b"")) == text.replace(codecs.BOM_UTF8, b"")


# What a file is


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(("name", "text"), [("a.fa", FASTA), ("a.fq", FASTQ), ("a.csv", CSV), ("a.tsv", CSV), ("a", FASTA)])
def test_another_encoding_is_named(tmp_path: Path, name: str, text: bytes, encoding: str) -> None:
    for content in (text.decode().encode(encoding), gzip.compress(text.decode().encode(encoding))):
        assert f"is {encoding[:6].upper()} text" in sentence(write(tmp_path / name, content))
    ids = write(tmp_path / "ids.txt", codecs.BOM_UTF16_LE + "a\nb\n".encode("utf-16-le"))
    with pytest.raises(UsageError, match="is UTF-16 text"):
        read_list(ids, "id", "id")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><title>Sign in</title>", "an HTML page"),
        (b"\n <HTML>>a\nACGT\n", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(30), "a zip archive"),
        (b'{"id": "a", "sequence": "AC"}\n', "JSON"),
        (b"@SQ\tSN:chr1\tLN:9\nr\t0\tchr1\n", "SAM"),
        (b"##fileformat=VCFv4.2\n", "variants or regions"),
        (b"LOCUS       AB1 9 bp\n", "GenBank"),
        (b"a.fa" + bytes(253) + b"ustar\x0000" + bytes(200) + b"\n>a\nAC\n", "a tar archive"),
    ],
)
def test_what_is_no_table_and_no_sequences_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    for name in ("a.fa", "a.fq", "a.csv", "a.txt", "a.bin"):
        assert what in sentence(write(tmp_path / name, content))
    assert what in sentence(write(tmp_path / "a.fa.gz", gzip.compress(content)))


def test_a_kind_under_the_name_of_another_is_named(tmp_path: Path) -> None:
    assert "begins as FASTQ does and is named as FASTA is" in sentence(write(tmp_path / "a.fa", FASTQ))
    assert "begins as FASTA does and is named as FASTQ is" in sentence(write(tmp_path / "a.fq", FASTA))
    assert "begins as FASTA does and is named as TSV is" in sentence(write(tmp_path / "a.txt", FASTA))
    file = parquet(tmp_path / "a.parquet", id=["a"], sequence=["AC"])
    assert good(str(Path(file).rename(tmp_path / "a.csv"))) == [("a", b"AC")]


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def bgzip(data: bytes, last: bool = True) -> bytes:
    """Blocks as the SAM specification has them."""
    blocks = b""
    for part in (data[:30], data[30:], b"")[: 3 if last else 2]:
        pack = zlib.compressobj(wbits=-15)
        packed = pack.compress(part) + pack.flush()
        head = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\x00BC\x02\x00" + struct.pack("<H", len(packed) + 25)
        blocks += head + packed + struct.pack("<II", zlib.crc32(part), len(part))
    return blocks


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd, ".bgz": bgzip}


@pytest.mark.parametrize("ending", PACKERS)
def test_packing_goes_by_content(tmp_path: Path, ending: str) -> None:
    packed = PACKERS[ending](FASTA)
    expected = good(write(tmp_path / "plain.fa", FASTA))
    for name in ("a.fa", f"a.fa{ending if ending != '.bgz' else '.gz'}", f"A.FA{ending if ending != '.bgz' else '.GZ'}".upper()):
        assert good(write(tmp_path / name, packed)) == expected
        assert good(write(tmp_path / name, packed + PACKERS[ending](b">d\nAC\n"))) == [*expected, ("d", b"AC")]
    table = good(write(tmp_path / f"b.CSV{ending.upper()}" if ending != ".bgz" else tmp_path / "b.csv", PACKERS[ending](CSV)))
    assert table == [("a", A), ("b", B), ("c", C)]


@pytest.mark.parametrize("ending", PACKERS)
def test_what_follows_or_is_cut_from_a_packed_file_is_not_lost_in_silence(tmp_path: Path, ending: str) -> None:
    text = FASTA + b"".join(b">r%d\n%b\n" % (i, os.urandom(20).hex().encode()) for i in range(200))
    packed = PACKERS[ending](text)
    name = f"a.fa{ending if ending != '.bgz' else '.gz'}"
    for content in (packed + FASTA, packed[: len(packed) // 2], packed[:-3], packed + packed[:9]):
        assert "cannot be read: " in sentence(write(tmp_path / name, content))
    assert "is not packed as its name says" in sentence(write(tmp_path / name, FASTA))


def test_a_bgzip_file_without_its_last_block_was_cut(tmp_path: Path) -> None:
    assert "lacks the block that ends a bgzip file" in sentence(write(tmp_path / "a.fa.gz", bgzip(FASTA, last=False)))
    # Other gzip files have none, and behind zeros, as on tapes, nothing is lost.
    assert len(good(write(tmp_path / "a.fa.gz", bgzip(FASTA) + gzip.compress(b">d\nAC\n") + bytes(99)))) == 4


def test_packed_parquet_is_read(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", id=["a"], sequence=["AC"])
    for ending in (".gz", ".xz", ".zst"):
        assert good(write(tmp_path / f"b.parquet{ending}", PACKERS[ending](Path(file).read_bytes()))) == [("a", b"AC")]


# Delimiters and quotes


@pytest.mark.parametrize("mark", [";", "|", "\t"])
def test_another_delimiter_is_named(tmp_path: Path, mark: str) -> None:
    text = CSV.decode().replace(",", mark)
    message = sentence(write(tmp_path / "a.csv", text))
    assert "seems to have" in message
    assert {";": "semicolons", "|": "bars", "\t": "tabs"}[mark] in message
    other = sentence(write(tmp_path / "b.csv", text.replace("sequence", "dna")), sequence_column="dna")
    assert "seems to have" in other
    if mark != "\t":
        assert "seems to have" in sentence(write(tmp_path / "a.tsv", text))


def test_commas_in_a_tsv_and_the_line_of_excel_are_named(tmp_path: Path) -> None:
    assert "seems to have commas (,) between its columns" in sentence(write(tmp_path / "a.txt", CSV))
    for mark in ",;":
        text = f"sep={mark}\n" + CSV.decode().replace(",", mark)
        assert "begins with the line 'sep=" in sentence(write(tmp_path / "a.csv", text))


TABLE = [("a", A, '"5 prime end'), ("b", B, "ok"), ("c", C, '3" end'), ("d", A, '"last'), ("e", B, "ok")]


@pytest.mark.parametrize("mark", ["\t", ","])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1)])
def test_an_open_quote_swallows_no_row(tmp_path: Path, mark: str, order: tuple[int, ...]) -> None:
    name = "a.tsv" if mark == "\t" else "a.csv"
    lines = [("id", b"sequence", "note"), *TABLE]
    for some in (lines, [lines[0], *lines[2:]], lines[:5], [lines[0], lines[2], lines[4]]):
        cells = [[str(c.decode() if isinstance(c, bytes) else c) for c in line] for line in some]
        text = "\n".join(mark.join(line[i] for i in order) for line in cells) + "\n"
        message = ""
        try:
            found = rows(write(tmp_path / name, text))
        except UsageError as error:
            message = str(error)
        if message:
            assert re.search(r"row \d+, column '\w+': the quote before '.*' is not closed", message)
        else:
            assert len(found) == len(some) - 1
            assert not any("\n" in str(value) for row in found for value in row.values())


def test_quotes_that_are_closed_are_read_as_before(tmp_path: Path) -> None:
    text = b'id,sequence,note\na,"AC\nGT","Main St, 5\nBerlin, Germany"\nb,GG,"5"" end"\nc,TT,3" end\nd,AA,"x\n\ny"\n'
    found = rows(write(tmp_path / "a.csv", text))
    assert [(r["sequence_id"], r["sequence"], r["note"]) for r in found] == [
        ("a", b"ACGT", "Main St, 5\nBerlin, Germany"),
        *(("b", b"GG", '5" end'), ("c", b"TT", '3" end'), ("d", b"AA", "x\n\ny")),
    ]
    for letters in ("acgtRYK", "GCTAAA CTAAAG", "uuaacg"):
        text = f'id,sequence,note\na,{letters},"x\nb,{letters},y\nc,{letters},"z\n'
        assert "row 1, column 'note': the quote before 'x' is not closed" in sentence(write(tmp_path / "c.csv", text))
    assert "the quote before 'ACGT' is not closed" in sentence(write(tmp_path / "b.csv", b'sequence\n"ACGT\nCCCC\n'))


# k-mers


def kmers(letters: bytes, k: int) -> bytes:
    return b" ".join(letters[i : i + k] for i in range(len(letters) - k + 1))


@pytest.mark.parametrize("k", [3, 4, 5, 6, 10, 12])
def test_overlapping_kmers_are_a_reject_in_every_kind(tmp_path: Path, k: int) -> None:
    words = kmers(A + B, k)
    problem = f"written as {41 - k} overlapping {k}-mers, which are 40 bases and not {k * (41 - k)}"
    files = {
        "a.fa": b">a\n%b\n>b\n%b\n" % (words, C),
        "c.fa": b">a\n%b\n%b\n>b\n%b\n" % (*words.rsplit(b" ", 5)[:1], b" ".join(words.rsplit(b" ", 5)[1:]), C),
        "a.fq": b"@a\n%b\n+\n%b\n@b\n%b\n+\n%b\n" % (words, b"I" * len(words), C, b"I" * 20),
        "a.tsv": b"id\tsequence\na\t%b\nb\t%b\n" % (words.lower(), C),
        "a.csv": b"id,sequence\na,%b\nb,%b\n" % (words, C),
    }
    for name, text in files.items():
        first, second = rows(write(tmp_path / name, text))
        assert problem in first["problem"]
        assert (second["sequence"], second["problem"]) == (C, None)
    table = rows(parquet(tmp_path / "a.parquet", id=["a"], sequence=[words.decode()]))
    assert problem in table[0]["problem"]


def test_blocks_and_codons_stay_fine() -> None:
    long = (A + B + C) * 3
    for size in (3, 6, 10, 60):
        blocks = b" ".join(long[i : i + size] for i in range(0, len(long), size))
        assert spelled_in_kmers(blocks) is None
    for repeat in (b"CAG" * 20, b"A" * 60, b"N" * 60, b"TTAGGG" * 10):
        assert spelled_in_kmers(b" ".join(repeat[i : i + 10] for i in range(0, 60, 10))) is None
    for few in (b"ACGT", b"A C G T", b"ACG CGT", b"", b"   "):
        assert spelled_in_kmers(few) is None
    assert spelled_in_kmers(kmers(b"CAG" * 10, 6)) is not None
    # Two sequences put together.
    assert "37 overlapping" in str(spelled_in_kmers(kmers(A + B, 4)))
    assert spelled_in_kmers(kmers(A, 6) + b" " + kmers(B, 6)) is not None


# Folders


def test_columns_in_the_names_of_folders_are_keys(tmp_path: Path) -> None:
    table = pa.table({"id": list("abcd"), "sequence": ["AC", "GG", "TT", "CA"], "subject": ["S 1", "S/2", None, "S 1"]})
    pq.write_to_dataset(table, tmp_path / "run=7" / "cohort", partition_cols=["subject"])
    found = rows(*expand([str(tmp_path / "run=7" / "cohort")]))
    assert {row["sequence_id"]: row["subject"] for row in found} == {"a": "S 1", "b": "S/2", "c": None, "d": "S 1"}
    assert "run" not in found[0]
    write(tmp_path / "two/site=x/day=1/a.csv", CSV)
    write(tmp_path / "two/site=y/day=2/b.fa", FASTA)
    write(tmp_path / "two/site=z/day=3/c.tsv", b"id\tsequence\tsite\nq\tAC\town\n")
    found = rows(*expand([str(tmp_path / "two")]))
    assert {(r["site"], r["day"], r["k"]) for r in found} == {("x", "1", "v"), ("y", "2", None), ("own", "3", None)}
    assert [set(r) & {"site", "day"} for r in rows(*expand([str(tmp_path / "two")]), keys=False)] == [set()] * 7


def test_a_delta_table_is_read_at_its_present_version(tmp_path: Path) -> None:
    at = str(tmp_path / "in" / "table")
    write_deltalake(at, pa.table({"id": ["a", "b"], "sequence": ["AC", "GG"], "s": ["x", "y z"]}), partition_by=["s"])
    write_deltalake(at, pa.table({"id": ["c"], "sequence": ["TT"], "s": ["y z"]}), mode="overwrite", partition_by=["s"])
    assert [(r["sequence_id"], r["s"]) for r in rows(*expand([at]))] == [("c", "y z")]
    write(tmp_path / "in" / "more.csv", "id,sequence\nq,AC\n")
    assert [r["sequence_id"] for r in rows(*expand([str(tmp_path / "in")]))] == ["q", "c"]
    with pytest.warns(DnafeatWarning, match=r"2 files of .* no longer part of the Delta table .*, and left out"):
        assert [r["sequence_id"] for r in rows(*expand([f"{at}/*/*.parquet"]))] == ["c"]
    [live] = {Path(uri).name for uri in DeltaTable(at).file_uris()}
    old = next(path for path in Path(at).rglob("*.parquet") if path.name != live)
    with pytest.warns(DnafeatWarning, match="rows that were taken out of the table are read"):
        assert len(expand([str(old)])) == 1


def test_a_delta_table_whose_files_are_not_its_rows_is_refused(tmp_path: Path) -> None:
    at = tmp_path / "table"
    write_deltalake(str(at), pa.table({"id": ["a"], "sequence": ["AC"]}))
    log = at / "_delta_log" / "00000000000000000000.json"
    text = log.read_text()
    log.write_text(text.replace('"configuration":{}', '"configuration":{"delta.columnMapping.mode":"name"}'))
    assert log.read_text() != text
    with pytest.raises(UsageError, match=r"the Delta table .*(columnMapping|cannot be read)"):
        expand([str(at)])
    log.write_text("{")
    with pytest.raises(UsageError, match=r"the Delta table .* cannot be read"):
        expand([str(at)])


def test_the_index_of_pandas_is_no_key(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", id=["a"], sequence=["AC"], __index_level_0__=[7], age=[3])
    with pytest.warns(DnafeatWarning, match="is an index that pandas wrote, and is left out"):
        assert [set(row) - set(reader.FIXED) for row in rows(file)] == [{"age"}]
    assert rows(file, id_column="__index_level_0__")[0]["sequence_id"] == "7"
    with pytest.warns(DnafeatWarning, match="'Unnamed: 0'"):
        assert "Unnamed: 0" not in rows(write(tmp_path / "a.csv", "Unnamed: 0,id,sequence\n0,a,AC\n"))[0]


def test_files_with_nothing_in_them_are_noted(tmp_path: Path) -> None:
    write(tmp_path / "one.fa", FASTA)
    for name, content in (("two.fa", b""), ("three.fa.gz", gzip.compress(b"")), ("four.fq", b"\n \n"), ("five.csv", b"")):
        write(tmp_path / name, content)
    with pytest.warns(DnafeatWarning, match=r"4 files of 5 are empty and left out, such as .*five.csv"):
        assert len(rows(*expand([str(tmp_path)]))) == 3
    # Letters without a header are not nothing, and a file that is alone is refused.
    assert "has no FASTA record" in sentence(str(tmp_path / "two.fa"))
    write(tmp_path / "six.fa", "ACGT\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DnafeatWarning)
        assert "six.fa has no FASTA record" in sentence(str(tmp_path))


def test_hidden_folders_are_left_out_and_noted(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.csv", CSV)
    for name in (".ipynb_checkpoints/a-checkpoint.csv", "_old/a.csv", "__MACOSX/._a.csv"):
        write(tmp_path / "data" / name, CSV)
    at = str(tmp_path / "data")
    with pytest.warns(DnafeatWarning, match=r"3 files in folders whose names start with '.' or '_' left out"):
        assert expand([at]) == [f"{at}/a.csv"]
    assert expand([f"{at}/_old"]) == [f"{at}/_old/a.csv"]
    write(tmp_path / "table" / "_c=1" / "a.csv", CSV)
    assert [row["_c"] for row in rows(*expand([str(tmp_path / "table")]))] == ["1"] * 3


def test_folders_that_a_glob_matches_are_noted(tmp_path: Path) -> None:
    write(tmp_path / "a.fa", FASTA)
    write(tmp_path / "more" / "b.fa", FASTA)
    with pytest.warns(DnafeatWarning, match="matches 1 folder, whose files are left out"):
        assert expand([f"{tmp_path}/*"]) == [f"{tmp_path}/a.fa"]


@pytest.mark.parametrize(
    "name", ["chr1::5.csv", "dir[1]/in.csv", "d::e/in.csv", "a*b.csv", "a?b.csv", "100%.csv", "a#b.csv", "*/x.csv"]
)
def test_a_path_that_is_there_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, CSV)
    write(tmp_path / "dir1" / "other.csv", "id,sequence\nz,AC\n")
    assert expand([file]) == [file]
    assert len(good(file)) == 3
    if "/" in name:
        assert expand([str(Path(file).parent)]) == [file]


def test_remote_paths_with_double_colons_are_no_chain() -> None:
    assert storage.filesystem("s3://bucket/day::1/a::b.csv")[1] == "bucket/day::1/a::b.csv"
    assert storage.filesystem("simplecache::memory://a/b.csv")[1] == "/a/b.csv"


def test_pipes_devices_and_links_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.fa")
    (tmp_path / "null").symlink_to("/dev/null")
    for place in (tmp_path / "pipe.fa", tmp_path / "null", tmp_path):
        with pytest.raises(UsageError, match="is a pipe or a device and no file"):
            expand([str(place)])
    write(tmp_path / "ok" / "a.fa", FASTA)
    (tmp_path / "ok" / ".#a.fa").symlink_to("nobody@host")
    (tmp_path / "ok" / "b.fa").symlink_to("a.fa")
    assert len(expand([str(tmp_path / "ok")])) == 2
    (tmp_path / "ok" / "more").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="is a link to a folder"):
        expand([str(tmp_path / "ok")])


# Many files, many columns, doubled ids


def test_portions_of_many_files_are_summed_once() -> None:
    class Size(int):
        added = 0

        def __add__(self, other: int) -> Size:
            Size.added += 1
            return Size(int(self) + int(other))

        __radd__ = __add__

        def __mul__(self, other: int) -> Size:
            return Size(int(self) * int(other))

    files = [f"/x/{i}.fa" for i in range(3000)]
    layout = reader.Layout(ReadOptions(), dict.fromkeys(files, "fasta"), {}, {}, {f: Size(10) for f in files}, {})
    assert [len(part) for part in portions(layout, 1000)] == [100] * 30
    assert layout.unpacked == 30_000
    assert Size.added <= 8 * len(files)


def test_the_keys_of_many_files_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write(tmp_path / f"{i}.csv", CSV) for i in range(5)]
    calls = []
    find = reader._key_columns
    monkeypatch.setattr(reader, "_key_columns", lambda *given: calls.append(1) or find(*given))
    layout = look(files, ReadOptions())
    assert [layout.keys for _ in range(9)] == [["k"]] * 9
    assert len(calls) == 1


def test_advice_on_doubled_ids_fits_the_file(tmp_path: Path) -> None:
    one, two = write(tmp_path / "s_R1.fq", FASTQ), write(tmp_path / "s_R2.fq", FASTQ)
    assert "or embed the files as two sources, each with a --source-name" in unique_ids(one, two)
    fasta, table = write(tmp_path / "a.fa", FASTA), write(tmp_path / "a.csv", CSV)
    assert unique_ids(fasta, fasta).endswith("the first words after '>'")
    assert "--id-column" in unique_ids(table, table)
    assert "--id-column" not in unique_ids(one, one) + unique_ids(fasta, two)


def test_small_batches_are_put_together_and_large_ones_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_ENTRIES", 5)
    names = [["a"], ["b", "c"], ["d"], ["e", "f", "g", "h", "i"], ["j"]]
    batches = [pa.record_batch({"id": pa.array(some)}) for some in names]
    found = list(entries.gathered(batches))
    assert [batch["id"].to_pylist() for batch in found] == [["a", "b", "c", "d"], names[3], ["j"]]
    assert found[1] is batches[3]
    assert list(entries.gathered([])) == []


def test_many_small_files_cost_few_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write(tmp_path / "in" / f"{i:03}.fa", b">r%d\n%b\n" % (i, A[i % 9 :])) for i in range(200)]
    layout = look(files, ReadOptions())
    taken = []
    applied = intake.Discretion.applied
    monkeypatch.setattr(intake.Discretion, "applied", lambda self, batch: taken.append(len(batch)) or applied(self, batch))
    found = intake.take_in(layout, intake.Checks(), tmp_path / "out", by_id=False)
    assert (taken, found.read) == ([200], 200)
    assert found.entries.table()["file"].to_pylist() == files
