"""The settings of Ray Train's workers, the same for all that trains."""

from __future__ import annotations

from dataclasses import dataclass

from dnafeat.config import Settings, option, require


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(Settings):
    """How many workers there are, what each holds, and where their checkpoints lie."""

    num_workers: int = option("data-parallel workers", 1)
    min_workers: int | None = option("fewest workers to go on with when machines go away (else --num-workers)", None)
    cpus_per_worker: int | None = option("CPUs a worker holds (else all there are, divided)", None)
    gpus_per_worker: float | None = option("GPUs a worker holds; 0: none (else 1 where the cluster has any)", None)
    max_failures: int = option("failures of workers after which the run is given up", 3)
    storage: str | None = option("folder or s3:// prefix of checkpoints, seen by every worker (else OUTPUT.runs)", None)

    def __post_init__(self) -> None:
        for name in ("num_workers", "min_workers", "cpus_per_worker"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} {value} is too few: give 1 or more")
        require(self.max_failures >= 0, f"max_failures {self.max_failures} is less than none")
        require(
            self.min_workers is None or self.min_workers <= self.num_workers,
            f"min_workers {self.min_workers} is more than num_workers {self.num_workers}",
        )
        require(
            self.gpus_per_worker is None or self.gpus_per_worker >= 0, f"gpus_per_worker {self.gpus_per_worker} is less than none"
        )
