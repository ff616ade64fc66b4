"""Rows of a cohort in `sequences`: files by bucket of subjects and run of regions, and how they stay so."""

from __future__ import annotations

import functools
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from people import vcf_text, write_genome, write_vcf

from dnafeat.bench import cohorts
from dnafeat.embed import arrays, opening
from dnafeat.embed import regions as taking
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks, Intake, without
from dnafeat.embed.job import embed
from dnafeat.embed.publish import CommittedVectors, Publication
from dnafeat.embed.regions import take_in_regions
from dnafeat.embed.report import RunSummary
from dnafeat.parquet import DISTINCT
from dnafeat.sources.cohort import layout
from dnafeat.sources.regions.config import GenomeConfig
from dnafeat.store import Store, cut, merge
from dnafeat.store.cut import Cut
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from dnafeat.store.rollback import rollback

SUBJECTS, REGIONS, BUCKETS = 40, 12, 4
ROWS = 2 * SUBJECTS * REGIONS


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> cohorts.MadeCohort:
    return cohorts.write(tmp_path_factory.mktemp("cohort"), subjects=SUBJECTS, regions=REGIONS, bases=60, records=8)


def cut_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut as if some hundred rows were ten million, into four buckets and three runs of regions."""
    monkeypatch.setattr(cut, "_CUT_ROWS", 100)
    monkeypatch.setattr(cut, "_SUBJECTS", SUBJECTS // BUCKETS)
    monkeypatch.setattr(taking, "_PARTITION_ENTRIES", 2 * SUBJECTS)
    monkeypatch.setattr(opening, "GROUP_ROWS", 16)
    monkeypatch.setattr(cut, "GROUP_ROWS", 16)
    monkeypatch.setattr(opening, "_RUNS", 3)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_early(monkeypatch)


def config(cohort: cohorts.MadeCohort, store: Path, **options: Any) -> EmbedConfig:
    own = {"genome": cohort.genome, "regions": cohort.regions, "vcf": (cohort.vcf,), "store": str(store), "runner": "local"}
    return EmbedConfig.make({**own, "source_name": "people", **options})


def read(genome: str, regions: str, vcf: str, folder: Path) -> Intake:
    found = layout.look(GenomeConfig(genome=genome, regions=regions, vcf=(vcf,)))
    return take_in_regions(found, Checks(), folder)


def publish(store: Store, intake: Intake, folder: Path, run_id: str = "run", mode: str = "replace") -> tuple[int, int, int]:
    """Commit entries as a run does, whose vectors nobody asks for."""
    store.create()
    none = CommittedVectors("none", [], store.features.reload().version())
    publication = Publication(store, run_id, "people")
    return publication.commit_sequences(intake, none, folder, mode)


@pytest.fixture(scope="module")
def filled_once(cohort: cohorts.MadeCohort, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("filled")
    store = Store(str(folder / "store"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        cut_early(monkeypatch)
        intake = read(cohort.genome, cohort.regions, cohort.vcf, folder / "spills")
        assert publish(store, intake, folder / "spills") == (1, ROWS, 0)
    return store.uri


@pytest.fixture
def filled(filled_once: str, few: None, tmp_path: Path) -> Store:
    return Store(shutil.copytree(filled_once, str(tmp_path / "filled")))


def rows(store: Store) -> pl.DataFrame:
    """As a reader of Delta tables sees them."""
    return pl.read_delta(f"{store.uri}/sequences").sort("sequence_id", "from_run")


def check(store: Store, paths: list[str] | None = None) -> dict[str, Cut]:
    """Each file has one bucket, its order and its statistics; returns their buckets."""
    table = store.sequences.reload()
    found = {}
    for file, _ in table.files():
        if paths is not None and file.path not in paths:
            continue
        own = cut.cut_of(table, file.path)
        assert own is not None
        assert cut.is_cut(file)
        found[file.path] = own
        held = table.read_file(file.path).to_pylist()
        places = [(row["source_name"], row["region_id"], row["subject_id"], row["sequence_id"], row["from_run"]) for row in held]
        assert places == sorted(places)
        assert {zlib.crc32(row["subject_id"].encode()) % own.of for row in held} == {own.bucket}
        assert (file.minimum["region_id"], file.maximum["region_id"]) == (places[0][1], places[-1][1])
        footer = pq.ParquetFile(f"{table.uri}/{file.path}").metadata
        assert {footer.row_group(i).num_rows for i in range(footer.num_row_groups)} <= set(range(17))
        columns = {footer.row_group(0).column(i).path_in_schema: footer.row_group(0).column(i) for i in range(footer.num_columns)}
        assert {name for name, one in columns.items() if "RLE_DICTIONARY" not in one.encodings} == {"sequence_id", "until_run"}
        assert [name for name in ("subject_id", "sequence_id", "region_id") if columns[name].is_stats_set] == ["region_id"]
    return found


def test_buckets_by_rows_and_people() -> None:
    million = 10**6
    assert [cut.buckets(10**6, rows) for rows in (9_999_999, 10**7, 10**8, 10**9, 10**11)] == [1, 64, 128, 256, 256]
    assert [cut.buckets(people, 10**11) for people in (3, 2500, 10_000, 100_000)] == [1, 4, 16, 128]
    assert [cut.buckets(10**6, new, stored=50 * million) for new in (1000, million)] == [1, 64]


def test_files_have_a_bucket_and_a_run_of_regions(filled: Store) -> None:
    found = check(filled)
    assert {one.of for one in found.values()} == {BUCKETS}
    assert len(found) >= 3 * BUCKETS
    assert {one.bucket for one in found.values()} == set(range(BUCKETS))
    there = rows(filled)
    assert len(there) == there["sequence_id"].n_unique() == ROWS
    log = "".join(file.read_text() for file in Path(f"{filled.uri}/sequences/_delta_log").glob("*.json"))
    assert "P0000" not in log


def test_entries_are_those_of_the_codes(cohort: cohorts.MadeCohort, filled: Store, tmp_path: Path) -> None:
    intake = read(cohort.genome, cohort.regions, cohort.vcf, tmp_path / "again")
    wanted = pl.concat([pl.from_arrow(one.table()) for one in intake.entries.each()]).sort("sequence_id")
    names = ["sequence_id", "sequence_digest", "subject_id", "haplotype", "region_id", "strand"]
    assert rows(filled).select(names).equals(wanted.select(names))
    assert rows(filled).select("source_name", "from_run", "until_run").unique().rows() == [("people", 1, None)]


def test_an_erasure_rewrites_the_files_of_one_bucket(filled: Store) -> None:
    before, there = check(filled), rows(filled)
    bucket = zlib.crc32(b"P000007") % BUCKETS
    assert forget(filled, {"subject_id": "P000007"}).entries == 2 * REGIONS
    after = check(filled)
    assert {one.bucket for path, one in before.items() if path not in after} == {bucket}
    assert {one.bucket for path, one in after.items() if path not in before} == {bucket}
    assert rows(filled).equals(there.filter(pl.col("subject_id") != "P000007"))


def test_maintenance_keeps_cut_and_order(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_FEWEST", 2)
    before, there = check(filled), rows(filled)
    maintain(filled)
    after = check(filled)
    assert sorted(one.bucket for one in after.values()) == list(range(BUCKETS))
    assert len(after) < len(before)
    assert rows(filled).equals(there)
    maintain(filled)
    assert check(filled) == after


def test_ordinary_files_and_cut_ones_are_not_merged(filled: Store) -> None:
    table = filled.sequences.reload()
    ordinary = [table.write(table.read_file(path), stem="x") for path in table.paths()[:5]]
    table.commit(ordinary, removed=table.paths()[:5])
    there = rows(filled)
    maintain(filled)
    table = filled.sequences.reload()
    found = {path: cut.cut_of(table, path) for path in table.paths()}
    assert list(found.values()).count(None) == 1
    check(filled, [path for path, one in found.items() if one])
    assert rows(filled).equals(there)


def changed(cohort: cohorts.MadeCohort, folder: Path, *, people: range = range(SUBJECTS), flips: int = 5, seed: int = 0) -> str:
    """The cohort's VCF with some of its people, and some of their calls changed."""
    import pysam

    draw = np.random.default_rng(seed)
    with pysam.VariantFile(cohort.vcf) as file:
        lines = [str(record).split() for record in file]
        names = list(file.header.samples)
        length = file.header.contigs["chr1"].length
    for at in draw.choice(len(lines), flips, replace=False):
        column = 9 + draw.integers(len(names))
        lines[at][column] = "1|0" if lines[at][column] != "1|0" else "0|1"
    records = [(one[0], one[1], one[3], one[4], *(one[9 + person] for person in people)) for one in lines]
    return write_vcf(folder / f"changed-{seed}.vcf.gz", vcf_text({"chr1": length}, [names[at] for at in people], records))


def test_closing_keeps_cut_and_order(cohort: cohorts.MadeCohort, filled: Store, tmp_path: Path) -> None:
    vcf = changed(cohort, tmp_path)
    intake = read(cohort.genome, cohort.regions, vcf, tmp_path / "w")
    before = set(filled.sequences.reload().paths())
    number, opened, closed = publish(filled, intake, tmp_path / "w", "second")
    assert (number, opened) == (2, closed)
    assert 0 < opened <= 10
    check(filled)
    assert before & set(filled.sequences.reload().paths())
    there = rows(filled)
    assert len(there) == ROWS + opened
    assert (there["until_run"] == 2).sum() == closed
    assert publish(filled, intake, tmp_path / "w", "third")[1:] == (0, 0)


def test_a_read_by_region_opens_the_files_of_its_regions(cohort: cohorts.MadeCohort, few: None, tmp_path: Path) -> None:
    embed(config(cohort, tmp_path / "s"), show=False)
    store = Store(str(tmp_path / "s"))
    whole = store.read(columns=["mean"]).to_pylist()
    table = store.sequences.reload()
    everything = table.paths()
    needed = [file.path for file, _ in table.files() if file.minimum["region_id"] <= "r00005" <= file.maximum["region_id"]]
    assert len(needed) < len(everything) / 2
    for path in set(everything) - set(needed):
        Path(f"{table.uri}/{path}").write_bytes(b"not read")
    # And of those files the row groups of other regions.
    spoiled = 0
    for path in needed:
        footer = pq.ParquetFile(f"{table.uri}/{path}").metadata
        at = footer.schema.names.index("region_id")
        for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
            ends = group.column(at).statistics
            if not ends.min <= "r00005" <= ends.max:
                with Path(f"{table.uri}/{path}").open("r+b") as file:
                    file.seek(group.column(0).data_page_offset)
                    file.write(b"\0" * 8)
                spoiled += 1
    assert spoiled
    found = Store(store.uri).read(columns=["mean"], where={"region_id": "r00005"}).to_pylist()
    assert sorted(row["sequence_id"] for row in found) == sorted(
        row["sequence_id"] for row in whole if row["region_id"] == "r00005"
    )


def test_keys_of_old_stores_are_found_as_they_are_spelled(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("sequence_id,region_id,sequence\na,x,ACGTACGTAC\nb,x,ACGTACGTAA\nc,1e+10,ACGTACGTAG\nd,y,ACGTACGTAT\n")
    store = Store(str(tmp_path / "s"))
    embed(EmbedConfig.make(sources=(str(source),), store=store.uri, source_name="a", runner="local"), show=False)
    table = store.sequences.reload()
    rows_there = table.read_file(table.paths()[0])
    spelled = {"a": "\u2003x", "b": " x ", "c": "1e+10", "d": "y"}
    at = rows_there.schema.get_field_index("region_id")
    values = [spelled[name] for name in rows_there["sequence_id"].to_pylist()]
    table.commit([table.write(rows_there.set_column(at, "region_id", [values]), stem="x")], removed=table.paths())
    asked = {"x": "ab", "10000000000": "c", "y": "d"}
    for value, names in asked.items():
        found = store.read(columns=["mean"], where={"region_id": value})
        assert sorted(found["sequence_id"].to_pylist()) == list(names)


def test_stores_without_a_cohort_look_as_before(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("sequence_id,region_id,sequence\na,x,ACGTACGTAC\n")
    store = Store(str(tmp_path / "s"))
    embed(EmbedConfig.make(sources=(str(source),), store=store.uri, source_name="a", runner="local"), show=False)
    table = store.sequences.reload()
    assert table.snapshot.metadata().configuration == {"delta.dataSkippingStatsColumns": "source_name,from_run"}
    ((file, _),) = table.files()
    assert set(file.minimum) == {"source_name", "from_run"}
    assert cut.cut_of(table, file.path) is None


def test_a_store_of_ordinary_files_is_continued(
    cohort: cohorts.MadeCohort, few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "s"))
    intake = read(cohort.genome, cohort.regions, cohort.vcf, tmp_path / "a")
    with monkeypatch.context() as before:
        before.setattr(Cut, "packing", DISTINCT)
        publish(store, intake, tmp_path / "a")
    ordinary = set(store.sequences.reload().paths())
    assert {cut.cut_of(store.sequences, path) for path in ordinary} == {None}
    assert publish(store, intake, tmp_path / "a", "again")[1:] == (0, 0)
    vcf = changed(cohort, tmp_path)
    _, opened, closed = publish(store, read(cohort.genome, cohort.regions, vcf, tmp_path / "b"), tmp_path / "b", "third")
    assert opened == closed > 0
    new = [path for path in store.sequences.reload().paths() if path not in ordinary]
    kinds = [cut.cut_of(store.sequences, path) for path in new]
    assert {one is None for one in kinds} == {True, False}
    maintain(store)
    assert len(rows(store)) == ROWS + opened


def test_what_comes_after_a_withdrawn_run_has_the_layout(cohort: cohorts.MadeCohort, few: None, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    first = embed(config(cohort, tmp_path / "s"), show=False)
    rollback(store, first.run_id)
    again = embed(config(cohort, tmp_path / "s", vcf=(changed(cohort, tmp_path),)), show=False)
    assert 0 < again.opened == again.closed
    check(store)


def test_entries_that_the_encoder_refuses_leave_the_others_in_their_layout(
    cohort: cohorts.MadeCohort, few: None, tmp_path: Path
) -> None:
    intake = read(cohort.genome, cohort.regions, cohort.vcf, tmp_path / "a")
    whole = pl.concat([pl.from_arrow(one.table()) for one in intake.entries.each()])
    out = whole.group_by("sequence_digest").len().sort("len")["sequence_digest"].to_list()[-2:]
    left = without(intake, out, "no tokens", tmp_path / "b")
    gone = whole.filter(pl.col("sequence_digest").is_in(out))
    assert left.entries.rows == len(whole) - len(gone)
    assert sorted(left.rejects.table()["sequence_id"].to_pylist()) == sorted(gone["sequence_id"])
    store = Store(str(tmp_path / "s"))
    assert publish(store, left, tmp_path / "b")[1] == ROWS - len(gone)
    check(store)
    assert set(rows(store)["sequence_id"]) == set(whole["sequence_id"]) - set(gone["sequence_id"])


# -- comparison by arrays and by ids ----------------------------------------------------------------------------------------


def both_ways(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, intake: Callable[[Path], Intake], mode: str
) -> tuple[pl.DataFrame, int]:
    """The rows after a run, the same by arrays and by ids, and how many it opened."""
    monkeypatch.setattr(Publication, "_check_kept", lambda self, kept, version, each: seen.append(names(kept)))
    seen: list[set[str]] = []
    found, counted = [], []
    checked: list[tuple[int, int]] = []
    monkeypatch.setattr(Publication, "check_closed", lambda self, before, gone, *_: checked.append((before, gone)))
    for way in ("arrays", "ids"):
        store = Store(str(tmp_path / way))
        shutil.copytree(filled.uri, store.uri)
        with monkeypatch.context() as one:
            if way == "ids":
                one.setattr(arrays, "stored", lambda *_: None)
            counted.append(
                (publish(store, intake(tmp_path / f"{way}-spills"), tmp_path / f"{way}-w", "next", mode), checked.pop())
            )
        found.append(rows(store))
    assert counted[0] == counted[1]
    assert found[0].equals(found[1])
    assert seen[0] == seen[1]
    return found[0], counted[0][0][1]


def names(kept: Any) -> set[str]:
    return {name for at in range(kept.partitions) for name in kept.table(at)["sequence_digest"].to_pylist()}


@pytest.mark.parametrize("mode", ["replace", "merge"])
@pytest.mark.parametrize("people", [range(SUBJECTS), range(30), range(20, 40)])
def test_arrays_and_ids_find_the_same_changes(
    cohort: cohorts.MadeCohort, filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, people: range
) -> None:
    vcf = changed(cohort, tmp_path, people=people, flips=20, seed=len(people))
    # Regions that are gone, and one that is new.
    lines = Path(cohort.regions).read_text().splitlines()[2:-1]
    bed = tmp_path / "r.bed"
    bed.write_text("".join(f"{line}\n" for line in [*lines, lines[0].replace("r00002", "r00002b")]))
    intake = functools.partial(read, cohort.genome, str(bed), vcf)
    after, opened = both_ways(filled, tmp_path, monkeypatch, lambda folder: intake(folder), mode)
    new = 2 * len(people)
    assert new < opened < 3 * new
    current = after.filter(pl.col("until_run").is_null())
    assert len(current) == (2 * len(people) * 10 if mode == "replace" else ROWS + new)


def test_a_key_of_a_region_that_changes_changes_its_entries(
    cohort: cohorts.MadeCohort, filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = tmp_path / "r.bed"
    lines = Path(cohort.regions).read_text().splitlines()
    bed.write_text("".join(f"{line}\n" for line in lines[:3]) + "".join(f"{line}\t0\t-\n" for line in lines[3:4]))
    intake = functools.partial(read, cohort.genome, str(bed), cohort.vcf)
    after, opened = both_ways(filled, tmp_path, monkeypatch, lambda folder: intake(folder), "merge")
    assert opened == 2 * SUBJECTS
    assert after.filter(pl.col("until_run") == 2)["region_id"].unique().to_list() == ["r00003"]


def test_rows_of_an_earlier_source_of_the_name_are_compared_by_id(
    cohort: cohorts.MadeCohort, filled: Store, tmp_path: Path
) -> None:
    table = filled.sequences.reload()
    path = table.paths()[0]
    own = table.read_file(path)
    at = own.schema.get_field_index("sequence_id")
    ids = [f"old-{number}" for number in range(len(own))]
    table.commit([table.write(own.set_column(at, "sequence_id", [ids]), stem="x")], removed=[path])
    intake = read(cohort.genome, cohort.regions, cohort.vcf, tmp_path / "w")
    assert publish(filled, intake, tmp_path / "w", "next")[1:] == (len(own), len(own))
    current = rows(filled).filter(pl.col("until_run").is_null())
    assert len(current) == current["sequence_id"].n_unique() == ROWS


def test_what_is_stored_as_it_is_read_writes_no_file(cohort: cohorts.MadeCohort, filled: Store, tmp_path: Path) -> None:
    before = filled.sequences.reload().paths()
    intake = read(cohort.genome, cohort.regions, cohort.vcf, tmp_path / "w")
    assert publish(filled, intake, tmp_path / "w", "next")[1:] == (0, 0)
    assert filled.sequences.reload().paths() == before


def test_regions_without_calls_of_a_haploid_man(tmp_path: Path, few: None) -> None:
    """Widths that differ between regions, and subjects that have one haplotype, in both comparisons."""
    genome = write_genome(tmp_path / "g.fa", {"c": "ACGTTGCAACGGATCCTTAGGCAT" * 10})
    bed = tmp_path / "r.bed"
    bed.write_text("c\t0\t60\tr1\nc\t60\t120\tr2\n")
    calls = {"first": ("0|1", "1"), "second": ("0|1", "1|0"), "third": ("1", "1")}
    store = Store(str(tmp_path / "s"))
    opened = {}
    for name, own in calls.items():
        vcf = write_vcf(tmp_path / f"{name}.vcf.gz", vcf_text({"c": 240}, ["A", "B"], [("c", 11, "G", "T", *own)]))
        opened[name] = publish(store, read(genome, str(bed), vcf, tmp_path / name), tmp_path / name, name)[1:]
    current = rows(store).filter(pl.col("until_run").is_null())
    assert opened == {"first": (7, 0), "second": (1, 0), "third": (1, 3)}
    assert sorted(current["sequence_id"]) == ["A/r1/1", "A/r2/1", "A/r2/2", "B/r1/1", "B/r2/1", "B/r2/2"]


def test_the_log_is_told_of_statistics_once(filled: Store) -> None:
    table = filled.sequences.reload()
    version = table.version()
    table.measure(cut.MEASURED)
    assert table.version() == version
    told = json.dumps(table.snapshot.metadata().configuration)
    assert ("region_id" in told, "subject_id" in told) == (True, False)


def drawn_people(folder: Path, subjects: int, people: int, **sizes: int) -> tuple[RunSummary, RunSummary]:
    """The runs of a cohort, and of more people who carry its haplotypes, under one source name."""
    first = cohorts.write(folder / "few", subjects=subjects, **sizes)
    drawn = cohorts.redrawn(people, subjects, seed=1)
    second = cohorts.write(folder / "many", subjects=subjects, drawn=drawn, **sizes)
    few, many = (embed(config(one, folder / "s", max_closed=1.0), show=False) for one in (first, second))
    return few, many


def test_people_with_known_haplotypes_encode_nothing(tmp_path: Path) -> None:
    few, many = drawn_people(tmp_path, 20, 60, regions=3, bases=60, records=8)
    assert (few.encoded, many.read, many.encoded) == (few.distinct, 360, 0)


@pytest.mark.long
def test_ten_thousand_people_with_known_haplotypes_encode_nothing(tmp_path: Path) -> None:
    few, many = drawn_people(tmp_path, 1000, 10_000, regions=10, bases=300, records=20)
    assert (few.encoded, many.read, many.encoded) == (few.distinct, 200_000, 0)
    check_rows = rows(Store(str(tmp_path / "s"))).filter(pl.col("until_run").is_null())
    assert len(check_rows) == check_rows["sequence_id"].n_unique() == 200_000
