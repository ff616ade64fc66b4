"""Fresh processes for what is measured: a function of a module is called there with JSON, and answers JSON and its peak of memory.

python -m dnafeat.bench.process MODULE FUNCTION FOLDER       (what `call` starts)
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnafeat.errors import BenchmarkError, DnafeatError, one_line

_PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Answer:
    """What the function returned, and the most memory its process had, in bytes (VmHWM; 0 where the system does not tell)."""

    value: Any
    peak: int


def call(module: str, function: str, settings: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Answer:
    """Calls `module.function(settings | {"spawned": seconds since the epoch})` in a process of its own and waits for it.

    Parameters
    ----------
    module : str
        Of dnafeat, without `dnafeat.`.
    settings : Mapping[str, Any]
        JSON values.
    environment : Mapping[str, str] | None
        Variables that the process has beside those of this one.

    Raises
    ------
    DnafeatError
        What the function raised, with its sentence and exit code.
    BenchmarkError
        The process ended in another way.
    """
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
        (Path(folder) / "settings").write_text(json.dumps({**settings, "spawned": time.time()}))
        command = [sys.executable, "-m", "dnafeat.bench.process", module, function, folder]
        # The benchmark is of this machine, whatever cluster the shell leads to.
        given = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        # What libraries print belongs to nobody's table.
        done = subprocess.run(command, env={**given, "PYTHONPATH": path, **(environment or {})}, stdout=2)
        try:
            told = json.loads((Path(folder) / "answer").read_text())
        except (OSError, ValueError):
            why = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            raise BenchmarkError(f"what measures {module} ended with {why} and without an answer") from None
    if "fault" in told:
        error = DnafeatError(told["fault"])
        error.exit_code = told["exit_code"]
        raise error
    return Answer(told["value"], told["peak"])


def main(arguments: list[str]) -> int:
    module, function, folder = arguments
    settings = json.loads((Path(folder) / "settings").read_text())
    try:
        value = getattr(importlib.import_module(f"dnafeat.bench.{module}"), function)(settings)
        answer = {"value": value, "peak": peak()}
    except DnafeatError as error:
        answer = {"fault": str(error), "exit_code": error.exit_code}
    except ModuleNotFoundError as error:
        answer = {"fault": f"this part of the benchmark needs {error.name}: {one_line(error)}", "exit_code": 2}
    (Path(folder) / "answer").write_text(json.dumps(answer))
    return 0


def status(pid: int | str = "self") -> dict[str, int]:
    """Sizes that Linux tells of a process, in bytes: VmHWM, RssAnon and others; none of one that is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return {name: 1024 * int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def peak() -> int:
    return status().get("VmHWM", 0)


@dataclass
class Workers(threading.Thread):
    """The most memory that any process started below this one has had, looked at twice a second while a block runs.

    Attributes
    ----------
    largest : int
        Bytes of one process's own (RssAnon): what Ray's workers share in its object store would count in each of them.
    """

    largest: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while not self.over.wait(0.5):
            for pid in descendants(os.getpid()):
                self.largest = max(self.largest, status(pid).get("RssAnon", 0))

    def __enter__(self) -> Workers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def descendants(pid: int) -> set[int]:
    """Processes that another one has started, and that those have, as far as they still run."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if (parent == pid or parent in found) and child not in found}:
        found |= more
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
