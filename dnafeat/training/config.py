"""The settings of Ray Train's workers, the same for all that trains."""

from __future__ import annotations

from dataclasses import dataclass

from dnafeat.settings import Settings, option, require

# Peak learning rates at 768 channels, the first two as published for DNABERT-2. Narrower encoders take higher ones: trials on
# dnafeat-mini, with 192, agree with the square of the ratio.
_RATES = {"lora": 1e-4, "full": 3e-5, "probe": 6e-4}
_RATES_HIDDEN_SIZE = 768


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


def default_rate(method: str, hidden_size: int) -> float:
    """The peak learning rate of a method for encoders of some width."""
    return _RATES[method] * (_RATES_HIDDEN_SIZE / hidden_size) ** 2
