"""A Ray cluster of this machine whose nodes can be killed, in a process of its own: what Ray keeps of how a process talks to clusters
(token authentication, for one) is neither taken from the tests' process nor left in it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

_OBJECT_STORE = 80 * 2**20  # a little more than the least that Ray accepts
# Ray takes a silent node for dead after 15 s by default, a busy machine's own for dead sooner than it should be below this.
_HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}


class Nodes:
    """A head without CPUs and two nodes with one CPU each, with the environment that the process had when it was made.

    Parameters
    ----------
    job_server : bool
        Whether the head has one.

    Attributes
    ----------
    environment : dict of str to str
        Leads a driver to the cluster.
    address : str
        Of the job server, where there is one.
    metrics : list of int
        Ports at which the nodes that have never been killed serve them.
    """

    def __init__(self, job_server: bool = False) -> None:
        # Not pytest's folder: the path of a socket has at most 107 characters.
        self._folder = tempfile.mkdtemp(prefix="ray-")
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex, "RAY_TMPDIR": self._folder}
        own["RAY_raylet_start_wait_time_s"] = "120"
        # As cluster.yaml does: a job's `python` is the one with the libraries.
        own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own
        with Path(self._folder, "nodes.log").open("wb") as log:
            command = [sys.executable, __file__, *(["job-server"] if job_server else [])]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, env=environment, text=True)
        told = json.loads(self._answer())
        self.environment = own | {"RAY_ADDRESS": told["address"]}
        self.address, self.metrics = f"http://{told['server']}", told["metrics"]

    def _answer(self) -> str:
        line = self._process.stdout.readline().strip()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError("the cluster ended: " + Path(self._folder, "nodes.log").read_text()[-3000:])
        return line

    def kill(self, which: int) -> str:
        """Kills one of the two nodes with CPUs and all that runs there, without a warning; a new one takes its place. Returns its name."""
        self._process.stdin.write(f"{which}\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return self._answer()

    def replaced(self) -> None:
        """Waits until the new node is there."""
        self._answer()

    def stop(self) -> None:
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _serve() -> None:
    from ray.cluster_utils import Cluster

    # Ray's own processes write to standard output, too.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    every = {"object_store_memory": _OBJECT_STORE, "include_dashboard": False}
    # Where another Ray of this machine has the port that a head's agent takes by default, the job server starts no job.
    head = {**every, "num_cpus": 0, "_system_config": _HEALTH, "dashboard_agent_listen_port": 0}
    if sys.argv[1:]:
        # Port 0 lets it take the next one that is free.
        head |= {"include_dashboard": True, "dashboard_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)

    def add() -> object:
        # A folder of its own, as on a machine of its own: a node that comes unpacks a job's files anew, under those who use them.
        return cluster.add_node(**every, num_cpus=1, runtime_env_dir_name=f"runtime-{uuid.uuid4().hex}")

    nodes = [add(), add()]
    ports = [node.metrics_export_port for node in (cluster.head_node, nodes[1])]
    print(json.dumps({"address": cluster.address, "server": cluster.webui_url, "metrics": ports}), file=answers)
    for line in sys.stdin:
        gone = nodes.pop(int(line))
        cluster.remove_node(gone, allow_graceful=False)
        print(gone.unique_id, file=answers)
        nodes.append(add())
        print("replaced", file=answers)
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
