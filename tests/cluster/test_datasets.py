"""Steps over Ray Data: results in order, errors of ours as they are, and a part whose worker dies done again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dnafeat.cluster.datasets import over_data
from dnafeat.cluster.observe import Job
from dnafeat.errors import EncodingError, UsageError

# Ray, because its datasets are what is tested.
JOB = Job(name="test", run_id="1", source="nothing")
pytestmark = [pytest.mark.usefixtures("two_cpus_throughout"), pytest.mark.timeout(120)]


def test_results_come_in_the_order_of_parts_and_a_death_costs_one_part(tmp_path: Path) -> None:
    folder = str(tmp_path)

    def doubled(number: int) -> int:
        """Takes longer for the first ones; leaves a trace of each call."""
        time.sleep(0.3 if number < 2 else 0)
        (Path(folder) / f"{number}-{time.time_ns()}").touch()
        if number == 7 and len(list(Path(folder).glob("7-*"))) == 1:
            os._exit(1)
        return 2 * number

    each = over_data(JOB, show=False)
    assert each(doubled, range(12), "doubling") == [2 * i for i in range(12)]
    assert len(list(tmp_path.glob("7-*"))) == 2
    assert each(doubled, [], "nothing") == []


def test_what_a_part_refuses_is_raised_as_it_was() -> None:
    def refuses(number: int) -> int:
        if number == 3:
            raise UsageError("3 is none")
        return number

    with pytest.raises(UsageError, match=r"^3 is none$"):
        over_data(JOB, show=False)(refuses, range(6), "refusing")


@pytest.mark.parametrize("deadly", [pytest.param(True, marks=pytest.mark.long), False])
def test_a_part_that_never_succeeds_ends_in_a_sentence(deadly: bool) -> None:
    def breaks(number: int) -> int:
        if deadly:
            os._exit(1)
        raise ZeroDivisionError("by none")

    cause = "part [01] ended 6 workers, so it may be short of memory" if deadly else "by none"
    with pytest.raises(
        EncodingError, match=f"^dividing stopped and nothing was published: {cause}; the same command tries again$"
    ):
        over_data(JOB, show=False)(breaks, range(2), "dividing")
