"""Bad inputs by the thousand, drawn from a seed: each ends in time, with a sentence and a documented exit code, and runs nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import badinputs
import badstock
import counts
import pytest

from dnafeat import storage, untrusted
from dnafeat.cli.main import main
from dnafeat.errors import UsageError
from dnafeat.sources.cohort import index
from dnafeat.sources.reader import ReadOptions, read


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
