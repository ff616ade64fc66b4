"""Where a model's files come from: folders, the hub, object storage; fetched once for a machine, and what a pin holds."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import models
import pytest
import s3fs
import torch
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from s3 import S3

from dnafeat.encoder.models.checkpoint import Checkpoint, find, load_encoder
from dnafeat.encoder.models.fetch import cache_folder
from dnafeat.errors import DnafeatError, UnreachableError, UsageError

VALUES = models.config()
WEIGHTS = models.state(VALUES)
IDS = [1, 5, 14, 0, 9, 8, 16, 2]
# What lies beside a model on the hub and in training folders, and is none of it.
STRAY = (
    "bert_layers.py",
    "flash_attn_triton.py",
    "training_args.bin",
    "optimizer.pt",
    "README.md",
    "tf_model.h5",
    ".gitattributes",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def publish(folder: Path, *, pickled: bool = False) -> Path:
    """A model folder with code and other files beside it."""
    models.write(folder, VALUES, WEIGHTS, pickled=pickled)
    for name in STRAY:
        (folder / name).write_text("raise SystemExit('remote code ran')")
    return folder


def assert_loads(found: Checkpoint, *files: str) -> None:
    """It holds `files` and no others, and encodes as published."""
    assert sorted(file.name for file in found.folder.iterdir()) == sorted(files)
    found.tokenizer()
    with torch.inference_mode():
        out = load_encoder(found)(torch.tensor([IDS])).last_hidden_state
    wanted = torch.from_numpy(models.forward64(WEIGHTS, 12, IDS)[-1])[None].float()
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)


def refusal(name: str, *named: str, revision: str | None = None, kind: type[DnafeatError] = UsageError) -> str:
    with pytest.raises(kind) as error:
        find(name, revision)
    sentence = str(error.value)
    assert error.value.exit_code == (6 if kind is UnreachableError else 2)
    assert "\n" not in sentence
    assert [part for part in (name, *named) if part not in sentence] == []
    return sentence


# Folders and names.


def _no_hub(*args: Any, **options: Any) -> str:
    raise AssertionError("this name must not be asked for at the hub")


@pytest.mark.parametrize(
    "name",
    [
        *("nope", "/no/such/dir", "a/b/c", "./a/b/c", "./model", "../model", "model/..", "-a/model", "owner/model@", "", " "),
        *("owner /model", "~nosuchuser/x", "a" * 300),
    ],
    ids=lambda name: repr(name[:20]),
)
def test_a_name_that_can_be_no_model_is_refused_without_asking_the_hub(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _no_hub)
    refusal(name, repr(name), "neither a folder", "hub name")


def test_a_file_is_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _no_hub)
    publish(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    refusal("model/config.json")


def test_a_local_folder_is_found_under_any_spelling_and_keeps_the_name_it_was_asked_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _no_hub)
    folder = publish(tmp_path / "at home" / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in (str(folder), "at home/model", "./at home/../at home/model/", "~/model", f"file://{folder}"):
        found = find(name)
        assert (found.name, found.folder, found.revision) == (name, folder.resolve(), None)


def test_a_folder_that_has_the_form_of_a_hub_name_is_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _no_hub)
    publish(tmp_path / "zhihan1996" / "DNABERT-S")
    monkeypatch.chdir(tmp_path)
    assert find("zhihan1996/DNABERT-S").revision is None


# The hub.

REVISION = "d064dece8a8b41d9fb8729fbe3435278786931f1"
NAME = "zhihan1996/DNABERT-2-117M"


class Hub:
    """snapshot_download over a local folder: copies what the patterns allow, as the real one does.

    `knows_lack`: whether what lies here is refused when something that the patterns allow is missing, as newer versions do.
    """

    def __init__(self, published: Path, cache: Path, *, knows_lack: bool = False) -> None:
        self.published, self.cache, self.knows_lack = published, cache / REVISION, knows_lack
        self.asked: list[tuple[str, str | None]] = []

    def __call__(
        self, repo_id: str, *, revision: str | None = None, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        files = [file for file in self.published.iterdir() if any(fnmatch.fnmatch(file.name, one) for one in allow_patterns)]
        if local_files_only:
            assert revision == REVISION
            lacks = [file.name for file in files if not (self.cache / file.name).is_file()]
            if not self.cache.is_dir() or (lacks and self.knows_lack):
                raise LocalEntryNotFoundError(f"not here: {lacks}")
            return str(self.cache)
        self.asked.append((repo_id, revision))
        self.cache.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, self.cache)
        return str(self.cache)


@pytest.fixture(params=[True, False], ids=["knows lack", "knows nothing"])
def make_hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hub]:
    def make(*, pickled: bool = False) -> Hub:
        hub = Hub(publish(tmp_path / "published", pickled=pickled), tmp_path / "hub", knows_lack=request.param)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
        return hub

    return make


@pytest.mark.parametrize("pickled", [True, False], ids=["pickled", "safetensors"])
@pytest.mark.parametrize("asked", [None, "main", REVISION])
def test_a_hub_model_is_fetched_without_its_code_and_known_by_its_commit(
    make_hub: Callable[..., Hub], asked: str | None, pickled: bool
) -> None:
    hub = make_hub(pickled=pickled)
    name = NAME + (f"@{asked}" if asked else "")
    found = find(name)
    assert (found.name, found.revision, found.folder) == (name, REVISION, hub.cache)
    assert hub.asked[0] == (NAME, asked)
    # A branch may move between two fetches: whatever follows is asked for by the commit.
    assert set(hub.asked[1:]) <= {(NAME, REVISION)}
    assert_loads(found, "config.json", "tokenizer.json", "pytorch_model.bin" if pickled else "model.safetensors")


def test_safetensors_are_taken_where_both_are_published_and_the_pickle_stays_there(make_hub: Callable[..., Hub]) -> None:
    hub = make_hub()
    torch.save(WEIGHTS, hub.published / "pytorch_model.bin")
    for revision in (None, REVISION):
        assert find(NAME, revision).weights.name == "model.safetensors"
        assert not (hub.cache / "pytorch_model.bin").exists()
    assert len(hub.asked) == 1


@pytest.mark.parametrize("pickled", [True, False], ids=["pickled", "safetensors"])
def test_a_commit_that_lies_here_is_loaded_without_asking_the_hub(make_hub: Callable[..., Hub], pickled: bool) -> None:
    hub = make_hub(pickled=pickled)
    find(NAME)
    hub.asked.clear()
    for found in (find(f"{NAME}@{REVISION}"), find(NAME, REVISION), find(f"{NAME}@main", REVISION)):
        assert (found.folder, found.revision) == (hub.cache, REVISION)
    assert hub.asked == []
    find(NAME)
    assert hub.asked[0] == (NAME, None)  # nobody knows where a branch stands without asking


@pytest.mark.parametrize("lacking", ["config.json", "tokenizer.json", "pytorch_model.bin", "all"])
def test_a_commit_of_which_something_is_lacking_here_is_asked_for(make_hub: Callable[..., Hub], lacking: str) -> None:
    hub = make_hub(pickled=True)
    find(NAME)
    hub.asked.clear()
    shutil.rmtree(hub.cache) if lacking == "all" else (hub.cache / lacking).unlink()
    assert_loads(find(NAME, REVISION), "config.json", "tokenizer.json", "pytorch_model.bin")
    assert set(hub.asked) == {(NAME, REVISION)}


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **options: Any) -> str:
        raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder.\nSecond line.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    for revision in (None, REVISION):
        refusal(NAME, "hub cannot be reached", revision=revision)


@pytest.mark.parametrize(
    "fault",
    [
        RepositoryNotFoundError("404 Client Error.\n\nRepository Not Found.", response=SimpleNamespace(headers={}, request=None)),
        HTTPError("the proxy refuses to connect\n(twice)"),
        OSError("no space left on device"),
    ],
    ids=["unknown", "proxy", "disk"],
)
def test_a_model_that_the_hub_does_not_give_is_one_sentence(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def refuses(*args: Any, **options: Any) -> str:
        raise fault

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuses)
    refusal("owner/nothing", str(fault).splitlines()[0].rstrip("."))


# Object storage.


@contextlib.contextmanager
def getting(get_file: Callable[..., Any]) -> Iterator[None]:
    """A block in which s3fs fetches files with `get_file`. Filesystems remember their methods, so they are made anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_get_file", get_file)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


REAL = s3fs.S3FileSystem._get_file


@pytest.fixture
def fetched() -> Iterator[list[str]]:
    """The files that are fetched from S3 from now on, in order."""
    names: list[str] = []

    async def counted(self: Any, source: str, *args: Any, **options: Any) -> Any:
        names.append(source.rpartition("/")[2])
        return await REAL(self, source, *args, **options)

    with getting(counted):
        yield names


def upload(s3: S3, folder: Path, uri: str) -> str:
    client = s3.client()
    for file in folder.iterdir():
        client.pipe_file(f"{uri}/{file.name}", file.read_bytes())
    return uri


FILES = ("config.json", "model.safetensors", "tokenizer.json")


def test_a_prefix_is_fetched_once_without_its_code(s3: S3, tmp_path: Path, cache: Path, fetched: list[str]) -> None:
    uri = upload(s3, publish(tmp_path / "published"), s3.uri("model"))
    s3.client().pipe_file(f"{uri}/checkpoint-500/config.json", b"{}")
    first = find(uri)
    assert sorted(fetched) == sorted(FILES)
    assert first.name == uri
    assert first.revision is not None
    assert first.folder == cache / first.revision
    assert_loads(first, *FILES)
    for again in (find(uri), find(f"{uri}/"), find(uri, first.revision)):
        assert (again.folder, again.revision) == (first.folder, first.revision)
    assert len(fetched) == len(FILES)


def test_a_pickle_is_fetched_where_there_are_no_safe_weights_and_only_there(s3: S3, tmp_path: Path, fetched: list[str]) -> None:
    published = publish(tmp_path / "published", pickled=True)
    uri = upload(s3, published, s3.uri("model"))
    assert_loads(find(uri), "config.json", "pytorch_model.bin", "tokenizer.json")
    models.write(published, VALUES, WEIGHTS)
    fetched.clear()
    assert_loads(find(upload(s3, published, s3.uri("model"))), *FILES)
    assert sorted(fetched) == sorted(FILES)


def test_a_changed_object_is_another_revision_and_the_old_one_stays(s3: S3, tmp_path: Path) -> None:
    published = publish(tmp_path / "published")
    uri = upload(s3, published, s3.uri("model"))
    first = find(uri)
    upload(s3, published, uri)  # the same bytes once more
    assert find(uri).revision == first.revision
    models.write(published, VALUES, models.state(VALUES, seed=1))
    assert (published / "model.safetensors").stat().st_size == first.weights.stat().st_size
    upload(s3, published, uri)
    second = find(uri)
    assert second.revision != first.revision
    assert second.weights_sha256 != first.weights_sha256
    assert find(uri, first.revision).folder == first.folder
    assert_loads(first, *FILES)
    # Two prefixes of the same content are two models.
    assert find(upload(s3, published, s3.uri("model"))).revision != second.revision


def test_a_pin_that_the_prefix_has_moved_on_from_is_refused_on_another_machine(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    uri = upload(s3, publish(tmp_path / "published"), s3.uri("model"))
    pin = find(uri).revision
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "another machine"))
    assert find(uri, pin).revision == pin
    s3.client().pipe_file(f"{uri}/config.json", json.dumps(VALUES | {"layer_norm_eps": 0.1}).encode())
    assert find(uri, pin).revision == pin
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "a third machine"))
    fetched.clear()
    refusal(uri, "has changed since this run was planned: send the run again", revision=pin)
    assert fetched == []


def test_a_pin_that_lies_here_needs_no_server(s3: S3, tmp_path: Path) -> None:
    uri = upload(s3, publish(tmp_path / "published"), s3.uri("model"))
    pin = find(uri).revision
    with s3.changed(AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1"):
        assert_loads(find(uri, pin), *FILES)
        refusal(uri, kind=UnreachableError)
        refusal(uri, revision="0" * 40, kind=UnreachableError)


def test_a_prefix_without_a_model_is_one_sentence(s3: S3) -> None:
    refusal(s3.uri("nothing"), "does not exist or holds no model")
    refusal("s3://no-such-bucket-here/model")
    uri = s3.uri("code")
    s3.client().pipe_file(f"{uri}/bert_layers.py", b"")
    refusal(uri, "does not exist or holds no model")
    with s3.changed(AWS_SECRET_ACCESS_KEY="wrong"):
        refusal(uri, kind=UnreachableError)
    refusal("nosuchprotocol://bucket/model")


def test_an_object_that_changes_while_it_is_fetched_is_refused_and_nothing_is_kept(s3: S3, tmp_path: Path, cache: Path) -> None:
    uri = upload(s3, publish(tmp_path / "published"), s3.uri("model"))

    async def cut_short(self: Any, source: str, target: str, **options: Any) -> None:
        await REAL(self, source, target, **options)
        Path(target).write_bytes(Path(target).read_bytes()[:-1])

    with getting(cut_short):
        refusal(uri, "arrived with another size")
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    assert_loads(find(uri), *FILES)


def test_what_a_killed_process_left_is_not_taken_for_the_model(s3: S3, tmp_path: Path, cache: Path) -> None:
    uri = upload(s3, publish(tmp_path / "published"), s3.uri("model"))
    found = find(uri)
    left = cache / f".{found.revision}"
    found.folder.rename(left)
    (left / "model.safetensors").write_bytes(b"half of it")
    (left / "stray").write_bytes(b"")
    assert_loads(find(uri), *FILES)
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = upload(s3, publish(tmp_path / "published"), s3.uri("model"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "file"))
    refusal(uri, str(tmp_path / "file"))


# Says that it is ready, waits for the others, and tells what it fetched.
CHILD = """
import sys, time
from pathlib import Path
import s3fs
from dnafeat.encoder.models.checkpoint import find

real, fetched = s3fs.S3FileSystem._get_file, 0

async def counted(*args, **options):
    global fetched
    fetched += 1
    return await real(*args, **options)

s3fs.S3FileSystem._get_file = counted
uri, gate, name, processes = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
(gate / name).touch()
while len(list(gate.iterdir())) < processes:
    time.sleep(0.005)
found = find(uri)
print(found.folder, found.weights_sha256, fetched)
"""


def test_processes_that_start_at_once_end_with_one_copy(s3: S3, tmp_path: Path, cache: Path) -> None:
    uri = upload(s3, publish(tmp_path / "published"), s3.uri("model"))
    gate = tmp_path / "gate"
    gate.mkdir()
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, uri, str(gate), str(i), "3"], stdout=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    told = [child.communicate(timeout=120)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len({(folder, digest) for folder, digest, _ in told}) == 1
    assert sorted(int(fetched) for _, _, fetched in told) == [0, 0, len(FILES)]
    assert [path for path in cache.iterdir() if path.is_dir()] == [Path(told[0][0])]
    assert find(uri).folder == Path(told[0][0])


def test_the_cache_is_in_the_home_folder_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache" / "models"
    monkeypatch.delenv("DNAFEAT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dnafeat" / "models"
