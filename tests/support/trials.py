"""Run commands in processes of their own that have everything imported already: each is forked, bounded in time and memory, and watched.

What a command prints, how it ends, what memory it took and whether it had to be killed is seen from outside, so that a crash of the
interpreter is a result like any other.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

# What need not be there for commands, or starts something when it is imported.
_NOT_IMPORTED = ("dnafeat.bench", "dnafeat.encoder.models.kernels", "dnafeat.embed.submit")
# Address space above what is imported: more than the memory that is allowed, which is measured.
_ROOM = 4 * 2**30


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (None where a signal ended it), the signal, whether it was late, and what it took and printed."""

    code: int | None
    signal: int
    late: bool
    seconds: float
    peak: int
    out: str
    err: str


class Trials:
    """A process that has imported dnafeat and forks one for each command.

    Parameters
    ----------
    seconds : float
        After which a command is killed.
    memory : int
        Bytes that a command may take; several more are let pass, so that it is seen what it would have done.
    """

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds, self._memory = seconds, memory
        self._scratch = tempfile.TemporaryDirectory(prefix="dnafeat-trials-")

    def __enter__(self) -> Self:
        folder = Path(self._scratch.name)
        (folder / "tmp").mkdir()
        # Nothing of the machine's own settings, and no server that would answer.
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DNAFEAT_", "RAY_"))},
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "DNAFEAT_CACHE": str(folder / "cache"),
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "DNAFEAT_STORAGE_TIMEOUT": "2",
            "TMPDIR": str(folder / "tmp"),
            "PYTHONUNBUFFERED": "1",
            "HOME": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._seconds), str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._scratch.cleanup()

    def run(self, folder: Path, arguments: list[str]) -> Ended:
        """Run one command in a folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out, err = (Path(self._scratch.name) / name for name in ("out", "err"))
        print(json.dumps([str(folder), arguments, str(out), str(err)]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        texts = (one.read_bytes().decode("utf-8", "replace") for one in (out, err))
        return Ended(**json.loads(answer), **dict(zip(("out", "err"), texts, strict=True)))


def _child(folder: str, arguments: list[str], out: str, err: str) -> None:
    """Become a command: its folder, its files, its bounds. Does not return."""
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        for number, name, mode in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
            os.dup2(os.open(name, mode | (os.O_CREAT | os.O_TRUNC if number else 0)), number)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _ROOM, size + _ROOM))
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        from dnafeat.cli.main import main

        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _answer(request: list[Any], seconds: float) -> dict[str, Any]:
    began = time.monotonic()
    # What is imported here is much more than what a command would import.
    imported = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    child = os.fork()
    if child == 0:
        _child(*request)
    watched, late = os.pidfd_open(child), False
    if not select.select([watched], [], [], seconds)[0]:
        # What it hangs in goes to its standard error.
        late = True
        os.kill(child, signal.SIGUSR1)
        if not select.select([watched], [], [], 2.0)[0]:
            os.kill(child, signal.SIGKILL)
    os.close(watched)
    _, status, usage = os.wait4(child, 0)
    with contextlib.suppress(ProcessLookupError):
        # What it started and left.
        os.killpg(child, signal.SIGKILL)
    return {
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "late": late,
        "seconds": round(time.monotonic() - began, 2),
        "peak": usage.ru_maxrss * 1024 - imported,
    }


def _no_ray() -> None:
    """A command that wants a Ray is told that there is none, which is exit code 5."""
    from dnafeat.cluster import starting
    from dnafeat.errors import ClusterError

    def refuse(*_: object) -> None:
        raise ClusterError("this input would have started a Ray")

    starting.start_here = starting.connect = refuse  # type: ignore[assignment]


def _serve(seconds: float) -> None:
    import dnafeat

    for module in pkgutil.walk_packages(dnafeat.__path__, "dnafeat."):
        if not module.name.startswith(_NOT_IMPORTED):
            importlib.import_module(module.name)
    _no_ray()
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line), seconds)), flush=True)


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
