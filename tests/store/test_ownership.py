"""Where a store is made, and that nothing is deleted below it but what dnafeat has made there."""

from __future__ import annotations

import errno
import json
import logging
import os
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from places import local_first
from s3 import S3
from stores import A, Entry, Run, digest, expected, fill, refused, rows

from dnafeat import storage
from dnafeat.cli import main as cli
from dnafeat.errors import StoreError
from dnafeat.parquet import write_parquet
from dnafeat.store import Store, ownership
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from dnafeat.store.table import Table

DATA = Path(__file__).parents[1] / "data"
ENTRIES = [Entry("a", "ACGT", {"subject": "S1"}), Entry("b", "GGCC", {"subject": "S2"})]
HEX = "0123456789abcdef" * 2


def put(uri: str, content: bytes = b"mine") -> str:
    storage.write_whole(uri, lambda file: file.write(content))
    return uri


def below(uri: str) -> list[str]:
    return sorted(one.path for one in storage.listing(uri))


# where a store is made


@local_first
@pytest.mark.parametrize("there", ["notes.txt", "work/thesis.parquet", "features/mine.parquet", ".hidden"])
def test_a_folder_that_holds_other_files_is_refused_and_stays_as_it_is(store_uri: str, there: str) -> None:
    put(storage.join(store_uri, there))
    with pytest.raises(StoreError) as error:
        Store(store_uri).create()
    refused(error, store_uri, there.partition("/")[0], "no store", "empty folder")
    assert below(store_uri) == [there]


@local_first
def test_a_store_is_made_where_nothing_is_and_marked(store_uri: str) -> None:
    for _ in range(2):
        Store(store_uri).create()
    assert ownership.MARKER in storage.names(store_uri)
    with storage.open_input(storage.join(store_uri, ownership.MARKER)) as file:
        assert json.load(file)["format"] == 1


def test_what_a_new_file_system_and_killed_probes_leave_is_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "lost+found").mkdir(parents=True)
    for name in (f".clock-{HEX}", f"..writable-{HEX}.{HEX}", f".{ownership.MARKER}.{HEX}"):
        (store / name).write_bytes(b"")
    Store(str(store)).create()
    assert (store / ownership.MARKER).exists()


def test_two_first_writers_of_a_store_both_end_well(tmp_path: Path) -> None:
    uri, together = str(tmp_path / "store"), threading.Barrier(4)

    def make(number: int) -> None:
        together.wait()
        fill(uri, ENTRIES, tmp_path, source=f"source{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))
    for number in range(4):
        assert rows(Store(uri).read(source=f"source{number}")) == expected(ENTRIES, ["subject"], source=f"source{number}")


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """A store of an earlier release, which has no marker."""
    with tarfile.open(DATA / "store_v1.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return Store(str(tmp_path / "store_v1"))


@pytest.mark.parametrize("beside", [None, "README.txt"])
def test_a_store_of_an_earlier_release_goes_on_and_gets_a_marker(old: Store, tmp_path: Path, beside: str | None) -> None:
    marker = Path(old.uri, ownership.MARKER)
    assert not marker.exists()
    if beside:
        Path(old.uri, beside).write_text("mine")
    old.read()
    maintain(old, dry_run=True)
    assert not marker.exists()
    maintain(old)
    assert marker.exists()
    marker.unlink()
    fill(old, ENTRIES, tmp_path, source="new")
    assert marker.exists()
    assert len(old.read(source="new", version=A.digest)) == 2


def test_a_store_whose_making_broke_off_is_made_whole_unless_other_files_lie_there(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    Table(uri, "features").create()
    (tmp_path / "store" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"'notes.txt'"):
        Store(uri).create()
    (tmp_path / "store" / "notes.txt").unlink()
    Store(uri).create()
    assert Store(uri).exists()


def test_tables_of_others_that_have_our_names_are_no_store(tmp_path: Path) -> None:
    for name in ("features", "sequences", "versions", "rejects", "runs"):
        write_deltalake(str(tmp_path / "store" / name), pa.table({"x": [1]}))
    before = below(str(tmp_path / "store"))
    with pytest.raises(StoreError, match="no store"):
        Store(str(tmp_path / "store")).create()
    assert below(str(tmp_path / "store")) == before


def test_the_command_ends_with_a_sentence_and_leaves_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "home"
    put(str(folder / "work" / "thesis.txt"))
    source = tmp_path / "in.csv"
    source.write_text("id,sequence\na,ACGTACGTACGTACGTACGT\n")
    given = ["embed", str(source), "--store", str(folder), "--model", "dnafeat-mini"]
    assert cli.main(given) == 2
    assert "no store" in capsys.readouterr().err
    assert below(str(folder)) == ["work/thesis.txt"]


# what is deleted

MINE = [
    "README.txt",
    f".private.{HEX}",
    "features/mine.parquet",
    f"features/run-{HEX}.parquet",
    "features/feature_version=x/deep/er/mine.parquet",
    "features/feature_version=x/mine.parquet",
    "sequences/cohort.parquet",
    f"sequences/2026/run-{HEX}.parquet",
    "rejects/.hidden.parquet",
    "runs/sub/notes.txt",
    "work/thesis.parquet",
    "work/thesis/chapter-1.parquet",
    "work/dead-01234567/notes.txt",
    "work/dead-01234567/figures/shard-00000.parquet",
    "projectors/slides.pdf",
    "projectors/weights.safetensors",
    f"projectors/deep/{'1' * 64}.safetensors",
    "vectors/x.parquet",
]
OURS = [
    f".clock-{HEX}",
    f"..writable-{HEX}.{HEX}",
    f"features/feature_version={A.digest}/dead-00000-{HEX}.parquet",
    f"features/feature_version={A.digest}/_dead-00000-{HEX}.parquet",
    f"features/feature_version={A.digest}/.dead-00000-{HEX}.parquet",
    f"features/feature_version={A.digest}/.dead-00000-{HEX}.parquet.{HEX}",
    f"features/.clock-{HEX}",
    f"sequences/_x-{HEX}.parquet",
    f"rejects/.x-{HEX}.parquet",
    "work/dead-01234567/shard-00000.parquet",
    "work/dead-01234567/check.parquet",
    "work/dead-01234567/check-vectors.parquet",
    "work/dead-01234567/plan/entries-1.spill",
    f"work/dead-01234567/plan/{HEX}/distinct.spill",
    "work/_dead-01234567/shard-00001.parquet",
    f"projectors/{'1' * 64}.json",
    f"projectors/.{'1' * 64}.json.{HEX}",
]


def test_maintain_deletes_what_dnafeat_makes_where_it_makes_it_and_counts_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = str(tmp_path / "store")
    fill(uri, ENTRIES, tmp_path)
    there = below(uri)
    for path in (*MINE, *OURS):
        put(storage.join(uri, path))
        os.utime(storage.join(uri, path), (time.time() - 30 * 86_400,) * 2)
    planned = maintain(Store(uri), dry_run=True)
    with caplog.at_level(logging.INFO, "dnafeat"):
        done = maintain(Store(uri))
    assert vars(planned) | {"dry_run": False} == vars(done)
    assert (done.abandoned_files, done.foreign_files) == (len(OURS), len(MINE))
    assert [path for path in MINE if not Path(uri, path).exists()] == []
    assert [path for path in OURS if Path(uri, path).exists()] == []
    assert [path for path in there if not Path(uri, path).exists()] == []
    assert "18 files that dnafeat has not made" in repr(done)
    assert MINE[1] in caplog.text
    assert not Path(uri, "work", "_dead-01234567").exists(), "folders that are empty go with their files"
    assert rows(Store(uri).read()) == expected(ENTRIES, ["subject"])


@pytest.mark.long
def test_maintain_on_s3_deletes_what_dnafeat_makes_and_nothing_else(s3: S3, tmp_path: Path) -> None:
    uri = s3.uri("[x]")
    fill(uri, ENTRIES, tmp_path)
    there = below(uri)
    for path in (*MINE, *OURS):
        put(storage.join(uri, path))
    done = maintain(Store(uri), now=datetime.now(UTC) + timedelta(days=8))
    assert (done.abandoned_files, done.foreign_files) == (len(OURS), len(MINE))
    left = set(below(uri))
    assert left >= {*MINE, *there}
    assert not left & set(OURS)


def test_forget_takes_sequences_out_of_work_shards_alone(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    fill(uri, ENTRIES, tmp_path)
    shard = pa.table({"sequence_digest": [digest("ACGT"), digest("GGCC")]})
    mine = ["work/thesis.parquet", "work/thesis-01234567/mine.parquet", "work/thesis-01234567/mine.spill"]
    ours = ["work/dead-01234567/shard-00000.parquet", "work/dead-01234567/plan/x.spill"]
    for path in (*mine, *ours):
        write_parquet(storage.join(uri, path), [shard])
    assert forget(Store(uri), {"subject": "S1"}).work == 1
    assert [len(pq.read_table(Path(uri, path))) for path in (*mine, ours[0])] == [2, 2, 2, 1]
    assert not Path(uri, ours[1]).exists()


# runs whose files are hidden


@pytest.mark.parametrize("run_id", ["_x", ".x", "..x"])
def test_what_a_run_with_a_hidden_name_left_is_forgotten_reused_and_deleted(tmp_path: Path, run_id: str) -> None:
    uri = str(tmp_path / "store")
    dead = Run(uri, ENTRIES, tmp_path, run_id=run_id).encode()
    (path,) = [file.path for file in dead.files]
    assert Run(uri, ENTRIES, tmp_path).plan().work.salvaged == 2
    fill(uri, [Entry("bad", "S1-"), *ENTRIES], tmp_path, run_id=run_id)
    files = {name: Table(uri, name).paths() for name in ("sequences", "rejects")}
    assert all(storage.name(one).startswith(run_id) for paths in files.values() for one in paths)
    waiting = Run(uri, [*ENTRIES, Entry("c", "TTTT", {"subject": "S1"})], tmp_path, run_id=run_id, source="other").encode()
    waiting.step("features")
    forget(Store(uri), {"subject": "S1"})
    assert forget(Store(uri), {"source_name": "cohort"}).entries == 1
    maintain(Store(uri))
    assert not any(Path(uri, name, one).exists() for name, paths in files.items() for one in paths)
    assert path not in Table(uri, "features").paths()
    assert not Path(uri, "features", path).exists()


def test_a_store_that_takes_no_files_any_more_ends_a_run_before_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"))
    store.create()

    def read_only(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(storage, "write_whole", read_only)
    with pytest.raises(StoreError, match=r"cannot be written: .*Read-only file system") as error:
        store.create()
    assert error.value.exit_code == 6
