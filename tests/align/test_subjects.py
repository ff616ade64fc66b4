"""Who is aligned: both modalities row by row, families and copies on one side, and what cannot be split or told apart is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import alignments
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from dnafeat import pseudonyms as keyhash
from dnafeat.align.subjects import SIDES, gather, mean_by
from dnafeat.errors import UsageError
from dnafeat.join.config import JoinConfig
from dnafeat.join.job import join


def gathered(place: tuple[str, str], tmp_path: Path, **changes: Any) -> Any:
    return gather(alignments.config(place, tmp_path / "artifact", **changes), show=False)


def rewritten(partner: str, to: Path, change: Any) -> str:
    """The partner's table, changed."""
    frame = pq.read_table(partner).to_pandas()
    pq.write_table(pa.Table.from_pandas(change(frame), preserve_index=False), to)
    return str(to)


def test_rows_are_those_of_the_join_in_order(place: tuple[str, str], tmp_path: Path) -> None:
    subjects = gathered(place, tmp_path, phenotype="kind", covariates=("age",))
    frame = pq.read_table(place[1]).to_pandas().sort_values("subject_id")
    assert subjects.keys == frame["subject_id"].tolist()
    assert (subjects.partner == np.stack(list(frame["vector"]))).all()
    assert subjects.columns["kind"] == frame["kind"].tolist()
    assert subjects.columns["age"] == [str(one) for one in frame["age"]]
    assert subjects.name == "brain"
    assert subjects.about["dna"]["vector"] == "cls+mean+max"
    joined = DeltaTable(tmp_path / "artifact.joined").to_pyarrow_dataset().to_table().sort_by("subject_id")
    assert (subjects.dna == np.array(joined["dna"].to_pylist(), np.float32)).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_twins_cousins_and_sessions_stay_on_one_side(place: tuple[str, str], tmp_path: Path, seed: int) -> None:
    subjects = gathered(place, tmp_path, family_column="family", seed=seed)
    number = np.array([int(key[1:]) for key in subjects.keys])
    side = dict(zip(number.tolist(), subjects.side.tolist(), strict=True))
    for first in range(0, 160, 10):
        assert side[first] == side[first + 1]
        assert side[first + 2] == side[first + 3]
        group = subjects.groups[number == first]
        assert (group == subjects.groups[number == first + 1]).all()
    assert "16 subjects have the dna vector of another" in subjects.notes[0].lower()
    assert [subjects.people(name) for name in SIDES] == [sum(one == name for one in side.values()) for name in SIDES]
    # Without the column cousins are strangers.
    apart = gathered(place, tmp_path, seed=seed)
    assert len(np.unique(apart.groups)) == len(np.unique(subjects.groups)) + 16
    # Twins are never told apart; cousins are.
    same = subjects.same
    assert (same[number == 0, 1] == same[number == 1, 1]).all()
    assert (same[number == 2] != same[number == 3]).all()


def test_only_persons_and_given_families_are_exchanged(place: tuple[str, str], tmp_path: Path) -> None:
    """Twins have one DNA vector, which keeps them on one side and makes them no family."""
    warning = "p-values and intervals assume that subjects are unrelated: name the column of families with --family-column"
    alone = gathered(place, tmp_path)
    assert len(np.unique(alone.families)) == 160
    assert len(np.unique(alone.groups)) == 144
    assert any(note.startswith(warning) for note in alone.notes)
    given = gathered(place, tmp_path, family_column="family")
    assert len(np.unique(given.families)) == 144
    assert len(np.unique(given.groups)) == 128
    assert not any("unrelated" in note for note in given.notes)


def test_a_relative_with_a_smaller_key_moves_nobody(place: tuple[str, str], tmp_path: Path) -> None:
    """S0002 and S0003 are a family. Here S0002 comes later than S0003, whose side must stay, in every seed."""
    without = rewritten(place[1], tmp_path / "without.parquet", lambda t: t[t["subject_id"] != "S0002"])
    for seed in range(6):
        before = gathered((place[0], without), tmp_path / f"before{seed}", family_column="family", seed=seed)
        after = gathered(place, tmp_path / f"after{seed}", family_column="family", seed=seed)
        sides = dict(zip(after.keys, after.side.tolist(), strict=True))
        assert {key: sides[key] for key in before.keys} == dict(zip(before.keys, before.side.tolist(), strict=True))
        assert sides["S0002"] == sides["S0003"]


def test_groups_too_large_for_the_shares_are_reported(place: tuple[str, str], tmp_path: Path) -> None:
    def crowded(frame: Any) -> Any:
        return frame.assign(family=["F" if i < 60 else f"F{i}" for i in range(len(frame))])

    partner = rewritten(place[1], tmp_path / "new.parquet", crowded)
    found = [gathered((place[0], partner), tmp_path / str(seed), family_column="family", seed=seed) for seed in range(6)]
    for one in found:
        share = one.people("test") / 160
        told = [
            note for note in one.notes if note.startswith(f"test has {one.people('test')} subjects, {share:.0%} instead of 20%")
        ]
        assert bool(told) == (abs(share - 0.2) > 0.1)
        assert all("and the largest has 6" in note for note in told)
    assert any((one.side[:60] == "test").all() for one in found)


def test_levels_below_the_subject_keep_its_rows_together_and_count_it_once(place: tuple[str, str], tmp_path: Path) -> None:
    subjects = gathered(place, tmp_path, level="gene", vector="mean")
    assert len(subjects) == 3 * 160
    for key in set(subjects.keys):
        assert len({s for s, k in zip(subjects.side, subjects.keys, strict=True) if k == key}) == 1
    own = subjects.by_subject(subjects.dna[subjects.rows("test")], "test")
    whole = gathered(place, tmp_path / "whole", vector="mean")
    assert len(own) == subjects.people("test")
    at = {key: i for i, key in enumerate(whole.keys)}
    # Each gene has two sequences, so that the mean of gene means is the mean of all.
    chosen = [at[subjects.keys[i]] for i in subjects.first("test")]
    assert own == pytest.approx(whole.dna[chosen], rel=1e-5)


def test_means_by_label_are_in_the_order_of_labels() -> None:
    values = np.arange(10.0).reshape(5, 2)
    assert (mean_by(np.array([3, 1, 3, 1, 0]), values) == [[8, 9], [4, 5], [2, 3]]).all()
    assert (mean_by(np.array([3, 1, 4, 2, 0]), values) == values[[4, 1, 3, 0, 2]]).all()


def test_a_shuffle_gives_everybody_a_stranger_of_the_same_side(place: tuple[str, str], tmp_path: Path) -> None:
    plain = gathered(place, tmp_path, level="haplotype", vector="mean")
    found = gathered(place, tmp_path, level="haplotype", vector="mean", shuffle=True)
    assert found.fingerprint != plain.fingerprint
    assert (found.side == plain.side).all()
    before = {tuple(row): key for row, key in zip(plain.partner.tolist(), plain.keys, strict=True)}
    owner = [before[tuple(row)] for row in found.partner.tolist()]
    assert all(a != b for a, b in zip(owner, plain.keys, strict=True))
    side = dict(zip(plain.keys, plain.side.tolist(), strict=True))
    assert all(side[a] == side[b] for a, b in zip(owner, plain.keys, strict=True))
    for name in SIDES:
        rows = plain.rows(name)
        assert sorted(np.array(owner)[rows]) == sorted(np.array(plain.keys)[rows])


def test_a_shuffle_gives_nobody_a_relative(place: tuple[str, str], tmp_path: Path) -> None:
    def crowded(frame: Any) -> Any:
        return frame.assign(family=[f"F{i // 7}" for i in range(len(frame))])

    partner = rewritten(place[1], tmp_path / "new.parquet", crowded)
    given: dict[str, Any] = {"family_column": "family", "seed": 3}
    plain = gathered((place[0], partner), tmp_path, **given)
    found = gathered((place[0], partner), tmp_path, **given, shuffle=True)
    owner = {tuple(row): i for i, row in enumerate(plain.partner.tolist())}
    of = np.array([owner[tuple(row)] for row in found.partner.tolist()])
    assert sorted(of) == list(range(160))
    for side in SIDES:
        rows = np.flatnonzero(plain.rows(side))
        largest = np.bincount(plain.families[rows]).max()
        if 2 * largest <= len(rows):
            assert (plain.families[rows] != plain.families[of[rows]]).all()


def test_a_joined_table_may_be_given_and_one_of_its_partners_named(place: tuple[str, str], tmp_path: Path) -> None:
    joined = str(tmp_path / "joined")
    partners = (f"brain={place[1]}", f"other={place[1]}")
    join(
        JoinConfig.make({"store": place[0], "partner": partners, "on": "subject_id", "output": joined, "how": "left"}), show=False
    )
    given = {"store": None, "partner": None, "joined": joined}
    assert gathered(place, tmp_path, **given, modality="other").name == "other"
    with pytest.raises(UsageError, match=r"joined has several modalities, brain, other: say with --modality"):
        gathered(place, tmp_path, **given)
    with pytest.raises(UsageError, match=r"has no modality 'x': there are brain, other"):
        gathered(place, tmp_path, **given, modality="x")
    with pytest.raises(UsageError, match=r"there is no table at .*nowhere"):
        gathered(place, tmp_path, **{**given, "joined": str(tmp_path / "nowhere")})


def test_hashed_keys_meet_a_table_of_subjects(place: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "salt").write_text("0123456789abcdef0123")
    frame = pq.read_table(place[1]).to_pandas()
    table = alignments.write_csv(tmp_path / "s.csv", frame[["subject_id", "age"]].to_dict("records"))
    found = gathered(place, tmp_path, salt_file=str(tmp_path / "salt"), subjects=table, covariates=("age",))
    names = dict(zip(keyhash.pseudonyms(frame["subject_id"], b"0123456789abcdef0123"), frame["age"].astype(str), strict=True))
    assert dict(zip(found.keys, found.columns["age"], strict=True)) == names


def test_those_who_lack_a_covariate_are_named_or_left_out(place: tuple[str, str], tmp_path: Path) -> None:
    rows = [
        {"subject_id": f"S{i:04}", "age": "" if i in (3, 50) else i % 7, "sex": "" if i == 9 else "mf"[i % 2]} for i in range(160)
    ]
    given: dict[str, Any] = {"subjects": alignments.write_csv(tmp_path / "s.csv", rows), "covariates": ("age", "sex")}
    with pytest.raises(
        UsageError, match=r"^2 of 160 subjects have no value of covariate 'age', S0003, S0050: fill it, or .*--drop-missing"
    ):
        gathered(place, tmp_path, **given)
    found = gathered(place, tmp_path, **given, drop_missing=True)
    assert len(found) == 157
    assert not {"S0003", "S0050", "S0009"} & set(found.keys)
    assert "3 subjects that lack a covariate are left out: 2 without age, 1 without sex" in found.notes


@pytest.mark.parametrize(
    ("changes", "change", "sentence"),
    [
        ({"on": "eid"}, None, r"has no key column 'eid'|have no key 'eid'"),
        ({}, lambda t: t.drop(columns="subject_id"), r"has no key column 'subject_id'"),
        ({}, lambda t: t.assign(subject_id="x" + t["subject_id"]), r"no subject_id of partner brain has DNA"),
        ({}, lambda t: t[:9], r"9 subjects in \d families with both modalities come to \d dev, \d test|come to \d train"),
        (
            {},
            lambda t: t.assign(vector=[t["vector"][0]] * len(t)),
            r"the vectors of partner brain are the same for all 160 subjects",
        ),
        (
            {},
            lambda t: t.assign(vector=[[float("nan")] * 9, *t["vector"][1:]]),
            r"partner brain, file new.parquet, row 1: .*no finite",
        ),
        ({"phenotype": "iq"}, None, r"partner brain, .* has no column 'iq'"),
        ({"family_column": "vector"}, None, r"holds list<.*> in column 'vector'"),
        ({"covariates": ("age",)}, lambda t: t.assign(age=None), r"no subject of the joined table has a value in column 'age'"),
        ({"aggregate": "concat", "genes": "none.txt"}, None, r"none.txt does not exist"),
    ],
)
def test_what_cannot_be_aligned_is_one_sentence(
    place: tuple[str, str], tmp_path: Path, changes: dict[str, Any], change: Any, sentence: str
) -> None:
    partner = place[1] if change is None else rewritten(place[1], tmp_path / "new.parquet", change)
    with pytest.raises(UsageError, match=sentence) as error:
        gathered((place[0], partner), tmp_path, **changes)
    assert "\n" not in str(error.value)
