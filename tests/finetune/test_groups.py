"""Rows that are related stay on one side, and what supplied splits share is counted and said."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from files import parquet, write
from letters import other_strand

from dnafeat.errors import UsageError
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.groups import RowGroups
from dnafeat.finetune.job import prepare
from dnafeat.finetune.splits import Split, random_splits, read_split


def letters(bases: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=bases))


def split(sequences: list[str], name: str = "train", given: list[str | None] | None = None) -> Split:
    count = len(sequences)
    ids = [f"r{i}" for i in range(count)]
    labels = [str(i % 2) for i in range(count)]
    return Split(name, sequences, list(labels), ids, [f"{name}.csv"] * count, list(range(1, count + 1)), given or [])


def windows(loci: int = 30, step: int = 5) -> tuple[list[str], list[str]]:
    """Windows of 60 bases that overlap, of several loci, and the locus of each."""
    rows = [(letters(100, locus)[at : at + 60], str(locus)) for locus in range(loci) for at in range(0, 40, step)]
    random.Random(0).shuffle(rows)
    return [sequence for sequence, _ in rows], [locus for _, locus in rows]


def csv(path: Path, sequences: list[str], loci: list[str]) -> str:
    rows = [f"{sequence},{i % 2},{locus}" for i, (sequence, locus) in enumerate(zip(sequences, loci, strict=True))]
    return write(path, "\n".join(["sequence,label,locus", *rows]) + "\n")


def sides(config: FinetuneConfig) -> dict[str, set[str]]:
    """The loci of each split that a command trains with; every one is named by its windows' letters."""
    locus = dict(zip(*windows(), strict=True))
    return {name: {locus[sequence] for sequence in found.sequences} for name, found in prepare(config).splits.items()}


def shared(found: dict[str, set[str]]) -> int:
    return len(found["train"] & found["test"]) + len(found["train"] & found["dev"]) + len(found["dev"] & found["test"])


def test_windows_five_bases_apart_stay_on_one_side_unless_told_otherwise(tmp_path: Path) -> None:
    file = csv(tmp_path / "a.csv", *windows())
    settings = {"train": file, "output": str(tmp_path / "out")}
    assert shared(sides(FinetuneConfig.make(settings))) == 0
    apart = FinetuneConfig.make(settings, group_similar=False)
    assert shared(sides(apart)) > 10
    notes = prepare(apart).notes
    assert any("test rows are near copies of what train has (25% or more" in note for note in notes), notes
    together = prepare(FinetuneConfig.make(settings))
    assert together.notes == [
        "240 rows are near copies of others and stay on one side with them: 30 groups, the largest of 8 rows"
    ]
    about = together.groups.describe(together.splits)
    assert (about["similar_groups"], about["similar_rows"], about["largest"]) == (30, 240, 8)
    assert set(about["shared_similar"].values()) == {0}


def test_a_column_groups_rows_and_near_copies_are_then_counted_alone(tmp_path: Path) -> None:
    sequences, loci = windows()
    chromosomes = [f"chr{int(locus) % 10}" for locus in loci]
    config = FinetuneConfig.make(
        train=csv(tmp_path / "a.csv", sequences, chromosomes), output=str(tmp_path / "out"), group_column="locus"
    )
    prepared = prepare(config)
    found = {name: set(part.given_groups) for name, part in prepared.splits.items()}
    assert sum(map(len, found.values())) == len(set().union(*found.values())) == 10
    assert prepared.notes == []
    # RowGroups of another column cut through the loci: that is said.
    other = csv(tmp_path / "b.csv", sequences, [f"batch{i % 12}" for i in range(len(sequences))])
    notes = prepare(config.replace(train=other)).notes
    assert any("are near copies" in note for note in notes)


def test_a_column_that_is_not_there_and_rows_without_a_value(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.csv",
        "sequence,label,locus\n" + "".join(f"{letters(30, i)},{i % 2},{'x' if i % 3 else ''}\n" for i in range(30)),
    )
    config = FinetuneConfig.make(train=file, output=str(tmp_path / "out"), group_column="locs")
    with pytest.raises(UsageError, match=r"has no column 'locs' for groups: there are 'label', 'locus'.*did you mean"):
        prepare(config)
    assert (
        "10 rows have no locus: they are grouped by their sequences alone" in prepare(config.replace(group_column="locus")).notes
    )
    lists = parquet(tmp_path / "l.parquet", sequence=["ACGT", "GGGG"], label=[["a"], ["b"]], locus=["1", None])
    assert read_split("train", lists, group_column="locus").given_groups == ["1", None]


def test_what_supplied_splits_share_is_counted(tmp_path: Path) -> None:
    base = [letters(60, i) for i in range(40)]
    test = [other_strand(base[0][5:] + "ACGTA"), base[1], letters(60, 100)]
    splits = {"train": split(base, given=[str(i) for i in range(40)]), "test": split(test, "test", ["7", "99", None])}
    groups = RowGroups.of(splits, together=True, column="locus")
    assert groups.shared(splits) == {"similar": {("train", "test"): 1}, "column": {("train", "test"): 1}}
    notes = groups.notes(splits, divided=False)
    assert notes[0].startswith("1 of 3 test rows are near copies of what train has")
    assert notes[1] == "1 of 3 test rows have a locus that train has, too"
    numbers = groups.numbers(splits)
    assert numbers["test"][0] == numbers["train"][0] == numbers["train"][7]
    assert numbers["test"][1] == numbers["train"][1]
    assert numbers["test"][2] not in numbers["train"]


def test_without_near_copies_the_division_is_as_before_and_order_does_not_matter() -> None:
    rows = split([letters(60, i) for i in range(300)])
    assert RowGroups.of({"": rows}, together=True, column=None).names(rows) is None
    sequences, _ = windows()
    forward, backward = split(sequences), split(sequences[::-1])
    names = [RowGroups.of({"": part}, together=True, column=None).names(part) for part in (forward, backward)]
    assert names[0] is not None
    assert names[1] is not None
    assert np.array_equal(names[0], names[1][::-1])


def test_one_group_that_leaves_a_part_without_rows_is_refused_with_the_remedy(tmp_path: Path) -> None:
    genome = letters(2_000, 0)
    file = csv(tmp_path / "a.csv", [genome[i : i + 100] for i in range(0, 1_900, 10)], ["x"] * 190)
    with pytest.raises(
        UsageError, match=r"1 group\(s\) of similar or related sequences, the largest of 190 rows,.*--no-group-similar"
    ):
        prepare(FinetuneConfig.make(train=file, output=str(tmp_path / "out")))


def test_a_group_larger_than_the_smallest_part_trains() -> None:
    rows = split([letters(60, i) for i in range(200)])
    names = rows.groups.copy()
    names[:60] = names[0]
    for seed in range(20):
        cut = random_splits(rows, seed=seed, groups=names)
        assert set(rows.ids[:60]) <= set(cut["train"].ids)
