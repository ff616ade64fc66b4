"""Find the files of a model or an adapter: a local folder, a hub name or an object-storage prefix, fetched once for each machine.

Only weights, configuration and tokenizer are fetched, never code.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from dnafeat import storage
from dnafeat.errors import UsageError, one_line

_ALSO = {"model": ", nor the bundled dnafeat-mini", "projector": ", nor random@SEED with a whole number"}
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN = ("config.json", "tokenizer*.json", "vocab.txt", "adapter_config.json", "dnafeat.json", "projector.json")
_SAFE = ("model.safetensors", "adapter_model.safetensors", "projector.safetensors", "head.safetensors")
_PICKLED = {"model.safetensors": "pytorch_model.bin", "adapter_model.safetensors": "adapter_model.bin"}


def is_hub_name(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and not os.path.exists(os.path.expanduser(name))  # noqa: PTH110, PTH111


def fetch(name: str, what: str, revision: str | None = None) -> tuple[Path, str | None]:
    """The local folder of a name, and what pins its state: a hub's commit, a digest of an object-storage listing, None for a folder.

    `what` is the word for it in errors, `model` or `adapter`. `revision` is a pin got earlier: where this machine has it already,
    nothing is asked for over the network; where the source has moved on from it, that is an error.

    Raises
    ------
    UsageError
        There is no such folder, name or prefix, or the hub cannot be reached.
    UnreachableError
        The prefix's storage cannot be reached or refuses.
    """
    if not storage.is_local(name):
        return _from_storage(name.rstrip("/"), revision)
    # os.path and not Path: names of unknown users, empty and overlong ones are no folders here, where Path raises or says otherwise.
    folder = os.path.expanduser(name.removeprefix("file://"))  # noqa: PTH111
    if os.path.isdir(folder):  # noqa: PTH112
        return Path(folder).resolve(), None
    if not is_hub_name(name):
        raise UsageError(
            f"{what} {name!r} is neither a folder, nor a prefix like s3://bucket/{what}, nor a hub name like owner/{what}"
            + _ALSO.get(what, "")
        )
    return _from_hub(name, what, revision)


def _from_hub(name: str, what: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, asked = name.partition("@")
    wanted = revision or asked or None
    try:
        if wanted and _COMMIT.fullmatch(wanted):
            # A commit never changes: what lies here is it, and the hub need not be asked.
            with contextlib.suppress(LocalEntryNotFoundError):
                folder = _snapshot(repository, wanted, here=True)
                if _is_complete(folder):
                    return folder, folder.name
        folder = _snapshot(repository, wanted, here=False)
    except LocalEntryNotFoundError as error:
        raise UsageError(
            f"{what} {name!r} is not a folder here, and the hub cannot be reached to fetch it: give a local folder with its files"
        ) from error
    except Exception as error:  # the hub's client lets its transport's own errors through
        raise UsageError(f"{what} {name!r} is not a folder here, and the hub does not give it: {one_line(error)}") from error
    return folder, folder.name


def _snapshot(repository: str, revision: str | None, *, here: bool) -> Path:
    """One state of a repository, with pickled weights only where it has no safe ones; `here`: what this machine has of it."""
    from huggingface_hub import snapshot_download

    patterns = [*_PLAIN, *_SAFE]
    folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=here))
    if not any((folder / safe).is_file() for safe in _PICKLED):
        everything = [*patterns, *_PICKLED.values()]
        folder = Path(snapshot_download(repository, revision=folder.name, allow_patterns=everything, local_files_only=here))
    return folder


def _is_complete(folder: Path) -> bool:
    """Return whether a model or an adapter can be loaded from it: an interrupted download, or another program's, may have left less."""

    def has(*names: str) -> bool:
        return any((folder / name).is_file() for name in names)

    model = has("model.safetensors", "pytorch_model.bin") and has("config.json") and has("tokenizer.json", "vocab.txt")
    return model or (has("adapter_model.safetensors", "adapter_model.bin") and has("adapter_config.json"))


def cache_folder() -> Path:
    """The folder for fetched prefixes: `$DNAFEAT_CACHE`, else `~/.cache/dnafeat`."""
    return Path(os.environ.get("DNAFEAT_CACHE") or Path.home() / ".cache" / "dnafeat") / "models"


def _from_storage(uri: str, revision: str | None) -> tuple[Path, str]:
    cache = cache_folder()
    if revision and (cache / revision).is_dir():
        return cache / revision, revision
    fs, path = storage.filesystem(uri)
    try:
        listed = {storage.name(entry["name"]): entry for entry in fs.ls(path, detail=True) if entry["type"] == "file"}
    except FileNotFoundError:
        listed = {}
    except storage.STORAGE_ERRORS as error:
        raise storage.fault(error, UsageError)(f"{uri} cannot be listed: {one_line(error)}") from error
    chosen = sorted(name for name in listed if any(fnmatch.fnmatch(name, pattern) for pattern in (*_PLAIN, *_SAFE)))
    chosen += [pickled for safe, pickled in _PICKLED.items() if safe not in chosen and pickled in listed]
    if not chosen:
        raise UsageError(f"{uri} does not exist or holds no model: no config.json and no weight file lies in it")
    # Size and entity tag (on other storage the time of change) tell one state of the prefix from another without reading it.
    state = [[name, listed[name]["size"], str(_tag(listed[name]))] for name in chosen]
    pin = hashlib.sha256(json.dumps([uri, state]).encode()).hexdigest()[:40]
    if revision and pin != revision:
        raise UsageError(f"{uri} has changed since this run was planned: send the run again")
    folder = cache / pin
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{pin}.lock").open("w") as lock:
            # Actors that start side by side on one machine wait here for the first of them.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                arriving = cache / f".{pin}"
                shutil.rmtree(arriving, ignore_errors=True)  # left by a process that was killed
                try:
                    arriving.mkdir()
                    for name in chosen:
                        fs.get_file(listed[name]["name"], str(arriving / name))
                        if (arriving / name).stat().st_size != listed[name]["size"]:
                            raise UsageError(
                                f"{storage.join(uri, name)} arrived with another size than listed: it was being written"
                            )
                    arriving.rename(folder)
                finally:
                    shutil.rmtree(arriving, ignore_errors=True)
    except storage.STORAGE_ERRORS as error:
        raise storage.fault(error, UsageError)(f"{uri} cannot be fetched into {cache}: {one_line(error)}") from error
    return folder, pin


def _tag(entry: dict) -> object:
    return next((entry[key] for key in ("ETag", "etag", "md5", "mtime", "LastModified", "created") if entry.get(key)), "")
