"""`-` for standard input and output, and outputs that are no regular files."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from stores import Entry, fill
from terminal import COMMAND, on_terminal

from dnafeat import storage
from dnafeat.cli.main import main
from dnafeat.cli.stdio import spooled_input
from dnafeat.embed.config import EmbedConfig, NightlyConfig
from dnafeat.errors import UsageError
from dnafeat.finetune.config import PredictConfig
from dnafeat.sources.reader import ReadOptions, read

ENTRIES = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "GGCC", {"subject": "s2"})]
FASTA = b">a\nACGT\n>b\nGGCC\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    fill(str(folder / "store"), ENTRIES, folder)
    return str(folder / "store")


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


# -- input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        (FASTA, "fa"),
        (b"\xef\xbb\xbf\n>a\nACGT\n>b\nGGCC\n", "fa"),
        (b"@a\nACGT\n+\nIIII\n@b\nGGCC\n+\nIIII\n", "fq"),
        (b"id,sequence\na,ACGT\nb,GGCC\n", "csv"),
        (b"id\tsequence\na\tACGT\nb\tGGCC\n", "tsv"),
        (gzip.compress(FASTA, mtime=0), "fa.gz"),
        (bz2.compress(b"id,sequence\na,ACGT\nb,GGCC\n"), "csv.bz2"),
        (lzma.compress(FASTA), "fa.xz"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_standard_input_is_read_by_its_content(content: bytes, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, content)
    with spooled_input(EmbedConfig.make(sources=("-",), store="s")) as config:
        [file] = config.sources
        assert Path(file).name == f"stdin.{ending}"
        assert config.source_name == "stdin"
        batches = list(read(config.sources, ReadOptions()))
        assert [name for batch in batches for name in batch["sequence_id"].to_pylist()] == ["a", "b"]
        assert [letters for batch in batches for letters in batch["sequence"].to_pylist()] == [b"ACGT", b"GGCC"]
    assert not Path(file).exists()


def test_parquet_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"], "sequence": ["ACGT"]}), file)
    piped(monkeypatch, file.getvalue())
    with spooled_input(PredictConfig.make(artifact="a", input=("-",), output="o")) as config:
        assert next(iter(read(config.input, ReadOptions())))["sequence_id"].to_pylist() == ["a"]


def test_the_source_has_the_name_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    tiled = {"tile": 5, "stride": 2}
    cases = ({"source_name": "mine"}, "mine"), ({"tile": 5}, "stdin#tile=5,stride=5"), (tiled, "stdin#tile=5,stride=2")
    for settings, name in cases:
        piped(monkeypatch, FASTA)
        with spooled_input(NightlyConfig.make(sources=("-",), store="s", **settings)) as config:
            assert config.to_dict()["source_name"] == name


def test_files_and_standard_input_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.fa").write_bytes(b">x\nAAAA\n")
    piped(monkeypatch, FASTA)
    with spooled_input(EmbedConfig.make(sources=(str(tmp_path / "x.fa"), "-"), store="s")) as config:
        assert config.sources[0] == str(tmp_path / "x.fa")
        assert sum(len(batch) for batch in read(config.sources, ReadOptions())) == 3
    same = EmbedConfig.make(sources=(str(tmp_path / "x.fa"),), store="s")
    with spooled_input(same) as config:
        assert config is same


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"hello\n", "'hello"),
        (b"\x1b[2J", "'\\\\x1b"),
        (gzip.compress(FASTA, mtime=0)[:20], "damaged"),
    ],
)
def test_what_is_nothing_that_is_read_is_refused(content: bytes, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, content)
    with pytest.raises(UsageError, match=word), spooled_input(EmbedConfig.make(sources=("-",), store="s")):
        pass
    with pytest.raises(UsageError, match="twice"), spooled_input(EmbedConfig.make(sources=("-", "-"), store="s")):
        pass


# -- output ------------------------------------------------------------------------------------------------------------


def test_standard_output_takes_parquet_and_text(store: str) -> None:
    def output(*arguments: str) -> bytes:
        command = [*COMMAND, "read", "--store", store, "--columns", "mean,bases", "--output", "-", *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout

    table = pq.read_table(pa.BufferReader(output()))
    assert sorted(table["sequence_id"].to_pylist()) == ["a", "b"]
    width = table["mean"].type.list_size
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        options = pyarrow.csv.ParseOptions(delimiter=delimiter)
        found = pyarrow.csv.read_csv(pa.BufferReader(output("--format", kind)), parse_options=options)
        names = ["sequence_id", "source_name", "subject", *(f"mean_{i}" for i in range(width)), "bases"]
        assert found.column_names == names
        assert [found[f"mean_{i}"].to_pylist() for i in range(width)] == [
            [row[i] for row in table["mean"].to_pylist()] for i in range(width)
        ]


@pytest.mark.parametrize(("name", "kind"), [("x.csv", "csv"), ("x.TSV", "tsv"), ("x.parquet", "parquet"), ("x", "parquet")])
def test_the_format_is_that_of_the_name(store: str, tmp_path: Path, name: str, kind: str) -> None:
    output = tmp_path / "deep" / "er" / name
    assert main(["read", "--store", store, "--columns", "mean", "--output", str(output)]) == 0
    start = output.read_bytes()[:13]
    assert start == {"csv": b'"sequence_id"', "tsv": b'"sequence_id"'}.get(kind, start)
    assert start.startswith(b"PAR1") == (kind == "parquet")


def test_an_empty_selection_has_a_header(store: str, tmp_path: Path) -> None:
    command = ["read", "--store", store, "--where", "subject=nobody", "--columns", "bases", "--output", str(tmp_path / "x.csv")]
    assert main(command) == 0
    assert (tmp_path / "x.csv").read_text() == '"sequence_id","source_name","subject","bases"\n'


def test_json_and_data_do_not_share_standard_output(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "--store", store, "--output", "-", "--json"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert main(["files", "--store", store, "--output", "-"]) == 0
    assert capsys.readouterr().out.rstrip().endswith(".parquet")


def test_a_terminal_gets_no_parquet(store: str) -> None:
    assert "--format csv" in on_terminal(["read", "--store", store, "--output", "-"])
    assert '"sequence_id"' in on_terminal(["read", "--store", store, "--output", "-", "--format", "csv", "--columns", "bases"])


def test_a_pipe_is_written_into_and_stays(store: str, tmp_path: Path) -> None:
    fifo, found = tmp_path / "fifo", []
    os.mkfifo(fifo)
    for arguments in (["read", "--columns", "mean"], ["files"]):
        reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
        reader.start()
        assert main([*arguments, "--store", store, "--output", str(fifo)]) == 0
        reader.join(timeout=60)
        assert fifo.is_fifo()
    assert pq.read_table(pa.BufferReader(found[0])).num_rows == 2
    assert found[1].endswith(b".parquet\n")


def test_a_link_stays_and_its_target_is_written(store: str, tmp_path: Path) -> None:
    (tmp_path / "target.parquet").write_text("old")
    (tmp_path / "link.parquet").symlink_to(tmp_path / "target.parquet")
    assert main(["read", "--store", store, "--output", str(tmp_path / "link.parquet")]) == 0
    assert (tmp_path / "link.parquet").is_symlink()
    assert pq.read_table(tmp_path / "target.parquet").num_rows == 2


def test_a_folder_is_refused(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["read"], ["files"]):
        assert main([*arguments, "--store", store, "--output", str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert "is a folder" in err
        assert err.count("\n") == 1


def test_whatever_writes_a_file_whole_writes_into_a_pipe(tmp_path: Path) -> None:
    fifo, found = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    assert storage.write_whole(str(fifo), lambda file: file.write(b"whole")) == 5
    reader.join(timeout=60)
    assert found == [b"whole"]
    assert fifo.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]
    with pytest.raises(IsADirectoryError):
        storage.write_whole(str(tmp_path), lambda file: file.write(b"x"))


def test_predictions_go_where_and_as_they_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The job is stood in for: what it writes is a small table."""
    from dataclasses import dataclass

    from dnafeat.finetune import prediction as module

    @dataclass(frozen=True, kw_only=True)
    class Done:
        output: str
        bytes: int

    def predict(config: PredictConfig, *, show: bool) -> Done:
        size = storage.write_whole(
            config.output, lambda file: pq.write_table(pa.table({"sequence_id": ["a"], "predicted": ["x"]}), file)
        )
        return Done(output=config.output, bytes=size)

    monkeypatch.setattr(module, "predict", predict)
    monkeypatch.setattr(module, "format_summary", lambda done: f"{done.output}: 1 row\nmore")
    (tmp_path / "in.fa").write_bytes(FASTA)
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "dnafeat.json").write_text("{}")
    command = ["predict", str(tmp_path / "artifact"), "--input", str(tmp_path / "in.fa")]
    text = b'"sequence_id","predicted"\n"a","x"\n'
    assert main([*command, "--output", str(tmp_path / "x.csv")]) == 0
    assert (tmp_path / "x.csv").read_bytes() == text
    assert capsysbinary.readouterr().out == f"{tmp_path}/x.csv: 1 row\nmore\n".encode()
    assert main([*command, "--output", "-", "--format", "csv"]) == 0
    out, err = capsysbinary.readouterr()
    assert out == text
    assert err == b"dnafeat: -: 1 row\n"
    assert main([*command, "--output", "-"]) == 0
    assert pq.read_table(pa.BufferReader(capsysbinary.readouterr().out)).num_rows == 1
    (tmp_path / "in.csv").write_bytes(b"id,sequence\na,ACGT\n")
    assert main([*command[:-1], str(tmp_path / "in.csv"), "--output", str(tmp_path / "in.csv")]) == 2
    assert b"both input and output" in capsysbinary.readouterr().err


@pytest.mark.parametrize("arguments", [["read", "--output", "-", "--format", "csv"], ["runs"], ["files", "--json"]], ids=" ".join)
def test_a_reader_that_goes_away_leaves_no_traceback(store: str, arguments: list[str]) -> None:
    process = subprocess.Popen([*COMMAND, *arguments, "--store", store], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        said = process.stderr.read().decode().splitlines()
    assert process.wait() == 141
    assert [line for line in said if not line.startswith("dnafeat: the list holds")] == []


def test_embed_reads_a_pipe_of_the_shell(tmp_path: Path) -> None:
    """Refused before anything is embedded, so that no model is needed: the content is looked at first."""
    command = [*COMMAND, "embed", "-", "--store", str(tmp_path / "s")]
    done = subprocess.run(command, input=b"hello\n", capture_output=True)
    assert done.returncode == 2
    assert b"standard input is neither FASTA" in done.stderr
    assert not (tmp_path / "s").exists()
