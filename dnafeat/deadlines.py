"""Deadlines for requests to S3: its clients wait without end where a server takes a request and never answers.

The wait for leave to send (100-continue) and the sending itself have no timer in aiohttp. So every call of s3fs gets a deadline, which
grows with what it uploads, and deltalake's client gets the same one.
"""

from __future__ import annotations

import asyncio
import functools
import os
from typing import Any

import fsspec
from fsspec.asyn import sync

VARIABLE = "DNAFEAT_STORAGE_TIMEOUT"
_SECONDS = 60.0
_SLOWEST = 256 * 1024  # bytes a second: an upload that is slower is given up
_TRIES = 2
# Of the deadline: deltalake asks again until then, so that a request that is never answered is sent twice.
_DELTA_RETRIES = 1.5


class NoAnswerError(ConnectionError):
    """Storage took a request and did not answer it in time."""


def seconds() -> float:
    """How long storage may take to answer a request that uploads nothing. What is no positive number counts as not set."""
    try:
        given = float(os.environ.get(VARIABLE) or _SECONDS)
    except ValueError:
        return _SECONDS
    return given if given > 0 else _SECONDS


def with_deadlines(fs: fsspec.AbstractFileSystem) -> fsspec.AbstractFileSystem:
    """Give every call that an s3fs filesystem makes a deadline; other filesystems stay as they are."""
    if "s3" not in fs.protocol or "_call_s3" in vars(fs):
        return fs
    call = fs._call_s3

    async def limited(method: str, *further: dict[str, Any], **arguments: Any) -> Any:
        body = arguments.get("Body")
        limit = seconds() + _size(body) / _SLOWEST
        for _ in range(_TRIES):
            if body is not None and hasattr(body, "seek"):
                body.seek(0)
            try:
                async with asyncio.timeout(limit) as deadline:
                    return await call(method, *further, **arguments)
            except TimeoutError:
                if not deadline.expired():
                    raise
        raise NoAnswerError(f"{method} had no answer within {limit:.0f} s, {_TRIES} times")

    fs._call_s3 = limited
    # Open files call this one.
    fs.call_s3 = functools.partial(sync, fs.loop, limited)
    return fs


def _size(body: Any) -> int:
    if isinstance(body, bytes | bytearray | memoryview):
        return len(body)
    return os.fstat(body.fileno()).st_size if hasattr(body, "fileno") else 0


def delta_options() -> dict[str, str]:
    """The same for deltalake's client."""
    return {"timeout": f"{seconds():.3f}s", "retry_timeout": f"{_DELTA_RETRIES * seconds():.3f}s"}
