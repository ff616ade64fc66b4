"""What people who run jobs watch: counters and gauges for Prometheus, and log records that name their run.

Every node's agent serves the counters of the processes there, named `ray_dnafeat_…`, and keeps what a process counted after it has ended
(`ray start --metrics-export-port`); jobs/grafana.json shows them. On a cluster every process writes its records as lines of JSON.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ray

_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
# Name: (kind, what it is, tags beside `task`, since Prometheus has a `job` of its own, and `source`).
METERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "dnafeat_sequences": ("Counter", "Distinct sequences encoded", ()),
    "dnafeat_tokens": ("Counter", "Tokens of them, without padding", ()),
    "dnafeat_computed_tokens": (
        "Counter",
        "Token positions computed, with padding, special tokens and overlaps",
        (),
    ),
    "dnafeat_needed_tokens": ("Counter", "The same without padding, counted as a shard is done", ()),
    "dnafeat_encode_seconds": ("Histogram", "Seconds from a shard's begin at an encoder to its file", ()),
    "dnafeat_written_bytes": ("Counter", "Bytes of vector files", ()),
    "dnafeat_rejected": ("Counter", "Entries refused", ()),
    "dnafeat_retries": ("Counter", "Shards begun again after a worker died, and batches halved for want of memory", ("what",)),
    "dnafeat_shards": (
        "Gauge",
        "Shards of the run that are to be tokenised, wait for an encoder, are with one, or are done",
        ("state",),
    ),
    "dnafeat_stage_seconds": ("Gauge", "Seconds that a stage of the last run took", ("stage",)),
}
_log = logging.getLogger("dnafeat")
# Else Python itself prints what is an error where nobody has set up logging, and the command tells it in a sentence of its own.
_log.addHandler(logging.NullHandler())
_told_in_records = False


@functools.cache
def _meter(name: str) -> Any:
    from ray.util import metrics

    kind, about, tags = METERS[name]
    more = {"boundaries": _SECONDS} if kind == "Histogram" else {}
    return getattr(metrics, kind)(name, description=about, tag_keys=("task", "source", *tags), **more)


def _counted() -> bool:
    """Whether a Ray runs that serves meters. Does not import it: without Ray nobody asks for them."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a job's meters and records carry. Without a Ray that runs its meters count nothing.

    Attributes
    ----------
    name : str
        `embed`, `predict`, …
    run_id : str
    source : str
        As `sequences` names it.
    """

    name: str = "embed"
    run_id: str = ""
    source: str = ""

    def _tagged(self, tags: dict[str, str]) -> dict[str, str]:
        # Not the run id: a series for each night would never end.
        return {"task": self.name, "source": self.source, **tags}

    def count(self, name: str, value: float, **tags: str) -> None:
        """Adds to a counter."""
        if value > 0 and _counted():
            _meter(name).inc(value, self._tagged(tags))

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Adds an observation to a histogram."""
        if _counted():
            _meter(name).observe(value, self._tagged(tags))

    def set(self, name: str, value: float, **tags: str) -> None:
        """Sets a gauge."""
        if _counted():
            _meter(name).set(value, self._tagged(tags))

    def record(self, message: str, *, level: int = logging.INFO, **about: object) -> None:
        """Logs what happened, with fields of its own: on a cluster a line of JSON, elsewhere nothing unless somebody sets up logging."""
        names = {"task": self.name, "run_id": self.run_id, "source": self.source}
        _log.log(level, message, extra={**{key: value for key, value in names.items() if value}, **about}, stacklevel=2)


def logging_config() -> ray.LoggingConfig:
    """How the processes of a job on a cluster log: lines of JSON, or of text where RAY_LOGGING_CONFIG_ENCODING says so."""
    import ray

    global _told_in_records
    _told_in_records = not os.isatty(2)
    # What they say at this level is of use to nobody who runs jobs, and it drowns what is.
    for name in ("aiobotocore", "botocore", "httpx", "httpcore", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return ray.LoggingConfig(encoding=os.environ.get("RAY_LOGGING_CONFIG_ENCODING", "JSON"), log_level="INFO")


def told_in_records() -> bool:
    """Whether progress is told in records, and not by a bar: in a job's log on a cluster."""
    return _told_in_records
