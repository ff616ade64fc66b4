"""Reading a store: versions and channels, entries with their vectors, and one sentence for what cannot be read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from oldstore import READS
from places import local_first
from stores import (
    WIDTHS,
    A,
    B,
    Entry,
    Run,
    copied,
    digest,
    expected,
    feature_rows,
    feature_version,
    fill,
    in_order,
    refused,
    rows,
    vectors,
)

import dnafeat
from dnafeat import parquet
from dnafeat.cli.main import main
from dnafeat.errors import DnafeatError, StoreError, UsageError
from dnafeat.store import Store, matrix, schema
from dnafeat.store.rollback import rollback
from dnafeat.store.table import Table
from dnafeat.vectors import VECTORS

DATA = Path(__file__).parents[1] / "data"
KEYS = ["subject"]
ENTRIES = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "ACGT", {"subject": "s2"}), Entry("c", "GGCC"), Entry("d", "NNAC")]
OTHERS = [Entry("a", "TTTT", {"subject": "s3"}), Entry("z", "GGCC")]


def fill_two(store: str, folder: Path) -> Store:
    """Source one under A and B, source two under A."""
    fill(store, ENTRIES, folder, source="one")
    fill(store, OTHERS, folder, source="two")
    fill(store, ENTRIES[:3], folder, source="one", version=B)
    return Store(store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two stores of which tests get copies."""
    folder = tmp_path_factory.mktemp("made")
    fill(str(folder / "one"), ENTRIES, folder)
    fill_two(str(folder / "two"), folder)
    return {name: str(folder / name) for name in ("one", "two")}


@pytest.fixture
def filled(made: dict[str, str], store_uri: str) -> Store:
    return Store(copied(made["two"], store_uri))


@pytest.fixture
def two(made: dict[str, str], tmp_path: Path) -> Store:
    return Store(copied(made["two"], str(tmp_path / "store")))


@pytest.fixture
def local(made: dict[str, str], tmp_path: Path) -> Store:
    return Store(copied(made["one"], str(tmp_path / "store")))


# what there is


@local_first
def test_versions_are_listed_with_what_fills_them(filled: Store) -> None:
    began = datetime.now(UTC)
    filled.point("production", A.digest)
    filled.point("staging", A.digest)
    table = filled.versions()
    one, two = table.to_pylist()
    assert (one["feature_version"], one["model"], one["adapter"], one["precision"]) == (A.digest, "tests-1", None, "float32")
    assert (sorted(one["channels"]), one["sources"], one["sequences"]) == (["production", "staging"], ["one", "two"], 6)
    assert (two["feature_version"], two["channels"], two["sources"], two["sequences"]) == (B.digest, [], ["one"], 3)
    assert one["recorded_at"] < two["recorded_at"] < began
    assert json.loads(one["lineage"]) == {**A.identity(), **A.names}


def test_a_store_that_is_not_there_says_how_to_make_one(store_uri: str) -> None:
    store = Store(store_uri)
    assert not store.exists()
    for call in (
        store.read,
        store.versions,
        store.resolve,
        lambda: store.point("production", "x"),
        lambda: store.published_run("x"),
    ):
        with pytest.raises(StoreError) as error:
            call()
        refused(error, "there is no store at", store_uri, "dnafeat embed")


def test_a_store_without_a_run_has_no_versions_and_says_so(store_uri: str) -> None:
    store = Store(store_uri)
    store.create()
    store.create()
    assert store.exists()
    assert len(store.versions()) == 0
    for call in (store.read, store.resolve, lambda: store.resolve("production")):
        with pytest.raises(StoreError) as error:
            call()
        refused(error, "no run has been published", store_uri)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError) as error:
        Store(str(tmp_path / "file" / "store")).create()
    refused(error, "cannot be written")
    assert (tmp_path / "file").read_text() == "x"


# versions and channels


def test_a_version_is_found_by_its_digest_a_beginning_of_it_or_a_channel(two: Store) -> None:
    assert A.digest[0] != B.digest[0]
    for text in (A.digest, A.digest[:5], A.digest[:1]):
        assert two.resolve(text) == A.digest
    assert two.resolve(B.digest[:3]) == B.digest
    assert two.point("staging", B.digest[:4]) == B.digest
    assert two.resolve("staging") == B.digest
    assert rows(two.read("staging")) == expected(ENTRIES[:3], KEYS, source="one", version=B)


def test_no_name_means_production_or_the_only_version(two: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        two.resolve()
    refused(error, "2 versions", "production", A.digest, B.digest, "dnafeat publish")
    two.point("production", B.digest)
    assert two.resolve() == two.resolve("production") == B.digest
    assert rows(two.read()) == expected(ENTRIES[:3], KEYS, source="one", version=B)
    two.point("production", A.digest)
    assert two.resolve() == A.digest
    fill(str(tmp_path / "other"), ENTRIES, tmp_path)
    assert Store(str(tmp_path / "other")).resolve() == A.digest


@pytest.mark.parametrize("wanted", ["", "nothing", A.digest + "0", A.digest.upper() + "x", " "])
def test_a_version_nobody_has_filled_is_refused_with_those_there_are(local: Store, wanted: str) -> None:
    local.point("staging", A.digest)
    with pytest.raises(StoreError) as error:
        local.resolve(wanted)
    refused(error, repr(wanted), A.digest, "staging")
    with pytest.raises(StoreError):
        local.point("production", wanted)
    with pytest.raises(StoreError):
        local.read(wanted)


def test_the_event_that_came_last_wins_where_clocks_differ(two: Store) -> None:
    two.point("production", A.digest)
    ahead = two._versions.reload().read()
    at = ahead.schema.get_field_index("recorded_at")
    times = pa.array([datetime.now(UTC) + timedelta(hours=1)] * len(ahead), ahead.schema.field(at).type)
    later = two._versions.write(ahead.set_column(at, ahead.schema.field(at), times), stem="ahead")
    two._versions.commit([later], removed=two._versions.paths())
    two.point("production", B.digest)
    assert two.channels() == {"production": B.digest}
    assert two.resolve() == B.digest


def test_sources_that_a_channel_would_lose_are_lacking(two: Store) -> None:
    assert two.lacking("production", B.digest) == []
    two.point("production", A.digest)
    assert two.lacking("production", B.digest) == ["two"]
    assert two.lacking("production", A.digest) == []
    two.point("production", B.digest)
    assert two.lacking("production", A.digest) == []


def test_a_beginning_that_two_versions_share_is_called_ambiguous(tmp_path: Path) -> None:
    seen: dict[str, int] = {}
    for seed in range(100):
        first = feature_version(seed).digest[0]
        if first in seen:
            break
        seen[first] = seed
    twins = [feature_version(seen[first]), feature_version(seed)]
    for version in twins:
        fill(str(tmp_path / "store"), ENTRIES, tmp_path, version=version)
    store = Store(str(tmp_path / "store"))
    with pytest.raises(StoreError) as error:
        store.resolve(first)
    refused(error, repr(first), *(version.digest for version in twins))
    assert "has no version" not in str(error.value)
    for version in twins:
        assert store.resolve(version.digest) == version.digest


def test_a_version_that_is_recorded_but_not_published_is_not_there(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    fill(store, ENTRIES, tmp_path)
    Run(store, ENTRIES, tmp_path, version=B).encode().step("version")
    assert [row["feature_version"] for row in store.versions().to_pylist()] == [A.digest]
    assert store.resolve() == A.digest
    for call in (store.resolve, store.read, lambda name: store.point("production", name)):
        with pytest.raises(StoreError):
            call(B.digest)


# reading


@local_first
def test_a_table_has_ids_sources_keys_and_fixed_width_vectors(filled: Store) -> None:
    table = filled.read(A.digest)
    assert table.column_names == ["sequence_id", "source_name", "subject", *VECTORS]
    for name in VECTORS:
        assert table.schema.field(name).type.equals(pa.list_(pa.float32(), WIDTHS[name])), name
    assert rows(table) == in_order(expected(ENTRIES, KEYS, source="one") + expected(OTHERS, KEYS, source="two"))
    assert rows(filled.read(A.digest, source="two")) == expected(OTHERS, KEYS, source="two")


def test_columns_are_those_asked_for_in_their_order(local: Store) -> None:
    table = local.read(columns=["mean", "run_id", "sequence_digest", "bases", "mean"])
    assert table.column_names == ["sequence_id", "source_name", "subject", "mean", "run_id", "sequence_digest", "bases"]
    digests = {row["sequence_id"]: row["sequence_digest"] for row in table.to_pylist()}
    assert digests == {entry.id: digest(entry.sequence) for entry in ENTRIES}
    means = {row["sequence_id"]: row["mean"] for row in table.to_pylist()}
    assert means == {entry.id: vectors(digest(entry.sequence))["mean"] for entry in ENTRIES}
    assert local.read(columns=[]).column_names == ["sequence_id", "source_name", "subject"]
    assert sorted(local.read(columns=[])["sequence_id"].to_pylist()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("columns", [["means"], ["mean", "from_run"], ["subject"], ["feature_version"], [""], "mean"])
def test_a_column_that_cannot_be_read_is_named_with_those_that_can(local: Store, columns: list[str]) -> None:
    with pytest.raises(StoreError) as error:
        local.read(columns=columns)
    refused(error, *VECTORS, "sequence_digest", "windows")


def test_a_source_that_has_not_filled_the_version_is_named_with_those_that_have(two: Store) -> None:
    for version, source in ((B.digest, "two"), (A.digest, "three"), (A.digest, "")):
        with pytest.raises(StoreError) as error:
            two.read(version, source=source)
        refused(error, repr(source), version, "one")


def test_a_source_without_entries_is_an_empty_table_of_the_same_columns(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, ENTRIES, tmp_path, source="full")
    fill(store_uri, [Entry("bad", "!")], tmp_path, source="empty")
    store = Store(store_uri)
    full, empty = store.read(source="full"), store.read(source="empty")
    assert len(empty) == 0
    assert empty.column_names == full.column_names
    for name in ("sequence_id", "source_name", "subject"):
        assert empty.schema.field(name).type == full.schema.field(name).type
    for name in VECTORS:
        assert pa.types.is_fixed_size_list(empty.schema.field(name).type)
        found = matrix(empty[name])
        assert (len(found), found.ndim, found.dtype) == (0, 2, np.float32)


def test_a_store_with_nothing_but_an_empty_source_can_be_read(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, [], tmp_path)
    assert len(Store(store).read()) == 0
    assert Store(store).versions().to_pylist()[0]["sequences"] == 0
    fill(store, ENTRIES, tmp_path)
    fill(store, [], tmp_path)
    assert Store(store).read(as_of=2).column_names == ["sequence_id", "source_name", "subject", *VECTORS]
    assert Store(store).read().column_names == ["sequence_id", "source_name", *VECTORS]
    assert len(Store(store).read()) == 0


@local_first
def test_a_reader_that_stays_open_sees_what_others_publish(filled: Store, tmp_path: Path) -> None:
    before = expected(OTHERS, KEYS, source="two")
    assert rows(filled.read(A.digest, source="two")) == before
    more = [*OTHERS, Entry("new", "AAAATTTT", {"gene": "BRCA1"})]
    fill(filled.uri, more, tmp_path, source="two")
    assert rows(filled.read(A.digest, source="two")) == expected(more, [*KEYS, "gene"], source="two")
    assert filled.versions().to_pylist()[0]["sequences"] == 7


def test_batches_are_the_table_in_pieces(local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Entry(f"id{i}", "ACGT" * (1 + i % 40), {"subject": f"s{i}"}) for i in range(200)]
    fill(local.uri, many, tmp_path, shard_rows=7)
    store = Store(local.uri)
    batches = list(store.scan())
    assert len(batches) > 3
    assert all(len(batch) for batch in batches)
    table = pa.Table.from_batches(batches)
    assert rows(table) == rows(store.read()) == expected(many, KEYS)


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "no" / "store"))
    assert repr(store) == f"Store('{tmp_path}/no/store')"
    assert store._repr_markdown_().startswith("there is no store at ")
    assert not (tmp_path / "no").exists()


def test_jupyter_shows_the_versions(two: Store) -> None:
    two.point("production", A.digest)
    shown = two._repr_markdown_().splitlines()
    assert shown[0] == f"**Store** `{two.uri}`"
    assert {line.split(" | ")[0]: line.split(" | ")[2:] for line in shown[4:]} == {
        f"| `{A.digest}`": ["production", "tests-1", "2 |"],
        f"| `{B.digest}`": ["", "tests-2", "1 |"],
    }


def test_ids_and_keys_of_any_letters_come_back(store_uri: str, tmp_path: Path) -> None:
    odd = ["ä", "日本", "a b", "x" * 300, "'\"", "a,b\nc", "\U0001f9ec"]
    entries = [Entry(name, "ACGT", {"key of ü": name[::-1], "k'\"q": "x"}) for name in odd]
    fill(store_uri, entries, tmp_path, source='o\'brien "ü"')
    fill(store_uri, entries[1:], tmp_path, source='o\'brien "ü"')
    found = Store(store_uri).read(source='o\'brien "ü"')
    assert rows(found) == expected(entries[1:], ["key of ü", "k'\"q"], source='o\'brien "ü"')


# entries by their keys


MANY = [Entry(f"id{i:02d}", "ACGT" * (1 + i), {"subject": f"s{i % 7}", "gene": f"g{i % 3}"}) for i in range(40)]


@local_first
def test_entries_are_chosen_by_their_keys(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, MANY, tmp_path, source="one")
    fill(store_uri, OTHERS, tmp_path, source="two")
    store = Store(store_uri)

    def found(**options: Any) -> list[str]:
        ids = [f"{row['source_name']}:{row['sequence_id']}" for row in store.read(columns=["mean"], **options).to_pylist()]
        assert sorted(ids) == sorted(
            f"{a}:{b}"
            for batch in store.scan(columns=[], **options)
            for a, b in zip(batch["source_name"].to_pylist(), batch["sequence_id"].to_pylist(), strict=True)
        )
        return sorted(ids)

    def those(**wanted: list[str]) -> list[str]:
        return [f"one:{one.id}" for one in MANY if all(one.keys[key] in values for key, values in wanted.items())]

    assert found(where={"subject": "s3"}) == sorted([*those(subject=["s3"]), "two:a"])
    assert found(where={"subject": "s3"}, source="one") == those(subject=["s3"])
    assert found(where={"subject": ["s3", "s5"], "gene": "g1"}) == those(subject=["s3", "s5"], gene=["g1"])
    assert found(where={"subject": ("s3", "nobody")}, source="two") == ["two:a"]
    assert found(where={"sequence_id": ["id03", "z"]}) == ["one:id03", "two:z"]
    for none in ({"subject": []}, {"subject": "nobody"}, {"subject": "s3", "gene": "nothing"}):
        empty = store.read(where=none)
        assert len(empty) == 0
        assert empty.schema == store.read(where={"subject": "s3"}).schema
    assert found(where={}) == found()
    wanted = [entry for entry in MANY if entry.keys["subject"] == "s6"]
    assert rows(store.read(where={"subject": "s6"})) == expected(wanted, ["subject", "gene"], source="one")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"person": "s1"}, ["'person'", "sequence_id, subject"]),
        ({"until_run": "1"}, ["'until_run'", "subject"]),
        ({"subject": [17]}, ["'subject'", "17 is not", "'17'"]),
        ({"subject": [None]}, ["'subject'", "None"]),
    ],
)
def test_a_key_that_is_not_there_or_no_text_is_one_sentence(local: Store, where: Any, words: list[str]) -> None:
    for call in (local.read, local.scan):
        with pytest.raises(StoreError) as error:
            call(where=where)
        refused(error, *words)


@pytest.mark.parametrize(
    "options", [{"where": {"subject": "s3"}}, {"where": {"subject": "s3"}, "source": "one"}, {"source": "few"}]
)
def test_files_and_row_groups_without_a_wanted_sequence_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setitem(vars(parquet.DISTINCT), "row_group", 2)
    few = [entry for entry in MANY if entry.keys["subject"] == "s3"]
    fill(str(tmp_path / "store"), MANY, tmp_path, source="one", shard_rows=10)
    fill(str(tmp_path / "store"), few, tmp_path, source="few")
    store = Store(str(tmp_path / "store"))
    before = rows(store.read(**options))
    assert len(before) in (6, 12)
    wanted = {digest(entry.sequence) for entry in few}
    ruined = kept = 0
    for path in store.features.paths():
        file = Path(store.features.uri) / path
        groups = pq.ParquetFile(file).metadata
        raw = bytearray(file.read_bytes())
        for i in range(groups.num_row_groups):
            ends = groups.row_group(i).column(0).statistics
            if any(ends.min <= one <= ends.max for one in wanted):
                kept += 1
                continue
            ruined += 1
            for j in range(groups.num_columns):
                column = groups.row_group(i).column(j)
                start = column.dictionary_page_offset or column.data_page_offset
                raw[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
        file.write_bytes(raw)
    assert kept <= 6 < ruined
    assert rows(Store(store.uri).read(**options)) == before
    with pytest.raises(StoreError):
        Store(store.uri).read(source="one")
    # And of a file in whose range none lies not even the footer.
    at = {file.path: (file.minimum["sequence_digest"], file.maximum["sequence_digest"]) for file, _ in store.features.files()}
    apart = [path for path, (low, high) in at.items() if not any(low <= one <= high for one in wanted)]
    for path in apart:
        (Path(store.features.uri) / path).unlink()
    assert rows(Store(store.uri).read(**options)) == before


# a run's own state


@local_first
def test_a_run_is_its_version_and_source_as_of_it(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, ENTRIES, tmp_path, source="one", run_id="monday")
    fill(store_uri, OTHERS, tmp_path, source="two", run_id="other")
    fill(store_uri, ENTRIES[1:], tmp_path, source="one", run_id="tuesday")
    fill(store_uri, ENTRIES[:3], tmp_path, source="one", version=B, run_id="wednesday")
    store = Store(store_uri)
    for run, number, entries, version in (
        ("monday", 1, ENTRIES, A),
        ("tuesday", 3, ENTRIES[1:], A),
        ("wednesday", 4, ENTRIES[:3], B),
    ):
        wanted = expected(entries, KEYS, source="one", version=version)
        for asked in (run, number, str(number)):
            assert rows(store.read(run=asked)) == wanted, asked
        assert rows(pa.Table.from_batches(store.scan(run=run))) == wanted
    assert len(store.read(run="monday", where={"subject": "s2"})) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": A.digest}, ["'monday'", "leave out version", A.digest]),
        ({"source": "cohort"}, ["'monday'", "leave out source 'cohort'"]),
        ({"as_of": 1}, ["'monday'", "leave out as_of '1'"]),
        ({"run": "sunday"}, ["'sunday'", "dnafeat runs"]),
        ({"run": "tuesday"}, ["'tuesday'", "was withdrawn"]),
        ({"run": "2"}, ["'2'", "was withdrawn"]),
        ({"run": 7}, ["7", "dnafeat runs"]),
    ],
)
def test_a_run_that_cannot_be_read_is_one_sentence(tmp_path: Path, options: dict[str, Any], words: list[str]) -> None:
    store = Store(str(tmp_path / "store"))
    fill(store, ENTRIES, tmp_path, run_id="monday")
    fill(store, ENTRIES[1:], tmp_path, run_id="tuesday")
    rollback(store, "tuesday")
    with pytest.raises(StoreError) as error:
        store.read(**{"run": "monday", **options})
    refused(error, *words)


# names


@local_first
def test_a_name_is_given_once_and_numbers_count_up(filled: Store) -> None:
    assert filled.name("lora", A.digest) == ("lora@1", A.digest)
    # The command sent again, or the name asked for again.
    assert filled.name("lora", A.digest[:4]) == filled.name("lora@1", A.digest) == ("lora@1", A.digest)
    assert filled.name("lora", B.digest) == ("lora@2", B.digest)
    # An older version can be the newest again.
    assert filled.name("lora", A.digest) == ("lora@3", A.digest)
    assert filled.name("lora@12", B.digest) == ("lora@12", B.digest)
    assert filled.name("lora", "lora@1") == ("lora@13", A.digest)
    assert [filled.resolve(name) for name in ("lora@1", "lora@2", "lora@12", "lora")] == [A.digest, B.digest, B.digest, A.digest]
    assert rows(filled.read("lora@12")) == expected(ENTRIES[:3], KEYS, source="one", version=B)
    one, two = filled.versions().to_pylist()
    assert (one["names"], two["names"]) == (["lora@1", "lora@3", "lora@13"], ["lora@2", "lora@12"])


def test_a_name_that_is_taken_or_no_name_is_one_sentence(two: Store) -> None:
    two.name("lora", A.digest)
    two.point("production", A.digest)
    for call, words in (
        (lambda: two.name("lora@1", B.digest), ["lora@1", A.digest, "stays so"]),
        (lambda: two.name("production", B.digest), ["'production' is a channel"]),
        (lambda: two.name("production@2", B.digest), ["'production' is a channel"]),
        (lambda: two.point("lora", B.digest), ["'lora'", "lora@1"]),
        (lambda: two.point("lora@1", B.digest), ["'lora@1'", "@"]),
        (lambda: two.name("new", "nothing"), ["'nothing'", A.digest, "lora@1", "production"]),
        (lambda: two.resolve("lora@2"), ["'lora@2'", "lora@1"]),
    ):
        with pytest.raises(StoreError) as error:
            call()
        refused(error, *words)
    for name in ("", "lora@", "lora@0", "lora@01", "lo ra", "@3", "a@b", "-x"):
        with pytest.raises(UsageError, match="cannot name a version"):
            two.name(name, A.digest)
    assert two.history().names.given == {"lora@1": A.digest}
    assert two.channels() == {"production": A.digest}


def test_a_name_never_hides_a_digest_and_its_version_is_never_replaced(two: Store) -> None:
    two.name(B.digest, A.digest)
    assert two.resolve(B.digest) == B.digest
    assert two.resolve(f"{B.digest}@1") == A.digest
    fill(two, OTHERS, Path(two.uri).parent, source="one", version=feature_version(3), run_id="only")
    two.name("gone", feature_version(3).digest)
    rollback(two, "only")
    for name in ("gone", "gone@1"):
        with pytest.raises(StoreError) as error:
            two.resolve(name)
        refused(error, "gone@1", "withdrawn", A.digest)


def test_versions_that_are_named_at_once_never_share_a_name(filled: Store) -> None:
    def name(text: str, version: str) -> str | None:
        try:
            return Store(filled.uri).name(text, version)[0]
        except StoreError:
            return None

    with ThreadPoolExecutor(8) as pool:
        asked = [("x", one.digest) for one in (A, B, A, B)] + [("y@1", one.digest) for one in (A, B, A, B)]
        given = list(pool.map(lambda one: name(*one), asked))
    names = filled.history().names.given
    for (_, version), got in zip(asked, given, strict=True):
        assert got is None or names[got] == version
    assert set(given[:4]) <= {f"x@{number}" for number in range(1, 5)}
    winner = names["y@1"]
    assert [got for (_, version), got in zip(asked[4:], given[4:], strict=True) if version == winner] == ["y@1", "y@1"]
    assert given[4:].count(None) == 2
    events = filled._versions.reload().read(where=ds.field("event") == "name").to_pylist()
    assert len({row["name"] for row in events}) == len(events)


def test_the_command_names_points_lists_and_reads(two: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.parquet"

    def said(*arguments: str) -> str:
        assert main([*arguments, "--store", two.uri]) == 0
        return capsys.readouterr().out

    assert said("publish", "--version", A.digest, "--name", "lora") == f"lora@1 is version {A.digest}\n"
    assert two.channels() == {}
    assert said("publish", "--version", "lora") == f"channel production points at version {A.digest}\n"
    assert said("publish", "--version", B.digest, "--name", "lora", "--channel", "staging") == (
        f"lora@2 is version {B.digest}\nchannel staging points at version {B.digest}\n"
    )
    listed = [line.split() for line in said("versions").splitlines()]
    assert listed == [
        ["name", "version", "entries", "precision", "names", "channels", "model", "projection"],
        ["tests-1@1", A.digest, "6", "float32", "lora@1", "production", "tests-1", "random@0"],
        ["tests-2@1", B.digest, "3", "float32", "lora@2", "staging", "tests-2", "random@0"],
    ]
    assert [row["names"] for row in json.loads(said("versions", "--json"))] == [["lora@1"], ["lora@2"]]
    said("read", "--where", "subject=s1", "--where", "subject=s3", "--where", "sequence_id=a", "--output", str(output))
    found = pq.read_table(output).to_pylist()
    assert sorted((row["source_name"], row["subject"]) for row in found) == [("one", "s1"), ("two", "s3")]
    run = two.history().listing()[0]["run_id"]
    said("read", "--run", run, "--columns", "mean", "--output", str(output))
    assert sorted(pq.read_table(output)["sequence_id"].to_pylist()) == ["a", "b", "c"]
    for wrong in (["--where", "subject"], ["--where", "person=s1"], ["--run", run, "--version", "lora"], ["--run", "no"]):
        assert main(["read", "--store", two.uri, *wrong, "--output", str(output)]) == 2
        told = capsys.readouterr().err
        assert told.startswith("dnafeat: ")
        assert told.count("\n") == 1


# what was once read reads the same


def test_a_key_that_comes_later_does_not_show_in_what_was_before(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    fill(store, ENTRIES, tmp_path, run_id="before")
    now, run = store.read(), store.read(run="before")
    fill(store, [Entry("x", "ACGT", {"gene": "cI"})], tmp_path, source="two", version=B, keys=["gene", "empty"])
    fill(store, [entry._replace(keys={**entry.keys, "haplotype": "1"}) for entry in ENTRIES], tmp_path, run_id="after")
    for again in (store.read(run="before"), store.read(A.digest, as_of=1), store.read(A.digest, as_of=2, source="cohort")):
        assert again.schema == now.schema == run.schema
        assert rows(again) == rows(now)
    assert store.read(run="after", columns=[]).column_names == ["sequence_id", "source_name", "subject", "haplotype"]
    assert store.read(B.digest, columns=[]).column_names == ["sequence_id", "source_name", "gene"]
    # What is chosen of a state has the state's keys, values or not.
    assert store.read(A.digest, columns=[], where={"sequence_id": "d"}).column_names[2:] == ["subject", "haplotype"]


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """The store of contract number 1, as `tests/support/oldstore.py` made it."""
    with tarfile.open(DATA / "store_v1.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return Store(str(tmp_path / "store_v1"))


def check_old(store: Store) -> None:
    told = json.loads((DATA / "store_v1.json").read_text())
    assert told.keys() == READS.keys()
    for name, options in READS.items():
        assert rows(store.read(**options)) == told[name], name
        assert rows(pa.Table.from_batches(store.scan(**options))) == told[name], name


def test_a_store_of_the_first_contract_reads_as_it_did(old: Store) -> None:
    check_old(old)


def test_a_store_of_an_older_contract_reads_and_fills_as_before(
    old: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second number of every contract, with a column more."""
    contracts = tmp_path / "schemas"
    shutil.copytree(Path(dnafeat.__file__).parent.parent / "schemas", contracts)
    for name in schema.TABLES:
        newer = json.loads((contracts / f"{name}.v1.json").read_text())
        newer["fields"].append({"name": "added", "type": "double", "nullable": True, "metadata": {"comment": "of number 2"}})
        (contracts / f"{name}.v2.json").write_text(json.dumps(newer))
    monkeypatch.setattr(schema, "_folder", lambda: contracts)
    monkeypatch.setattr(schema, "_CURRENT", {**schema._CURRENT, **dict.fromkeys(schema.TABLES, 2)})
    for cached in (schema.delta_schema, schema.arrow_schema):
        cached.cache_clear()
    try:
        check_old(old)
        for table in (old.features, old.sequences, old._versions, old.rejects, old.runs):
            found = table.reload().read(["added"])["added"]
            assert found.null_count == len(found)
        more = [Entry("a", "AAAA", {"subject_id": "S9"})]
        fill(old, more, tmp_path, source="new", version=feature_version(3), run_id="fourth")
        assert rows(old.read(run="fourth")) == expected(more, ["subject_id"], source="new", version=feature_version(3))
        check_old(old)
        fill(str(tmp_path / "fresh"), more, tmp_path)
        assert rows(Store(str(tmp_path / "fresh")).read()) == expected(more, ["subject_id"])
    finally:
        for cached in (schema.delta_schema, schema.arrow_schema):
            cached.cache_clear()


# damage


def test_vectors_that_are_missing_are_one_sentence(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, ENTRIES, tmp_path, shard_rows=1)
    features = Table(store_uri, "features")
    features.commit([], removed=features.paths()[:2])
    with pytest.raises(StoreError) as error:
        Store(store_uri).read()
    refused(error, store_uri, "2 published sequences", A.digest)
    features.commit([], removed=features.reload().paths())
    with pytest.raises(StoreError) as error:
        Store(store_uri).read()
    refused(error, store_uri, "3 published sequences", A.digest)


def test_a_vector_that_is_stored_twice_is_said_to_be_double_and_not_missing(local: Store) -> None:
    features = local.features
    file = features.write(feature_rows([digest("ACGT")]), stem="again", partition={"feature_version": A.digest})
    features.commit([file])
    with pytest.raises(StoreError) as error:
        local.read()
    refused(error, local.uri, A.digest)
    assert "lacks" not in str(error.value)


def test_a_file_that_is_gone_from_the_disk_is_one_sentence(local: Store) -> None:
    for path in local.features.paths():
        (Path(local.features.uri) / path).unlink()
    with pytest.raises(StoreError) as error:
        Store(local.uri).read()
    refused(error, local.uri)


def test_a_log_that_is_damaged_is_one_sentence(local: Store) -> None:
    (Path(local.runs.uri) / "_delta_log" / f"{1:020d}.json").write_text("{damaged")
    with pytest.raises(StoreError) as error:
        Store(local.uri).read()
    refused(error, local.runs.uri)


@pytest.mark.parametrize("told", [True, False])
def test_a_vector_that_a_version_does_not_store_is_one_sentence(local: Store, told: bool) -> None:
    """Whether the version's lineage says what it stores, or rows merely lack it."""
    version = replace(B, names={**B.names, "vectors": ["mean", "max", "projected"]}) if told else B
    table = feature_rows(sorted({digest(entry.sequence) for entry in ENTRIES}), B)
    at = table.schema.get_field_index("cls")
    table = table.set_column(at, table.schema.field(at), pa.nulls(len(table), table.schema.field(at).type))
    run = Run(local, ENTRIES, Path(local.uri).parent, version=version).encode()
    run.files = [local.features.write(table, stem="x", partition={"feature_version": B.digest})]
    run.publish()
    for columns in (["cls"], ["mean+cls"]) if told else (["cls"],):
        with pytest.raises(StoreError) as error:
            local.read(B.digest, columns=columns)
        refused(error, "'cls'" if told else "damaged")
    means = {row["sequence_id"]: row["mean"] for row in local.read(B.digest, columns=["mean"]).to_pylist()}
    assert means == {entry.id: vectors(digest(entry.sequence), B)["mean"] for entry in ENTRIES}
    if told:
        both = local.read(B.digest, columns=["max+mean"])
        apart = local.read(B.digest)
        assert apart.column_names[-3:] == ["mean", "max", "projected"]
        np.testing.assert_array_equal(
            matrix(both["max+mean"]), np.concatenate([matrix(apart["max"]), matrix(apart["mean"])], axis=1)
        )


# matrices


def test_a_vector_column_becomes_one_contiguous_float32_matrix(local: Store) -> None:
    table = local.read()
    for name in VECTORS:
        found = matrix(table[name])
        assert np.shares_memory(found, matrix(table[name]))
        assert (found.shape, found.dtype) == ((4, WIDTHS[name]), np.float32)
        assert found.flags.c_contiguous
        assert found.tolist() == table[name].to_pylist()
        part, picked = table.slice(1, 2), table.take([3, 0, 2])
        assert matrix(part[name]).tolist() == part[name].to_pylist()
        assert matrix(part[name].combine_chunks()).tolist() == part[name].to_pylist()
        assert matrix(picked[name]).tolist() == picked[name].to_pylist()
        both = pa.concat_tables([part, table.slice(0, 0), picked])
        assert matrix(both[name]).tolist() == both[name].to_pylist()


def test_no_number_of_a_matrix_passes_through_a_python_object() -> None:
    values = pa.array(np.arange(600_000, dtype=np.float32))
    column = pa.chunked_array([pa.FixedSizeListArray.from_arrays(values.slice(at, 300_000), 600) for at in (0, 300_000)])
    tracemalloc.start()
    try:
        found = matrix(column)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found.shape, found.dtype, found[999, 599]) == ((1000, 600), np.float32, 599_999)
    assert peak < 2 * values.nbytes


# light to read


def test_reading_imports_neither_torch_nor_ray_nor_transformers() -> None:
    code = """
import sys, dnafeat
dnafeat.Store, dnafeat.matrix
print([name for name in ("torch", "ray", "transformers", "yaml") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_store_is_read_without_torch_ray_or_transformers(local: Store) -> None:
    code = f"""
import sys
for name in ("torch", "ray", "transformers", "tokenizers", "safetensors", "yaml", "tqdm"):
    sys.modules[name] = None
import dnafeat
table = dnafeat.Store({local.uri!r}).read()
print(dnafeat.matrix(table["mean"]).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(4, 4)\n", "")


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'dnafeat' has no attribute 'Shop'"):
        dnafeat.Shop  # noqa: B018
    assert dnafeat.Store is Store
    assert dnafeat.matrix is matrix


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"where": {"subject": 5}}, "key 'subject' is text and 5 is not: ask for '5'"),
        ({"where": {"subject": None}}, "key 'subject' is text and None is not: leave it out"),
        ({"where": {"subject": ["s1", 5]}}, "ask for '5'"),
        ({"where": {"subject": b"s1"}}, "is not"),
        ({"where": ["subject=s1"]}, "give a mapping"),
        ({"where": {5: "s1"}}, "give a mapping"),
        ({"columns": "mean"}, "give a list of names"),
        ({"columns": 5}, "give a list of names"),
        ({"columns": [5]}, "columns holds 5"),
        ({"columns": [None]}, "columns holds None"),
        ({"version": 5}, "version is 5 and should be a text"),
        ({"source": b"cohort"}, "source is b'cohort' and should be a text"),
        ({"as_of": 1.5}, "as_of 1.5 is neither"),
        ({"run": object}, "has published no run"),
    ],
)
@local_first
def test_arguments_of_another_type_are_named(filled: Store, arguments: dict[str, Any], words: str) -> None:
    for read in (filled.read, lambda **given: list(filled.scan(**given))):
        with pytest.raises(DnafeatError) as error:
            read(**({} if "run" in arguments else {"version": A.digest}) | arguments)
        assert words in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("uri", [None, 5, b"store", ["store"]])
def test_a_store_is_named_by_a_text(uri: Any) -> None:
    with pytest.raises(DnafeatError, match="a store is a folder or an s3:// prefix"):
        Store(uri)


@local_first
def test_a_matrix_is_made_of_a_column_of_vectors(filled: Store) -> None:
    table = filled.read(A.digest)
    assert matrix(table["mean"]).shape[0] == len(table)
    for wrong in (table, None, "mean", table["sequence_id"], [[1.0]]):
        with pytest.raises(DnafeatError, match="matrix takes a column of vectors"):
            matrix(wrong)
    nulls = pa.array([[1.0], None], pa.list_(pa.float32(), 1))
    with pytest.raises(DnafeatError, match="1 of 2 rows have no vector"):
        matrix(nulls)
