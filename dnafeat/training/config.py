"""Settings of the workers of Ray Train, shared by all training commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dnafeat.settings import Settings, option, require

# Peak learning rates at 768 channels, the first two as published for DNABERT-2. Narrower encoders take higher ones: trials on
# dnafeat-mini, with 192, agree with the square of the ratio.
_RATES = {"lora": 1e-4, "full": 3e-5, "probe": 6e-4}
_RATES_HIDDEN_SIZE = 768


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(Settings, section="workers"):
    """Number of workers, the resources of each, and where checkpoints are kept."""

    runner: Literal["auto", "local", "ray"] = option(
        "where to train; local: one worker in this process without Ray; auto: ray with a cluster or several workers", "auto"
    )
    num_workers: int = option("data-parallel workers", 1, ge=1)
    min_workers: int | None = option("minimum workers to continue with after losing nodes (default: --num-workers)", None, ge=1)
    cpus_per_worker: int | None = option("CPUs that each worker holds (default: all CPUs, shared equally)", None, ge=1)
    gpus_per_worker: float | None = option(
        "GPUs that each worker holds; 0: use CPUs (default: 1 if the cluster has GPUs)", None, ge=0
    )
    max_failures: int = option("worker failures after which the run stops", 3, ge=0)
    storage: str | None = option(
        "folder or s3:// prefix of checkpoints, which every worker can reach (default: OUTPUT.runs)", None
    )

    def check(self) -> None:
        require(
            self.min_workers is None or self.min_workers <= self.num_workers,
            f"min_workers {self.min_workers} is more than num_workers {self.num_workers}",
        )


def default_rate(method: str, hidden_size: int) -> float:
    """The peak learning rate of a method for encoders of some width."""
    return _RATES[method] * (_RATES_HIDDEN_SIZE / hidden_size) ** 2
