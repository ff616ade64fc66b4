"""A source that arrives without its entries takes nothing away, and no channel follows, unless the run is told otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from models import dna
from stores import Entry, Run, fill, write_csv

from dnafeat.cli.main import main
from dnafeat.embed.config import EmbedConfig, NightlyConfig
from dnafeat.errors import MassCloseError
from dnafeat.store import Store
from dnafeat.store.rollback import rollback

POOL = [Entry(f"e{i}", dna(20 + i, seed=i)) for i in range(10)]


@pytest.fixture
def place(model: str, tmp_path: Path) -> list[str]:
    return ["--store", str(tmp_path / "store"), "--source-name", "case", "--model", model]


def source(tmp_path: Path, entries: Iterable[Entry]) -> str:
    return write_csv(tmp_path / "source.csv", entries)


def ids(store: Store) -> set[str]:
    return set(store.read("production", columns=["bases"])["sequence_id"].to_pylist())


def state(store: Store) -> dict[str, int]:
    """The version of each table that a publication writes."""
    return {table.name: table.reload().version() for table in (store.sequences, store.runs, store._versions)}


def test_a_nightly_source_that_arrives_empty_ends_with_7_and_changes_nothing(
    place: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = source(tmp_path, POOL)
    assert main(["nightly", file, *place, "--run-id", "mon"]) == 0
    store = Store(place[1])
    before, channels = state(store), store.channels()
    capsys.readouterr()
    source(tmp_path, [])
    for share in ([], ["--max-closed", "0.99"]):
        # A new version, too: the channel would have followed.
        assert main(["nightly", file, *place, "--run-id", "tue", "--window-tokens", "16", *share]) == 7
        error = capsys.readouterr().err
        assert "source case would lose 10 of its 10 entries" in error
        assert "--max-closed 1" in error
        assert error.count("\n") == 1
    assert (state(store), store.channels()) == (before, channels)
    assert ids(store) == {entry.id for entry in POOL}
    capsys.readouterr()
    assert main(["nightly", file, *place, "--run-id", "tue", "--max-closed", "1"]) == 0
    told = capsys.readouterr().out
    assert "10 closed" in told
    assert "every vector is there" not in told
    assert ids(store) == set()


def test_a_source_of_which_every_entry_is_refused_counts_as_empty_and_stores_its_rejects(
    place: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", source(tmp_path, POOL), *place]) == 0
    file = source(tmp_path, [entry._replace(sequence="?") for entry in POOL])
    assert main(["embed", file, *place, "--run-id", "bad"]) == 7
    assert "with 0 accepted and 10 refused" in capsys.readouterr().err
    assert set(Store(place[1]).rejects.read(["run_id"])["run_id"].to_pylist()) == {"bad"}


@pytest.mark.parametrize(
    ("before", "after", "share", "code"),
    [
        (POOL, POOL[:5], None, 0),  # half
        (POOL, POOL[:4], None, 7),
        (POOL, POOL[:4], "0.6", 0),
        (POOL, POOL[:9], "0", 7),
        (POOL[:2], POOL[:1], None, 0),
        (POOL[:1], [], None, 7),
        # As many entries as before, but for their ids: a wrong column, for instance.
        (POOL[:4], POOL[4:8], None, 7),
        # Other sequences under the same ids: nothing is taken away.
        (POOL[:3], [a._replace(sequence=b.sequence) for a, b in zip(POOL[:3], POOL[5:], strict=False)], "0", 0),
        ([], POOL[:1], None, 0),
        ([], [], None, 0),
    ],
)
def test_the_share_is_of_entries_that_nothing_replaces(
    place: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: list[Entry],
    after: list[Entry],
    share: str | None,
    code: int,
) -> None:
    assert main(["embed", source(tmp_path, before), *place]) == 0
    store = Store(place[1])
    standing = state(store)
    file = source(tmp_path, after)
    assert main(["embed", file, *place, *(["--max-closed", share] if share else [])]) == code
    assert (state(store) == standing) == (code == 7)


def test_a_merge_closes_nothing_and_is_never_refused(
    place: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nightly", source(tmp_path, POOL), *place]) == 0
    for entries in (POOL[:1], []):
        assert main(["nightly", source(tmp_path, entries), *place, "--mode", "merge", "--max-closed", "0", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["closed"] == 0
    assert ids(Store(place[1])) == {entry.id for entry in POOL}


def test_the_entries_are_those_that_readers_see(tmp_path: Path) -> None:
    """Not those of a withdrawn run; and what it closed can be taken away still."""
    store = str(tmp_path / "store")
    fill(store, POOL[:8], tmp_path)
    fill(store, POOL[8:], tmp_path, run_id="bad")
    rollback(Store(store), "bad")
    lacking = Run(store, POOL[:3], tmp_path).encode()
    with pytest.raises(MassCloseError, match="5 of its 8 entries"):
        publish(lacking)
    whole = Run(store, POOL[:8], tmp_path).encode()
    publish(whole)
    assert Store(store).count_current("cohort") == 8


def publish(run: Run, **options: Any) -> None:
    """Commit a run's entries as a job does."""
    for step in ("version", "features", "rejects"):
        run.step(step)
    run.number, run.opened, run.closed = run.publication.commit_sequences(
        run.intake, run.vectors, run.folder / "spills", max_closed=0.5, **options
    )
    run.step("run")


def test_the_share_is_a_setting_that_leaves_digests_of_configurations_alone() -> None:
    config = EmbedConfig.make(sources=("a.fa",), store="s")
    assert config.max_closed == 0.5
    assert config.replace(max_closed=1.0).shaping() == config.shaping()
    assert NightlyConfig.make(sources=("a.fa",), store="s", max_closed=0.2).embed.max_closed == 0.2
