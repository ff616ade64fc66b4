"""A plan that is spread over Ray tasks comes to what it comes to in one process, whatever dies on the way."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from models import dna, random_folder
from places import local_first, s3_first
from stores import Entry, Run, digest, every_row, fasta, rows, write_csv

import dnafeat
from dnafeat import storage
from dnafeat.cluster import session as cluster
from dnafeat.cluster.spread import Each, here
from dnafeat.cluster.tasks import over_tasks
from dnafeat.embed import plan
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks, take_in, without
from dnafeat.embed.job import embed
from dnafeat.errors import EncodingError, ForgottenError, UsageError
from dnafeat.sources.reader import ReadOptions, look
from dnafeat.store import Store
from dnafeat.store.forget import forget

# Ray, because its tasks are what is tested.
pytestmark = pytest.mark.usefixtures("two_cpus_throughout")


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts, partitions and groups of a few hundred bytes, so that small sources have many of each."""
    sizes = {
        "intake._PARTITION_BYTES": 1000,
        "intake._LARGE_PARTITION_BYTES": 1000,
        "intake._PART_BYTES": 2000,
        "plan._CUT_BYTES": 2000,
    }
    for name, size in sizes.items():
        monkeypatch.setattr(f"dnafeat.embed.{name}", size)


# over_tasks


def test_results_come_in_the_order_of_the_items() -> None:
    def slower_first(item: int) -> int:
        import time

        time.sleep(0.3 if item == 0 else 0)
        return item * item

    assert over_tasks(False)(slower_first, range(20), "squaring") == [i * i for i in range(20)]
    assert over_tasks(False)(slower_first, [], "squaring") == []


def test_what_a_function_raises_is_raised_as_it_was() -> None:
    def fails(item: int) -> None:
        raise UsageError("row 7 of a.csv is wrong: mend it")

    with pytest.raises(UsageError, match=r"^row 7 of a\.csv is wrong: mend it$") as caught:
        over_tasks(False)(fails, [1, 2, 3], "failing")
    assert "RayTaskError" not in repr(caught.value)


def test_a_task_whose_process_dies_is_sent_again(tmp_path: Path) -> None:
    def dies_once(item: int) -> int:
        mark = tmp_path / str(item)
        if item % 3 == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    assert over_tasks(False)(dies_once, range(7), "dying") == list(range(7))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "3", "6"]


@pytest.mark.long
def test_a_task_that_dies_whatever_is_tried_ends_in_a_sentence() -> None:
    def dies(item: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(EncodingError, match=r"dying stopped and nothing was published: .*the same command tries again"):
        over_tasks(False)(dies, [1], "dying")


# the plan


def source(count: int, seed: int) -> list[Entry]:
    """Entries of which a third share their sequence with another."""
    draw = random.Random(seed)
    pool = [dna(40, seed=1000 * seed + i) for i in range(count)]
    return [Entry(f"e{i}", draw.choice(pool), {"subject_id": f"s{draw.randrange(9)}"}) for i in range(count)]


def changed(entries: list[Entry], seed: int) -> list[Entry]:
    """Some gone, some with other letters, some with another subject, some new."""
    draw = random.Random(seed)
    kept = draw.sample(entries, len(entries) * 4 // 5)
    kept[:10] = [one._replace(sequence=dna(41, seed=seed + i)) for i, one in enumerate(kept[:10])]
    kept[10:20] = [one._replace(keys={"subject_id": "moved"}) for one in kept[10:20]]
    return kept + [Entry(f"new{seed}-{i}", dna(42, seed=seed + i), {"subject_id": "s1"}) for i in range(30)]


def comparable(store: str) -> dict[str, list]:
    """The tables' rows without what differs from run to run by its nature."""
    found = {}
    for name, table in every_row(store):
        if name in ("features", "sequences"):
            chosen = table.drop_columns([c for c in ("run_id",) if c in table.column_names])
            found[name] = rows(chosen)
        if name == "runs":
            chosen = table.select(["read", "distinct", "already_stored", "encoded", "opened", "closed", "source_fingerprint"])
            found[name] = rows(chosen)
    return found


@local_first
@pytest.mark.parametrize("mode", ["replace", "merge"])
def test_three_nights_over_tasks_leave_the_tables_that_one_process_leaves(store_uri: str, tmp_path: Path, mode: str) -> None:
    nights = [source(300, 1)]
    nights += [changed(nights[0], 2)]
    nights += [changed(nights[1], 3)]
    stores = {"here": f"{store_uri}-here", "tasks": f"{store_uri}-tasks"}
    for name, uri in stores.items():
        each: Each = here if name == "here" else over_tasks(False)
        for i, entries in enumerate(nights):
            run = Run(uri, entries, tmp_path, run_id=f"night-{i}", shard_rows=20, mode=mode, each=each)
            run.encode()
            if i == 1:
                # It dies with half of its shards written; the next one takes them.
                for file in run.files[::2]:
                    storage.remove(storage.join(run.store.features.uri, file.path))
                run = Run(uri, entries, tmp_path, run_id=f"night-{i}", shard_rows=20, mode=mode, each=each).encode()
                assert run.work.salvaged > 0
            run.publish()
            assert run.intake.entries.partitions > 5
    found = {name: comparable(uri) for name, uri in stores.items()}
    assert found["tasks"] == found["here"]
    stored = Counter(row["sequence_digest"] for row in found["tasks"]["features"])
    assert set(stored.values()) == {1}
    assert {digest(one.sequence) for night in nights for one in night} == stored.keys()


@s3_first
def test_a_large_source_is_planned_by_tasks_and_nothing_of_it_stays(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnafeat.embed.intake._LARGE", 0)
    used: list[str] = []
    real = cluster.start_ray
    monkeypatch.setattr(cluster, "start_ray", lambda: (used.append("ray"), real())[1])
    model = str(random_folder(tmp_path / "tiny"))
    sequences = {f"s{i}": dna(30 + i, seed=i % 60) for i in range(90)}
    file = fasta(tmp_path / "a.fa", sequences)
    config = EmbedConfig.make(
        sources=(file,), store=store_uri, model=model, vectors=("mean",), num_actors=1, source_name="cohort"
    )
    first = embed(config, show=False)
    assert (first.read, first.distinct, first.encoded) == (90, 90, 90)
    assert used
    assert set(first.stages) == {"reading", "planning", "encoding", "audit", "publishing"}
    fasta(tmp_path / "a.fa", {**dict(list(sequences.items())[9:]), "new": dna(99, seed=99)})
    second = embed(config, show=False)
    assert (second.read, second.encoded, second.opened, second.closed) == (82, 1, 1, 9)
    table = dnafeat.Store(store_uri).read(columns=["sequence_digest"])
    assert len(table) == 82
    assert [found.path for found in storage.listing(storage.join(store_uri, "work"))] == []


def test_a_subject_that_is_forgotten_while_tasks_plan_is_in_no_spill_and_the_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnafeat.embed.intake._LARGE", 0)
    model = str(random_folder(tmp_path / "tiny"))
    entries = source(60, 3)
    config = EmbedConfig.make(sources=(write_csv(tmp_path / "a.csv", entries),), store=str(tmp_path / "store"), model=model)
    store = Store(config.store)
    embed(config, show=False)
    real, seen = plan.subtract, []

    def forgotten_before(*arguments: Any) -> plan.Work:
        seen.append([found.path for found in storage.listing(storage.join(config.store, "work"))])
        forget(store, {"subject_id": "s1"})
        assert [found.path for found in storage.listing(storage.join(config.store, "work"))] == []
        return real(*arguments)

    monkeypatch.setattr(plan, "subtract", forgotten_before)
    with pytest.raises(ForgottenError, match="something was forgotten"):
        embed(config, show=False)
    assert any(path.endswith("/entries.spill") for path in seen[0])


def test_an_id_that_stands_twice_and_a_bad_file_are_told_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnafeat.embed.intake._LARGE", 0)
    model = str(random_folder(tmp_path / "tiny"))
    one = fasta(tmp_path / "a.fa", {f"s{i}": dna(100, seed=i) for i in range(50)})
    other = fasta(tmp_path / "b.fa", {"s17": dna(100, seed=60)})
    config = EmbedConfig.make(sources=(one, other), store=str(tmp_path / "store"), model=model)
    with pytest.raises(UsageError, match=rf"^sequence_id 's17' stands twice, at {one}:35 and at {other}:1: make ids unique"):
        embed(config, show=False)
    assert Store(config.store).rejects.reload().read(["sequence_id"])["sequence_id"].to_pylist() == ["s17"]
    (tmp_path / "c.fa.gz").write_bytes(b"\x1f\x8b no gzip")
    config = EmbedConfig.make(sources=(one, str(tmp_path / "c.fa.gz")), store=str(tmp_path / "store"), model=model)
    with pytest.raises(UsageError, match=r"^\S*c\.fa\.gz cannot be read: [^\n]*$"):
        embed(config, show=False)


@pytest.mark.parametrize("by_id", [True, False])
def test_a_parquet_file_is_read_in_parts_and_its_rows_keep_their_numbers(tmp_path: Path, by_id: bool) -> None:
    letters = [dna(50, seed=i) for i in range(200)]
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [f"e{i}" for i in range(200)], "sequence": letters}), file, row_group_size=20)
    layout = look([file], ReadOptions())
    spread = take_in(layout, Checks(), tmp_path / "tasks", by_id=by_id, each=over_tasks(False))
    alone = take_in(layout, Checks(), tmp_path / "here", by_id=by_id)
    places = [(row["sequence_id"], row["row"]) for batch in spread.entries.every_batch() for row in batch.to_pylist()]
    assert places == [(row["sequence_id"], row["row"]) for batch in alone.entries.every_batch() for row in batch.to_pylist()]
    assert sorted(places, key=lambda place: place[1]) == [(f"e{i}", i + 1) for i in range(200)]
    assert spread.fingerprint == alone.fingerprint


def test_entries_that_no_worker_survives_are_left_out_by_tasks_too(tmp_path: Path) -> None:
    entries = source(200, 5)
    file = fasta(tmp_path / "a.fa", {one.id: one.sequence for one in entries})
    out = [digest(entries[3].sequence), digest(entries[150].sequence)]
    found: list[Callable] = []
    for each, name in ((here, "here"), (over_tasks(False), "tasks")):
        intake = take_in(look([file], ReadOptions()), Checks(), tmp_path / name, each=each)
        left = without(intake, out, "it ended its worker", tmp_path / name, each)
        assert left.read == 200
        assert {row["reason"] for row in left.rejects.table().to_pylist()} == {"it ended its worker"}
        names = {row["sequence_digest"] for batch in left.sequences.every_batch() for row in batch.to_pylist()}
        assert names == {digest(one.sequence) for one in entries} - set(out)
        found.append([spill.table(i).to_pylist() for spill in (left.entries, left.sequences) for i in range(spill.partitions)])
    assert found[0] == found[1]
