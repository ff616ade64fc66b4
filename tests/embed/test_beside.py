"""Runs beside maintenance after an earlier erasure, when it deletes what it replaces at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from stores import A, Entry, Run, expected, fill, rows

from dnafeat.cluster.observe import Job
from dnafeat.cluster.spread import here
from dnafeat.embed import plan
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks, Intake, take_in
from dnafeat.embed.run import Encoded, RunSpec, carry_out
from dnafeat.embed.workspace import Workspace
from dnafeat.sources.reader import ReadOptions, look
from dnafeat.store import Store
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from dnafeat.vectors import VECTORS

KEYS = ["subject"]
MINE = [Entry(f"m{i}", "AA" + letters, {"subject": "s1"}) for i, letters in enumerate(("CC", "GG", "TT"))]
OTHERS = [Entry(f"o{i}", "ACGT" * (2 + i), {"subject": f"s{2 + i}"}) for i in range(5)]
NEW = Entry("new", "TTTT", {"subject": "s9"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A file for each sequence, and an erasure whose replaced files are not deleted yet."""
    uri = str(tmp_path / "store")
    fill(uri, [*MINE, *OTHERS], tmp_path, shard_rows=1)
    for i in range(4):
        fill(uri, [Entry("x", "G" * (5 + i))], tmp_path, source=f"source {i}")
    forget(Store(uri), {"subject": "s1"})
    return Store(uri)


def maintained_once(store: Store) -> Callable[[], object]:
    waiting = [1]
    return lambda: maintain(Store(store.uri)) if waiting and waiting.pop() else None


class Reading:
    """Entries of a file."""

    def __init__(self, file: str) -> None:
        self.file = file

    def read(self, workspace: Workspace) -> Intake:
        return take_in(look([self.file], ReadOptions()), Checks(), workspace.spills)


class Nothing:
    """Vectors of sequences that are all there."""

    def encode(self, wanted: plan.Work, workspace: Workspace, job: Job) -> Encoded:
        assert not wanted.missing.rows
        return Encoded([])


def test_a_plan_whose_files_vanish_is_made_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Run(store.uri, OTHERS, tmp_path).file
    spec = RunSpec(
        settings=EmbedConfig.make(sources=(file,), store=store.uri),
        store=Store(store.uri),
        version=A,
        source_name="cohort",
        run_id="beside",
        vectors=VECTORS,
        task="embed",
        config_digest="none",
    )
    real, happens = plan.not_stored, maintained_once(store)

    def not_stored(*arguments: Any) -> Any:
        happens()
        return real(*arguments)

    monkeypatch.setattr(plan, "not_stored", not_stored)
    summary = carry_out(spec, Reading(file), Nothing())
    assert (summary.distinct, summary.already_stored) == (len(OTHERS), len(OTHERS))


@pytest.mark.parametrize("step", ["reading entries", "closing entries", "looking for vectors"])
def test_a_commit_whose_files_vanish_is_made_again(store: Store, tmp_path: Path, step: str) -> None:
    run = Run(store.uri, [*OTHERS[1:], NEW], tmp_path, mode="replace").encode()
    # Another run commits to `features` meanwhile, so that vectors are looked for again.
    fill(store.uri, [Entry("y", "GGCC")], tmp_path, source="another")
    for name in ("version", "features", "rejects"):
        run.step(name)
    happens, steps = maintained_once(store), set()

    def each(function: Callable[[Any], Any], items: Sequence[Any], what: str) -> list[Any]:
        steps.add(what)
        if what == step:
            happens()
        return here(function, items, what)

    run.each = each
    run.step("sequences")
    run.step("run")
    assert step in steps
    assert rows(store.read(source="cohort")) == expected([*OTHERS[1:], NEW], KEYS)
