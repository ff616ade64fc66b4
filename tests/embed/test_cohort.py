"""A cohort as a source of a store: rows of `sequences` and `haplotypes`, scheduled runs, erasure, one fingerprint however it is read."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from people import as_bcf, stored, vcf_text, write_genome, write_vcf

from dnafeat.embed.config import EmbedConfig, NightlyConfig
from dnafeat.embed.intake import Checks, Discretion
from dnafeat.embed.job import embed
from dnafeat.embed.regions import take_in_regions
from dnafeat.embed.report import RunSummary
from dnafeat.embed.schedule import nightly
from dnafeat.errors import DamagedError, UsageError
from dnafeat.sources.bundled import PEOPLE_GENOME, PEOPLE_PANEL, PEOPLE_REGIONS, PEOPLE_VCF
from dnafeat.sources.cohort import layout
from dnafeat.sources.regions.config import GenomeConfig
from dnafeat.store import Store
from dnafeat.store.file_list import file_list
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from dnafeat.store.rollback import rollback

GENOME = {"c": "ACGTTGCAACGGATCCTTAGGCAT" * 10}
RECORDS = [
    ("c", 11, "G", "T", "0|1", "1|1", "0|0", "0|1"),
    ("c", 31, "A", "AC", "1|0", "0|0", "0|0", "1|0"),
    ("c", 71, "C", "CT", "0|0", "0|0", "1|0", "0|0"),
]
SAMPLES = ["ANNA", "BERT", "CORA", "DORA"]


def records(*columns: int) -> list[tuple[Any, ...]]:
    """The records with the calls of some of the people."""
    own = []
    for contig, position, _, alt, *calls in RECORDS:
        ref = GENOME["c"][position - 1]
        alt = ref + alt[1:] if len(alt) > 1 else next(base for base in "ACGT" if base != ref)
        own.append((contig, position, ref, alt, *(calls[at] for at in columns)))
    return own


class Place:
    """A store and a cohort's files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, str(folder / "store")
        self.genome = write_genome(folder / "g.fa", GENOME)
        self.regions = str(folder / "r.bed")
        Path(self.regions).write_text("c\t0\t60\tr1\nc\t20\t100\tr2\t0\t-\nc\t120\t180\tr3\n")

    def vcf(self, *columns: int, name: str = "v.vcf.gz") -> str:
        return write_vcf(self.folder / name, vcf_text({"c": 240}, [SAMPLES[at] for at in columns], records(*columns)))

    def config(self, vcf: str | None, **options: Any) -> EmbedConfig:
        files = (vcf,) if vcf else ()
        own = {"genome": self.genome, "regions": self.regions, "vcf": files, "store": self.store, "source_name": "people"}
        return EmbedConfig.make({**own, "runner": "local", **options})

    def embed(self, vcf: str | None, **options: Any) -> RunSummary:
        return embed(self.config(vcf, **options), show=False)

    def current(self, table: str) -> pl.DataFrame:
        return pl.read_delta(f"{self.store}/{table}").filter(pl.col("until_run").is_null())

    def carriers(self) -> dict[tuple[str, str], int]:
        return {(r, d): n for r, d, n in self.current("haplotypes").select("region_id", "sequence_digest", "carriers").rows()}

    def counted(self) -> dict[tuple[str, str], int]:
        """The same counted in `sequences`."""
        return dict(Counter(self.current("sequences").select("region_id", "sequence_digest").rows()))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_runs_of_a_cohort(place: Place) -> None:
    vcf = place.vcf(0, 1, 2)
    first = place.embed(vcf)
    rows = place.current("sequences")
    assert set(rows["sequence_id"]) == {f"{s}/{r}/{h}" for s, r, h in itertools.product(SAMPLES[:3], ("r1", "r2", "r3"), "12")}
    assert first.encoded == first.distinct == rows["sequence_digest"].n_unique()
    expected = {
        "regions": 3,
        "subjects": 3,
        "haplotypes": 18,
        "distinct": first.distinct,
        "saved": 18 - first.distinct,
        "overlaps": 0,
    }
    assert {name: first.cohort[name] for name in expected} == expected
    assert place.carriers() == place.counted()
    reference = place.current("haplotypes").filter(pl.col("is_reference"))
    assert sorted(reference["region_id"]) == ["r1", "r2", "r3"]
    assert reference["variants"].to_list() == [[]] * 3
    named = {one for many in place.current("haplotypes")["variants"] for one in many}
    assert named == {f"c-{at}-{ref}-{alt}" for _, at, ref, alt, *_ in records(0)}

    again = place.embed(vcf)
    assert (again.encoded, again.opened, again.closed) == (0, 0, 0)
    assert len(pl.read_delta(f"{place.store}/haplotypes")) == len(place.current("haplotypes"))

    # A new subject alone, who shares every haplotype.
    more = place.embed(place.vcf(3, name="new.vcf.gz"), mode="merge")
    assert (more.encoded, more.opened, more.closed) == (0, 6, 0)
    assert place.carriers() == place.counted()
    assert sum(place.carriers().values()) == 24

    forgotten = forget(Store(place.store), {"subject_id": "ANNA"})
    assert forgotten.entries == 6
    maintain(Store(place.store))
    assert set(place.current("sequences")["subject_id"]) == {"BERT", "CORA", "DORA"}
    assert place.carriers() == place.counted()
    assert [str(file) for file in Path(place.store).rglob("*") if file.is_file() and b"ANNA" in file.read_bytes()] == []

    # The first three again, of whom one is gone and one has other alleles.
    changed = [(*one[:4], "1|1") for one in records(0)]
    text = vcf_text({"c": 240}, ["BERT"], changed)
    last = place.embed(write_vcf(place.folder / "changed.vcf.gz", text), max_closed=1.0)
    assert set(place.current("sequences")["subject_id"]) == {"BERT"}
    assert last.closed == 12 + last.opened
    assert place.carriers() == place.counted()
    history = pl.read_delta(f"{place.store}/sequences")
    assert len(Store(place.store).read(run=more.run_id)) == len(history.filter(pl.col("from_run") <= more.run_number))


def damaged(store: Store, table: str, number: int = 0) -> Path:
    """A table's file, of which a page is zeros from now on."""
    file = Path(store.uri) / table / sorted(getattr(store, table).reload().paths())[number]
    raw = file.read_bytes()
    file.write_bytes(raw[:40] + bytes(60) + raw[100:])
    return file


def test_files_of_haplotypes_are_listed_where_there_are_some(place: Place) -> None:
    place.embed(None)
    store = Store(place.store)
    with pytest.raises(UsageError, match="no table haplotypes yet"):
        file_list(store, "haplotypes")
    with pytest.raises(UsageError, match=r"no table 'haplotype': .*rejects, runs, haplotypes, effects .*haplotypes"):
        file_list(store, "haplotype")
    place.embed(place.vcf(0, 1), max_closed=1.0)
    listed = file_list(store, "haplotypes")
    assert [file["uri"] for file in listed["files"]] == [f"{store.haplotypes.uri}/{path}" for path in store.haplotypes.paths()]
    assert sum(file["rows"] for file in listed["files"]) == len(place.current("haplotypes"))


def test_a_damaged_file_of_haplotypes(place: Place) -> None:
    vcf = place.vcf(0, 1, 2)
    place.embed(vcf)
    store = Store(place.store)
    file = damaged(store, "haplotypes")
    with pytest.raises(DamagedError, match=r"haplotypes.*--drop-damaged"):
        place.embed(place.vcf(0, 1, name="fewer.vcf.gz"), max_closed=1.0)
    with pytest.raises(DamagedError, match=r"6 entries.*were erased.*1 files could not be searched.*haplotypes"):
        forget(store, {"subject_id": "CORA"})
    assert set(place.current("sequences")["subject_id"]) == {"ANNA", "BERT"}
    assert list(maintain(store, drop_damaged=True).dropped) == [str(file)]
    place.embed(vcf)
    assert place.carriers() == place.counted()


def test_an_erasure_counts_carriers_beside_a_damaged_file_of_entries(place: Place) -> None:
    place.embed(place.vcf(0, 1))
    place.embed(place.vcf(2, name="other.vcf.gz"), source_name="others")
    store = Store(place.store)
    before = place.carriers()
    mine = [path for path in store.sequences.paths() if len(store.sequences.read_file(path)) == 12]
    damaged(store, "sequences", 1 - sorted(store.sequences.paths()).index(mine[0]))
    with pytest.raises(DamagedError, match=r"6 entries.*were erased"):
        forget(store, {"subject_id": "ANNA"})
    left = store.sequences.reload().read_file(*[path for path in store.sequences.paths() if path.startswith("kept-")])
    assert set(left["subject_id"].to_pylist()) == {"BERT"}
    own = Counter(zip(left["region_id"].to_pylist(), left["sequence_digest"].to_pylist(), strict=True))
    carriers = pl.read_delta(f"{place.store}/haplotypes").filter(pl.col("source_name") == "people")
    assert {(r, d): n for r, d, n in carriers.select("region_id", "sequence_digest", "carriers").rows()} == dict(own)
    assert set(own) < set(before)


def test_an_erasure_takes_out_the_haplotypes_that_a_run_is_about_to_commit(place: Place) -> None:
    place.embed(place.vcf(0, 1))
    store = Store(place.store)
    rows = store.haplotypes.read()
    late = store.haplotypes.write(rows, stem="late")
    assert [one.path for one in store.haplotypes.uncommitted()] == [late.path]
    forget(store, {"subject_id": "ANNA"})
    assert store.haplotypes.reload().uncommitted() == []
    assert place.carriers() == place.counted()


def test_carriers_after_a_withdrawn_run_and_maintenance(place: Place) -> None:
    place.embed(place.vcf(0, 1))
    second = place.embed(place.vcf(0, 2, name="b.vcf.gz"))
    rollback(Store(place.store), second.run_id)
    for columns in ((0, 1), (1, 2), (0, 1, 2, 3)):
        place.embed(place.vcf(*columns, name="c.vcf.gz"))
        assert place.carriers() == place.counted()
    before = place.current("haplotypes").sort("region_id", "sequence_digest")
    files = len(Store(place.store).haplotypes.paths())
    maintain(Store(place.store))
    assert len(Store(place.store).haplotypes.paths()) < files
    assert place.current("haplotypes").sort("region_id", "sequence_digest").equals(before)


def test_without_a_cohort_regions_are_entries_of_nobody(place: Place) -> None:
    summary = place.embed(None, tile=30)
    rows = place.current("sequences")
    assert sorted(rows["sequence_id"])[:2] == ["r1:0-30", "r1:30-60"]
    assert rows["region_id"].to_list() == rows["sequence_id"].to_list()
    assert not {"subject_id", "haplotype"} & set(rows.columns)
    assert (summary.cohort["regions"], summary.read) == (7, 7)
    assert not Path(f"{place.store}/haplotypes").exists()


def test_a_refused_cohort_stores_nothing(place: Place) -> None:
    vcf = write_vcf(place.folder / "x.vcf.gz", vcf_text({"c": 240}, ["A"], [("c", 150, "NN", "A", "1|1")]))
    with pytest.raises(UsageError, match="c:150"):
        place.embed(vcf)
    assert len(pl.read_delta(f"{place.store}/sequences")) == 0


def intake(place: Place, vcf: str, folder: str, **options: Any) -> Any:
    found = layout.look(GenomeConfig(genome=place.genome, regions=place.regions, vcf=(vcf,)))
    return take_in_regions(found, Checks(), place.folder / folder, **options)


def test_one_fingerprint_however_it_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    vcf = place.vcf(0, 1, 2, 3)
    first = intake(place, vcf, "a")
    assert intake(place, as_bcf(vcf, place.folder / "v.bcf"), "b").fingerprint == first.fingerprint
    monkeypatch.setattr(layout, "_REGIONS", 1)
    parts = intake(place, vcf, "c")
    assert parts.fingerprint == first.fingerprint
    assert parts.entries.rows == first.entries.rows == 24
    assert parts.cohort == first.cohort

    def elsewhere(function: Any, items: Any, what: str) -> list[Any]:
        """As tasks do it: function and item are sent to another process, and so is what comes back."""
        sent = [pickle.loads(pickle.dumps((function, item))) for item in items]
        return [pickle.loads(pickle.dumps(call(item))) for call, item in sent]

    spread = intake(place, vcf, "e", each=elsewhere)
    assert spread.fingerprint == first.fingerprint
    assert sorted(spread.entries.table()["sequence_id"].to_pylist()) == sorted(first.entries.table()["sequence_id"].to_pylist())
    assert intake(place, place.vcf(0, 1, 2, name="fewer.vcf.gz"), "d").fingerprint != first.fingerprint


@pytest.mark.long
@pytest.mark.usefixtures("two_cpus")
def test_one_fingerprint_by_tasks_of_ray(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from dnafeat.cluster.tasks import over_tasks

    monkeypatch.setattr(layout, "_REGIONS", 1)
    vcf = place.vcf(0, 1, 2, 3)
    here, there = intake(place, vcf, "here"), intake(place, vcf, "there", each=over_tasks(False))
    assert (there.fingerprint, there.cohort, there.entries.rows) == (here.fingerprint, here.cohort, here.entries.rows)
    assert there.entries.table().equals(here.entries.table())


def test_pseudonyms_of_subjects_begin_their_ids(place: Place) -> None:
    hidden = Discretion(columns=("subject_id",), salt=b"x" * 32)
    rows = intake(place, place.vcf(0, 1), "a", discretion=hidden).entries.table().to_pylist()
    assert all(row["subject_id"].startswith("hk_") for row in rows)
    assert [row["sequence_id"] for row in rows] == [f"{row['subject_id']}/{row['region_id']}/{row['haplotype']}" for row in rows]
    with pytest.raises(UsageError, match="hash_keys"):
        intake(place, place.vcf(0), "b", discretion=Discretion(columns=("gene_id",), salt=b"x" * 32))


def test_settings_of_a_scheduled_run_from_a_file(place: Place) -> None:
    lines = f"genome: {place.genome}\nregions: {place.regions}\nvcf: [{place.vcf(0, 1)}]\nstore: {place.store}\n"
    file = place.folder / "nightly.yaml"
    file.write_text(lines + "pass: true\nsource_name: people\nrunner: local\nmodel: dnafeat-mini\n")
    night = nightly(NightlyConfig.load(str(file), {"tile": "50"}), show=False)
    assert (night.channel_moved, night.cohort["subjects"], night.cohort["regions"]) == (True, 2, 6)
    assert set(place.current("sequences")["region_id"]) >= {"r1:0-50", "r1:50-60"}


def test_settings_of_files_keep_their_digest(place: Place) -> None:
    assert "feature" not in EmbedConfig.make(sources=("a.fa",), store="s").shaping()
    assert place.config("v", feature="CDS").shaping()["feature"] == "CDS"


def test_ten_people_of_the_bundled_ones_come_a_night_later(tmp_path: Path) -> None:
    short = ("MT-ATP8",)
    lines = Path(PEOPLE_REGIONS).read_text().splitlines()
    regions = tmp_path / "short.bed"
    regions.write_text("".join(f"{line}\n" for line in lines if line.split("\t")[3] in short))
    letters = stored(GenomeConfig(genome=PEOPLE_GENOME, regions=str(regions), vcf=(PEOPLE_VCF,)))[0]
    everybody = list(dict.fromkeys(person for person, _, _ in letters))
    assert {*everybody} <= {line.split("\t")[0] for line in Path(PEOPLE_PANEL).read_text().splitlines()}
    carried = Counter(letters.values())
    alone = {person for (person, _, _), own in letters.items() if carried[own] == 1}
    late = {*sorted(alone)[:5], *everybody[:5]}
    (tmp_path / "early.txt").write_text("".join(f"{name}\n" for name in everybody if name not in late))
    own = {"genome": PEOPLE_GENOME, "regions": str(regions), "vcf": (PEOPLE_VCF,), "store": str(tmp_path / "s")}
    config = EmbedConfig.make({**own, "source_name": "people", "runner": "local"})
    before = {own for (person, _, _), own in letters.items() if person not in late}
    first = embed(config.replace(samples=str(tmp_path / "early.txt")), show=False)
    assert (first.read, first.encoded) == (len(everybody) - len(late), len(before))
    (tmp_path / "late.txt").write_text("".join(f"{name}\n" for name in late))
    others = {"samples": str(tmp_path / "late.txt"), "mode": "merge", "source_name": "people", "runner": "local"}
    second = nightly(NightlyConfig.make({**own, **others}), show=False)
    new = {*letters.values()} - before
    assert new
    assert (second.read, second.encoded, second.opened, second.closed) == (len(late), len(new), len(late), 0)
    third = embed(config, show=False)
    assert (third.encoded, third.opened, third.closed) == (0, 0, 0)

    store = Store(own["store"])
    there = {row["sequence_id"]: row for row in store.read().to_pylist()}
    assert forget(store, {"subject_id": sorted(alone)[0]}).vectors == 1
    maintain(store)
    left = {row["sequence_id"]: row for row in Store(own["store"]).read().to_pylist()}
    assert left == {name: row for name, row in there.items() if row["subject_id"] != sorted(alone)[0]}
    files = [file for file in Path(store.uri).rglob("*") if file.is_file()]
    assert [file for file in files if sorted(alone)[0].encode() in file.read_bytes()] == []
    table = pl.read_delta(f"{own['store']}/haplotypes").filter(pl.col("until_run").is_null())
    assert table["carriers"].sum() == len(left) == len(everybody) - 1


@pytest.mark.long
def test_all_of_the_bundled_people(tmp_path: Path) -> None:
    own = {"genome": PEOPLE_GENOME, "regions": PEOPLE_REGIONS, "vcf": (PEOPLE_VCF,), "store": str(tmp_path / "s")}
    config = EmbedConfig.make({**own, "source_name": "people", "runner": "local"})
    first = embed(config, show=False)
    assert (first.read, first.distinct, first.encoded) == (43_078, 7_812, 7_812)
    assert embed(config, show=False).encoded == 0
    store = Store(own["store"])
    assert forget(store, {"subject_id": "HG00096"}).entries == 17
    maintain(store)
    assert [file for file in Path(store.uri).rglob("*") if file.is_file() and b"HG00096" in file.read_bytes()] == []
    assert len(store.read()) == 43_078 - 17


def test_a_source_without_people_goes_into_a_store_that_has_haplotypes(place: Place) -> None:
    place.embed(place.vcf(0, 1, 2))
    before = place.carriers()
    table = place.folder / "plain.csv"
    table.write_text(f"sequence_id,region_id,sequence\na,r1,{GENOME['c'][:50]}\n")
    summary = place.embed(None, sources=(str(table),), genome=None, regions=None, source_name="plain")
    assert (summary.encoded, place.carriers()) == (1, before)
