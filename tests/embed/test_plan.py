"""What has to be encoded: intake, fingerprint, duplicate ids, what is missing, and work shards."""

from __future__ import annotations

import gzip
import heapq
import itertools
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import A, B, Entry, digest, fill, write_csv

from dnafeat import pseudonyms as keyhash
from dnafeat import sequence as dna
from dnafeat.embed import intake, plan
from dnafeat.embed.intake import SEQUENCE_SCHEMA, Checks, Intake, as_rejects, check_names, duplicate_ids
from dnafeat.embed.salvage import Salvage
from dnafeat.errors import UsageError
from dnafeat.sources import entries
from dnafeat.sources.reader import ReadOptions, look
from dnafeat.spill import Spill
from dnafeat.store import Store
from dnafeat.vectors import VECTORS


def take_in(files: str | list[str], folder: Path, checks: Checks | None = None, **options: object) -> Intake:
    folder.mkdir(parents=True)
    files = [files] if isinstance(files, str) else files
    return intake.take_in(look(files, ReadOptions(**options)), checks or Checks(), folder)


def letters(count: int, length: int = 40, seed: int = 0) -> list[str]:
    """Random sequences."""
    draw = random.Random(seed)
    return ["".join(draw.choices("ACGT", k=length)) for _ in range(count)]


def spilled(spill: Spill) -> list[dict]:
    return [row for i in range(spill.partitions) for row in spill.table(i).to_pylist()]


def missing(intake: Intake, store: Store, folder: Path, version: str = A.digest) -> tuple[int, list[dict]]:
    folder.mkdir()
    work = plan.subtract(intake, store, version, folder, Salvage(store, version, VECTORS))
    assert work.missing.rows == len(spilled(work.missing)) == work.distinct - work.stored - work.salvaged
    return work.distinct, spilled(work.missing)


@pytest.fixture
def many_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnafeat.embed.intake._PARTITION_BYTES", 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.create()
    return store


# intake

FASTA = ">one first\nacgu\nACGT\n>two\nAC!T!\n>\nACGT\n>three\n\n>four\nNNNA\n>five\nACGTACGT\n>six\nRYAC\n"


def test_fasta_entries_are_normalised_digested_and_placed(tmp_path: Path) -> None:
    file = tmp_path / "a.fa"
    file.write_text(FASTA)
    intake = take_in(str(file), tmp_path / "w")
    assert (intake.keys, intake.read, intake.entries.rows, intake.rejects.rows) == ([], 7, 3, 4)
    assert spilled(intake.entries) == [
        {"sequence_id": "one", "sequence_digest": digest("ACGTACGT"), "file": str(file), "row": 1},
        {"sequence_id": "four", "sequence_digest": digest("NNNA"), "file": str(file), "row": 10},
        {"sequence_id": "five", "sequence_digest": digest("ACGTACGT"), "file": str(file), "row": 12},
    ]
    found = [(row["sequence_digest"], row["sequence"]) for row in spilled(intake.sequences)]
    assert found == [(digest(s), s.encode()) for s in ("ACGTACGT", "NNNA", "ACGTACGT")]


def test_fasta_entries_are_refused_with_file_row_reason_and_text(tmp_path: Path) -> None:
    file = tmp_path / "a.fa"
    file.write_text(FASTA)
    rejects = spilled(take_in(str(file), tmp_path / "w", Checks(max_n_share=0.5)).rejects)
    assert [(row["file"], row["row"], row["sequence_id"], row["text"]) for row in rejects] == [
        (str(file), 4, "two", "AC!T!"),
        (str(file), 6, None, "ACGT"),
        (str(file), 8, "three", ""),
        (str(file), 10, "four", "NNNA"),
        (str(file), 14, "six", "RYAC"),
    ]
    words = ["'!' at base 3", "no id", "empty", "0.750 of 4 bases", "'R' at base 1"]
    for row, word in zip(rejects, words, strict=True):
        assert word in row["reason"]
    iupac = take_in(str(file), tmp_path / "v", Checks(alphabet=dna.IUPAC))
    assert [row["sequence_id"] for row in spilled(iupac.entries)] == ["one", "four", "five", "six"]


def test_sequences_too_short_for_a_token_are_refused_with_the_number_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "a.fa"
    file.write_text(">one\nACG TA\n>two\nacgtaC\n>three\nA\n>four\n\n>five\nAC!\n>six\nNNNNNNN\n")
    intake = take_in(str(file), tmp_path / "w", Checks(min_bases=6))
    assert [row["sequence_id"] for row in spilled(intake.entries)] == ["two", "six"]
    reasons = {row["sequence_id"]: row["reason"] for row in spilled(intake.rejects)}
    assert reasons["one"] == "5 bases are too few for a token of this model, which takes 6"
    assert reasons["three"] == "1 base is too few for a token of this model, which takes 6"
    assert "empty" in reasons["four"]
    assert "'!' at base 3" in reasons["five"]
    whole = take_in(str(file), tmp_path / "v", Checks(min_bases=1))
    assert [row["sequence_id"] for row in spilled(whole.entries)] == ["one", "two", "three", "six"]
    assert whole.fingerprint != intake.fingerprint


def test_ids_of_people_are_hashed_before_anything_is_spilled_and_rejects_keep_no_text(tmp_path: Path) -> None:
    file, salt = tmp_path / "a.csv", b"a salt that nobody knows"
    file.write_text("id,sequence,subject\na,ACGT,Smith\nb,AC!T,Jones\nc,ACGT,\nd,GG,Smith\nSmith,too,many,fields\n")
    layout = look([str(file)], ReadOptions())
    (tmp_path / "w").mkdir()
    found = intake.take_in(
        layout, Checks(), tmp_path / "w", discretion=intake.Discretion(columns=("subject",), salt=salt, keep_text=False)
    )
    smith = next(keyhash.pseudonyms(["Smith"], salt))
    assert [(row["sequence_id"], row["subject"]) for row in spilled(found.entries)] == [("a", smith), ("c", None), ("d", smith)]
    assert [(row["row"], row["text"]) for row in spilled(found.rejects)] == [(2, None), (5, None)]
    (tmp_path / "v").mkdir()
    ids = intake.take_in(layout, Checks(), tmp_path / "v", discretion=intake.Discretion(columns=("sequence_id",), salt=salt))
    assert {row["sequence_id"] for row in spilled(ids.entries)} == set(keyhash.pseudonyms("acd", salt))
    assert next(row["sequence_id"] for row in spilled(ids.rejects)) == next(keyhash.pseudonyms("b", salt))
    assert len({one.fingerprint for one in (found, ids, intake.take_in(layout, Checks(), tmp_path / "u"))}) == 3
    with pytest.raises(
        UsageError, match="hash_keys names 'eid', which the source does not have: its keys are sequence_id, subject"
    ):
        intake.take_in(layout, Checks(), tmp_path / "t", discretion=intake.Discretion(columns=("eid",), salt=salt))


def test_csv_entries_keep_their_keys_and_bad_rows_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("gene,id,sequence,subject\nBRCA1,a,ACGT,s1\n,b,acgt,\nTP53,,ACGT,s2\nx,c,AC-T,s3\ntoo,few\nTP53,d,GG,s4\n")
    intake = take_in(str(file), tmp_path / "w")
    assert intake.keys == ["gene", "subject"]
    assert spilled(intake.entries) == [
        {"sequence_id": i, "sequence_digest": digest(s), "file": str(file), "row": row, "gene": gene, "subject": subject}
        for i, s, row, gene, subject in (
            ("a", "ACGT", 1, "BRCA1", "s1"),
            ("b", "ACGT", 2, None, None),
            ("d", "GG", 6, "TP53", "s4"),
        )
    ]
    rejects = spilled(intake.rejects)
    assert [(row["file"], row["row"], row["sequence_id"], row["text"]) for row in rejects] == [
        (str(file), 3, None, "ACGT"),
        (str(file), 4, "c", "AC-T"),
        (str(file), 5, None, "too,few"),
    ]
    for row, word in zip(rejects, ("id column 'id' is empty", "'-' at base 3", "2 fields"), strict=True):
        assert word in row["reason"]


def test_the_text_of_a_refused_entry_is_cut_and_bytes_that_are_no_text_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "a.fa"
    file.write_bytes(b">long\n" + b"!" * 20_000 + b"\n>odd\nAC\xffGT\n")
    rejects = spilled(take_in(str(file), tmp_path / "w").rejects)
    assert [row["text"] for row in rejects] == ["!" * 10_000, "AC\ufffdGT"]
    assert "0xff" in rejects[1]["reason"]


def test_a_source_without_a_good_entry_is_taken_in(tmp_path: Path, store: Store, many_partitions: None) -> None:
    (tmp_path / "a.csv").write_text("id,sequence,subject\n")
    (tmp_path / "b.fa").write_text(">a\n!!\n>b\n??\n" * 50)
    nothing = take_in(str(tmp_path / "a.csv"), tmp_path / "w")
    assert (nothing.read, nothing.keys) == (0, ["subject"])
    bad = take_in(str(tmp_path / "b.fa"), tmp_path / "v")
    assert (bad.read, bad.entries.rows, bad.sequences.rows) == (100, 0, 0)
    for one, folder in ((nothing, "x"), (bad, "y")):
        assert list(duplicate_ids(one)) == []
        assert missing(one, store, tmp_path / folder) == (0, [])


def test_two_files_with_other_keys_are_one_source(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "a.csv", [Entry("a", "ACGT", {"subject": "s1"})])
    second = write_csv(tmp_path / "b.csv", [Entry("b", "ACGT", {"gene": "g1"})])
    intake = take_in([first, second], tmp_path / "w")
    assert [(row["sequence_id"], row["subject"], row["gene"]) for row in spilled(intake.entries)] == [
        ("a", "s1", None),
        ("b", None, "g1"),
    ]


def test_a_header_alone_is_read_when_a_key_has_a_name_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="from_run"):
        take_in(write_csv(tmp_path / "a.csv", [Entry("a", "ACGT", {"from_run": "1"})]), tmp_path / "w")


@pytest.mark.usefixtures("many_partitions")
def test_every_entry_lies_in_the_partition_of_its_id_and_sequence(tmp_path: Path) -> None:
    source = [Entry(f"id{i}", one, {"subject": f"s{i}"}) for i, one in enumerate(letters(300) + letters(300))]
    intake = take_in(write_csv(tmp_path / "a.csv", source), tmp_path / "w")
    assert intake.entries.partitions == intake.sequences.partitions > 100
    found = {row["sequence_id"]: (row["sequence_digest"], row["row"], row["subject"]) for row in spilled(intake.entries)}
    assert found == {e.id: (digest(e.sequence), i + 1, f"s{i}") for i, e in enumerate(source)}
    assert Counter(row["sequence"].decode() for row in spilled(intake.sequences)) == Counter(e.sequence for e in source)
    ends = [intake.sequences.table(i)["sequence_digest"].to_pylist() for i in range(intake.sequences.partitions)]
    ranges = [(min(names), max(names)) for names in ends if names]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))


def test_partitions_grow_with_what_the_files_unpack_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnafeat.embed.intake._PARTITION_BYTES", 1000)
    text = "".join(f">{i}\n{one}\n" for i, one in enumerate(letters(200, 100)))
    (tmp_path / "a.fa").write_text(text)
    (tmp_path / "a.fa.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.table({"id": ["a"], "sequence": ["ACGT"]}), tmp_path / "a.parquet")
    (tmp_path / "a.pq").write_bytes((tmp_path / "a.parquet").read_bytes())
    counts = {
        name: take_in(str(tmp_path / name), tmp_path / f"w{name}").entries.partitions
        for name in ("a.fa", "a.fa.gz", "a.pq", "a.parquet")
    }
    assert counts["a.fa"] == -(-len(text) // 1000)
    assert counts["a.fa"] / 2 < counts["a.fa.gz"] < counts["a.fa"] * 2
    assert counts["a.pq"] == counts["a.parquet"]
    assert take_in([str(tmp_path / "a.fa"), str(tmp_path / "a.fa.gz")], tmp_path / "both").entries.partitions > counts["a.fa"]


# fingerprint

SOURCE = [Entry(f"id{i}", one, {"gene": f"g{i % 3}", "subject": None if i % 5 else f"s{i}"}) for i, one in enumerate(letters(30))]
SOURCE[7] = Entry("bad", "AC!T", {"gene": "g"})


def fingerprint(source: Iterable[Entry], folder: Path) -> str:
    return take_in(write_csv(folder / "a.csv", source, ["gene", "subject"]), folder / "w").fingerprint


@pytest.mark.parametrize("limit", [1, 2, 7, 29, 30])
def test_the_fingerprint_does_not_depend_on_how_the_source_is_cut_or_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    wanted = fingerprint(SOURCE, tmp_path / "one")
    monkeypatch.setattr(entries, "MAX_ENTRIES", limit)
    monkeypatch.setattr("dnafeat.embed.intake._PARTITION_BYTES", 64)
    assert fingerprint(SOURCE, tmp_path / "cut") == wanted
    monkeypatch.setattr(entries, "MAX_BYTES", 50)
    assert fingerprint(SOURCE, tmp_path / "bytes") == wanted
    assert fingerprint(SOURCE[::-1], tmp_path / "backwards") == wanted


def changed(at: int, **values: object) -> list[Entry]:
    return [*SOURCE[:at], SOURCE[at]._replace(**values), *SOURCE[at + 1 :]]


CHANGES = {
    "an id": changed(3, id="other"),
    "a letter": changed(3, sequence=SOURCE[3].sequence[:-1] + "N"),
    "a key": changed(3, keys={**SOURCE[3].keys, "gene": "other"}),
    "a key that was null": changed(3, keys={**SOURCE[3].keys, "subject": "s"}),
    "a key that is null": changed(5, keys={**SOURCE[5].keys, "subject": None}),
    "a key under another name": changed(5, keys={"gene": SOURCE[5].keys["subject"], "subject": SOURCE[5].keys["gene"]}),
    "the reason of a refusal": changed(7, sequence="AC?T"),
    "a refusal": changed(3, sequence="!"),
    "an entry more": [*SOURCE, Entry("new", "ACGT")],
    "an entry less": SOURCE[:-1],
    "an id and a key that together read the same": changed(5, id=SOURCE[5].id + "g", keys={**SOURCE[5].keys, "gene": "2"}),
    "nothing": [],
}


def test_the_fingerprint_changes_with_every_id_letter_key_and_refusal(tmp_path: Path) -> None:
    found = {name: fingerprint(source, tmp_path / name) for name, source in CHANGES.items()}
    found["as it is"] = fingerprint(SOURCE, tmp_path / "as it is")
    assert len(set(found.values())) == len(found), found
    assert all(len(value) == 64 for value in found.values())


def test_case_line_ends_and_file_names_leave_the_fingerprint_alone(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\nACGT\n>b\nGGT\n")
    (tmp_path / "b.fasta").write_bytes(b">a words\r\nacguACG\r\nt\r\n\r\n>b\r\nggu")
    assert (
        take_in(str(tmp_path / "a.fa"), tmp_path / "v").fingerprint
        == take_in(str(tmp_path / "b.fasta"), tmp_path / "w").fingerprint
    )


def test_a_key_column_under_another_name_is_another_source_state(tmp_path: Path) -> None:
    one = take_in(write_csv(tmp_path / "a.csv", [Entry("a", "ACGT", {"gene": "x"})]), tmp_path / "v")
    other = take_in(write_csv(tmp_path / "b.csv", [Entry("a", "ACGT", {"locus": "x"})]), tmp_path / "w")
    assert one.fingerprint != other.fingerprint


def test_separators_inside_a_value_cannot_make_two_sources_look_alike(tmp_path: Path) -> None:
    one = take_in(write_csv(tmp_path / "a.csv", [Entry("a", "ACGT", {"k": "x\x1fy", "l": "z"})]), tmp_path / "v")
    other = take_in(write_csv(tmp_path / "b.csv", [Entry("a", "ACGT", {"k": "x", "l": "y\x1fz"})]), tmp_path / "w")
    assert one.fingerprint != other.fingerprint


# duplicate ids


def check_duplicates(tmp_path: Path) -> None:
    source = [Entry(f"id{i}", one) for i, one in enumerate(letters(200))]
    first = write_csv(tmp_path / "a.csv", [*source, Entry("id7", "ACGT"), Entry("bad", "!")])
    second = write_csv(tmp_path / "b.csv", [Entry("x", "ACGT"), Entry("id150", "GG"), Entry("id7", "CC"), Entry("bad", "!")])
    intake = take_in([first, second], tmp_path / "w")
    assert sorted(duplicate_ids(intake)) == [
        ("id150", first, 151, second, 2),
        ("id7", first, 8, first, 201),
        ("id7", first, 8, second, 3),
    ]
    double = list(duplicate_ids(intake))
    (tmp_path / "r").mkdir()
    rejects = as_rejects(double, tmp_path / "r", intake.rejects.schema)
    found = spilled(rejects)
    assert [(row["sequence_id"], row["file"], row["row"]) for row in found] == [(one[0], one[3], one[4]) for one in double]
    assert all(f"{one[1]}:{one[2]}" in row["reason"] for one, row in zip(double, found, strict=True))


def test_duplicate_ids_are_found_with_both_places(tmp_path: Path) -> None:
    check_duplicates(tmp_path)


@pytest.mark.usefixtures("many_partitions")
def test_duplicate_ids_are_found_with_both_places_across_many_partitions(tmp_path: Path) -> None:
    check_duplicates(tmp_path)


def test_ids_that_differ_in_case_or_white_space_are_not_duplicates(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", [Entry(name, "ACGT") for name in ("a", "A", "a ", "ä", "a\u0308")])
    assert list(duplicate_ids(take_in(file, tmp_path / "w"))) == []


# subtract


@pytest.mark.parametrize("partition_bytes", [64, 2000, intake._PARTITION_BYTES])
def test_what_is_missing_is_what_sets_say_in_digest_order(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, partition_bytes: int
) -> None:
    monkeypatch.setattr("dnafeat.embed.intake._PARTITION_BYTES", partition_bytes)
    pool = letters(400, 30)
    stored = {*pool[100:250]}
    fill(store, [Entry(f"s{i}", one) for i, one in enumerate(sorted(stored))], tmp_path, source="stored", shard_rows=40)
    fill(store, [Entry(f"o{i}", one) for i, one in enumerate(pool[:300])], tmp_path, source="stored", version=B)
    source = [Entry(f"id{i}", one) for i, one in enumerate(random.Random(1).choices(pool, k=700))]
    intake = take_in(write_csv(tmp_path / "a.csv", source), tmp_path / "w")
    wanted = {entry.sequence for entry in source}
    distinct, found = missing(intake, store, tmp_path / "x")
    assert distinct == len(wanted)
    assert [row["sequence_digest"] for row in found] == sorted(digest(one) for one in wanted - stored)
    assert all(row["sequence_digest"] == digest(row["sequence"].decode()) for row in found)
    assert missing(intake, store, tmp_path / "y", "never filled")[0] == len(wanted)
    assert len(missing(intake, store, tmp_path / "z", "never filled")[1]) == len(wanted)


def test_nothing_is_missing_when_all_is_stored(tmp_path: Path, store: Store) -> None:
    source = [Entry(f"id{i}", one) for i, one in enumerate(letters(50))]
    fill(store, source, tmp_path)
    intake = take_in(write_csv(tmp_path / "a.csv", source * 2), tmp_path / "w")
    store.features.reload()
    assert missing(intake, store, tmp_path / "x") == (50, [])


# shards


def cut(tmp_path: Path, sequences: list[str], rows: int, actors: int | None = None) -> tuple[list[plan.Shard], list[list[dict]]]:
    spill = Spill(tmp_path, "missing", SEQUENCE_SCHEMA)
    ordered = sorted(sequences, key=digest)
    for at in range(0, len(ordered), 7):
        some = ordered[at : at + 7]
        spill.add(
            pa.record_batch(
                [[digest(s) for s in some], pa.array([s.encode() for s in some], pa.large_binary())], schema=SEQUENCE_SCHEMA
            )
        )
    spill.close()
    shards = plan.cut_shards(spill, rows, str(tmp_path / "work"), actors=actors)
    tables = [pq.read_table(shard.uri) for shard in shards]
    assert all(table.schema.names == SEQUENCE_SCHEMA.names for table in tables)
    return shards, [table.to_pylist() for table in tables]


@settings(max_examples=examples(8, 25))
@given(sizes=st.lists(st.integers(1, 60), max_size=40), rows=st.integers(1, 20), bases=st.integers(1, 80))
def test_every_sequence_is_in_one_shard_and_the_limits_hold(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows: int, bases: int
) -> None:
    draw = random.Random(len(sizes))
    sequences = list({"".join(draw.choices("ACGT", k=size)) for size in sizes})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_SHARD_BASES", bases)
        shards, contents = cut(tmp_path_factory.mktemp("cut"), sequences, rows)
    found = [row["sequence_digest"] for content in contents for row in content]
    assert found == sorted(map(digest, sequences))
    assert sorted(row["sequence"].decode() for content in contents for row in content) == sorted(sequences)
    assert [shard.rows for shard in shards] == [len(content) for content in contents]
    assert len({shard.uri for shard in shards}) == len(shards)
    for content in contents:
        assert 1 <= len(content) <= rows
        # Only a sequence that is larger than a shard may be may break the limit, and it is alone.
        assert len(content) == 1 or sum(len(row["sequence"]) for row in content) <= bases
    for one, after in itertools.pairwise(contents):
        full = sum(len(row["sequence"]) for row in one) + len(after[0]["sequence"])
        assert len(one) == rows or full > bases, "a shard was cut before it was full"


@pytest.mark.parametrize(("actors", "late"), [(2, 0), (2, 90), (5, 40), (1, 0)])
def test_actors_that_take_the_next_shard_end_together_also_when_one_begins_late(tmp_path: Path, actors: int, late: int) -> None:
    """With four shards of one size for each actor the last one would end up to a quarter of its share after the others."""
    sequences = letters(2000, 20)
    rows = plan.shard_rows(len(sequences), actors, 1)
    shards, contents = cut(tmp_path, sequences, rows, actors)
    assert sorted(row["sequence"].decode() for content in contents for row in content) == sorted(sequences)
    assert max(shard.rows for shard in shards) == rows
    assert len(shards) <= 12 * actors
    ends = [late, *[0] * (actors - 1)]
    for shard in shards:
        heapq.heappush(ends, heapq.heappop(ends) + shard.rows)
    assert max(ends) - min(ends) <= max(32, rows // 16)


def test_a_huge_sequence_has_a_shard_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_SHARD_BASES", 1000)
    sequences = [*letters(30, 20), "ACGT" * 500]
    _, contents = cut(tmp_path, sequences, 1000)
    (alone,) = [content for content in contents if any(len(row["sequence"]) == 2000 for row in content)]
    assert len(alone) == 1
    assert len(contents) == 3 or alone in (contents[0], contents[-1])


def test_nothing_to_encode_makes_no_shard(tmp_path: Path) -> None:
    assert cut(tmp_path, [], 10) == ([], [])


def test_shards_can_lie_on_s3(tmp_path: Path, store_uri: str) -> None:
    spill = Spill(tmp_path, "missing", SEQUENCE_SCHEMA)
    spill.add(pa.record_batch([[digest("ACGT")], pa.array([b"ACGT"], pa.large_binary())], schema=SEQUENCE_SCHEMA))
    spill.close()
    (shard,) = plan.cut_shards(spill, 10, store_uri + "/work")
    with plan.storage.open_input(shard.uri) as file:
        assert pq.read_table(file).to_pylist() == [{"sequence_digest": digest("ACGT"), "sequence": b"ACGT"}]


@given(missing=st.integers(1, 10**9), actors=st.integers(1, 500), row_bytes=st.integers(1, 10**7))
def test_shards_keep_all_actors_busy_and_files_below_128_mib(missing: int, actors: int, row_bytes: int) -> None:
    rows = plan.shard_rows(missing, actors, row_bytes)
    shards = -(-missing // rows)
    assert rows >= 1
    assert rows == 1 or rows * row_bytes <= 128 * 2**20
    # No tiny ones, but where 64 rows do not fit a file.
    assert rows >= 64 or (rows + 1) * row_bytes > 128 * 2**20
    if missing >= 64 * 4 * actors:
        assert shards >= 3 * actors
    # No more of them than busy actors and full files need.
    assert shards <= 4 * actors or rows * row_bytes > 64 * 2**20 or row_bytes > 64 * 2**20


# memory

MEASURE = """
import sys, tracemalloc
from pathlib import Path
import pyarrow as pa
from dnafeat import spill
from dnafeat.embed import intake, plan
from dnafeat.sources import entries
from dnafeat.embed.salvage import Salvage
from dnafeat.vectors import VECTORS
from dnafeat.sources.reader import ReadOptions, look
from dnafeat.store import Store

source, folder = sys.argv[1], Path(sys.argv[2])
intake._PARTITION_BYTES = 2**18
spill._BUFFER_BYTES, spill._PIECE_BYTES = 2**18, 2**9
entries.MAX_ENTRIES = 500
store = Store(str(folder / "store"))
store.create()
tracemalloc.start()
taken = intake.take_in(look([source], ReadOptions()), intake.Checks(), folder)
assert list(intake.duplicate_ids(taken)) == []
work = plan.subtract(taken, store, "version", folder, Salvage(store, "version", VECTORS))
assert work.distinct == work.missing.rows == taken.entries.rows
shards = plan.cut_shards(work.missing, 200, str(folder / "work"))
assert sum(shard.rows for shard in shards) == work.distinct
print(tracemalloc.get_traced_memory()[1], pa.default_memory_pool().max_memory())
"""


def peak(folder: Path, count: int) -> int:
    """Bytes that Python and Arrow hold at most, in a process of their own, while a source goes all the way into shards."""
    folder.mkdir()
    draw, letters_of = random.Random(count), str.maketrans("0123456789abcdef", "ACGT" * 4)
    with (folder / "a.fa").open("w") as file:
        file.writelines(f">id{i}\n{f'{draw.getrandbits(4000):01000x}'.translate(letters_of)}\n" for i in range(count))
    command = [sys.executable, "-c", MEASURE, str(folder / "a.fa"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sum(map(int, done.stdout.split()))


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    small, large = peak(tmp_path / "small", 1500), peak(tmp_path / "large", 15_000)
    assert large <= 1.2 * small + 2**20, (small, large)


@pytest.mark.parametrize("name", ["Sample ID (blood)", "c,d", "x=1", "a\tb", "a;b", "{a}"])
def test_a_column_name_that_delta_forbids_is_refused_unless_the_store_has_it(name: str) -> None:
    with pytest.raises(UsageError, match=r"do not allow.*rename the column, such as to"):
        check_names(["subject", name], ["subject"])
    check_names(["subject", name], ["subject", name])
    check_names(["subject_id", "größe", "a.b-c", "a:b"], [])


def test_missing_values_of_each_key_are_counted(tmp_path: Path) -> None:
    words = ["NA", "", "n/a", "S1", None]
    source = [Entry(f"e{i}", "ACGT" if i else "?", {"subject": word, "site": "x"}) for i, word in enumerate(words)]
    taken = take_in(write_csv(tmp_path / "a.csv", source), tmp_path / "w")
    assert (taken.missing, taken.read) == ({"subject": 4}, 5)
