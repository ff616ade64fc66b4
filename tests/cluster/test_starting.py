"""Ray that does not start, does not answer or lets nobody in: one sentence, exit code 5, within a stated time. And who can reach it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from models import dna
from ray.exceptions import AuthenticationError
from stores import fasta

from dnafeat.cluster import session, starting
from dnafeat.cluster.config import ActorsConfig
from dnafeat.embed.runner import choose
from dnafeat.errors import ClusterError, Terminated, UsageError
from dnafeat.training.config import WorkersConfig
from dnafeat.training.on_ray import _check_room


def one_sentence(error: pytest.ExceptionInfo[ClusterError]) -> str:
    said = str(error.value)
    assert "\n" not in said
    assert error.value.exit_code == 5
    return said


# A cluster that is named.


@pytest.mark.parametrize("listens", [False, True])
def test_a_cluster_that_does_not_answer_is_one_sentence_in_time(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "ANSWER_SECONDS", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if listens:
            server.listen(8)
        began = time.monotonic()
        with pytest.raises(ClusterError) as error:
            starting.connect(address)
        assert time.monotonic() - began < 10
    assert one_sentence(error).startswith(f"RAY_ADDRESS is {address}, and no Ray answers there within 1 s: ")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("head:6379", ("head", 6379)),
        ("ray://head:10001", ("head", 10001)),
        ("[::1]:6379", ("::1", 6379)),
        ("auto", None),
        ("head", None),
        ("head:port", None),
    ],
)
def test_the_place_of_an_address(address: str, place: tuple[str, int] | None) -> None:
    assert starting._host_and_port(address) == place


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of somebody who accepts connections; what Ray asks there is up to the test."""
    monkeypatch.setattr(starting.observe, "logging_config", lambda: None)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_this_users_token_is_sent_where_one_is_asked_for(answering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    calls: list[str] = []

    def ask(*_: Any) -> None:
        calls.append("asked")
        if "taken" not in calls:
            raise AuthenticationError("Token authentication is enabled")

    monkeypatch.setattr(starting, "_ask", ask)
    monkeypatch.setattr(starting, "maybe_enable_token_auth_if_token_available", lambda **_: calls.append("taken") or True)
    monkeypatch.setattr(ray, "init", lambda **_: calls.append("init"))
    starting.connect(answering)
    assert calls == ["asked", "taken", "init"]
    calls.clear()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError) as error:
        starting.connect(answering)
    assert "lets nobody in without its token: set RAY_AUTH_MODE=token" in one_sentence(error)


def test_a_cluster_that_refuses_is_one_sentence(answering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("Version mismatch: the cluster has Ray 2.9\nand more")

    monkeypatch.setattr(starting, "_ask", lambda *_: None)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError) as error:
        starting.connect(answering)
    assert "takes no driver: Version mismatch: the cluster has Ray 2.9" in one_sentence(error)


# A Ray of this machine.


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Exception("The current node timed out during startup. This could happen"), "its first node was not there within 180 s"),
        (RuntimeError("Failed to start GCS"), "Failed to start GCS"),
        (ConnectionError("Could not read 'node' from GCS"), "Could not read"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_a_ray_that_does_not_start_is_one_sentence(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        os.write(2, b"[2026-11-30 W] what Ray's compiled part says\n")
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ClusterError) as raised:
        starting.start_here()
    said = one_sentence(raised)
    assert said.startswith("Ray did not start on this machine (")
    assert says in said
    assert "send the same command again" in said
    assert capfd.readouterr().err == ""


def test_a_slow_start_is_waited_for_and_said_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(starting, "_SAID_AFTER", 0.0)
    looks = iter([RuntimeError("not yet"), RuntimeError("not yet"), {"node_id": "there"}])

    def look(*_: Any) -> Any:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(starting.services, "get_node", look)
    found: list[Any] = []
    monkeypatch.setattr(ray, "init", lambda **_: found.append(starting.services.get_node("gcs", "node")))
    starting.start_here()
    assert found == [{"node_id": "there"}]
    assert starting.services.get_node is look
    assert capfd.readouterr().err.count("Ray has not started after") == 1


def test_ray_gives_back_the_handler_of_a_signal_and_the_address_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def init(**_: Any) -> None:
        seen.append(starting.ray_constants.ENABLE_RAY_CLUSTER)
        signal.signal(signal.SIGTERM, lambda *_: None)

    before, cluster = signal.getsignal(signal.SIGTERM), starting.ray_constants.ENABLE_RAY_CLUSTER
    monkeypatch.setattr(ray, "init", init)
    starting.start_here()
    assert seen == [False]
    assert cluster == starting.ray_constants.ENABLE_RAY_CLUSTER
    assert signal.getsignal(signal.SIGTERM) == before

    def ended(**_: Any) -> None:
        sys.exit(signal.SIGTERM)

    monkeypatch.setattr(ray, "init", ended)
    with pytest.raises(Terminated) as error:
        starting.start_here()
    assert error.value.exit_code == 143


# What is not there.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Ray of this machine's own with two CPUs and one GPU."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session, "_LAUNCHED", tmp_path / "none.yaml")
    monkeypatch.setattr(session, "start_ray", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})


def test_more_gpus_than_there_are_are_refused_at_once(small: None) -> None:
    with pytest.raises(UsageError, match="gpus_per_actor is 2, and this machine has 1 GPUs"):
        choose(ActorsConfig.make(runner="ray", gpus_per_actor=2), sequences=1, flops=1, cpu_only=False, show=False)
    with pytest.raises(UsageError, match="2 workers with 1 GPU each are more than the 1 GPUs of this machine hold"):
        _check_room(WorkersConfig.make(num_workers=2), cpus=1, gpus=1)
    with pytest.raises(UsageError, match="8 workers with 1 CPU each are more than the 2 CPUs of this machine hold"):
        _check_room(WorkersConfig.make(num_workers=8), cpus=1, gpus=0)
    _check_room(WorkersConfig.make(num_workers=2), cpus=1, gpus=0.5)


@pytest.mark.parametrize(
    ("settings", "actors"),
    [
        ({"num_actors": 8, "gpus_per_actor": 0}, 8),
        ({"num_actors": 1000, "gpus_per_actor": 0}, 32),
        ({"num_actors": 8, "gpus_per_actor": 0.25}, 4),
        ({"num_actors": 3}, 1),
    ],
)
def test_a_pool_has_no_more_actors_than_the_machine_can_hold(settings: dict[str, Any], actors: int, small: None) -> None:
    config = ActorsConfig.make(runner="ray", **settings)
    assert choose(config, sequences=10, flops=1, cpu_only=False, show=False).workers == actors


# A Ray that runs.


def listening(process: psutil.Process) -> set[str]:
    """The addresses on which a process and its children wait for connections."""
    pids = {process.pid, *(child.pid for child in process.children(recursive=True))}
    return {one.laddr.ip for one in psutil.net_connections("inet") if one.status == psutil.CONN_LISTEN and one.pid in pids}


@pytest.mark.long
@pytest.mark.own_ray("looks at who can reach a local run's own, and ends the run by a signal")
@pytest.mark.parametrize("runner", ["ray", "local"])
def test_a_run_listens_to_this_machine_alone_and_sigterm_ends_it_whole(runner: str, tmp_path: Path) -> None:
    source = fasta(tmp_path / "source.fa", {f"s{i}": dna(400, seed=i) for i in range(4000)})
    flags = ["--store", str(tmp_path / "store"), "--model", "dnafeat-mini", "--shard-rows", "50", "--runner", runner]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    command = [sys.executable, "-m", "dnafeat.cli.main", "embed", source, *flags]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    process = psutil.Process(run.pid)
    end = time.monotonic() + 150
    while not list((tmp_path / "store").glob("features/*/*.parquet")):
        assert run.poll() is None, run.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.2)
    children = process.children(recursive=True)
    assert listening(process) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert any("raylet" in " ".join(child.cmdline()) for child in children) == (runner == "ray")
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=90)
    assert run.returncode == 143
    assert said.splitlines()[-1] == "dnafeat: ended by SIGTERM; send the same command again"
    assert "Traceback" not in said
    assert "SIGTERM received at" not in said
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
