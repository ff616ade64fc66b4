"""Joins: every level, aggregate and kind of join equals the slow way, and what cannot be joined is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cohort
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from files import parquet
from stores import B, Entry, fill

from dnafeat import pseudonyms as keyhash
from dnafeat.cli.main import main
from dnafeat.errors import ConflictError, DnafeatError, StoreError, UsageError
from dnafeat.join import job as joins
from dnafeat.join import rows as joinedrows
from dnafeat.join import steps as joining
from dnafeat.join.config import JoinConfig
from dnafeat.join.summary import JoinSummary, format_summary
from dnafeat.join.table import JoinedTable
from dnafeat.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cohort in two sources, and an older state of the first."""
    folder = tmp_path_factory.mktemp("joined")
    uri, people = str(folder / "store"), cohort.entries()
    fill(uri, people[:20], folder, source="first")
    fill(uri, people[: len(people) // 2], folder, source="first", shard_rows=9)
    fill(uri, people[len(people) // 2 :], folder, source="second", shard_rows=9)
    return uri


@pytest.fixture(autouse=True)
def many_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of keys and of digests, pieces of the result: several of each."""
    monkeypatch.setattr(joins, "_PARTITION_BYTES", 1024)
    monkeypatch.setattr(joins, "_DIGEST_ROWS", 40)
    monkeypatch.setattr(joinedrows, "_PIECE_BYTES", 256)


def dna_of(store: str) -> pd.DataFrame:
    return Store(store).read(columns=["mean", "max", "bases"]).to_pandas()


def by_subject(table: pd.DataFrame, how: str = "mean") -> dict[str, tuple]:
    groups = table.groupby("subject_id")
    if how in ("first", "last"):
        return {str(key): (group["vector"].iloc[0 if how == "first" else -1], len(group)) for key, group in groups}
    return {str(key): (getattr(np, how)(np.stack(list(group["vector"])), axis=0), len(group)) for key, group in groups}


def settings(store: str, tmp_path: Path, **more: object) -> JoinConfig:
    given = {"store": store, "on": "subject_id", "output": str(tmp_path / "joined"), **more}
    return JoinConfig.make({**given, "partner": tuple(given["partner"])})  # type: ignore[arg-type]


def read(output: str, version: int | None = None) -> pa.Table:
    return DeltaTable(output, version=version).to_pyarrow_dataset().to_table()


CASES = [
    *[(level, aggregate) for level in ("region", "gene", "haplotype", "subject") for aggregate in ("mean", "max", "length")],
    *[("sequence", None), ("subject", None), ("subject", "concat"), ("haplotype", "concat")],
]


@pytest.mark.parametrize("how", ["inner", "left", "outer"])
@pytest.mark.parametrize(("level", "aggregate"), CASES)
def test_every_level_and_aggregate_is_what_a_loop_over_groups_gives(
    store: str, tmp_path: Path, level: str, aggregate: str | None, how: str
) -> None:
    brain = cohort.partner(tmp_path / "brain", files=3)
    other = cohort.partner(tmp_path / "other.parquet", width=3, seed=5, subjects=20)
    (tmp_path / "genes.txt").write_text("# a manifest\n" + "\n".join(cohort.GENES) + "\n")
    genes = cohort.GENES if aggregate in ("concat", "max") else None
    config = settings(
        store,
        tmp_path,
        partner=[f"brain={tmp_path}/brain", f"other={tmp_path}/other.parquet"],
        level=level,
        aggregate=aggregate,
        genes=str(tmp_path / "genes.txt") if genes else None,
        within="length" if aggregate == "concat" else None,
        how=how,
        reduce=("max", "other=mean"),
    )
    summary = joins.join(config, show=False)
    pooled = cohort.slow_pool(dna_of(store), "mean", level, aggregate, genes, "length")
    wanted = cohort.slow_join(pooled, {"brain": by_subject(brain, "max"), "other": by_subject(other)}, how)
    joined = read(config.output)
    cohort.compare(joined, wanted, ["subject_id", *cohort.LEVELS[level]], ["brain", "other"])
    assert summary.rows == len(joined) == len(wanted)
    assert summary.complete == sum(all(row[name] is not None for name in ("dna", "brain", "other")) for row in wanted.values())
    assert len(DeltaTable(config.output).file_uris()) > 1
    if genes:
        assert "1 of 4 genes of the manifest have no sequence: g9" in summary.notes


def test_a_row_has_all_keys_at_level_sequence_and_columns_have_their_contract(store: str, tmp_path: Path) -> None:
    cohort.partner(tmp_path / "brain.parquet")
    config = settings(store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"], level="sequence", vector="cls+max")
    joins.join(config, show=False)
    joined = read(config.output)
    keys = ["subject_id", "source_name", "sequence_id", "haplotype", "gene_id", "region_id"]
    assert joined.column_names == [*keys, "dna", "has_dna", "dna_rows", "brain", "has_brain", "brain_rows"]
    wanted = {row["sequence_id"]: row for row in Store(store).read(columns=["cls+max"]).to_pylist()}
    for row in joined.to_pylist():
        own = wanted[row["sequence_id"]]
        assert {key: row[key] for key in keys} == {key: own[key] for key in keys}
        assert row["dna"] == own["cls+max"]
    fields = {field.name: field for field in DeltaTable(config.output).schema().fields}
    assert "null where has_brain is false" in fields["brain"].metadata["comment"]


@pytest.mark.parametrize("how", ["inner", "outer"])
def test_without_a_partner_the_stores_vectors_are_pooled_alone(store: str, tmp_path: Path, how: str) -> None:
    config = settings(store, tmp_path, partner=(), level="gene", how=how)
    assert joins.join(config, show=False).complete > 10
    wanted = cohort.slow_join(cohort.slow_pool(dna_of(store), "mean", "gene", None, None), {}, how)
    cohort.compare(read(config.output), wanted, ["subject_id", "gene_id"], [])


@pytest.mark.parametrize("rule", ["first", "last", "first:visit", "last:visit"])
def test_sessions_are_reduced_in_the_order_of_rows_or_of_a_column(store: str, tmp_path: Path, rule: str) -> None:
    brain = cohort.partner(tmp_path / "brain", files=2)
    config = settings(store, tmp_path, partner=[f"brain={tmp_path}/brain"], reduce=(f"brain={rule}",))
    joins.join(config, show=False)
    name, _, column = rule.partition(":")
    ordered = brain.sort_values(column, kind="stable") if column else brain
    wanted = cohort.slow_join(
        cohort.slow_pool(dna_of(store), "mean", "subject", "mean", None), {"brain": by_subject(ordered, name)}, "inner"
    )
    cohort.compare(read(config.output), wanted, ["subject_id"], ["brain"])


def test_rows_that_must_not_repeat_are_refused_by_key(store: str, tmp_path: Path) -> None:
    cohort.partner(tmp_path / "brain.parquet")
    config = settings(store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"], reduce=("refuse",))
    with pytest.raises(UsageError, match=r"partner brain has [23] rows for subject_id '10000\d\d', and .*--reduce brain=mean"):
        joins.join(config, show=False)
    assert not DeltaTable.is_deltatable(config.output)


def test_a_sweep_removes_what_joins_have_left_and_nothing_else(tmp_path: Path) -> None:
    table = JoinedTable(str(tmp_path / "out"))
    write_deltalake(table.uri, pa.table({"x": [1]}))
    attempt, name = "0123456789abcdef", f"{0:05d}-{'0' * 32}.parquet"
    ours = [f"join-{attempt}/{name}", f"_work/{attempt}/rows.spill"]
    mine = [
        "_work/thesis.txt",
        "_work/notes/mine.spill",
        "join-2026/mine.parquet",
        f"join-{attempt}/mine.parquet",
        "mine.parquet",
    ]
    for path in (*ours, *mine):
        place = tmp_path / "out" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
        os.utime(place, (0, 0))
    table.look()
    table.sweep()
    assert [path for path in (*ours, *mine) if (tmp_path / "out" / path).exists()] == mine


def test_the_result_does_not_depend_on_how_the_work_is_cut(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort.partner(tmp_path / "brain", files=3)
    found = []
    for cut in (300, 2_000, 10**9):
        monkeypatch.setattr(joins, "_PARTITION_BYTES", cut)
        monkeypatch.setattr(joins, "_DIGEST_ROWS", cut)
        config = settings(store, tmp_path, partner=[f"brain={tmp_path}/brain"], output=str(tmp_path / str(cut)), how="outer")
        joins.join(config, show=False)
        found.append(read(config.output).sort_by("subject_id"))
    assert found[0].equals(found[1])
    assert found[1].equals(found[2])


# -- versions and lineage --------------------------------------------------------------------------------------------------


def test_a_joined_table_tells_what_it_was_made_of_and_older_versions_stay(store: str, tmp_path: Path) -> None:
    brain = cohort.partner(tmp_path / "first.parquet")
    write_deltalake(tmp_path / "brain", pa.Table.from_pandas(brain))
    config = settings(store, tmp_path, partner=[f"brain={tmp_path}/brain"])
    before = read(joins.join(config, show=False).output)
    again = joins.join(config, show=False)
    assert again.unchanged
    assert "nothing to do" in format_summary(again)
    write_deltalake(
        tmp_path / "brain", pa.Table.from_pandas(cohort.partner(tmp_path / "second.parquet", seed=9)), mode="overwrite"
    )
    after = joins.join(config, show=False)
    assert (again.output_version, after.output_version) == (0, 1)
    old, new = (joins.lineage(config.output, version) for version in (0, None))
    assert [one["partners"][0]["version"] for one in (old, new)] == [0, 1]
    assert old["dna"] == new["dna"]
    assert set(new["dna"]["runs"]) == {"first", "second"}
    assert new["summary"]["rows"] == after.rows == len(read(config.output))
    assert read(config.output, 0).equals(before)
    pinned = settings(store, tmp_path, partner=[f"brain={tmp_path}/brain"], partner_version=("brain=0",))
    assert joins.join(pinned, show=False).output_version == 2
    assert read(config.output).sort_by("subject_id").equals(before.sort_by("subject_id"))
    with pytest.raises(UsageError, match="has no version 9: its versions are 0 to 2"):
        joins.lineage(config.output, 9)


def test_the_state_of_an_earlier_run_or_of_one_source_can_be_joined(store: str, tmp_path: Path) -> None:
    cohort.partner(tmp_path / "brain.parquet")
    for name, chosen in {"then": {"as_of": "1"}, "one": {"source": "second"}}.items():
        config = settings(
            store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"], how="left", output=str(tmp_path / name), **chosen
        )
        joins.join(config, show=False)
        dna = Store(store).read(columns=["mean", "bases"], **chosen).to_pandas()  # type: ignore[arg-type]
        assert set(read(config.output)["subject_id"].to_pylist()) == set(dna["subject_id"].dropna())


@pytest.mark.parametrize("wider", ["brain", "dna"])
def test_another_width_than_last_time_is_refused_unless_it_is_meant(store: str, tmp_path: Path, wider: str) -> None:
    cohort.partner(tmp_path / "brain.parquet")
    config = settings(store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"])
    joins.join(config, show=False)
    changed = {"partner": [f"brain={tmp_path}/brain.parquet"]}
    if wider == "brain":
        cohort.partner(tmp_path / "brain.parquet", width=9)
    else:
        changed["vector"] = "max"  # type: ignore[assignment]
    sentence = {"brain": "brain is 9 wide and was 7 in version 0", "dna": "dna is 5 wide and was 4 in version 0"}[wider]
    with pytest.raises(UsageError, match=f"{sentence} of .*--replace-widths"):
        joins.join(settings(store, tmp_path, **changed), show=False)
    joins.join(settings(store, tmp_path, **changed, replace_widths=True), show=False)
    assert len(read(config.output)[wider][0].as_py()) == {"brain": 9, "dna": 5}[wider]


def test_a_table_that_is_not_ours_is_left_alone(store: str, tmp_path: Path) -> None:
    cohort.partner(tmp_path / "brain.parquet")
    write_deltalake(tmp_path / "joined", pa.table({"a": [1]}))
    with pytest.raises(UsageError, match="is a Delta table that `dnafeat join` has not written"):
        joins.join(settings(store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"]), show=False)
    with pytest.raises(UsageError, match="there is no table at"):
        joins.lineage(str(tmp_path / "nothing"))


def test_of_two_joins_at_once_the_second_is_told(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort.partner(tmp_path / "brain.parquet")
    config = settings(store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"])
    joins.join(config, show=False)
    commit = JoinedTable.commit

    def overtaken(self: JoinedTable, *arguments: object) -> int:
        monkeypatch.setattr(JoinedTable, "commit", commit)
        joins.join(settings(store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"], how="outer"), show=False)
        return commit(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(JoinedTable, "commit", overtaken)
    with pytest.raises(ConflictError, match="somebody else wrote"):
        joins.join(settings(store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"], how="left"), show=False)
    assert joins.lineage(config.output)["how"] == "outer"
    # What the loser had written is gone.
    named = {Path(uri).name for version in (0, 1) for uri in DeltaTable(config.output, version=version).file_uris()}
    assert {path.name for path in Path(config.output).rglob("*.parquet")} == named


def test_a_join_that_dies_leaves_the_table_as_it_was(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort.partner(tmp_path / "brain.parquet")
    config = settings(store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"])
    joins.join(config, show=False)
    before = read(config.output)
    calls = []

    def put_together(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise StoreError("the disk is gone")
        return joining.put_together(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(joins, "put_together", put_together)
    with pytest.raises(StoreError, match="the disk is gone"):
        joins.join(settings(store, tmp_path, partner=[f"brain={tmp_path}/brain.parquet"], how="left"), show=False)
    assert read(config.output).equals(before)
    assert len(list(Path(config.output).rglob("*.parquet"))) == len(DeltaTable(config.output).file_uris())


# -- keys ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int64", "float64", "string", "dictionary", "large_string"])
def test_keys_of_any_type_meet_the_texts_of_the_store(store: str, tmp_path: Path, kind: str) -> None:
    brain = cohort.partner(tmp_path / "brain.parquet")
    keys = pa.array([*brain["subject_id"], None])
    keys = {
        "int64": keys,
        "float64": keys.cast(pa.float64()),
        "string": keys.cast(pa.string()),
        "large_string": keys.cast(pa.large_string()),
        "dictionary": keys.cast(pa.string()).dictionary_encode(),
    }[kind]
    uri = parquet(tmp_path / "keyed.parquet", eid=keys, vector=[*brain["vector"], [0.0] * 7])
    config = settings(store, tmp_path, partner=[f"brain={uri}"], key=("brain=eid",))
    summary = joins.join(config, show=False)
    wanted = cohort.slow_join(
        cohort.slow_pool(dna_of(store), "mean", "subject", "mean", None), {"brain": by_subject(brain)}, "inner"
    )
    cohort.compare(read(config.output), wanted, ["subject_id"], ["brain"])
    assert summary.left_out["brain"] == {"without a key": 1}
    nameless = sum(not entry.keys["subject_id"] for entry in cohort.entries())
    assert summary.left_out["dna"] == {"without subject_id": nameless}


def test_keys_that_never_meet_are_told_with_one_of_each_side(store: str, tmp_path: Path) -> None:
    uri = parquet(tmp_path / "brain.parquet", subject_id=["sub-1000001"], vector=[[1.0, 2.0]])
    with pytest.raises(UsageError, match=r"no subject_id of partner brain has DNA \('sub-1000001' there, '10000.*--mapping"):
        joins.join(settings(store, tmp_path, partner=[f"brain={uri}"]), show=False)
    summary = joins.join(settings(store, tmp_path, partner=[f"brain={uri}"], how="left"), show=False)
    assert "no subject_id of partner brain has DNA" in summary.notes[0]
    assert summary.complete == 0


def joined(folder: Path, people: list[Entry], brain: dict, **more: object) -> tuple[dict[str, list[float]], JoinSummary]:
    """A join of a small store with a small partner: the partner's vector of each subject that has both, and the summary."""
    fill(str(folder / "small"), people, folder)
    uri = parquet(folder / "small.parquet", **brain)
    given = {"how": "outer", "partner": [f"brain={uri}"], **more}
    summary = joins.join(settings(str(folder / "small"), folder, **given), show=False)
    found = read(str(folder / "joined")).to_pylist()
    return {row["subject_id"]: row["brain"] for row in found if row["has_dna"] and row["has_brain"]}, summary


def test_missing_keys_meet_nobody_and_are_counted(tmp_path: Path) -> None:
    words = ["NA", "nan", "n/a", "NULL", "S1"]
    people = [Entry(f"e{i}", "ACGT", {"subject_id": word}) for i, word in enumerate(words)]
    with pytest.MonkeyPatch.context() as patch:
        # As stores of older releases hold them.
        patch.setattr("dnafeat.keys.named", lambda column: column)
        fill(str(tmp_path / "small"), people, tmp_path)
    found, summary = joined(tmp_path, people, {"subject_id": words, "vector": [[1.0]] * 5})
    assert list(found) == ["S1"]
    assert summary.left_out == {"dna": {"without subject_id": 4}, "brain": {"without a key": 4}}
    assert summary.complete == 1


def test_keys_that_differ_in_spelling_meet_and_the_others_are_counted_on_both_sides(tmp_path: Path) -> None:
    people = [Entry(f"e{i}", "ACGT", {"subject_id": one}) for i, one in enumerate(["1000017.0", "1000018 ", "1000019", "X"])]
    found, summary = joined(
        tmp_path, people, {"subject_id": [1000017, 1000018, 1000019, 1000020], "vector": [[1.0], [2.0], [3.0], [4.0]]}
    )
    assert found == {"1000017": [1.0], "1000018": [2.0], "1000019": [3.0]}
    about = summary.partners["brain"]
    assert (about["matched"], about["unmatched"], about["dna_unmatched"]) == (3, 1, 1)
    assert summary.notes == [
        "1 subject_id of brain have no DNA, such as '1000020'",
        "1 subject_id of the store have no brain, such as 'X'",
    ]


@pytest.mark.parametrize("value", [2.0**53, 1e300, float("inf"), 2.5])
def test_a_float_that_is_no_key_is_named(tmp_path: Path, value: float) -> None:
    with pytest.raises(UsageError, match=r"column 'subject_id' holds .*(which is no name|stands for several whole numbers)"):
        joined(tmp_path, [Entry("a", "ACGT", {"subject_id": "1"})], {"subject_id": [1.0, value], "vector": [[1.0], [2.0]]})


@pytest.mark.parametrize(
    ("sessions", "last"),
    [(["1", "9", "10", "2"], 2), (["ses-9", "ses-10", "ses-2", "ses-1"], 1), (["1", None, "2", "n/a"], 2), ([9, 10, 1, None], 1)],
)
def test_the_last_session_is_that_of_natural_order(tmp_path: Path, sessions: list, last: int) -> None:
    brain = {"subject_id": ["S1"] * 4, "vector": [[float(i)] for i in range(4)], "session": sessions}
    found, _ = joined(tmp_path, [Entry("a", "ACGT", {"subject_id": "S1"})], brain, reduce=("brain=last:session",))
    assert found == {"S1": [float(last)]}


def test_a_mapping_leads_from_one_key_space_to_another(store: str, tmp_path: Path) -> None:
    brain = cohort.partner(tmp_path / "brain.parquet")
    names = {subject: f"scan{i}" for i, subject in enumerate(brain["subject_id"].unique())}
    uri = parquet(
        tmp_path / "keyed.parquet", scan=[*brain["subject_id"].map(names), "scan999"], vector=[*brain["vector"], [0.0] * 7]
    )
    led = list(names)[:-3]
    mapping = parquet(tmp_path / "map.parquet", scan=[names[one] for one in led], subject_id=led)
    config = settings(store, tmp_path, partner=[f"brain={uri}"], key=("brain=scan",), mapping=(f"brain={mapping}",))
    summary = joins.join(config, show=False)
    kept = brain[brain["subject_id"].isin(led)]
    wanted = cohort.slow_join(
        cohort.slow_pool(dna_of(store), "mean", "subject", "mean", None), {"brain": by_subject(kept)}, "inner"
    )
    cohort.compare(read(config.output), wanted, ["subject_id"], ["brain"])
    assert summary.left_out["brain"] == {"whose key the mapping does not have": len(brain) - len(kept) + 1}
    double = parquet(tmp_path / "double.parquet", scan=["a", "a"], subject_id=["1", "2"])
    with pytest.raises(UsageError, match="leads from 'a' to '1' and to '2': leave one"):
        joins.join(
            settings(store, tmp_path, partner=[f"brain={uri}"], key=("brain=scan",), mapping=(f"brain={double}",)), show=False
        )


def test_keys_are_hashed_on_both_sides_whichever_was_before(store: str, tmp_path: Path) -> None:
    salt = b"a salt that nobody knows"
    (tmp_path / "salt").write_bytes(salt)
    brain = cohort.partner(tmp_path / "brain.parquet")
    wanted = cohort.slow_join(
        cohort.slow_pool(dna_of(store), "mean", "subject", "mean", None), {"brain": by_subject(brain)}, "inner"
    )
    hidden = {(next(keyhash.pseudonyms([subject], salt)),): row for (subject,), row in wanted.items()}
    already = parquet(
        tmp_path / "hashed.parquet",
        subject_id=keyhash.hashed(pa.array(brain["subject_id"].astype(str)), salt),
        vector=brain["vector"],
    )
    for uri in (str(tmp_path / "brain.parquet"), already):
        config = settings(
            store,
            tmp_path,
            partner=[f"brain={uri}"],
            salt_file=str(tmp_path / "salt"),
            output=str(tmp_path / "joined" / uri[-9:-8]),
        )
        joins.join(config, show=False)
        cohort.compare(read(config.output), hidden, ["subject_id"], ["brain"])
        assert joins.lineage(config.output)["keys_hashed_under"] == keyhash.check(salt)
        for path in Path(config.output).rglob("*"):
            assert path.is_dir() or b"1000001" not in path.read_bytes()
    with pytest.raises(UsageError, match=r"keys of partner brain are hashed \(under .*\) and those of .* are not hashed"):
        joins.join(settings(store, tmp_path, partner=[f"brain={already}"]), show=False)
    inside = Path(store) / "salt"
    inside.write_bytes(salt)
    with pytest.raises(UsageError, match="lies in"):
        joins.join(settings(store, tmp_path, partner=[f"brain={already}"], salt_file=str(inside)), show=False)
    inside.unlink()


# -- what cannot be joined -------------------------------------------------------------------------------------------------

GOOD = {"subject_id": ["1000001"], "vector": [[1.0, 2.0]]}
REFUSED = [
    ({"name": ["x"], "vector": [[1.0]]}, {}, r"has no key column 'subject_id': name another with --key, one of 'name', 'vector'"),
    (
        {"subject_id": ["1"], "v": [1.0]},
        {},
        r"has no column with a list of numbers .*'v' \(double\): make one with `dnafeat partner`",
    ),
    ({**GOOD, "w": [[1.0]]}, {}, r"several columns of lists, 'vector', 'w': name one, as in --vector-column brain=vector"),
    ({**GOOD, "t": ["a"]}, {"vector_column": ("brain=t",)}, r"column 't' of .* holds string, not a list of numbers"),
    ({**GOOD, "w": [[[1.0]]]}, {"vector_column": ("brain=w",)}, r"column 'w' of .* holds list<.*not a list of numbers"),
    (
        {"subject_id": ["1", "2"], "vector": [[1.0], [1.0, 2.0]]},
        {},
        r"file brain.parquet, row 2: its vector is 2 wide and .* is 1",
    ),
    (
        {"subject_id": ["1", "2"], "vector": [[1.0], [float("nan")]]},
        {},
        r"row 2: its vector holds nan, which is no finite number",
    ),
    ({"subject_id": ["1"], "vector": [[1.0, None]]}, {}, r"row 1: its vector holds nan, which is no finite number, or a null"),
    ({"subject_id": [1.5], "vector": [[1.0]]}, {}, r"column 'subject_id' holds 1.5, which is no name of anybody"),
    ({"subject_id": [True], "vector": [[1.0]]}, {}, r"column 'subject_id' holds bool: keys are texts or whole numbers"),
    ({"subject_id": ["1"], "vector": pa.array([None], pa.list_(pa.float32()))}, {}, r"has no vector in column 'vector'"),
    (GOOD, {"partner_version": ("brain=3",)}, r"is no Delta table, so that it has no version 3"),
    (GOOD, {"reduce": ("last:visit",)}, r"has no column to order by 'visit'"),
    (GOOD, {"on": "eid", "key": ("brain=subject_id",)}, r"entries of .* have no key 'eid': there are sequence_id, subject_id"),
    (GOOD, {"vector": "mean+nothing"}, r"vector 'nothing' is none of cls, mean"),
    (GOOD, {"version": "nothing"}, r"has no version, name or channel 'nothing'"),
]


@pytest.mark.parametrize(("columns", "more", "sentence"), REFUSED)
def test_what_cannot_be_joined_is_one_sentence(store: str, tmp_path: Path, columns: dict, more: dict, sentence: str) -> None:
    uri = parquet(tmp_path / "brain.parquet", **columns)
    with pytest.raises(DnafeatError, match=sentence) as caught:
        joins.join(settings(store, tmp_path, partner=[f"brain={uri}"], **more), show=False)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "joined").exists() or not list((tmp_path / "joined").rglob("*.parquet"))


def test_rows_without_a_vector_are_missing_and_counted(store: str, tmp_path: Path) -> None:
    subject = "1000001"
    uri = parquet(tmp_path / "brain.parquet", subject_id=[subject, subject, None], vector=[None, [1.0, 2.0], [1.0, 2.0]])
    summary = joins.join(settings(store, tmp_path, partner=[f"brain={uri}"]), show=False)
    assert summary.left_out["brain"] == {"without a key": 1, "without a vector": 1}
    assert (summary.rows, summary.partners["brain"]["several"]) == (1, 0)


def test_a_store_whose_entries_have_no_key_left_is_told(store: str, tmp_path: Path) -> None:
    fill(str(tmp_path / "store"), [Entry("a", "ACGT", {"subject_id": None, "gene_id": "g"})], tmp_path)
    uri = parquet(tmp_path / "brain.parquet", **GOOD)
    with pytest.raises(UsageError, match=r"no entry of version .* is left to join on 'subject_id': 1 without subject_id"):
        joins.join(settings(str(tmp_path / "store"), tmp_path, partner=[f"brain={uri}"]), show=False)


# -- other ways in ---------------------------------------------------------------------------------------------------------


def test_the_command_joins_on_s3_and_says_what_it_did(s3: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = cohort.entries(10)
    uri, output, brain = s3.uri(), s3.uri("joined"), s3.uri("brain")  # type: ignore[attr-defined]
    fill(uri, people, tmp_path)
    fill(uri, people[:5], tmp_path, version=B)
    table = cohort.partner(tmp_path / "brain.parquet", subjects=10)
    options = {"AWS_ALLOW_HTTP": "true"}
    write_deltalake(brain, pa.Table.from_pandas(table), storage_options=options)
    Store(uri).point("production", Store(uri).versions()["feature_version"][0].as_py())
    command = ["join", "--store", uri, "--partner", f"brain={brain}", "--on", "subject_id", "--output", output, "--how", "outer"]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    joined = DeltaTable(output, storage_options=options).to_pyarrow_dataset().to_table()
    wanted = cohort.slow_join(
        cohort.slow_pool(dna_of(uri), "mean", "subject", "mean", None), {"brain": by_subject(table)}, "outer"
    )
    cohort.compare(joined, wanted, ["subject_id"], ["brain"])
    assert told["rows"] == len(joined)
    assert main(["lineage", output]) == 0
    assert json.loads(capsys.readouterr().out)["partners"][0]["uri"] == brain


@pytest.mark.usefixtures("two_cpus")
def test_the_same_rows_come_of_ray_data(store: str, tmp_path: Path) -> None:
    cohort.partner(tmp_path / "brain", files=3)
    found = []
    for name in ("here", "ray"):
        config = settings(
            store, tmp_path, partner=[f"brain={tmp_path}/brain"], output=str(tmp_path / name), ray=name == "ray", how="outer"
        )
        joins.join(config, show=False)
        found.append(read(config.output).sort_by("subject_id"))
    assert found[0].equals(found[1])
    broken = parquet(tmp_path / "nan.parquet", subject_id=["1"], vector=[[float("nan")]])
    with pytest.raises(UsageError, match="row 1: its vector holds nan"):
        joins.join(settings(store, tmp_path, partner=[f"brain={broken}"], ray=True), show=False)
