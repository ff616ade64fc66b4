"""The gate of a scheduled run: what moved is held before readers see it, says so with exit code 8, and passes once it is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from models import dna
from stores import Entry, write_csv

from dnafeat.cli.main import main
from dnafeat.store import Store
from dnafeat.store.profiles import Profile

POOL = [Entry(f"e{i}", dna(60, seed=i), {"site": "north" if i % 2 else "south"}) for i in range(80)]
COMPLEMENT = str.maketrans("ACGT", "TGCA")


class Job:
    """A scheduled run with a gate."""

    def __init__(self, folder: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.store = Store(str(folder / "store"))
        self.flags = ["--store", self.store.uri, "--source-name", "cohort", "--model", model, "--max-closed", "1", "--gate"]

    def __call__(self, run_id: str | None, entries: list[Entry], *more: str) -> tuple[int, str]:
        file = write_csv(self.folder / "source.csv", entries)
        name = [] if run_id is None else ["--run-id", run_id]
        self.capsys.readouterr()
        code = main(["nightly", file, *self.flags, *name, *more])
        return code, self.capsys.readouterr().err

    def seen(self) -> dict[str, str]:
        """Digests by id, as readers of the channel see them."""
        table = self.store.read("production", columns=["sequence_digest"])
        return dict(zip(table["sequence_id"].to_pylist(), table["sequence_digest"].to_pylist(), strict=True))


@pytest.fixture
def job(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> Job:
    return Job(tmp_path, model, capsys)


def test_a_run_that_moved_is_held_before_readers_see_it_and_passes_once_accepted(job: Job) -> None:
    assert job("mon", POOL[:70])[0] == 0
    assert job("tue", POOL[:75])[0] == 0
    before, channels = job.seen(), job.store.channels()
    turned = [Entry(one.id, one.sequence[::-1].translate(COMPLEMENT), one.keys) for one in POOL]
    code, error = job("wed", turned)
    assert (code, error.count("dnafeat: ")) == (8, 1)
    assert "run wed of source cohort is held, since" in error
    assert "changed" in error
    assert (job.seen(), job.store.channels()) == (before, channels)
    assert [row["run_id"] for row in job.store.history().listing()] == ["tue", "mon"]
    # What moved can be looked at, and is no history of what comes after.
    assert main(["monitor", "--store", job.store.uri, "--run", "wed", "--json"]) == 0
    found = json.loads(job.capsys.readouterr().out)
    assert (found["state"], "changed" in found["moved"], found["history"]) == ("held", True, ["mon", "tue"])
    assert job("wed", turned)[0] == 8
    assert job("thu", POOL[:78])[0] == 0
    # Accepted, it is published under its own name, without its being given again.
    code, error = job(None, turned, "--accept", "wed")
    assert (code, "dnafeat: " in error) == (0, False)
    assert job.seen().keys() == {one.id for one in POOL}
    assert job.seen() != before
    assert main(["monitor", "--store", job.store.uri, "--json"]) == 0
    found = json.loads(job.capsys.readouterr().out)
    assert (found["run_id"], found["state"]) == ("wed", "accepted")
    assert job("sat", turned, "--accept", "wde")[0] == 2


def test_a_new_version_with_other_vectors_is_published_and_the_channel_stays(job: Job) -> None:
    assert job("mon", POOL[:70])[0] == 0
    channels = job.store.channels()
    code, error = job("tue", POOL[:70], "--window-tokens", "16", "--layer", "1")
    assert code == 8
    assert "same sequences/mean" in error
    assert job.store.channels() == channels
    assert len(job.store.history().versions()) == 2
    assert job("tue", POOL[:70], "--window-tokens", "16", "--layer", "1", "--accept", "tue")[0] == 0
    assert job.store.channels() != channels


def test_a_page_about_the_run_is_written_and_its_failure_undoes_nothing(job: Job) -> None:
    pages = job.folder / "pages"
    assert job("mon", POOL[:40], "--report", str(pages))[0] == 0
    assert "40 entries" in (pages / "mon.html").read_text()
    (job.folder / "file").write_text("")
    code, error = job("tue", POOL[:41], "--report", str(job.folder / "file"))
    assert (code, "the run is published, and there is no page" in error) == (0, True)
    assert len(job.seen()) == 41


def test_profiles_lie_with_the_runs_and_name_nobody(job: Job) -> None:
    assert job("mon", POOL[:70])[0] == 0
    assert job("tue", POOL[:70])[0] == 0
    rows = job.store.runs.reload().read(["run_id", "profile"]).sort_by("run_id").to_pylist()
    first, second = (Profile.from_json(row["profile"]) for row in rows)
    assert first is not None
    assert second is not None
    counts = {"entries": 70, "rejected": 0, "distinct": 70, "known": 0, "returning": 0, "changed": 0, "missing/site": 0}
    assert first.counts == counts
    assert second.counts == {**counts, "known": 70, "returning": 70}
    assert {name for name in first.moments if name.startswith("vector/")} == {
        f"vector/{name}" for name in ("cls", "mean", "max", "projected")
    }
    # A night that encodes nothing has no vectors of its own.
    assert set(second.moments) == {"composition"}
    assert "north" not in rows[0]["profile"]
    assert "e1" not in json.loads(rows[0]["profile"])


def test_a_store_of_an_earlier_release_goes_on_without_a_history(job: Job) -> None:
    assert job("mon", POOL[:70])[0] == 0
    table = job.store.runs.reload()
    from dnafeat.store.table import Table

    rows = table.read().set_column(table.schema().get_field_index("profile"), "profile", [[None]])
    file = Table(job.store.uri, "runs").write(rows, stem="old")
    table.commit([file], removed=table.paths())
    assert job("tue", POOL[:40])[0] == 0
    assert main(["monitor", "--store", job.store.uri]) == 0
    assert "earlier runs have no profile" in job.capsys.readouterr().out
