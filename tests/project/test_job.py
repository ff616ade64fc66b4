"""Child versions: the vectors of a stored version under another projection, once each, whoever dies, and read as whole ones are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import stores
import torch
from faults import Died, Faults
from models import dna, random_folder
from places import local_first
from stores import WIDTHS, A, B, Entry, copied, digest, fasta, fill
from stores import vectors as made_up

import dnafeat
from dnafeat import storage
from dnafeat.cli.main import main
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.job import embed
from dnafeat.encoder.projection import L2, Projection, ZScore, load_projector, random_map
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import DnafeatError, StoreError
from dnafeat.join.config import JoinConfig
from dnafeat.join.job import join
from dnafeat.project.config import FitProjectorConfig, ProjectConfig
from dnafeat.project.fit import fit_projector
from dnafeat.project.job import Projected, child_version, project
from dnafeat.store import Store, lookup
from dnafeat.store import forget as forgetting
from dnafeat.store.drift import diff
from dnafeat.store.export import export
from dnafeat.store.file_list import file_list
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from dnafeat.store.rollback import rollback

ENTRIES = [
    Entry(f"e{i}", "ACGT" + "ACGT"[i % 4] + "ACGT"[i // 4], {"subject_id": f"s{i % 3}", "gene_id": "g"}) for i in range(12)
]
# Two entries share a sequence.
ENTRIES.append(Entry("same", ENTRIES[0].sequence, {"subject_id": "s2", "gene_id": "g"}))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of vectors 4 wide, as `stores` makes them."""
    place = str(tmp_path_factory.mktemp("artifact"))
    step = ZScore(torch.tensor([3.0, 5.0, 1.0, 9.0]), torch.tensor([0.5, 0.1, 0.2, 0.3]))
    Projection(random_map(3, 4), before=[step], after=[L2()], about={"kind": "mlp"}).save(place)
    return place


def projected(store: str | Store, artifact: str, **settings: Any) -> Projected:
    uri = store if isinstance(store, str) else store.uri
    return project(ProjectConfig(store=uri, projector=artifact, **settings), show=False)


def by_id(store: Store, version: str | None, columns: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    table = store.read(version, columns=list(columns))
    found = {name: dnafeat.matrix(table[name]) for name in columns}
    return {key: {name: found[name][i] for name in columns} for i, key in enumerate(table["sequence_id"].to_pylist())}


def check(store: Store, child: str, artifact: str, entries: Sequence[Entry], parent: FeatureVersion = A) -> None:
    """The child's entries have the parent's vectors, and projections of them."""
    found = by_id(store, child, ["cls", "mean", "max", "projected"])
    assert found.keys() == {entry.id for entry in entries}
    projection = load_projector(artifact)
    with torch.inference_mode():
        for entry in entries:
            expected = made_up(digest(entry.sequence), parent)
            for name in ("cls", "mean", "max"):
                assert found[entry.id][name].tolist() == expected[name]
            one = projection(torch.tensor([expected["mean"]]))[0].numpy()
            np.testing.assert_allclose(found[entry.id]["projected"], one, atol=1e-5)
    rows = store.features.reload().read(["sequence_digest"], ds.field("feature_version") == store.resolve(child))
    assert len(rows) == len({entry.sequence for entry in entries})


# -- what it makes ---------------------------------------------------------------------------------------------------------


def test_a_child_has_projected_alone_and_reads_the_rest_from_its_parent(
    store_uri: str, artifact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "cache"))
    load_projector(artifact).save(f"{store_uri}-artifact")
    parent = fill(store_uri, ENTRIES, tmp_path, shard_rows=5)
    done = projected(store_uri, f"{store_uri}-artifact", name="cohort-lab")
    store = Store(store_uri)
    assert (done.parent, done.projected, done.name, done.up_to_date) == (A.digest, 12, "cohort-lab@1", [])
    check(store, "cohort-lab", artifact, ENTRIES)
    files = [file for file, _ in store.features.files() if file.partition["feature_version"] == done.feature_version]
    for file in files:
        fs, path = storage.filesystem(storage.join(store.features.uri, file.path))
        with fs.open(path, "rb") as opened:
            names = pq.ParquetFile(opened).schema_arrow.names
        assert names == ["sequence_digest", "projected", "bases", "tokens", "windows", "run_id"]
    row = store.published_run(done.runs[0].run_id)
    assert row is not None
    assert (row["feature_version"], row["read"], row["distinct"]) == (done.feature_version, 13, 12)
    assert (row["encoded"], row["tokens"], row["opened"], row["closed"]) == (0, 0, 0, 0)
    assert row["run_number"] == parent.number + 1
    listed = {one["feature_version"]: one for one in store.versions().to_pylist()}
    assert (listed[done.feature_version]["parent"], listed[A.digest]["parent"]) == (A.digest, None)
    assert listed[done.feature_version]["projection"] == load_projector(artifact).name
    assert listed[done.feature_version]["sequences"] == 13
    kept = load_projector(artifact).fingerprint()
    fs, path = storage.filesystem(storage.join(store.uri, "projectors"))
    assert {storage.name(one) for one in fs.ls(path, detail=False)} == {f"{kept}.json", f"{kept}.safetensors"}


def test_its_lineage_is_its_parents_with_another_projection(artifact: str, tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"), ENTRIES, tmp_path).store
    done = projected(store, artifact)
    before, after = store.lineage(A.digest), store.lineage(done.feature_version)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"projector", "projector_sha256", "projection", "vectors"}
    assert after["vectors"] == ["cls", "mean", "max", "projected"]
    assert FeatureVersion.of_lineage(after).digest == done.feature_version
    assert FeatureVersion.of_lineage(before) == A
    assert FeatureVersion.of_lineage(json.loads(A.lineage())).lineage() == A.lineage()


def test_sent_again_it_projects_what_is_new_alone(artifact: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    fill(uri, ENTRIES[:6], tmp_path)
    fill(uri, ENTRIES[4:9], tmp_path, source="other")
    first = projected(uri, artifact)
    # Sequences 4 and 5 stand in both.
    assert (first.projected, sorted(one.distinct for one in first.runs)) == (9, [5, 6])
    assert len({one.run_id for one in first.runs}) == 2
    again = projected(uri, artifact)
    assert (again.projected, again.runs, again.up_to_date) == (0, [], ["cohort", "other"])
    fill(uri, ENTRIES, tmp_path)
    more = projected(uri, artifact)
    assert (more.projected, more.up_to_date, [one.source_name for one in more.runs]) == (3, ["other"], ["cohort"])
    check_source = [entry.id for entry in ENTRIES] + [entry.id for entry in ENTRIES[4:9]]
    assert sorted(Store(uri).read(more.feature_version, columns=["mean"])["sequence_id"].to_pylist()) == sorted(check_source)
    # What the parent lost since, the child loses, too.
    fill(uri, ENTRIES[:2], tmp_path)
    projected(uri, artifact, source="cohort")
    found = Store(uri).read(more.feature_version, columns=["projected"], source="cohort")
    assert sorted(found["sequence_id"].to_pylist()) == ["e0", "e1"]


def test_a_given_run_id_is_published_once_and_for_one_thing(artifact: str, tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"), ENTRIES, tmp_path).store
    projected(store, artifact, run_id="monday")
    assert store.published_run("monday") is not None
    fill(store, ENTRIES[:3], tmp_path)
    with pytest.raises(DnafeatError, match="run id monday was published from another state of the source"):
        projected(store, artifact, run_id="monday")


def test_a_withdrawn_run_of_a_child_is_made_anew_from_what_is_stored(artifact: str, tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"), ENTRIES, tmp_path, run_id="night").store
    done = projected(store, artifact, run_id="once")
    assert rollback(store, "once").sources == []
    with pytest.raises(StoreError, match="no version"):
        store.read(done.feature_version)
    again = projected(store, artifact)
    assert (again.projected, again.runs[0].already_stored) == (0, 12)
    check(store, done.feature_version, artifact, ENTRIES)
    # The parent's vectors stay where they are when its run goes.
    gone = rollback(store, "night")
    assert gone.children == [done.feature_version]
    check(store, done.feature_version, artifact, ENTRIES)


def test_what_cannot_be_a_child_is_refused_in_a_sentence(artifact: str, tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"), ENTRIES, tmp_path).store
    fill(store, ENTRIES, tmp_path, version=B)
    child = projected(store, artifact, version=A.digest).feature_version
    Projection(random_map(3, 8), view="mean+cls").save(str(tmp_path / "two-views"))
    Projection(random_map(3, 3), view="mean").save(str(tmp_path / "narrow"))
    for settings, said in (
        ({}, "has 3 versions and no channel"),
        ({"version": B.digest, "projector": "random@0", "name": "a b"}, "cannot name a version"),
        ({"version": A.digest, "projector": str(tmp_path / "narrow")}, "takes mean, 3 wide, of another model"),
        ({"version": A.digest, "projector": "nowhere"}, "nowhere"),
        ({"version": A.digest, "source": "elsewhere"}, "no source 'elsewhere'"),
    ):
        with pytest.raises(DnafeatError) as error:
            projected(store, settings.get("projector", artifact), **{k: v for k, v in settings.items() if k != "projector"})
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    # Whoever writes events beside this is held to the same.
    for version, parent, said in (
        (child, B.digest, f"has the parent {A.digest}, and gets no other"),
        (A.digest, B.digest, f"is the parent of {child}"),
        (B.digest, child, f"version {child} of {store.uri} has the parent {A.digest}"),
        (B.digest, B.digest, "has the parent"),
    ):
        with pytest.raises(StoreError, match=said):
            store.record_version(version, event="created", lineage="{}", parent=parent)
    assert store.history().children(A.digest) == [child]


def test_the_same_projector_as_the_parents_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    made = Projection(random_map(2, 4))
    made.save(str(tmp_path / "made"))
    same = FeatureVersion.of_lineage({**json.loads(A.lineage()), "projector_sha256": made.fingerprint()})
    fill(store, ENTRIES, tmp_path, version=same)
    with pytest.raises(DnafeatError, match=f"version {same.digest} of .* is made with mlp@.* already"):
        projected(store, str(tmp_path / "made"))


# -- readers ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(artifact: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Several files of parent and child, whose ranges overlap: a store, and the child's version."""
    folder = tmp_path_factory.mktemp("made")
    store = fill(str(folder / "store"), ENTRIES[:7], folder, shard_rows=3).store
    projected(store, artifact, shard_rows=2)
    fill(store, ENTRIES, folder, shard_rows=2)
    done = projected(store, artifact, shard_rows=3)
    store.point("production", done.feature_version)
    return store.uri, done.feature_version


@pytest.fixture
def child(made: tuple[str, str], tmp_path: Path) -> tuple[Store, str]:
    uri, version = made
    return Store(copied(uri, str(tmp_path / "store"))), version


@pytest.mark.parametrize("chunk", [1, 3, 10**6])
def test_reads_in_chunks_of_any_size_are_the_same(
    child: tuple[Store, str], artifact: str, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    store, version = child
    monkeypatch.setattr(lookup, "_BYTES", chunk * 4 * (512 + sum(WIDTHS[name] for name in ("cls", "mean", "max"))))
    check(store, version, artifact, ENTRIES)
    batches = list(store.scan(version, columns=["mean", "bases", "run_id"]))
    assert sum(map(len, batches)) == len(ENTRIES)
    whole = {one["sequence_id"]: one["mean"] for batch in batches for one in batch.to_pylist()}
    assert whole == {entry.id: made_up(digest(entry.sequence))["mean"] for entry in ENTRIES}


def test_columns_end_to_end_conditions_and_nothing_at_all(child: tuple[Store, str]) -> None:
    store, version = child
    table = store.read(version, columns=["mean+projected", "sequence_digest", "tokens"], where={"subject_id": "s1"})
    assert sorted(table["sequence_id"].to_pylist()) == ["e1", "e10", "e4", "e7"]
    assert dnafeat.matrix(table["mean+projected"]).shape == (4, 516)
    nothing = store.read(version, columns=["mean+projected", "bases"], where={"subject_id": "nobody"})
    assert nothing.schema == store.read(version, columns=["mean+projected", "bases"]).schema
    assert len(nothing) == 0
    assert store.read(version, columns=[], where={"subject_id": "s1"}).num_rows == 4
    before = store.read(version, columns=["cls"], as_of=2)
    assert sorted(before["sequence_id"].to_pylist()) == sorted(entry.id for entry in ENTRIES[:7])


def test_other_ways_to_read_give_the_parents_vectors_too(child: tuple[Store, str], artifact: str, tmp_path: Path) -> None:
    store, version = child
    expected = by_id(store, version, ["mean", "projected"])

    export(store, str(tmp_path / "out"), columns=["mean", "projected"])
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert {row["sequence_id"]: row["mean"] for row in rows} == {name: one["mean"].tolist() for name, one in expected.items()}
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert (manifest["feature_version"], manifest["parent"]) == (version, A.digest)

    for workers in (0, 2):
        stream = dnafeat.VectorStream(store, ["mean", "cls+projected"], batch_size=5, seed=3)
        batches = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers)
        seen = {name: i for batch in batches for i, name in zip(batch["mean"].tolist(), batch["sequence_id"], strict=True)}
        assert seen == {name: one["mean"].tolist() for name, one in expected.items()}

    for vector, width in (("mean", 4), ("projected", 512), ("max+projected", 517)):
        joined = join(
            JoinConfig.make(store=store.uri, on="subject_id", vector=vector, output=str(tmp_path / f"joined-{width}")), show=False
        )
        assert (joined.width, joined.rows) == (width, 3)
    whole = {row["subject_id"]: row["dna"] for row in pq.read_table(next((tmp_path / "joined-4").rglob("*.parquet"))).to_pylist()}
    of_s1 = np.mean([expected[entry.id]["mean"] for entry in ENTRIES if entry.keys["subject_id"] == "s1"], axis=0)
    np.testing.assert_allclose(whole["s1"], of_s1, rtol=1e-6)

    drift = diff(store, A.digest, version)
    assert drift.common == 12
    for name in ("cls", "mean", "max"):
        assert (drift.vectors[name].cosine_min, drift.vectors[name].distance_max) == (pytest.approx(1.0), 0)
    assert "wide" in drift.not_comparable["projected"]

    listed = file_list(store, version=version)
    assert listed["parent"] == A.digest
    assert {file["feature_version"] for file in listed["files"]} == {version}


def test_the_commands_say_what_a_child_is(child: tuple[Store, str], artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    store, version = child
    assert main(["project", "--store", store.uri, "--version", A.digest, "--projector", artifact]) == 0
    out = capsys.readouterr().out
    assert out.startswith("nothing to project")
    assert "source   cohort: up to date" in out
    assert main(["project", "--store", store.uri, "--version", A.digest, "--projector", "random@5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["projected"] == 12
    assert main(["versions", "--store", store.uri]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[1] == version)
    assert line.endswith(f"{load_projector(artifact).name} of {A.digest}")
    assert main(["files", "--store", store.uri, "--version", version]) == 0
    assert f"--version {A.digest}" in capsys.readouterr().err


def test_a_lost_vector_of_the_parent_is_damage_and_not_a_zero(child: tuple[Store, str]) -> None:
    store, version = child
    features = store.features.reload()
    features.commit([], removed=features.paths([("feature_version", "=", A.digest)])[:1])
    with pytest.raises(
        StoreError, match=rf"is damaged: of \d+ sequences of version {version} or its parent {A.digest}, \d have no"
    ):
        store.read(version, columns=["mean"])
    assert len(store.read(version, columns=["projected"])) == len(ENTRIES)


# -- deaths ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pytest.param("dies before", marks=pytest.mark.long), "dies after"])
def test_whoever_dies_anywhere_nothing_is_lost_or_made_twice(artifact: str, tmp_path: Path, kind: str) -> None:
    calls = 1
    while True:
        folder = tmp_path / str(calls)
        folder.mkdir()
        store = fill(str(folder / "store"), ENTRIES, folder).store
        faults = Faults()
        with faults.around():
            faults.arm(calls, kind)
            try:
                projected(store, artifact, shard_rows=5)
                died = False
            except Died:
                died = True
            finally:
                faults.disarm()
        done = projected(store, artifact, shard_rows=5)
        check(store, done.feature_version, artifact, ENTRIES)
        if not died:
            break
        # Some way on, so that there is not a store for each of the calls.
        calls += 3
    assert calls > 12


KILLED = """
import sys
from dnafeat.store import vector_files as vectorfiles
from dnafeat.project.config import ProjectConfig
from dnafeat.project.job import project
real, done = vectorfiles.write, 0

def write(*arguments, **options):
    global done
    if done == 4:
        print("half way", flush=True)
        sys.stdin.read()
    done += 1
    return real(*arguments, **options)

vectorfiles.write = write
project(ProjectConfig(store=sys.argv[1], projector=sys.argv[2], shard_rows=1), show=False)
"""


@local_first
def test_a_process_killed_half_way_is_gone_on_from(store_uri: str, artifact: str, tmp_path: Path) -> None:
    store = fill(store_uri, ENTRIES, tmp_path).store
    command = [sys.executable, "-c", KILLED, store_uri, artifact]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    process.kill()
    process.wait()
    assert len(store.versions()) == 1
    done = projected(store, artifact, shard_rows=1)
    assert (done.projected, done.runs[0].salvaged) == (8, 4)
    check(store, done.feature_version, artifact, ENTRIES)


# -- forgetting and maintenance --------------------------------------------------------------------------------------------


def test_a_forgotten_subject_is_forgotten_in_children_too(store_uri: str, artifact: str, tmp_path: Path) -> None:
    store = fill(store_uri, ENTRIES, tmp_path).store
    done = projected(store, artifact)
    gone = forget(store, {"subject_id": "s0"})
    # Its four sequences in both versions, but for the one that another has as well.
    assert (gone.entries, gone.vectors) == (4, 6)
    left = [entry for entry in ENTRIES if entry.keys["subject_id"] != "s0"]
    maintain(store)
    check(store, done.feature_version, artifact, left)
    with pytest.raises(StoreError):
        store.read(done.feature_version, where={"subject_id": "s0"}, columns=["person"])


def test_maintenance_merges_a_childs_files_and_changes_no_row(child: tuple[Store, str], artifact: str) -> None:
    store, version = child
    files = len(store.features.reload().paths([("feature_version", "=", version)]))
    assert files >= 4
    maintain(store)
    assert len(store.features.reload().paths([("feature_version", "=", version)])) == 1
    check(store, version, artifact, ENTRIES)


def test_rows_that_lose_their_parents_are_collected_with_them(
    artifact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who forgets dies before the vectors go, and a run of the child has died before it was published."""
    store = fill(str(tmp_path / "store"), ENTRIES, tmp_path).store
    faults = Faults()
    with faults.around():
        faults.arm(1, "dies before", table="sequences")
        with pytest.raises(Died):
            projected(store, artifact)

    def dies(*_: Any, **__: Any) -> Any:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "take_vectors", dies)
        with pytest.raises(Died):
            forget(store, {"subject_id": "s0"})
    # Three sequences that nobody names, with the parent and with the child.
    assert maintain(store).rows_collected == 6
    left = [entry for entry in ENTRIES if entry.keys["subject_id"] != "s0"]
    done = projected(store, artifact)
    check(store, done.feature_version, artifact, left)
    # Come back, they are encoded and projected anew.
    fill(store, ENTRIES, tmp_path)
    assert projected(store, artifact).projected == 3
    check(store, done.feature_version, artifact, ENTRIES)


def test_a_subject_forgotten_meanwhile_is_not_brought_back(artifact: str, tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"), ENTRIES, tmp_path).store
    faults = Faults()
    with faults.around():
        faults.arm(1, "somebody between", lambda: forget(Store(store.uri), {"subject_id": "s0"}), table="features")
        with pytest.raises(DnafeatError) as error:
            projected(store, artifact)
    assert error.value.exit_code == 3
    done = projected(store, artifact)
    check(store, done.feature_version, artifact, [entry for entry in ENTRIES if entry.keys["subject_id"] != "s0"])


# -- rows of both kinds ----------------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(artifact: str, monkeypatch: pytest.MonkeyPatch) -> FeatureVersion:
    """The child as runs of `stores` fill it that encode: rows are whole, their `projected` is the projection."""
    projection = load_projector(artifact)
    version = child_version(json.loads(A.lineage()), projection, artifact)

    def vectors(name: str, of: FeatureVersion = A) -> dict[str, list[float]]:
        if of.digest != version.digest:
            return made_up(name, of)
        with torch.inference_mode():
            found = made_up(name, A)
            return {**found, "projected": projection(torch.tensor([found["mean"]]))[0].tolist()}

    monkeypatch.setattr(stores, "vectors", vectors)
    return version


def test_nights_that_encode_and_nights_that_project_make_one_version(
    artifact: str, encoded: FeatureVersion, tmp_path: Path
) -> None:
    store = fill(str(tmp_path / "store"), ENTRIES[:4], tmp_path).store
    projected(store, artifact, shard_rows=2)
    fill(store, ENTRIES[:6], tmp_path, version=encoded)
    check(store, encoded.digest, artifact, ENTRIES[:6])
    # What was encoded under the child is not the parent's, which projects what it has itself.
    fill(store, ENTRIES[:9], tmp_path)
    assert projected(store, artifact).projected == 3
    fill(store, ENTRIES, tmp_path, version=encoded)
    stream = dnafeat.VectorStream(store, ["mean", "projected"], version=encoded.digest, shuffle=False)
    for merged in (False, True):
        check(store, encoded.digest, artifact, ENTRIES)
        assert sum(len(batch["mean"]) for batch in stream) == len(ENTRIES)
        for version in ("random@3", "random@4")[merged : merged + 1]:
            # Of a child: what is whole in it is whole in the next.
            other = projected(store, version, version=encoded.digest)
            assert (other.parent, other.projected) == (A.digest, 12)
            found = by_id(store, other.feature_version, ["cls", "projected"])
            assert {name: one["cls"].tolist() for name, one in found.items()} == {
                entry.id: made_up(digest(entry.sequence))["cls"] for entry in ENTRIES
            }
        maintain(store)
    assert len(store.features.reload().paths([("feature_version", "=", encoded.digest)])) == 1
    forget(store, {"subject_id": "s1"})
    check(store, encoded.digest, artifact, [entry for entry in ENTRIES if entry.keys["subject_id"] != "s1"])


def test_a_version_that_was_encoded_becomes_a_child(artifact: str, encoded: FeatureVersion, tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"), ENTRIES[:4], tmp_path, version=encoded).store
    assert store.history().parent(encoded.digest) is None
    fill(store, ENTRIES, tmp_path)
    done = projected(store, artifact, version=A.digest)
    assert (done.feature_version, done.projected, done.runs[0].already_stored) == (encoded.digest, 8, 4)
    assert store.history().parent(encoded.digest) == A.digest
    check(store, encoded.digest, artifact, ENTRIES)
    # Of one that keeps fewer vectors than its parent has nothing else is asked.
    assert store.lineage(encoded.digest)["vectors"] == ["cls", "mean", "max", "projected"]


def test_a_version_that_keeps_other_vectors_is_left_as_it_is(artifact: str, encoded: FeatureVersion, tmp_path: Path) -> None:
    narrow = FeatureVersion.of_lineage({**json.loads(A.lineage()), "vectors": ["mean", "projected"]})
    store = fill(str(tmp_path / "store"), ENTRIES, tmp_path, version=encoded).store
    fill(store, ENTRIES, tmp_path, version=narrow)
    with pytest.raises(DnafeatError, match=r"keeps cls, mean, max, projected, and from .* it would have mean, projected"):
        projected(store, artifact, version=A.digest)


# -- beside embed ----------------------------------------------------------------------------------------------------------

SEQUENCES = {f"s{i}": dna(n, seed=i) for i, n in enumerate([7, 20, 33, 60, 60, 150, 300, 700])}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_folder(tmp_path_factory.mktemp("model") / "tiny"))


def embedded(source: str, store: str, model: str, **settings: Any) -> str:
    config = EmbedConfig.make(sources=(source,), store=store, model=model, source_name="cohort", **settings)
    return embed(config, show=False).feature_version


def test_project_and_embed_make_the_same_version_and_the_same_numbers(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random, a fitted and a trained projection with z-scores; and nights under a child, whichever way they come."""
    store, source = str(tmp_path / "store"), fasta(tmp_path / "one.fa", SEQUENCES)
    parent = embedded(source, store, model)
    (tmp_path / "train").write_text("s1\ns2\ns3\ns4\ns5\n")
    trained: dict[str, Any] = {"store": store, "train": str(tmp_path / "train")}
    Projection(random_map(77, 48)).save(str(tmp_path / "mlp"))
    artifacts = {
        "pca": fit_projector(FitProjectorConfig(output=str(tmp_path / "pca"), after=("zscore",), **trained)).output,
        "mlp": fit_projector(
            FitProjectorConfig(
                output=str(tmp_path / "mlp-z"), map=str(tmp_path / "mlp"), before=("zscore",), after=("l2",), **trained
            )
        ).output,
        "random": fit_projector(
            FitProjectorConfig(output=str(tmp_path / "random"), view="cls+max", map="random@2", before=("zscore",), **trained)
        ).output,
    }
    children = {}
    for name, place in artifacts.items():
        done = projected(store, place, version=parent)
        children[name] = done.feature_version
        other = str(tmp_path / f"embedded-{name}")
        assert embedded(source, other, model, projector=place) == done.feature_version
        found, expected = (by_id(Store(uri), done.feature_version, ["mean", "projected"]) for uri in (store, other))
        for one in SEQUENCES:
            np.testing.assert_allclose(found[one]["mean"], expected[one]["mean"], atol=1e-5)
            np.testing.assert_allclose(found[one]["projected"], expected[one]["projected"], atol=1e-5)
        assert Store(other).history().parent(done.feature_version) is None
    # Of a version whose vectors are rounded, `projected` is rounded too.
    coarse = embedded(source, store, model, round_vectors="bfloat16")
    done = projected(store, artifacts["mlp"], version=coarse)
    found = by_id(Store(store), done.feature_version, ["projected"])
    rounded = dnafeat.Encoder.from_pretrained(model, projector=artifacts["mlp"], round_vectors="bfloat16")
    assert rounded.version.digest == done.feature_version
    for one, vector in zip(SEQUENCES, rounded.encode(list(SEQUENCES.values())).projected, strict=True):
        np.testing.assert_allclose(found[one]["projected"], vector, rtol=2**-7, atol=1e-6)
        assert not (found[one]["projected"].view(np.uint32) & 0xFFFF).any()
    # A night under the child: whole rows beside those that have projected alone.
    more = {**SEQUENCES, **{f"n{i}": dna(80 + i, seed=100 + i) for i in range(3)}}
    night = fasta(tmp_path / "two.fa", more)
    version = children["pca"]
    code = main(
        [
            "nightly",
            night,
            "--store",
            store,
            "--model",
            model,
            "--source-name",
            "cohort",
            "--projector",
            artifacts["pca"],
            "--json",
        ]
    )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, told["feature_version"], told["encoded"], told["channel_moved"]) == (0, version, 3, True)
    expected = dnafeat.Encoder.from_pretrained(model, projector=artifacts["pca"]).encode(list(more.values()))

    def is_right() -> None:
        found = by_id(Store(store), "production", ["cls", "mean", "max", "projected"])
        assert found.keys() == more.keys()
        for i, one in enumerate(more):
            for name in ("cls", "mean", "max", "projected"):
                np.testing.assert_allclose(found[one][name], getattr(expected, name)[i], atol=1e-5)

    is_right()
    # The parent is behind now, so that it has nothing to give.
    assert projected(store, artifacts["pca"], version=parent).up_to_date == ["cohort"]
    # From a child, whose new rows are whole: so are those that come of them, and the parent is the same.
    of_child = projected(store, "random@11", version="production")
    assert (of_child.projected, of_child.parent, of_child.runs[0].files) == (11, parent, 2)
    found = by_id(Store(store), of_child.feature_version, ["mean", "projected"])
    with torch.inference_mode():
        made = load_projector("random@11", 48)(torch.from_numpy(expected.mean)).numpy()
    for i, one in enumerate(more):
        np.testing.assert_allclose(found[one]["mean"], expected.mean[i], atol=1e-5)
        np.testing.assert_allclose(found[one]["projected"], made[i], atol=1e-5)


def test_on_a_cluster_its_shards_are_tasks(
    artifact: str, tmp_path: Path, two_cpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    store = fill(str(tmp_path / "store"), ENTRIES, tmp_path).store
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    done = projected(store, artifact, shard_rows=3)
    assert done.runs[0].files == 4
    check(store, done.feature_version, artifact, ENTRIES)
