"""Bad inputs by the thousand, drawn from a seed: each ends in time, with a sentence and a documented exit code, and runs nothing."""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import badinputs
import badstock
import counts
import numpy as np
import pytest
from people import write_genome

from dnafeat import storage, untrusted
from dnafeat.cli.main import guarded, main
from dnafeat.errors import DamagedError, UsageError, one_line
from dnafeat.partners import files as partner_files
from dnafeat.partners.config import PartnerConfig
from dnafeat.pretrain.corpus import read_records
from dnafeat.pseudonyms import read_salt
from dnafeat.sources.cohort import index
from dnafeat.sources.lists import read_list
from dnafeat.sources.reader import ReadOptions, read
from dnafeat.sources.regions.genome import look as look_genome
from dnafeat.store.replaced import ABOUT, ReplacedTable
from dnafeat.store.table import Table


@pytest.mark.timeout(0)
def test_bad_inputs_are_refused_in_a_sentence() -> None:
    assert badinputs.tried(0, counts.BAD_INPUTS, kinds=badstock.QUICK) == []


def test_a_home_of_nobody_is_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("~nobody-of-this-name") == str(tmp_path / "~nobody-of-this-name")


def test_a_link_to_itself_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop.fa").symlink_to("loop.fa")
    assert main(["embed", str(tmp_path / "loop.fa"), "--store", str(tmp_path / "store")]) in (2, 6)
    assert main(["runs", "--store", str(tmp_path / "loop.fa")]) in (2, 6)
    assert "nobody foresaw" not in capsys.readouterr().err


@pytest.mark.timeout(30)
def test_a_pipe_into_which_nobody_writes_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "_PIPE_SECONDS", 0.05)
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert main(["versions", "--config", str(pipe)]) == 2
    with pytest.raises(UsageError, match="nobody writes"):
        storage.open_input(str(pipe))
    os.mkfifo(tmp_path / "v.vcf.gz")
    with pytest.raises(UsageError, match="a pipe or a device"):
        index.find(str(tmp_path / "v.vcf.gz"))


def test_a_pipe_with_a_writer_is_read(tmp_path: Path) -> None:
    # As a shell's <(…), whose writer may be done before it is opened.
    number, into = os.pipe()
    os.write(into, b"store: x\n")
    os.close(into)
    with untrusted.open_file(f"/dev/fd/{number}") as file:
        assert file.read() == b"store: x\n"
    os.close(number)


def test_a_row_that_is_no_text_prints_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    file = tmp_path / "a.csv"
    file.write_bytes(b"id,sequence\na,ACGT\nb,ACGT,\xff\xfe,x\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        list(read([str(file)], ReadOptions()))
    assert seen == []


def test_a_name_that_is_no_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p\udcff.csv").write_text("subject_id,f0,f1\nS1,1,2\n")
    assert main(["partner", "generic", str(tmp_path), "--output", str(tmp_path.parent / "out.parquet")]) == 2
    assert "no UTF-8: rename it" in capsys.readouterr().err


def test_a_null_byte_in_a_column_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,sequence,a\0b\na,ACGT,x\n")
    with pytest.raises(UsageError, match="column 3 has a null byte"):
        list(read([str(tmp_path / "a.csv")], ReadOptions()))


@pytest.mark.parametrize(
    "row", [b"c\t240\t0x10\t60\t61", b"c\t240\t-3\t60\t61", b"c\t240\t3\t60", b"c\t240\t1000000000000000000000\t60\t61"]
)
def test_an_index_of_a_genome_with_absurd_numbers_is_refused(tmp_path: Path, row: bytes) -> None:
    genome = write_genome(tmp_path / "g.fa", {"c": "ACGT" * 60})
    (tmp_path / "g.fa.fai").write_bytes(row + b"\n")
    with pytest.raises(UsageError, match="is no index of a genome"):
        look_genome(genome)


def test_a_message_of_another_library_is_cut() -> None:
    assert len(one_line(ValueError("x" * 30_000))) == 1_000


def test_a_joined_table_that_says_nothing_readable_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    table = ReplacedTable("joined")
    table.there = True
    monkeypatch.setattr(Table, "snapshot", SimpleNamespace(history=lambda: [{"version": 0, ABOUT: "{no"}]))
    with pytest.raises(DamagedError, match="version 0"):
        list(table.commits())


# Named, since what gzip writes has the time in it, and all workers have to collect the same tests.
@pytest.mark.parametrize(
    "content",
    [gzip.compress(b">a\n" + b"ACGT" * 9000)[:60], gzip.compress(b">a\nACGT\n")[:-9] + b"x" * 9],
    ids=["cut", "no checksum"],
)
def test_a_damaged_packing_is_one_sentence_for_every_text_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.fa.gz"
    file.write_bytes(content)
    for reader in (lambda: read_records([str(file)]), lambda: read_list(str(file), "gene_id", "gene")):
        with pytest.raises(UsageError, match="cannot be read: its packing"):
            reader()


def test_too_little_memory_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        raise MemoryError

    assert guarded(run) == 2
    assert "memory of this machine" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["!!bool x", "!!int abc", "!!timestamp x", "!!float x", "2026-02-31"])
def test_a_tag_of_yaml_on_a_value_that_does_not_fit_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    (tmp_path / "a.yaml").write_text(f"store: {value}\n")
    assert main(["versions", "--config", str(tmp_path / "a.yaml")]) == 2
    assert "a.yaml" in capsys.readouterr().err


def test_a_name_that_no_file_can_have_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "x" * 5000, "--store", "store"]) == 2
    assert "is no name of a file here: File name too long" in capsys.readouterr().err


def test_a_salt_in_a_damaged_packing_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "salt.txt").write_bytes(gzip.compress(b"s" * 999)[:20])
    with pytest.raises(UsageError, match="cannot be read: its packing"):
        read_salt(str(tmp_path / "salt.txt"))


def test_an_archive_named_as_an_array_is_a_problem(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    config = PartnerConfig.make({"kind": "generic", "input": ["in"], "output": "out"})
    assert "archive of arrays" in str(next(iter(partner_files.read(str(tmp_path / "a.npy"), config))))
