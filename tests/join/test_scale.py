"""A join of a million rows is right, and takes no more memory than a join of a tenth of them."""

from __future__ import annotations

from pathlib import Path

import bigcohort
import numpy as np
import pytest
from deltalake import DeltaTable


def check(folder: Path, subjects: int, width: int, brain_width: int) -> None:
    """Some rows by another way, and that every subject is there once."""
    dataset = DeltaTable(folder / "joined-subject").to_pyarrow_dataset()
    ids = dataset.to_table(columns=["subject_id"])["subject_id"].to_pylist()
    assert sorted(map(int, ids)) == list(range(subjects))
    draw = np.random.default_rng(3)
    for batch in dataset.to_batches(columns=["subject_id", "dna", "dna_rows", "brain", "brain_rows"]):
        for i in draw.integers(len(batch), size=min(3, len(batch))).tolist():
            row = batch.slice(i, 1).to_pylist()[0]
            subject = int(row["subject_id"])
            np.testing.assert_allclose(row["dna"], bigcohort.subjects_vector(subject, width), rtol=1e-6, atol=1e-6)
            scans = bigcohort.vectors_of(np.array([subject, subject + 1]), brain_width).astype(np.float64).mean(0)
            np.testing.assert_allclose(row["brain"], scans, rtol=1e-6, atol=1e-6)
            assert (row["dna_rows"], row["brain_rows"]) == (bigcohort.OF_A_SUBJECT, 2)


@pytest.mark.long
def test_a_join_on_ray_of_many_rows_is_right_whichever_row_is_looked_at(tmp_path: Path) -> None:
    bigcohort.make(tmp_path, 60_000, 96, 24)
    found = bigcohort.measured(tmp_path, "subject")
    assert (found["rows"], found["sequences"]) == (6_000, 60_000)
    check(tmp_path, 6_000, 96, 24)


@pytest.mark.long
@pytest.mark.parametrize("level", ["subject", "sequence"])
def test_ten_times_the_rows_take_no_more_memory(tmp_path: Path, level: str) -> None:
    most = []
    for entries in (1_000_000, 10_000_000):
        folder = tmp_path / str(entries)
        folder.mkdir()
        bigcohort.make(folder, entries, 96, 64)
        most.append(bigcohort.measured(folder, level))
    small, large = most
    assert large["sequences"] == 10 * small["sequences"]
    for process in ("driver", "worker"):
        assert large[process] < 1.2 * small[process], (process, most)
