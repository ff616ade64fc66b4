"""Files that are made to crash, hang or fill memory: each is one problem, and nothing of it runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnafeat import untrusted
from dnafeat.partners import files as partnerfiles
from dnafeat.partners.config import PartnerConfig
from dnafeat.partners.items import Problem


def problem(path: Path) -> str:
    """The one problem of a file."""
    found = list(partnerfiles.read(str(path), PartnerConfig.make({"kind": "generic", "input": ["in"], "output": "out"})))
    assert [type(one) for one in found] == [Problem]
    return str(found[0]).removeprefix(f"{path}: ")


def cyclic() -> list[Any]:
    ids: list[Any] = ["S1"]
    ids.append(ids)
    return ids


def save(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def safetensors(path: Path, header: Any, body: bytes = b"\0" * 16) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def tensor(start: int, end: int, shape: list[int] | None = None) -> dict[str, Any]:
    return {"vectors": {"dtype": "F32", "shape": shape or [(end - start) // 4], "data_offsets": [start, end]}}


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("ran",))


def truncated(path: Path) -> Path:
    whole = save(path, {"vectors": torch.zeros(100, 4), "ids": [f"S{i}" for i in range(100)]}).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def larger_than_its_record(path: Path) -> Path:
    """A tensor whose storage says that it is longer than what the archive has of it."""
    whole = save(path.with_suffix(".whole"), {"vectors": torch.zeros(1000, 4)})
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[:64] if name.endswith("/data/0") else content)
    return path


CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cyclic.pt": (lambda path: save(path, {"vectors": torch.zeros(2, 3), "ids": cyclic()}), "holds a list, which is no id"),
    "nested.pt": (
        lambda path: save(path, {"vectors": torch.zeros(2, 3), "ids": [["S1"], ["S2"]]}),
        "holds a list, which is no id",
    ),
    "sessions.pt": (
        lambda path: save(path, {"vectors": torch.zeros(2, 3), "ids": ["a", "b"], "session": cyclic()}),
        "holds a list, which is no id",
    ),
    "expanded.pt": (lambda path: save(path, torch.zeros(1).expand(10**12)), "claims 1,000,000,000,000 numbers and holds 1"),
    "strided.pt": (
        lambda path: save(path, {"a": torch.zeros(8).as_strided((10**6, 10**6), (0, 0))}),
        "claims 1,000,000,000,000 numbers",
    ),
    "sparse.pt": (
        lambda path: save(path, torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (10**12,))),
        "claims 1,000,000,000,000 numbers",
    ),
    "pickle.pt": (lambda path: save(path, {"vectors": _Runs()}), "which is not loaded"),
    "truncated.pt": (truncated, "cannot be read"),
    "larger.pt": (larger_than_its_record, "cannot be read"),
    "beyond.safetensors": (lambda path: safetensors(path, tensor(1000, 1016)), "'vectors' lies outside of the file"),
    "before.safetensors": (lambda path: safetensors(path, tensor(-16, 0)), "'vectors' lies outside of the file"),
    "turned.safetensors": (lambda path: safetensors(path, tensor(16, 0, [4])), "'vectors' lies outside of the file"),
    "huge.safetensors": (lambda path: safetensors(path, tensor(0, 16, [2**40, 2**40])), "another size"),
    "list.safetensors": (lambda path: safetensors(path, []), "holds a list where an object"),
    "deep.safetensors": (lambda path: safetensors(path, b"[" * 100_000), "nested too deeply"),
    "no-entry.safetensors": (lambda path: safetensors(path, {"vectors": 5}), "cannot be read"),
    "long.safetensors": (
        lambda path: (path.write_bytes(struct.pack("<Q", 10**6) + b"{}") and path) or path,
        "shorter than its header",
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_claims_more_than_it_holds_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, sentence = CASES[name]
    assert sentence in problem(make(tmp_path / name))
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "_MOST_UNPACKED", 2**20)
    np.savez_compressed(tmp_path / "a.npz", vectors=np.zeros((1000, 1000)), ids=np.arange(1000).astype(str))
    assert "'vectors.npy' in it would unpack to 8,000,128 bytes" in problem(tmp_path / "a.npz")
    # Of a tensor file, too.
    whole = save(tmp_path / "whole.pt", {"vectors": torch.zeros(1000, 1000)})
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    assert "would unpack to 4,000,000 bytes" in problem(tmp_path / "a.pt")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt", ".safetensors", ".parquet", ".csv"])
def test_a_pipe_or_a_link_to_one_is_no_file(tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / f"a{ending}")
    (tmp_path / f"b{ending}").symlink_to(tmp_path / f"a{ending}")
    for name in "ab":
        assert "is no regular file" in problem(tmp_path / f"{name}{ending}")


def test_a_plain_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for ending in ("pt", "npy", "npz"):
        (tmp_path / f"a.{ending}").write_bytes(pickle.dumps(_Runs()))
        assert problem(tmp_path / f"a.{ending}")
    assert not (tmp_path / "ran").exists()
