"""A server that accepts connections and never answers: every request to it ends, within a deadline that grows with what it uploads."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import s3fs
from s3 import S3

from dnafeat import buckets, deadlines, storage
from dnafeat.errors import StoreError, UnreachableError
from dnafeat.store.snapshot import TableSnapshot

LIMIT = 0.5


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The way to S3 leads to a port where the kernel accepts connections, and nobody reads or writes."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        settings = {"ENDPOINT_URL": f"http://127.0.0.1:{server.getsockname()[1]}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
        for name, value in {**settings, "REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv(deadlines.VARIABLE, str(LIMIT))
        s3fs.S3FileSystem.clear_instance_cache()
        yield
        s3fs.S3FileSystem.clear_instance_cache()


def write(size: int) -> Callable[[str], Any]:
    return lambda uri: storage.write_whole(uri, lambda file: file.write(b"x" * size))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("call", "error"),
    [
        # One PUT that waits for leave to send, and the beginning of an upload in parts.
        (write(10), deadlines.NoAnswerError),
        (write(51 * 2**20), deadlines.NoAnswerError),
        (storage.open_input, UnreachableError),
        (storage.size, UnreachableError),
        (storage.expand, UnreachableError),
        (storage.check_writable, UnreachableError),
        (storage.remove, deadlines.NoAnswerError),
        (lambda uri: list(storage.listing(uri)), deadlines.NoAnswerError),
        (lambda uri: list(buckets.unfinished_uploads(uri)), deadlines.NoAnswerError),
        (lambda uri: TableSnapshot(uri, "runs").exists(), UnreachableError),
        (lambda uri: TableSnapshot(uri, "runs").snapshot, UnreachableError),
    ],
)
def test_every_request_that_is_never_answered_ends(call: Callable[[str], Any], error: type[Exception], silent: None) -> None:
    began = time.monotonic()
    with pytest.raises(error) as raised:
        call("s3://bucket/file")
    assert time.monotonic() - began < 30 * LIMIT
    # What is let through becomes a sentence and exit code 6 where a place is known.
    assert storage.fault(raised.value, StoreError) is UnreachableError or isinstance(raised.value, UnreachableError)


def test_an_upload_has_more_time_the_larger_it_is(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline of a millionth of a second is over for what uploads nothing, and not for a megabyte."""
    uri = s3.uri() + "/file"
    storage.write_whole(uri, lambda file: file.write(b"old"))
    monkeypatch.setenv(deadlines.VARIABLE, "1e-6")
    fs, path = storage.filesystem(uri)
    with pytest.raises(deadlines.NoAnswerError, match=r"_object had no answer within 0 s, 2 times"):
        fs.cat_file(path)
    fs.pipe_file(path, b"x" * 2**20)
    monkeypatch.delenv(deadlines.VARIABLE)
    assert storage.size(uri) == 2**20


@pytest.mark.parametrize(("value", "wanted"), [("", 60), ("0", 60), ("-1", 60), ("many", 60), ("7.5", 7.5)])
def test_the_deadline_is_a_positive_number_of_seconds(value: str, wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(deadlines.VARIABLE, value)
    assert deadlines.seconds() == wanted


def test_a_disk_has_no_deadlines(tmp_path: Any) -> None:
    fs, _ = storage.filesystem(str(tmp_path))
    assert "_call_s3" not in vars(fs)
