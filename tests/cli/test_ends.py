"""How commands end: exit codes for what a user, storage, a signal or nobody has foreseen, and one sentence for each."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs
from models import dna
from people import vcf_text, write_vcf
from s3 import S3

from dnafeat import errors
from dnafeat.cli.help import EXIT_CODES
from dnafeat.cli.main import guarded, main
from dnafeat.errors import DnafeatError, StrictError

# What a command reads from storage, one kind of thing in each: sources, models, adapters, artifacts, partners, stores.
READING = [
    "embed {s3}/a.fa --store {here}/store",
    "embed {here}/a.fa --store {here}/store --model {s3}/model",
    "embed {here}/a.fa --store {here}/store --adapter {s3}/adapter",
    "embed {here}/a.fa --store {here}/store --projector {s3}/projector",
    "embed {here}/a.fa --store {s3}/store",
    "embed --genome {here}/a.fa --regions {here}/a.bed --vcf {s3}/a.vcf.gz --store {here}/store",
    "embed --genome {s3}/a.fa --regions {here}/a.bed --store {here}/store",
    "nightly {s3}/a.fa --store {here}/store",
    "finetune --train {s3}/a.csv --output {here}/out",
    "finetune --train {here}/a.csv --output {s3}/out",
    "pretrain {s3}/a.fa --output {here}/out",
    "predict {s3}/artifact --input {here}/a.fa --output {here}/out.parquet",
    "effects --store {s3}/store --genome {here}/a.fa --vcf {here}/a.vcf.gz --window 8 --output {here}/out.tsv",
    "effects --store {here}/store --genome {s3}/a.fa --vcf {here}/a.vcf.gz --output {here}/out.tsv",
    "effects --store {here}/store --genome {here}/a.fa --vcf {s3}/a.vcf.gz --output {here}/out.tsv",
    "partner generic {s3}/scans/*.npy --output {here}/partner.parquet",
    "runs --store {s3}/store",
    "versions --store {s3}/store",
    "maintain --store {s3}/store",
    "publish --store {s3}/store --version abc --channel production",
    "forget --store {s3}/store --where subject_id=S1",
]


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of standard error."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    [line] = said.splitlines()
    assert line.startswith("dnafeat: ")
    return line


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "a.fa").write_text(">a\nACGTACGT\n")
    (tmp_path / "a.bed").write_text("a\t0\t8\n")
    write_vcf(tmp_path / "a.vcf.gz", vcf_text({"a": 8}, ["S1"], [("a", 2, "C", "T", "0|1")]))
    (tmp_path / "a.csv").write_text("sequence,label\n" + "".join(f"{dna(30, seed=i)},{'xy'[i % 2]}\n" for i in range(60)))
    return tmp_path


def code_of(command: str, files: Path, root: str) -> int:
    return main(command.format(s3=root, here=files).split())


# Exit codes.


def kinds(base: type[DnafeatError] = DnafeatError) -> Iterator[type[DnafeatError]]:
    yield base
    for one in base.__subclasses__():
        yield from kinds(one)


def test_strict_alone_ends_with_1_and_every_code_is_listed() -> None:
    codes = {one: one.exit_code for one in kinds() if one.__module__ == errors.__name__}
    assert [one for one, code in codes.items() if code == 1] == [StrictError]
    assert set(codes.values()) <= EXIT_CODES.keys()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division"), ModuleNotFoundError("no such", name="dnafeat.nowhere"), OSError(22, "?")]
)
def test_what_nobody_foresaw_is_70_with_a_traceback_in_a_file_of_its_owner(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run() -> int:
        raise error

    assert guarded(run) == 70
    said = sentence(capsys)
    assert "a fault of dnafeat that nobody foresaw" in said
    [log] = [Path(one) for one in re.findall(r"traceback is in (\S+),", said)]
    assert type(error).__name__ in log.read_text()
    assert "in run" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EROFS, "?"), ConnectionRefusedError(), TimeoutError()],
)
def test_storage_that_fails_where_nobody_looks_for_it_is_6(error: OSError, capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        raise error

    assert guarded(run) == 6
    assert "storage" in sentence(capsys)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_command_in_a_sentence(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    number = getattr(signal, name)
    # A shell may have it ignored, as nohup does, and then it stays so.
    inherited = signal.signal(number, signal.SIG_DFL)

    def run() -> int:
        os.kill(os.getpid(), number)
        time.sleep(5)
        return 0

    try:
        assert guarded(run) == code
        assert sentence(capsys) == f"dnafeat: ended by {name}; send the same command again"
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert guarded(lambda: os.kill(os.getpid(), signal.SIGHUP) or 0) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# Storage.


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Leads all clients of S3 to a port of this machine, and takes most of their patience."""
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)

    def lead(port: int) -> None:
        settings = {
            "ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "MAX_ATTEMPTS": "1",
            "ACCESS_KEY_ID": "a",
            "SECRET_ACCESS_KEY": "b",
        }
        for name, value in {**settings, "REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("DNAFEAT_STORAGE_TIMEOUT", "0.4")

    s3fs.S3FileSystem.clear_instance_cache()
    yield lead
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("command", READING)
def test_storage_that_cannot_be_reached_is_6_for_whatever_is_read_from_it(
    command: str, files: Path, unreachable: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    unreachable(9)
    assert code_of(command, files, "s3://bucket") == 6
    assert "s3://bucket" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", READING)
def test_storage_that_refuses_is_6_for_whatever_is_read_from_it(
    command: str, s3: S3, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with s3.changed(AWS_SECRET_ACCESS_KEY="wrong", AWS_MAX_ATTEMPTS="1"):
        assert code_of(command, files, s3.uri()) == 6
    assert f"s3://{s3.bucket}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["embed {s3}/a.fa --store {here}/store", "embed {here}/a.fa --store {s3}/store"])
def test_storage_that_accepts_and_never_answers_is_6(
    command: str, files: Path, unreachable: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)  # the kernel accepts, and nobody reads
        unreachable(silent.getsockname()[1])
        began = time.monotonic()
        assert code_of(command, files, "s3://bucket") == 6
    assert time.monotonic() - began < 30
    assert "s3://bucket" in capsys.readouterr().err.splitlines()[-1]
