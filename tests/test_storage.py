"""Where bytes lie: files that appear whole or not at all, listings, and errors of one line; on the local disk and on S3."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import s3fs
from s3 import S3

from dnafeat import storage
from dnafeat.deadlines import delta_options as delta_deadlines
from dnafeat.errors import DnafeatError, StoreError, UnreachableError, UsageError


class Stop(Exception):
    """Raised by a writer on its way."""


def put(uri: str, content: bytes = b"x") -> str:
    storage.write_whole(uri, lambda file: file.write(content))
    return uri


def content(uri: str) -> bytes:
    with storage.open_input(uri) as file:
        return file.read()


def listed(uri: str) -> list[str]:
    """Names of all files below a folder, hidden ones too, as somebody sees them who has listed nothing before."""
    fs, path = storage.filesystem(uri)
    fs.invalidate_cache()
    return sorted(found.removeprefix(path.rstrip("/") + "/") for found in fs.find(path))


def sentence(error: pytest.ExceptionInfo[DnafeatError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_a_file_is_written_whole_with_its_size(store_uri: str) -> None:
    uri = storage.join(store_uri, "a", "b", "file.bin")
    assert storage.write_whole(uri, lambda file: [file.write(b"12345"), file.write(b"678")]) == 8
    assert storage.size(uri) == 8
    assert content(uri) == b"12345678"
    assert listed(store_uri) == ["a/b/file.bin"]
    assert storage.write_whole(uri, lambda file: file.write(b"new")) == 3
    assert content(uri) == b"new"


@pytest.mark.parametrize("written", [b"", b"half", b"h" * 11 * 2**20], ids=["nothing", "little", "much"])
def test_a_writer_that_raises_leaves_nothing_behind(store_uri: str, written: bytes) -> None:
    put(storage.join(store_uri, "other"))

    def write(file: IO[bytes]) -> None:
        file.write(written)
        raise Stop

    with pytest.raises(Stop):
        storage.write_whole(storage.join(store_uri, "file.bin"), write)
    assert listed(store_uri) == ["other"]


def test_an_upload_in_parts_that_breaks_off_leaves_nothing_behind(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.uri() + "/file.bin"
    monkeypatch.setattr(storage.filesystem(uri)[0], "default_block_size", 5 * 2**20)
    open_uploads: list[int] = []

    def uploads() -> int:
        # Writers that other tests have killed may have left some elsewhere.
        own = uri.removeprefix(f"s3://{s3.bucket}/")
        return len(s3.client().call_s3("list_multipart_uploads", Bucket=s3.bucket, Prefix=own).get("Uploads", []))

    def write(file: IO[bytes]) -> None:
        file.write(b"h" * 6 * 2**20)
        file.write(b"h" * 6 * 2**20)
        open_uploads.append(uploads())
        raise Stop

    with pytest.raises(Stop):
        storage.write_whole(uri, write)
    assert (open_uploads, uploads()) == ([1], 0)
    assert not s3.client().exists(uri)
    assert storage.write_whole(uri, lambda file: [file.write(b"h" * 6 * 2**20) for _ in range(2)]) == 12 * 2**20
    assert storage.size(uri) == 12 * 2**20


def test_a_writer_that_raises_leaves_the_file_that_was_there(store_uri: str) -> None:
    uri = put(storage.join(store_uri, "file.bin"), b"old")

    def write(file: IO[bytes]) -> None:
        file.write(b"new")
        raise Stop

    with pytest.raises(Stop):
        storage.write_whole(uri, write)
    assert content(uri) == b"old"
    assert listed(store_uri) == ["file.bin"]


def test_nobody_sees_a_file_while_it_is_written(store_uri: str) -> None:
    put(storage.join(store_uri, "other"))
    seen: list[str] = []

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        file.flush()
        seen.extend(name for name in listed(store_uri) if not name.startswith("."))
        file.write(b"half")

    storage.write_whole(storage.join(store_uri, "file.bin"), write)
    assert seen == ["other"]
    assert content(storage.join(store_uri, "file.bin")) == b"halfhalf"


@pytest.mark.parametrize(("pack", "ending"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
def test_packed_files_are_read_unpacked_and_measured_packed(store_uri: str, pack: Callable[[bytes], bytes], ending: str) -> None:
    packed = pack(b">a\nACGT\n")
    uri = put(storage.join(store_uri, "a.fa" + ending), packed)
    assert content(uri) == b">a\nACGT\n"
    assert storage.size(uri) == len(packed)


@pytest.fixture
def tree(store_uri: str) -> str:
    for name in ("b.fa", "a.fa", "c.csv", "deep/d.fa", "deep/er/e.fa", "a 1.fa"):
        put(storage.join(store_uri, name))
    return store_uri


FOUND = {
    "a.fa": ["a.fa"],
    "a 1.fa": ["a 1.fa"],
    "*.fa": ["a 1.fa", "a.fa", "b.fa"],
    "?.fa": ["a.fa", "b.fa"],
    "[bc].*": ["b.fa", "c.csv"],
    "*/*.fa": ["deep/d.fa"],
    "**/*.fa": ["a 1.fa", "a.fa", "b.fa", "deep/d.fa", "deep/er/e.fa"],
    "deep": ["deep/d.fa", "deep/er/e.fa"],
    "deep/": ["deep/d.fa", "deep/er/e.fa"],
    "": ["a 1.fa", "a.fa", "b.fa", "c.csv", "deep/d.fa", "deep/er/e.fa"],
    # A folder that matches is no file.
    "*": ["a 1.fa", "a.fa", "b.fa", "c.csv"],
}


def test_paths_folders_and_globs_become_sorted_files(tree: str) -> None:
    for pattern, names in FOUND.items():
        assert storage.expand(storage.join(tree, pattern)) == [storage.join(tree, name) for name in names], pattern


def test_a_path_without_files_is_named(tree: str) -> None:
    for name in ("no.fa", "*.nothing", "no/*.fa", "no/"):
        with pytest.raises(UsageError) as error:
            storage.expand(storage.join(tree, name))
        sentence(error, storage.join(tree, name), "matches no file" if "*" in name else "does not exist")


def test_a_file_with_glob_marks_in_its_name_is_found_by_its_name(store_uri: str) -> None:
    uri = put(storage.join(store_uri, "sample[1].fa"))
    assert storage.expand(uri) == [uri]


@pytest.mark.parametrize("name", ["dir[1]", "a*b", "chr1::5", "x::s3", "100%", "a%20b"])
def test_a_folder_and_a_file_of_any_name_are_found_by_it(store_uri: str, name: str) -> None:
    place = storage.join(store_uri, name)
    found = [put(storage.join(place, one)) for one in ("a.fa", f"{name}.fa")]
    put(storage.join(store_uri, "dir1", "other.fa"))
    assert storage.expand(place) == sorted(found)
    assert [content(one) for one in found] == [b"x", b"x"]
    assert storage.expand(found[1]) == [found[1]]
    assert storage.names(place) == sorted(["a.fa", f"{name}.fa"])
    storage.remove_files(place, ["a.fa", "never/there"])
    assert listed(place) == [f"{name}.fa"]
    storage.remove_folder(place)
    assert listed(store_uri) == ["dir1/other.fa"]


def test_names_are_those_directly_below_a_folder(store_uri: str) -> None:
    assert storage.names(store_uri) == []
    for name in ("a", ".b", "c/d/e", "c/f"):
        put(storage.join(store_uri, name))
    assert storage.names(store_uri) == [".b", "a", "c"]
    assert storage.names(storage.join(store_uri, "c")) == ["d", "f"]


def test_files_go_with_the_folders_that_they_leave_empty(tmp_path: Path) -> None:
    for name in ("work/a/b/one", "work/a/two", "work/c/three", "kept"):
        put(str(tmp_path / name))
    storage.remove_files(str(tmp_path / "work" / "a"), ["b/one"], folders=True)
    storage.remove_files(str(tmp_path / "work" / "c"), ["three", "never"], folders=True)
    assert listed(str(tmp_path)) == ["kept", "work/a/two"]
    assert not (tmp_path / "work" / "c").exists()
    assert not (tmp_path / "work" / "a" / "b").exists()
    storage.remove_files(str(tmp_path / "work" / "a"), ["two"])
    assert (tmp_path / "work" / "a").exists(), "somebody may be about to write into it"


def test_what_others_have_written_since_is_seen(s3: S3) -> None:
    folder = s3.uri("source")
    put(folder + "/a.fa", b"old")
    assert storage.expand(folder) == [folder + "/a.fa"]
    other = s3.client()
    other.pipe(folder + "/b.fa", b"new")
    other.pipe(folder + "/a.fa", b"longer than before")
    assert storage.expand(folder) == [folder + "/a.fa", folder + "/b.fa"]
    assert storage.expand(folder + "/*.fa") == [folder + "/a.fa", folder + "/b.fa"]
    assert content(folder + "/a.fa") == b"longer than before"
    assert storage.size(folder + "/a.fa") == 18


def test_local_paths_are_absolute_and_others_without_a_trailing_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = str(tmp_path.resolve())
    assert storage.absolute("store") == f"{here}/store"
    assert storage.absolute("./a/../store/") == f"{here}/store"
    assert storage.absolute(f"file://{here}/store") == f"{here}/store"
    assert storage.absolute("~/store") == f"{here}/home/store"
    assert storage.absolute("s3://bucket/store/") == "s3://bucket/store"


def test_names_and_joins_keep_the_protocol() -> None:
    assert storage.join("s3://bucket/", "a", "b") == "s3://bucket/a/b"
    assert storage.join("/x/y/", "a") == "/x/y/a"
    assert storage.name("s3://bucket/a/b.fa.gz") == "b.fa.gz"
    local = {uri: storage.is_local(uri) for uri in ("/x", "x", "file:///x", "s3://bucket/x")}
    assert local == {"/x": True, "x": True, "file:///x": True, "s3://bucket/x": False}


def test_a_folder_is_removed_with_all_below_it_and_nothing_else(store_uri: str) -> None:
    for name in ("work/a", "work/deep/b", "workshop/c"):
        put(storage.join(store_uri, name))
    storage.remove_folder(storage.join(store_uri, "work"))
    assert listed(store_uri) == ["workshop/c"]
    storage.remove_folder(storage.join(store_uri, "work"))
    storage.remove_folder(storage.join(store_uri, "never/there"))
    assert listed(store_uri) == ["workshop/c"]


def test_a_check_that_a_place_can_be_written_leaves_nothing_there(store_uri: str) -> None:
    put(storage.join(store_uri, "file"))
    storage.check_writable(store_uri)
    assert listed(store_uri) == ["file"]


@pytest.mark.parametrize("call", [storage.open_input, storage.size, storage.expand])
def test_what_is_not_there_is_a_usage_error_of_one_line(store_uri: str, call: Callable[[str], Any]) -> None:
    uri = storage.join(store_uri, "no.fa")
    with pytest.raises(UsageError) as error:
        call(uri)
    sentence(error, uri)


@pytest.mark.parametrize("call", [storage.open_input, storage.size, storage.expand])
@pytest.mark.parametrize("uri", ["nonsense://bucket/a.fa", "https:///a.fa"])
def test_a_place_nobody_knows_is_a_usage_error_of_one_line(call: Callable[[str], Any], uri: str) -> None:
    with pytest.raises(UsageError) as error:
        call(uri)
    sentence(error, uri)


def test_a_folder_where_a_file_is_wanted_is_a_usage_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        storage.open_input(str(tmp_path))
    sentence(error, str(tmp_path))


@pytest.mark.parametrize("call", [storage.open_input, storage.size, storage.expand])
def test_a_bucket_that_is_not_there_is_a_usage_error_of_one_line(s3: S3, call: Callable[[str], Any]) -> None:
    with pytest.raises(UsageError) as error:
        call("s3://there-is-no-such-bucket/a.fa")
    sentence(error, "s3://there-is-no-such-bucket/a.fa")


def test_wrong_credentials_are_one_line_and_not_a_missing_file(s3: S3) -> None:
    uri = put(s3.uri() + "/a.fa")
    with s3.changed(AWS_SECRET_ACCESS_KEY="wrong"):
        for call in (storage.open_input, storage.size, storage.expand):
            with pytest.raises(UnreachableError) as error:
                call(uri)
            sentence(error, uri)
            assert "does not exist" not in str(error.value)
        with pytest.raises(UnreachableError) as refused:
            storage.check_writable(s3.uri())
        sentence(refused, "cannot be written")


def test_a_server_that_does_not_answer_is_one_line(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with s3.changed(AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1"):
        for call in (storage.open_input, storage.size, storage.expand):
            with pytest.raises(UnreachableError) as error:
                call("s3://bucket/a.fa")
            sentence(error, "s3://bucket/a.fa")
            assert "does not exist" not in str(error.value)


def test_a_place_that_cannot_be_written_is_a_store_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError) as error:
        storage.check_writable(str(tmp_path / "file" / "store"))
    sentence(error, str(tmp_path / "file" / "store"), "cannot be written")


def test_a_bucket_that_cannot_be_written_is_a_store_error_of_one_line(s3: S3) -> None:
    with pytest.raises(StoreError) as error:
        storage.check_writable("s3://Not_A_Bucket!/store")
    sentence(error, "s3://Not_A_Bucket!/store", "cannot be written")


def test_a_local_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    flush, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("flushed"), flush(number))[1])
    monkeypatch.setattr(Path, "rename", lambda self, target: (order.append("named"), rename(self, target))[1])
    put(str(tmp_path / "file"))
    assert order == ["flushed", "named"]


@pytest.mark.parametrize(
    ("environment", "uri", "options"),
    [
        ({}, "s3://bucket/store", {}),
        ({"AWS_ENDPOINT_URL": "https://host"}, "s3://bucket/store", {}),
        ({"AWS_ENDPOINT_URL": "http://host:1"}, "/local/store", {}),
        (
            {"AWS_ENDPOINT_URL": "http://host:1"},
            "s3://bucket/store",
            {"AWS_ALLOW_HTTP": "true", "AWS_ENDPOINT_URL": "http://host:1"},
        ),
        (
            {"AWS_ENDPOINT_URL": "https://host", "AWS_ENDPOINT_URL_S3": "http://host:2"},
            "s3://bucket/store",
            {"AWS_ALLOW_HTTP": "true", "AWS_ENDPOINT_URL": "http://host:2"},
        ),
    ],
)
def test_plain_http_is_allowed_only_to_an_endpoint_that_has_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], uri: str, options: dict[str, str]
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert storage.delta_options(uri) == options | (delta_deadlines() if uri.startswith("s3://") else {})
