"""Sends a night to a cluster's job server under ids of its own, and follows it to its end.

The run id is the night, so that a night that failed goes on and one that is published does nothing; the submission id adds the attempt,
since a job server refuses an id that it has seen, whatever became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shlex
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from dnafeat.cluster.starting import TOKEN, take_token
from dnafeat.errors import UNFORESEEN, EncodingError, UnreachableError, UsageError, one_line

_log = logging.getLogger(__name__)

# Exit codes of a night that fails as it is sent again. The others pass: overtaken, workers failed, storage out of reach; a driver that was
# killed has none, or one of a signal. What nobody foresaw may pass, so that it is tried once more.
_LASTING = (1, 2, 4, 7, 8)
# What is not uploaded of a folder, as in gitignore, where the last line that matches counts: files by their endings but for code and
# settings, and of those what may be a secret or a store; `.*` would match the folder itself. The .rayignore here leaves out more.
LEFT_OUT = [
    *("*.?*", "!*.json", "!*.toml", "!*.yaml", "!*.yml", "!constraints.txt", "!requirements*.txt"),
    *("*credential*", "*password*", "*salt*", "*secret*", "*token", "*key", "id_*", "_delta_log", "demo-store*", "scale-store"),
    *(
        "!*.py",
        "!/dnafeat/py.typed",
        "!/dnafeat/report/page.html",
        "!/dnafeat/bundled/data/*.?*",
        "!/dnafeat/bundled/data/*/*.?*",
        "!/dnafeat/bundled/dnafeat-mini/*.?*",
    ),
    *(".?*", "__pycache__", "/tests"),
]
_PATIENCE = 120.0  # seconds that a job server may not answer


def submit(
    command: Sequence[str],
    *,
    address: str,
    night: str | None = None,
    attempts: int = 1,
    working_dir: str | None = ".",
    say: Callable[[str], None] = _log.info,
) -> str:
    """Runs a night until it is published; a night that is at work already is followed, and one that has succeeded is not sent again.

    Parameters
    ----------
    command : sequence of str
        `python jobs/nightly.py …`, without a run id.
    address : str
        Of the job server, `http://HEAD:8265`.
    night : str | None
        The run id; None: today's date, UTC.
    attempts : int
        How often this call may send it.
    working_dir : str | None
        A folder of which the job gets code and settings (`LEFT_OUT`); None: it runs with what is installed on the nodes.
    say : callable
        Takes what there is to tell, the job's own output included (default: the log).

    Returns
    -------
    The submission id that succeeded.

    Raises
    ------
    UsageError
        The job server cannot be reached, or the night ended with an exit code that another attempt would not change.
    EncodingError
        The last attempt failed.
    """
    if "--run-id" in command:
        raise UsageError("the run id is the night: leave --run-id out, or give --night")
    night = night or f"{datetime.now(UTC):%Y-%m-%d}"
    # Ray takes this before the address that it is given, and RAY_ADDRESS, which may lead elsewhere, after it.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    client = _client(address)
    entrypoint = shlex.join([*command, "--run-id", night])
    sent = unforeseen = 0
    for number in itertools.count(1):
        name = f"{night}-{number}"
        job = _found(client, name)
        if job is None:
            if sent == attempts:
                times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                raise EncodingError(f"night {night} failed after {times}: look above, and send it again")
            environment = {"working_dir": working_dir, "excludes": LEFT_OUT} if working_dir else None
            with contextlib.suppress(RuntimeError):
                # Refused where another one sends the same night at this moment: that one is followed.
                client.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env=environment)
                sent += 1
                say(f"night {night} is sent as {name}: {entrypoint}")
            job = _found(client, name)
            if job is None:
                raise EncodingError(f"the job server at {address} does not take {name}: look in its logs")
        elif job.status == JobStatus.SUCCEEDED:
            say(f"night {night} is done already, as {name}")
            return name
        elif not job.status.is_terminal():
            say(f"night {night} is at work already, as {name}")
        else:
            continue
        job = _followed(client, name, say)
        if job.status == JobStatus.SUCCEEDED:
            return name
        say(f"{name} ended: {job.message}")
        unforeseen += job.driver_exit_code == UNFORESEEN
        if unforeseen > 1:
            raise UsageError(
                f"night {night} ended twice with a fault of dnafeat (exit code {UNFORESEEN}): look above for its log"
            )
        if job.status == JobStatus.STOPPED:
            raise UsageError(f"night {night} was stopped, as {name}: send it again to go on")
        if job.driver_exit_code in _LASTING:
            raise UsageError(f"night {night} ended with exit code {job.driver_exit_code}, which another attempt would not change")
    raise AssertionError("unreachable")


def _client(address: str) -> JobSubmissionClient:
    """A client of the job server, with this user's token where it asks for one. Raises UsageError where it lets nobody in."""
    try:
        try:
            return JobSubmissionClient(address)
        except AuthenticationError:
            if not take_token():
                raise
            return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UsageError(f"the job server at {address} lets nobody in without the cluster's token: {TOKEN}") from error
    except (ConnectionError, RuntimeError) as error:
        raise UsageError(f"no job server lets us in at {address}: {one_line(error)}; name another with --address") from error


def _found(client: JobSubmissionClient, name: str) -> JobDetails | None:
    return next((job for job in client.list_jobs() if job.submission_id == name), None)


def _followed(client: JobSubmissionClient, name: str, say: Callable[[str], None]) -> JobDetails:
    """The job once it has ended, its output told meanwhile. The server may be away for a while."""

    async def tail() -> None:
        async for lines in client.tail_job_logs(name):
            say(lines.rstrip("\n"))

    with contextlib.suppress(Exception):
        # Whatever the connection ends with, the status below is what counts.
        asyncio.run(tail())
    answered = time.monotonic()
    while True:
        try:
            job = _found(client, name)
        except (ConnectionError, RuntimeError, OSError) as error:
            if time.monotonic() - answered > _PATIENCE:
                raise UnreachableError(
                    f"the job server does not answer any more: {one_line(error)}; send the night again"
                ) from error
        else:
            answered = time.monotonic()
            if job is None:
                raise EncodingError(
                    f"the job server has forgotten {name}, so that it has been started anew: send the night again"
                )
            if job.status.is_terminal():
                return job
        time.sleep(1.0)
