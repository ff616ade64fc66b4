"""The guards of a run, one by one: each of them alone keeps something out of the store that no other would."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from stores import A, Entry, Run, digest, feature_rows, fill

from dnafeat.cluster.observe import Job
from dnafeat.cluster.spread import here
from dnafeat.embed import plan
from dnafeat.embed.audit import audit
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks, Intake, take_in
from dnafeat.embed.run import Encoded, RunSpec, carry_out
from dnafeat.embed.salvage import Salvage
from dnafeat.embed.workspace import Workspace
from dnafeat.encoder.models.checkpoint import tensor_names
from dnafeat.errors import AuditError, CheckpointError, ConflictError, ForgottenError
from dnafeat.sources.reader import ReadOptions, look
from dnafeat.spill import Spill
from dnafeat.store import Store
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.data_file import Change
from dnafeat.store.forget import forget
from dnafeat.vectors import VECTORS

PEOPLE = [
    Entry(f"{who}-{i}", "ACGT" * 3 + letters, {"subject_id": who}) for who in ("ann", "bob") for i, letters in enumerate("ACG")
]
SOURCE = "cohort"


def erase(store: Store) -> None:
    forget(Store(store.uri), {"subject_id": "ann"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    fill(str(tmp_path / "store"), PEOPLE, tmp_path)
    return Store(str(tmp_path / "store"))


def next_run(store: Store, tmp_path: Path, sequence: str = "TTTT") -> Run:
    """A run with a new entry and a new sequence, planned and written."""
    return Run(store.uri, [*PEOPLE, Entry("bob-9", sequence, {"subject_id": "bob"})], tmp_path).encode()


def once(action: Callable[[], None]) -> Callable[[], None]:
    waiting = [action]
    return lambda: waiting.pop()() if waiting else None


# Erasure while a run publishes: each table's commit looks by itself, for it may be the first after the erasure.


def test_an_erasure_before_the_features_keeps_them_out(store: Store, tmp_path: Path) -> None:
    run = next_run(store, tmp_path)
    erase(store)
    before = store.features.reload().version()
    with pytest.raises(ForgottenError):
        run.step("features")
    assert store.features.reload().version() == before


def test_an_erasure_while_the_rejects_are_written_keeps_them_out(store: Store, tmp_path: Path) -> None:
    run = next_run(store, tmp_path)
    spills = tmp_path / "rejects"
    spills.mkdir()
    (tmp_path / "bad.csv").write_text("id,sequence,subject_id\nann-7,AC!T,ann\n")
    refused = take_in(look([str(tmp_path / "bad.csv")], ReadOptions()), Checks(), spills).rejects
    begin = once(lambda: erase(store))

    class Erasing(Spill):
        def batches(self) -> Iterator[pa.RecordBatch]:
            begin()
            return super().batches()

    refused.__class__ = Erasing
    run.step("version")
    run.step("features")
    with pytest.raises(ForgottenError):
        run.publication.commit_rejects(refused)
    assert Store(store.uri).rejects.read().num_rows == 0


def test_an_erasure_while_the_entries_are_compared_keeps_them_out(store: Store, tmp_path: Path) -> None:
    run = next_run(store, tmp_path)
    for step in ("version", "features", "rejects"):
        run.step(step)
    begin = once(lambda: erase(store))

    def each(function: Callable[[Any], Any], items: Sequence[Any], what: str) -> list[Any]:
        found = here(function, items, what)
        if what != "looking for vectors":
            begin()
        return found

    with pytest.raises(ForgottenError):
        run.publication.commit_sequences(run.intake, run.vectors, run.folder / "spills", "replace", each)
    held = Store(store.uri).sequences.read(["subject_id"])["subject_id"].to_pylist()
    assert "ann" not in held


class Reading:
    """Entries of a file; something happens while they are read."""

    def __init__(self, file: str, meanwhile: Callable[[], None]) -> None:
        self.file, self.meanwhile = file, meanwhile

    def read(self, workspace: Workspace) -> Intake:
        found = take_in(look([self.file], ReadOptions()), Checks(), workspace.spills)
        self.meanwhile()
        return found


class Nothing:
    """Vectors of sequences that are all there."""

    def encode(self, wanted: plan.Work, workspace: Workspace, job: Job) -> Encoded:
        return Encoded([])


def test_an_erasure_while_the_source_is_read_ends_the_run(store: Store, tmp_path: Path) -> None:
    source = Run(store.uri, PEOPLE, tmp_path).file
    settings = EmbedConfig.make(sources=(source,), store=store.uri)
    spec = RunSpec(
        settings=settings,
        store=Store(store.uri),
        version=A,
        source_name=SOURCE,
        run_id="reading",
        vectors=VECTORS,
        task="embed",
        config_digest="none",
    )
    with pytest.raises(ForgottenError):
        carry_out(spec, Reading(source, lambda: erase(store)), Nothing())
    assert "ann" not in Store(store.uri).sequences.read(["subject_id"])["subject_id"].to_pylist()
    assert carry_out(spec, Reading(source, lambda: None), Nothing()).encoded == 0


# Vectors that the plan counts on.


def asked(steps: list[str]) -> Callable[..., list[Any]]:
    def each(function: Callable[[Any], Any], items: Sequence[Any], what: str) -> list[Any]:
        steps.append(what)
        return here(function, items, what)

    return each


def take_out(store: Store) -> None:
    """One commit to `features` that removes all vectors of the version."""
    table = Store(store.uri).features
    paths = table.reload().paths([("feature_version", "=", A.digest)])
    table.settle("test", lambda: Change(removed=paths))


def test_vectors_are_looked_for_again_only_after_another_commit_to_features(store: Store, tmp_path: Path) -> None:
    """Once for entries that a merge would leave as they are; for those of the plan only where another run came between."""
    looks = []
    for number, other in enumerate((False, True)):
        run = next_run(store, tmp_path, "TTTT" * (3 + number))
        for step in ("version", "features", "rejects"):
            run.step(step)
        if other:
            fill(store, PEOPLE[:1], tmp_path, source="other")
        steps: list[str] = []
        run.publication.commit_sequences(run.intake, run.vectors, run.folder / "spills", "replace", asked(steps))
        looks.append(steps.count("looking for vectors"))
        run.step("run")
    assert looks[0] == 1
    assert looks[1] > 1


def test_vectors_that_are_taken_out_right_after_the_runs_own_commit_end_it(store: Store, tmp_path: Path) -> None:
    run = next_run(store, tmp_path)
    run.step("version")
    run.step("features")
    take_out(store)
    with pytest.raises(ConflictError, match="were taken out before it could publish"):
        run.publication.commit_sequences(run.intake, run.vectors, run.folder / "spills")


# Files that a run takes over, or has written.


def test_a_file_of_a_dead_run_that_holds_a_nan_is_not_taken_over(store: Store, tmp_path: Path) -> None:
    names = sorted(digest("GGGG" + letter) for letter in "ACGT")
    rows = feature_rows(names)
    at = rows.schema.get_field_index("mean")
    broken = [[float("nan"), *one[1:]] for one in rows["mean"].to_pylist()]
    broken_rows = rows.set_column(at, rows.schema.field(at), pa.array(broken, rows.schema.field(at).type))
    for table, salvaged in ((broken_rows, 0), (rows, 1)):
        vectorfiles.write(store.features, [table], stem="dead", version=A.digest, about=lambda: {"shard": "a"})
        salvage = Salvage(Store(store.uri), A.digest, VECTORS)
        assert salvage.look() is bool(salvaged)


def written(store: Store) -> list[vectorfiles.Receipt]:
    names = sorted(digest("CCCC" + letter) for letter in "ACGT")
    return [vectorfiles.write(store.features, [feature_rows(names)], stem="run", version=A.digest, about=lambda: {"shard": "a"})]


@pytest.mark.parametrize("change", [{"size": 1}, {"rows": 1}])
def test_the_audit_compares_size_and_rows_each_alone(store: Store, change: dict[str, int]) -> None:
    (receipt,) = written(store)
    audit(store, A.digest, "float32", [receipt], rows=4)
    (name,) = change
    file = replace(receipt.file, **{name: getattr(receipt.file, name) + 1})
    with pytest.raises(AuditError, match=r"files: .* and was written with"):
        audit(store, A.digest, "float32", [replace(receipt, file=file)], rows=file.rows)


@pytest.mark.parametrize("rows", [3, 5])
def test_the_audit_counts_what_was_planned(store: Store, rows: int) -> None:
    with pytest.raises(AuditError, match=f"counts: 4 sequences were written and {rows} were to be"):
        audit(store, A.digest, "float32", written(store), rows=rows)


# Weights that run code.


class Runs:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def test_a_zipped_pickle_is_not_run_for_the_names_of_its_tensors(tmp_path: Path) -> None:
    """As torch writes its files: a zip archive with a pickle inside."""
    torch.save({"a": torch.zeros(1)}, tmp_path / "good.bin")
    assert tensor_names(tmp_path / "good.bin") == ["a"]
    pickled = io.BytesIO()
    pickle.dump({"a": Runs(tmp_path / "ran")}, pickled, protocol=2)
    with zipfile.ZipFile(tmp_path / "good.bin") as good, zipfile.ZipFile(tmp_path / "bad.bin", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, pickled.getvalue() if name.endswith("data.pkl") else good.read(name))
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        tensor_names(tmp_path / "bad.bin")
    assert not (tmp_path / "ran").exists()
