"""Nights on a real job server: sent, sent again, followed, and let be."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import Nodes

from dnafeat.embed.submit import submit
from dnafeat.errors import UsageError

# Ends as the first word of a file says, which it takes away: with an exit code, by a signal (with a minus), or once it is let go.
JOB = """
import os, pathlib, sys, time
state = pathlib.Path(sys.argv[1])
ends = state.read_text().split() or ["0"]
state.write_text(" ".join(ends[1:]))
print("this is the night's own output", flush=True)
with open(f"{state}.calls", "a") as calls:
    calls.write(" ".join(sys.argv[2:]) + "\\n")
if ends[0] == "wait":
    while not os.path.exists(f"{state}.go"):
        time.sleep(0.1)
    sys.exit(0)
end = int(ends[0])
os.kill(os.getpid(), -end) if end < 0 else sys.exit(end)
"""
pytestmark = [pytest.mark.long, pytest.mark.own_ray("jobs sent to a job server")]
SUBMIT = Path(__file__).parents[2] / "jobs" / "submit.py"


@pytest.fixture(scope="module")
def server() -> Iterator[Nodes]:
    nodes = Nodes(job_server=True)
    yield nodes
    nodes.stop()


class Night:
    """A command whose ends are told beforehand, sent in a process of its own, since Ray looks once for its token."""

    def __init__(self, server: Nodes, folder: Path) -> None:
        (folder / "job.py").write_text(JOB)
        self.state = folder / "state"
        self.state.touch()
        self.name = folder.name  # of its own for each test
        self.environment = {**os.environ, **server.environment}
        self.address = server.address

    def start(self, *flags: str) -> subprocess.Popen[str]:
        job = ["python", str(self.state.parent / "job.py"), str(self.state)]
        own = ["--address", self.address, "--night", self.name, "--working-dir", str(self.state.parent), *flags]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, str(SUBMIT), *own, "--", *job], stdout=pipe, stderr=pipe, text=True, env=self.environment
        )

    def submit(self, ends: str = "", *flags: str) -> tuple[int, str, str]:
        """Exit code, output, and the sentence at the end of standard error."""
        self.state.write_text(ends)
        process = self.start(*flags)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return process.returncode, out, err.splitlines()[-1] if err else ""

    @property
    def calls(self) -> list[str]:
        return Path(f"{self.state}.calls").read_text().splitlines()


@pytest.fixture
def night(server: Nodes, tmp_path: Path) -> Night:
    return Night(server, tmp_path)


def test_a_night_is_sent_once_and_its_output_told(night: Night) -> None:
    code, out, _ = night.submit()
    assert code == 0
    assert night.calls == [f"--run-id {night.name}"]
    assert out.startswith(f"night {night.name} is sent as {night.name}-1: python ")
    assert "this is the night's own output" in out
    assert night.submit()[:2] == (0, f"night {night.name} is done already, as {night.name}-1\n")
    assert len(night.calls) == 1


def test_what_passes_is_sent_again_under_the_next_id_and_a_killed_driver_too(night: Night) -> None:
    code, _, said = night.submit("6")
    assert (code, said) == (5, f"dnafeat: night {night.name} failed after 1 attempt: look above, and send it again")
    code, out, _ = night.submit("-9", "--attempts", "2")
    assert code == 0
    assert night.calls == [f"--run-id {night.name}"] * 3
    assert f"as {night.name}-3" in out


def test_what_another_attempt_would_not_change_is_not_sent_again(night: Night) -> None:
    code, _, said = night.submit("4", "--attempts", "3")
    assert (code, said) == (2, f"dnafeat: night {night.name} ended with exit code 4, which another attempt would not change")
    assert len(night.calls) == 1


def test_a_night_at_work_is_followed_and_not_sent_beside_it(night: Night) -> None:
    night.state.write_text("wait")
    first = night.start()
    while not Path(f"{night.state}.calls").exists():
        time.sleep(0.1)
    second = night.start()
    time.sleep(5)
    Path(f"{night.state}.go").touch()
    outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert outputs[1].startswith(f"night {night.name} is at work already, as {night.name}-1")
    assert "this is the night's own output" in outputs[1]
    assert len(night.calls) == 1


def test_a_run_id_of_ones_own_and_a_server_that_is_not_there_are_told(night: Night) -> None:
    night.address = "http://127.0.0.1:1"
    code, _, said = night.submit()
    assert code == 2
    assert said.startswith("dnafeat: no job server lets us in at http://127.0.0.1:1: ")
    with pytest.raises(UsageError, match="the run id is the night"):
        submit(["python", "jobs/nightly.py", "--run-id", "x"], address=night.address)
