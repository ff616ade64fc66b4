"""The files a partner's table is made of: which there are, and what one holds, a file at a time."""

from __future__ import annotations

import contextlib
import pickle
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa

from dnafeat import storage
from dnafeat.errors import UsageError, one_line
from dnafeat.partners.arrays import READERS
from dnafeat.partners.config import PartnerConfig
from dnafeat.partners.items import Item, Problem
from dnafeat.partners.names import Unfit
from dnafeat.partners.tables import read_csv, read_parquet
from dnafeat.sources import reader as sources

ENDINGS = (".pt", ".pth", ".npy", ".npz", ".safetensors", ".parquet", ".pq", ".csv", ".tsv", ".csv.gz", ".tsv.gz")

# What the readers of damaged files raise.
_DAMAGED = (
    *(OSError, EOFError, ValueError, RuntimeError, LookupError, MemoryError, TypeError, AttributeError, OverflowError),
    *(AssertionError, SyntaxError, tokenize.TokenError, pa.ArrowException),
    *(zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError),
)


def find(config: PartnerConfig) -> tuple[list[str], int]:
    """The files behind the input, in order, and how many of other kinds the folders among it hold.

    Raises
    ------
    UsageError
        There is none, one that was named is of no kind that is read here, one is part of a Delta table, or the output lies in the input.
    """
    output = storage.absolute(config.output)
    files: dict[str, None] = {}
    others = 0
    for pattern in config.input:
        if any("/_delta_log/" in uri for uri in storage.expand(pattern)):
            raise UsageError(f"{pattern} is a Delta table, and its folder holds files that are not part of it: join it as it is")
        found = sources.expand([pattern])
        if output in found or f"{output}/".startswith(f"{storage.absolute(pattern)}/"):
            raise UsageError(f"{config.output} lies in the input {pattern} and would be read with it: write somewhere else")
        readable = [uri for uri in found if _ending(uri)]
        strange = [uri for uri in found if not _ending(uri)]
        if strange and (not readable or _named(pattern, found)):
            raise UsageError(f"{strange[0]} is of no kind that is read here, which are {', '.join(ENDINGS)}")
        others += len(strange)
        files.update(dict.fromkeys(readable))
    return list(files), others


def _named(pattern: str, found: Sequence[str]) -> bool:
    """Return whether files were named by themselves or a glob, and not by the folder they are in."""
    return any(mark in pattern for mark in "*?[") or (len(found) == 1 and storage.name(found[0]) == storage.name(pattern))


def _ending(uri: str) -> str | None:
    name = storage.name(uri).lower()
    return next((ending for ending in reversed(ENDINGS) if name.endswith(ending)), None)


def read(uri: str, config: PartnerConfig) -> Iterator[Item | Problem]:
    """Yield the items of one file, in order; an unreadable file is a problem, and unreachable storage an error.

    Raises
    ------
    StoreError
        The file is on an object storage that does not give it.
    """
    file = storage.name(uri)
    ending = _ending(uri)
    with _here(uri) as path:
        try:
            if path.exists() and not path.is_file():
                raise Unfit("is no regular file but a device or a pipe; copy it into a file")
            if path.stat().st_size == 0:
                raise Unfit("is empty: it has no bytes; write it again")
            if ending in (".parquet", ".pq"):
                yield from read_parquet(path, uri, config)
            elif ending in READERS:
                yield from READERS[ending or ""](path, uri, config)
            else:
                yield from read_csv(path, uri, config)
        except Unfit as error:
            yield Problem(place=uri, file=file, reason=error.reason, detail=error.detail)
        except _DAMAGED as error:
            yield Problem(place=uri, file=file, reason="cannot be read; write it again", detail=f" ({one_line(error)})")


@contextlib.contextmanager
def _here(uri: str) -> Iterator[Path]:
    """The file on this machine: what then goes wrong while it is read is the file's own fault and not the network's."""
    if storage.is_local(uri):
        yield Path(uri.removeprefix("file://"))
        return
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        fs, remote = storage.filesystem(uri)
        with storage.reached(uri):
            fs.get_file(remote, f"{folder}/{PurePosixPath(remote).name}")
        yield Path(folder) / PurePosixPath(remote).name
