"""End this process in a sentence, with exit code 5, where Ray's own process on its node (the raylet) has died.

Ray's compiled part ends a driver within seconds of its raylet's death, in the middle of whatever it does and with exit code 1, which says
that `--strict` refused something and that another attempt would change nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import ray

from dnafeat.cluster.bar import say
from dnafeat.cluster.observe import Job
from dnafeat.errors import ClusterError

# Seconds between two looks: Ray takes one or two until it ends the driver.
_LOOK_SECONDS = 0.2
_PROCESSES = Path("/proc")


class RayletWatch(threading.Thread):
    """Watch a process, and call once when it has ended.

    Parameters
    ----------
    pid : int
        The raylet of this node.
    lost : callable
        Called with its number, from this thread.
    """

    def __init__(self, pid: int, lost: Callable[[int], None]) -> None:
        super().__init__(name="raylet watch", daemon=True)
        self.pid = pid
        self._over, self._lost = threading.Event(), lost

    def run(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            if not lives(self.pid):
                if not self._over.is_set():
                    self._lost(self.pid)
                return

    def stop(self) -> None:
        """Stop watching: whoever leaves Ray ends it."""
        self._over.set()


def watch() -> RayletWatch | None:
    """Watch the raylet that this process is connected to. None: there is none of this machine's own, or it cannot be found."""
    pid = find()
    if pid is None:
        return None
    watching = RayletWatch(pid, _end)
    watching.start()
    return watching


def find() -> int | None:
    """Find the process of this node's raylet by the socket that Ray's driver has to it."""
    node = getattr(ray._private.worker.global_worker, "node", None)
    socket = getattr(node, "raylet_socket_name", None)
    if not socket:
        return None
    wanted = f"--raylet_socket_name={socket}".encode()
    for entry in _PROCESSES.iterdir() if _PROCESSES.is_dir() else ():
        # A process may end while it is looked at, and others' may be closed to this user.
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                return int(entry.name)
    return None


def lives(pid: int) -> bool:
    """Whether a process runs: one that has ended and that nobody has waited for does not."""
    try:
        state = (_PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _end(pid: int) -> None:
    """End this process before Ray does. What it has written is found by the next attempt, as after any death."""
    say(
        f"Ray's own process on this machine (the raylet, {pid}) has died, and the run with it: send the same command again", Job()
    )
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(ClusterError.exit_code)
