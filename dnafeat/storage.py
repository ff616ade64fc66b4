"""Storage: local folders and `s3://` (both tested), and whatever else fsspec and deltalake know (untested)."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
from fsspec.core import url_to_fs

from dnafeat import deadlines, packing, untrusted
from dnafeat.errors import DnafeatError, MissingFileError, StoreError, UnreachableError, UsageError, one_line
from dnafeat.urls import refuse_secrets

try:
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
except ModuleNotFoundError:
    # A machine that only encodes has no client for S3, and then nothing raises its errors.
    BotoCoreError = ClientError = ParamValidationError = type("Absent", (Exception,), {})

# What botocore, s3fs and fsspec raise when a server refuses or cannot be reached.
SERVER_ERRORS = (BotoCoreError, ClientError)
STORAGE_ERRORS = (OSError, ValueError, ImportError, *SERVER_ERRORS)
# Of these, what does not pass by itself.
_LASTING = (
    *(UsageError, ValueError, ImportError, ParamValidationError),
    *(FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError),
)
# What a disk or a network says of itself, and not of the path that it was asked for.
_PASSING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT),
}

_COPIED_AT_ONCE = 1 << 20
_DELETED_AT_ONCE = 1_000  # the most that S3 takes
# A chain of file systems, such as `simplecache::s3://bucket/file`.
_CHAIN = re.compile(r"^[a-z0-9+]+::|::[a-z0-9+]+://")


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """A local path as an absolute one, so that it means the same in every worker; other URIs without a trailing slash."""
    # Of `~name` without a user of that name, and of a link to itself, `pathlib` would raise.
    return os.path.realpath(os.path.expanduser(uri.removeprefix("file://"))) if is_local(uri) else uri.rstrip("/")  # noqa: PTH111


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    """The last part of a path or URI."""
    return PurePosixPath(uri).name


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of a URI and the path in it. Raises UsageError for an unknown protocol, and a URL with a secret in it."""
    refuse_secrets(uri)
    try:
        # Of a path that holds `::` fsspec would make a chain of file systems.
        if is_local(uri):
            fs = fsspec.filesystem("file")
            return fs, fs._strip_protocol(uri)
        # A remembered listing would hide what another process has written or removed meanwhile.
        if "::" in uri and not _CHAIN.search(uri):
            fs = fsspec.filesystem(uri.partition("://")[0], use_listings_cache=False)
            return deadlines.with_deadlines(fs), fs._strip_protocol(uri)
        fs, path = url_to_fs(uri, use_listings_cache=False)
        return deadlines.with_deadlines(fs), path
    except STORAGE_ERRORS as error:
        raise fault(error, UsageError)(f"{uri} cannot be opened: {one_line(error)}") from error


def open_input(uri: str) -> IO[bytes]:
    """A file for reading, unpacked on the way when it is packed.

    Raises UsageError when it cannot be read, and UnreachableError when its storage cannot be reached or refuses.
    """
    fs, path = filesystem(uri)
    try:
        raw = untrusted.open_file(path) if is_local(uri) else fs.open(path, "rb")
        try:
            # Of a large Parquet file on S3 the end is read first, and its beginning would be read for nothing.
            return raw if path.lower().endswith(packing.PARQUET) else packing.unpacked(raw, path)
        except BaseException:
            raw.close()
            raise
    except FileNotFoundError:
        raise UsageError(f"{uri} does not exist") from None
    except STORAGE_ERRORS as error:
        raise fault(error, UsageError)(f"{uri} cannot be read: {one_line(error)}") from error


def expand(pattern: str) -> list[str]:
    """The files behind a path, folder or glob, sorted by name.

    What is there is taken as it is, before it is taken for a glob. Raises UsageError when there is none, UnreachableError as
    `open_input`.
    """
    fs, path = filesystem(pattern)
    try:
        if fs.isfile(path):
            found = [path]
        elif fs.isdir(path):
            found = sorted(fs.find(path))
        elif any(mark in path for mark in "*?["):
            found = sorted(p for p in fs.glob(path) if not fs.isdir(p))
        else:
            found = []
    except STORAGE_ERRORS as error:
        raise fault(error, UsageError)(f"{pattern} cannot be listed: {one_line(error)}") from error
    if not found:
        raise UsageError(
            f"{pattern} matches no file" if any(mark in path for mark in "*?[") else f"{pattern} does not exist or holds no file"
        )
    if strange := next((one for one in found if not one.isprintable() and any("\ud800" <= c <= "\udfff" for c in one)), None):
        raise UsageError(f"{strange} has a name that is no UTF-8: rename it")
    return found if is_local(pattern) else [fs.unstrip_protocol(p) for p in found]


def check_regular(uri: str) -> None:
    """Raise UsageError for a local path that is there and no file: a pipe or device would be waited for, and gives its bytes once."""
    if not is_local(uri):
        return
    try:
        mode = Path(filesystem(uri)[1]).stat().st_mode
    except OSError as error:
        if Path(uri).is_symlink():
            raise UsageError(f"{uri} is a link to what cannot be read: {one_line(error)}") from error
        return
    if stat.S_ISDIR(mode):
        kind = "a link to a folder, which is not followed" if Path(uri).is_symlink() else "a folder and no file"
        raise UsageError(f"{uri} is {kind}: name {'the folder itself' if Path(uri).is_symlink() else 'a file in it'}")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{uri} is a pipe or a device and no file: pipe into the command, with - as its input")


def size(uri: str) -> int:
    """The size of a file in bytes, compressed as it is. Raises UsageError when it is not there, UnreachableError as `open_input`."""
    fs, path = filesystem(uri)
    try:
        return int(fs.size(path))
    except FileNotFoundError:
        raise UsageError(f"{uri} does not exist") from None
    except STORAGE_ERRORS as error:
        raise fault(error, UsageError)(f"{uri} cannot be read: {one_line(error)}") from error


def exists(uri: str) -> bool:
    """Whether there is a file. Raises UsageError where that cannot be told."""
    fs, path = filesystem(uri)
    try:
        return bool(fs.isfile(path))
    except STORAGE_ERRORS as error:
        raise fault(error, UsageError)(f"{uri} cannot be read: {one_line(error)}") from error


def write_whole(uri: str, write: Callable[[IO[bytes]], Any]) -> int:
    """Write a file that appears whole or not at all, and return its size in bytes.

    On a local disk it is written under a hidden name, flushed to the device and renamed; on object storage a PUT (or the last
    step of a multipart upload) is what makes it visible. What is no regular file, such as a device or a pipe, is written into and
    never replaced.
    """
    if not is_local(uri):
        fs, path = filesystem(uri)
        file = fs.open(path, "wb")
        try:
            write(file)
        except BaseException:
            # Closing it, as a `with` would, uploads what there is.
            file.discard()
            file.closed = True
            raise
        file.close()
        return int(fs.size(path))
    target = Path(uri)
    if target.exists() and not target.is_file():
        return _write_into(target, write)
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with hidden.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(target)
    finally:
        hidden.unlink(missing_ok=True)
    return target.stat().st_size


def _write_into(target: Path, write: Callable[[IO[bytes]], Any]) -> int:
    """Write into a device or a pipe what is complete, and return its size. Raises IsADirectoryError for a folder."""
    with tempfile.TemporaryFile() as whole:
        write(whole)
        size = whole.tell()
        whole.seek(0)
        with target.open("wb") as file:
            shutil.copyfileobj(whole, file, _COPIED_AT_ONCE)
    return size


def create(uri: str) -> IO[bytes]:
    """A new file for writing that others see once it is closed; its folder is made if need be. For files that nothing reads before."""
    fs, path = filesystem(uri)
    if is_local(uri):
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
    return fs.open(path, "wb")


def read_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """The bytes of files of one storage (URI, from, to before) in their order; an object storage is asked for all of them at once."""
    fs, _ = filesystem(ranges[0][0])
    paths = [filesystem(uri)[1] for uri, _, _ in ranges]
    return fs.cat_ranges(paths, [start for _, start, _ in ranges], [end for _, _, end in ranges], on_error="raise")


@dataclass(frozen=True)
class Listed:
    """A file that a listing names: path relative to what was listed, size in bytes, time of its last change by the server's clock."""

    path: str
    size: int
    modified: datetime


def listing(uri: str) -> Iterator[Listed]:
    """The files below a folder or prefix, hidden ones too; none where it does not exist."""
    fs, root = filesystem(uri)
    try:
        found = fs.find(root, detail=True)
    except FileNotFoundError:
        return
    for path, about in found.items():
        relative = path[len(root.rstrip("/")) + 1 :]
        if relative:
            yield Listed(relative, int(about["size"]), modified(about))


def names(uri: str) -> list[str]:
    """The names directly below a folder or prefix, hidden ones too; none where it does not exist."""
    fs, root = filesystem(uri)
    try:
        found = fs.ls(root, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # On S3 an object named like the folder may stand for it, and a listing of one object is that object.
    below = {path.rstrip("/") for path in found} - {root.rstrip("/")}
    return sorted(name(path) for path in below)


def is_empty(uri: str) -> bool:
    """Return whether nothing lies below a folder or prefix; some servers list prefixes of objects that are gone."""
    if not uri.startswith("s3://"):
        return not names(uri)
    bucket, _, prefix = filesystem(uri)[1].partition("/")
    found = filesystem(uri)[0].call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1_000)
    return not [one for one in found.get("Contents", ()) if not one["Key"].endswith("/")]


def modified(about: dict[str, Any]) -> datetime:
    """When a file was changed last, of what its filesystem says about it."""
    when = about["LastModified"] if "LastModified" in about else about["mtime"]
    return when.astimezone(UTC) if isinstance(when, datetime) else datetime.fromtimestamp(when, UTC)


def clock(uri: str) -> datetime:
    """The time now by the clock that stamps files below `uri`, which need not be this machine's."""
    probe = join(uri, f".clock-{uuid.uuid4().hex}")
    write_whole(probe, lambda file: file.write(b"dnafeat"))
    fs, path = filesystem(probe)
    try:
        return modified(fs.info(path))
    finally:
        fs.rm_file(path)


def remove(uri: str) -> None:
    """Remove a file; nothing happens when it is not there."""
    fs, path = filesystem(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def remove_files(uri: str, paths: Iterable[str], *, folders: bool = False) -> None:
    """Remove files below a folder or prefix by their relative paths; some need not be there.

    With `folders`, folders that are empty then go, too, that at `uri` included: for a place where nothing is written any more.
    """
    fs, root = filesystem(uri)
    below = [f"{root.rstrip('/')}/{path}" for path in paths]
    if uri.startswith("s3://"):
        _remove_objects(fs, below)
        return
    for path in below:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)
    if folders and is_local(uri):
        parents = {parent for path in below for parent in Path(path).parents if Path(root) in (parent, *parent.parents)}
        for folder in sorted(parents, key=lambda one: len(one.parts), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _remove_objects(fs: fsspec.AbstractFileSystem, paths: Sequence[str]) -> None:
    # `fs.rm` would take names with the marks of a glob for globs.
    for first in range(0, len(paths), _DELETED_AT_ONCE):
        some = [path.partition("/") for path in paths[first : first + _DELETED_AT_ONCE]]
        keys = {"Objects": [{"Key": key} for _, _, key in some], "Quiet": True}
        failed = fs.call_s3("delete_objects", Bucket=some[0][0], Delete=keys).get("Errors")
        if failed:
            raise OSError(f"{len(failed)} objects cannot be deleted, such as {failed[0]['Key']}: {failed[0].get('Message')}")


def remove_folder(uri: str) -> None:
    """Remove a folder or prefix and all below it; nothing happens when it is not there."""
    fs, path = filesystem(uri)
    if uri.startswith("s3://"):
        _remove_objects(fs, fs.find(path))
    elif fs.exists(path):
        fs.rm(path, recursive=True)


def fault(error: BaseException, wrong: type[DnafeatError] = StoreError) -> type[DnafeatError]:
    """Choose the error to raise for a failure of storage: UnreachableError where it passes by itself or a server refuses.

    Parameters
    ----------
    error : exception
        What the storage's client raised.
    wrong : type
        The error where what was asked for is wrong: StoreError for a store, UsageError for an input. An input that is damaged is wrong; a
        store's clients do not tell a damaged file from a bad network.
    """
    # s3fs translates what S3 answers.
    answered = isinstance(error, SERVER_ERRORS) or isinstance(error.__cause__, SERVER_ERRORS)
    refused = answered and not isinstance(error, FileNotFoundError | FileExistsError | ParamValidationError)
    if refused or "expired" in str(error):
        return UnreachableError
    if isinstance(error, FileNotFoundError) and wrong is StoreError:
        return MissingFileError
    if isinstance(error, _LASTING):
        return wrong
    network = isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or getattr(error, "errno", None) in _PASSING
    return UnreachableError if network or wrong is StoreError else wrong


def table_fault(error: BaseException, uri: str) -> type[DnafeatError]:
    """`fault` for an input that is a Delta table: what deltalake raises of object storage is an OSError without a number."""
    return fault(error, StoreError if isinstance(error, OSError) and not is_local(uri) else UsageError)


@contextlib.contextmanager
def reached(uri: str) -> Iterator[None]:
    """Turn errors of a disk or server that is full, gone or refuses into `fault`; s3fs and botocore have retried by then."""
    try:
        yield
    except (OSError, BotoCoreError, ClientError) as error:
        raise fault(error)(
            f"{uri} cannot be read or written: {one_line(error)}; send the same command again when it can"
        ) from error


def check_writable(uri: str) -> None:
    """Raise StoreError, before any work is done, when nothing can be written below `uri`."""
    probe = join(uri, f".writable-{uuid.uuid4().hex}")
    try:
        write_whole(probe, lambda file: file.write(b"dnafeat"))
        fs, path = filesystem(probe)
        fs.rm_file(path)
    except (UsageError, *STORAGE_ERRORS) as error:
        raise fault(error)(f"the store {uri} cannot be written: {one_line(error)}") from error


def delta_options(uri: str) -> dict[str, str]:
    """Options for deltalake beyond the standard AWS variables, which it reads itself: deadlines, and permission
    for an endpoint with plain HTTP."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    if uri.startswith("s3://") and endpoint.startswith("http://"):
        return {"AWS_ALLOW_HTTP": "true", "AWS_ENDPOINT_URL": endpoint, **deadlines.delta_options()}
    return deadlines.delta_options() if uri.startswith("s3://") else {}
