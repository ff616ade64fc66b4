"""Streaming a version into PyTorch: every entry once an epoch over all ranks and workers, in an order drawn from seed and epoch."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import local_first
from stores import WIDTHS, B, Entry, copied, digest, fill, vectors
from torch.utils.data import DataLoader

import dnafeat
from dnafeat import parquet
from dnafeat.errors import StoreError, UsageError
from dnafeat.store import Store
from dnafeat.store.rollback import rollback
from dnafeat.store.stream import VectorStream

# 97 entries of 61 sequences; row groups of 4, files of 10.
ENTRIES = [Entry(f"e{i:02d}", "ACGT" * (1 + i % 61), {"subject_id": f"S{i % 9}"} if i % 5 else {}) for i in range(97)]
IDS = sorted(entry.id for entry in ENTRIES)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(parquet.DISTINCT), "row_group", 4)


def filled(uri: str, folder: Path) -> str:
    fill(uri, ENTRIES[:50], folder, shard_rows=10, source="cohort")
    fill(uri, ENTRIES, folder, shard_rows=10, source="cohort")
    return uri


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(parquet.DISTINCT), "row_group", 4)
        return filled(str(folder / "store"), folder)


@pytest.fixture
def store(made: str, store_uri: str) -> str:
    return copied(made, store_uri)


@pytest.fixture
def local(made: str, tmp_path: Path) -> str:
    return copied(made, str(tmp_path / "store"))


def ids(batches: Any) -> list[str]:
    return [name for batch in batches for name in batch["sequence_id"]]


@local_first
def test_batches_have_vectors_as_tensors_with_ids_and_keys_beside(store: str) -> None:
    stream = dnafeat.VectorStream(store, ["mean", "max+cls", "bases", "sequence_digest"], batch_size=10, buffer_rows=20)
    batches = list(stream)
    assert stream.rows == len(ENTRIES)
    assert [len(batch["sequence_id"]) for batch in batches] == [10] * 9 + [7]
    assert len(stream) == 10
    by_id = {entry.id: entry for entry in ENTRIES}
    for batch in batches:
        assert list(batch) == ["sequence_id", "source_name", "subject_id", "mean", "max+cls", "bases", "sequence_digest"]
        assert (batch["mean"].dtype, batch["mean"].shape) == (torch.float32, (len(batch["sequence_id"]), WIDTHS["mean"]))
        assert batch["mean"].is_contiguous()
        assert batch["bases"].dtype == torch.int64
        for i, name in enumerate(batch["sequence_id"]):
            own = vectors(digest(by_id[name].sequence))
            assert batch["mean"][i].tolist() == own["mean"]
            assert batch["max+cls"][i].tolist() == own["max"] + own["cls"]
            assert batch["subject_id"][i] == by_id[name].keys.get("subject_id")
            assert batch["sequence_digest"][i] == digest(by_id[name].sequence)
    assert sorted(ids(batches)) == IDS


def test_a_stream_shows_what_it_reads(local: str) -> None:
    stream = dnafeat.VectorStream(local, ["mean"], batch_size=10)
    assert repr(stream) == (
        f"VectorStream({local!r}, ['mean'], version={stream.version!r}, rows={len(ENTRIES)}, batch_size=10, shuffle=True, "
        f"fingerprint={stream.fingerprint!r})"
    )


def test_the_order_comes_from_seed_and_epoch_alone(local: str) -> None:
    def order(epoch: int, **options: Any) -> list[str]:
        stream = VectorStream(local, ["mean"], batch_size=8, buffer_rows=16, **options)
        stream.set_epoch(epoch)
        return ids(stream)

    first = order(0)
    assert first == order(0)
    assert len({tuple(order(epoch, seed=seed)) for epoch in range(3) for seed in range(3)}) == 9
    plain = order(0, shuffle=False)
    assert plain == order(5, shuffle=False)
    assert first != plain
    # Entries of one sequence stand beside each other in a file, and not after mixing.
    twins = {entry.id: entry.sequence for entry in ENTRIES}
    beside = [sum(twins[a] == twins[b] for a, b in itertools.pairwise(one)) for one in (plain, first)]
    assert beside[0] == len(ENTRIES) - 61
    assert beside[1] < beside[0] / 2


@pytest.mark.parametrize(
    ("world_size", "workers", "buffer_rows"), [(1, 0, 1), (1, 1, 5), (1, 2, 5), (3, 0, 1000), (3, 1, 1), (3, 2, 5)]
)
def test_every_entry_comes_once_an_epoch_over_ranks_and_workers(
    local: str, world_size: int, workers: int, buffer_rows: int
) -> None:
    streams = [
        VectorStream(local, ["mean"], batch_size=7, buffer_rows=buffer_rows, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({stream.fingerprint for stream in streams}) == 1
    orders = []
    for epoch in range(2):
        seen = []
        for stream in streams:
            stream.set_epoch(epoch)
            batches = list(DataLoader(stream, batch_size=None, num_workers=workers))
            assert len(batches) == len(stream)
            assert sum(len(batch["sequence_id"]) for batch in batches) in (97 // world_size, -(-97 // world_size))
            assert all(len(batch["sequence_id"]) == 7 for batch in batches[: len(batches) - 1 if workers < 2 else 0])
            seen.append(ids(batches))
        assert sorted(itertools.chain(*seen)) == IDS
        orders.append(seen)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_even_gives_each_rank_as_many_whole_batches(local: str, workers: int) -> None:
    dropped: Counter[str] = Counter()
    for even, number in (("drop", 3), ("repeat", 4)):
        for epoch in range(6):
            seen: Counter[str] = Counter()
            for rank in range(4):
                stream = VectorStream(local, ["mean"], batch_size=7, even=even, rank=rank, world_size=4, buffer_rows=9)
                stream.set_epoch(epoch)
                batches = list(DataLoader(stream, batch_size=None, num_workers=workers if rank == epoch == 0 else 0))
                assert [len(batch["sequence_id"]) for batch in batches] == [7] * number
                assert len(stream) == number
                seen.update(ids(batches))
            if even == "drop":
                assert sum(seen.values()) == 84
                assert set(seen.values()) == {1}
                dropped.update(set(IDS) - set(seen))
            else:
                assert sorted(seen) == IDS
                assert sum(seen.values()) == 112
                assert max(seen.values()) == 2
    assert len(dropped) > 13, "the same entries are left out in each epoch"


def test_a_few_entries_repeat_as_often_as_it_takes(local: str) -> None:
    few = {"where": {"sequence_id": ["e00", "e01", "e02"]}}
    seen = [VectorStream(local, ["mean"], batch_size=5, even="repeat", rank=rank, world_size=2, **few) for rank in range(2)]
    assert [len(ids(one)) for one in seen] == [5, 5]
    assert sorted(Counter(ids(seen[0]) + ids(seen[1])).values()) == [3, 3, 4]
    with pytest.raises(UsageError, match="3 entries are less than a batch of 5 for each of 2 ranks"):
        list(VectorStream(local, ["mean"], batch_size=5, even="drop", rank=0, world_size=2, **few))


def test_it_selects_as_reading_does_and_sees_nothing_that_comes_later(local: str, tmp_path: Path) -> None:
    for options in (
        {"as_of": 1},
        {"run": 1},
        {"where": {"subject_id": "S3"}},
        {"source": "cohort"},
        {"where": {"subject_id": "no"}},
    ):
        wanted = sorted(Store(local).read(columns=["mean"], **options)["sequence_id"].to_pylist())
        assert sorted(ids(VectorStream(local, ["mean"], **options))) == wanted, options
    stream = VectorStream(Store(local), ["mean"])
    fill(local, [Entry("new", "GGGG")], tmp_path, source="other")
    fill(local, ENTRIES[:3], tmp_path, source="cohort", version=B)
    assert sorted(ids(stream)) == IDS
    with pytest.raises(StoreError, match="2 versions"):
        VectorStream(local)
    rollback(Store(local), Store(local).history().listing()[0]["run_id"])
    assert sorted(ids(VectorStream(local))) == sorted([*IDS, "new"])


@local_first
def test_a_spawned_worker_reads_its_own_share_and_hears_of_the_epoch(store: str) -> None:
    stream = VectorStream(store, ["mean"], batch_size=7, rank=1, world_size=2)
    again = pickle.loads(pickle.dumps(stream))
    assert (len(again), again.fingerprint, ids(again)) == (len(stream), stream.fingerprint, ids(stream))
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="spawn", persistent_workers=True)
    orders = []
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        orders.append(ids(loader))
    assert [len(order) for order in orders] == [49, 49]
    assert set(orders[0]) != set(orders[1]), "the second epoch deals out anew"
    alone = VectorStream(store, ["mean"], batch_size=7, rank=0, world_size=2)
    alone.set_epoch(1)
    assert sorted(orders[1] + ids(alone)) == IDS


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_ranks_of_a_process_group_are_found(local: str, tmp_path: Path, context: str) -> None:
    code = """
import sys
import torch
from torch.utils.data import DataLoader
import dnafeat

if __name__ == "__main__":
    store, meeting, rank, context = sys.argv[1:]
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
    stream = dnafeat.VectorStream(store, ["mean"], batch_size=7)
    loader = DataLoader(stream, batch_size=None, num_workers=1, multiprocessing_context=context)
    print(*(name for batch in loader for name in batch["sequence_id"]))
    torch.distributed.destroy_process_group()
"""
    script = tmp_path / "rank.py"
    script.write_text(code)
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), local, str(tmp_path / "meeting"), str(rank), context], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    seen = [rank.communicate(timeout=200)[0].split() for rank in ranks]
    assert [len(one) for one in seen] == [48, 49]
    assert sorted(itertools.chain(*seen)) == IDS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"buffer_rows": 0}, "buffer_rows 0"),
        ({"even": "cut"}, "'cut' is neither drop nor repeat"),
        ({"rank": 0}, "give both"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(local: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        VectorStream(local, **options)


def test_vectors_that_are_missing_are_said_before_training_begins(local: str) -> None:
    features = Store(local).features
    features.commit([], removed=features.paths()[:1])
    with pytest.raises(StoreError, match="lacks the vectors of"):
        VectorStream(local)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Of what passes through a worker: at most a buffer and a row group are held at any moment."""
    store = filled(str(tmp_path / "store"), tmp_path)
    held = []

    def watch(tables: Any) -> Any:
        for table in tables:
            held.append(len(table))
            yield table

    stream = VectorStream(store, ["mean"], batch_size=4, buffer_rows=8)
    tables = dnafeat.store.stream._mixed(watch(stream._tables(0, stream.rows, threads=True)), 8, np.random.default_rng(0))
    sent = 0
    for table in tables:
        sent += len(table)
        assert sum(held) - sent <= 8 + max(held)
    assert sent == len(ENTRIES)
    assert len(held) > 8
