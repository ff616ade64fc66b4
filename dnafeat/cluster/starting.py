"""Start a Ray on this machine, or connect to a cluster: within a stated time, and with one sentence where that fails."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from dnafeat.cluster import observe
from dnafeat.errors import ClusterError, Terminated, one_line

# Seconds in which a cluster has to answer.
ANSWER_SECONDS = 30.0
# Seconds in which a Ray of this machine has to start; Ray itself gives up after 30, which a busy machine needs.
START_SECONDS = 180
# Until it is said that it takes long.
_SAID_AFTER = 20.0
_LOCAL_OBJECT_STORE = 512 * 2**20
TOKEN = "set RAY_AUTH_MODE=token and give the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token"


def connect(address: str) -> None:
    """Connect this process to a cluster.

    Raises
    ------
    ClusterError
        Nobody answers at the address within `ANSWER_SECONDS`, or the cluster refuses.
    """
    nobody = ClusterError(
        f"RAY_ADDRESS is {address}, and no Ray answers there within {ANSWER_SECONDS:.0f} s: start the cluster, or unset RAY_ADDRESS to run "
        f"on this machine"
    )
    end = time.monotonic() + ANSWER_SECONDS
    if (place := _host_and_port(address)) is not None and not _listens(*place, end):
        raise nobody
    try:
        if place is not None and "://" not in address:
            with _without_chatter():
                try:
                    _ask(address, end, nobody)
                except AuthenticationError:
                    if not take_token():
                        raise
        with _own_signals():
            # What workers write stays in the files of their nodes, where their records are looked for; the driver tells what matters.
            ray.init(logging_config=observe.logging_config(), log_to_driver=False)
    except AuthenticationError as error:
        raise ClusterError(f"the cluster at {address} lets nobody in without its token: {TOKEN}") from error
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise ClusterError(f"RAY_ADDRESS is {address}, and the Ray there takes no driver: {one_line(error)}") from error


def take_token() -> bool:
    """Send the token that this user has (~/.ray/auth_token) from now on, unless RAY_AUTH_MODE says what to do. Returns whether it is sent.

    A Ray that is started where such a file lies, which the first local run leaves there, asks for it; clients that are given an address
    do not look for it.
    """
    return "RAY_AUTH_MODE" not in os.environ and maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _host_and_port(address: str) -> tuple[str, int] | None:
    """None for an address that Ray looks up by itself, such as `auto`."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None
    except ValueError:
        return None


def _listens(host: str, port: int, end: float) -> bool:
    """Whether somebody accepts a connection before `end`, which a head that is just starting does later than now."""
    while (left := end - time.monotonic()) > 0:
        try:
            socket.create_connection((host, port), timeout=left).close()
            return True
        except OSError:
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))
    return False


def _ask(address: str, end: float, nobody: ClusterError) -> None:
    """Ask the cluster's control service something: who accepts a connection need not be one, and Ray waits for minutes."""
    answer: list[BaseException | None] = []

    def ask() -> None:
        try:
            GcsClient(address=address)
            answer.append(None)
        except BaseException as error:
            answer.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(max(1.0, end - time.monotonic()))
    if not answer:
        raise nobody
    if answer[0] is not None:
        raise answer[0]


def start_here() -> None:
    """Start a Ray for this process alone, which only this machine can reach: it listens on the loopback address, and asks for a token.

    Raises
    ------
    ClusterError
        It has not started within `START_SECONDS`, or cannot.
    """
    # Ray logs an error about arguments of its own actors whenever a pool starts (ray-project/ray#57733); on a cluster its logs are
    # somebody's business, on a laptop they would bury ours.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _changed("RAY_gcs_server_port_wait_time_s", str(START_SECONDS)), _without_chatter() as say, _own_signals():
        try:
            with _on_loopback(), _patiently(say):
                # Vectors do not pass through the object store, so that a small one does.
                ray.init(
                    address="local",
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    object_store_memory=_LOCAL_OBJECT_STORE,
                )
        except Exception as error:
            logs = Path(get_default_ray_temp_dir()) / "session_latest" / "logs"
            raise ClusterError(
                f"Ray did not start on this machine ({_shortened(error)}): if the machine is busy, send the same command again; Ray's logs "
                f"are in {logs}, and --runner local of embed, nightly and predict needs no Ray"
            ) from error


def _shortened(error: Exception) -> str:
    if "timed out during startup" in str(error):
        return f"its first node was not there within {START_SECONDS} s"
    return re.sub(r"\s+", " ", one_line(error))[:200]


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray take the loopback address for this node's, so that none of its processes listens to another machine.

    Ray does so by itself on macOS and Windows; elsewhere it replaces 127.0.0.1, wherever it is given, by an address that others reach.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _patiently(say: Callable[[str], None]) -> Iterator[None]:
    """Have Ray wait for its first node as long as `START_SECONDS`: its own limit of 30 s is a constant."""
    look, began, told = services.get_node, time.monotonic(), False

    def patient(*arguments: Any, **options: Any) -> Any:
        nonlocal told
        while True:
            try:
                return look(*arguments, **options)
            except RuntimeError:
                waited = time.monotonic() - began
                if waited > START_SECONDS:
                    raise
                if waited > _SAID_AFTER and not told:
                    told = True
                    say(f"Ray has not started after {waited:.0f} s, since the machine is busy; waiting up to {START_SECONDS} s")
                time.sleep(0.5)

    services.get_node = patient
    try:
        yield
    finally:
        services.get_node = look


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler that SIGTERM has: Ray's own ends in a native stack trace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        # The handler that Ray has while it starts.
        raise Terminated(signal.SIGTERM) from error
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _changed(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for as long as the block runs, unless it is set."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


@contextlib.contextmanager
def _without_chatter() -> Iterator[Callable[[str], None]]:
    """Discard what Ray's compiled part writes to standard error while it starts; what it says of a failure is in its logs.

    Yields a function that says a sentence there all the same.
    """
    sys.stderr.flush()
    kept = os.dup(2)

    def say(text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(kept, f"dnafeat: {text}\n".encode())

    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield say
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
