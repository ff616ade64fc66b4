"""Effects of variants from files to a table: what is encoded, compared, replaced, kept, erased and refused."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from people import as_bcf, vcf_text, write_genome, write_vcf
from s3 import S3

from dnafeat.cli.main import main
from dnafeat.effects import EffectsConfig, effects
from dnafeat.effects.distances import distances
from dnafeat.effects.report import EffectsSummary
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.job import embed
from dnafeat.encoder import Encoder
from dnafeat.errors import UsageError
from dnafeat.sequence import digest
from dnafeat.sources.bundled import PEOPLE_GENOME, PEOPLE_PANEL, PEOPLE_REGIONS, PEOPLE_VCF
from dnafeat.store import Store
from dnafeat.store.file_list import file_list
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from tests.effects.test_windows import random_letters, random_records, slow_windows

SAMPLES = ["ANNA", "BERT", "CORA"]
RNG = np.random.default_rng(3)
CONTIGS = {"c": random_letters(RNG, 400), "d": random_letters(RNG, 60)}
RECORDS = random_records(RNG, CONTIGS, 12)
KEY = ["source_name", "feature_version", "scope", "variant_id", "alternate_digest", "region_id", "window", "vector"]


class Place:
    """A store, a genome and variants."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model, self.store = folder, model, str(folder / "store")
        self.genome = write_genome(folder / "g.fa", CONTIGS)

    def vcf(self, records: list[tuple[Any, ...]] = RECORDS, samples: list[str] = SAMPLES, name: str = "v.vcf.gz") -> str:
        lengths = {contig: len(letters) for contig, letters in CONTIGS.items()}
        own = [record[: 4 + len(samples)] for record in records]
        return write_vcf(self.folder / name, vcf_text(lengths, samples, own))

    def run(self, **options: Any) -> EffectsSummary:
        given: dict[str, Any] = {"vcf": (self.vcf(),)} if "vcf" not in options else {}
        given |= {"store": self.store, "genome": self.genome, "output": str(self.folder / "out.parquet"), "window": 32}
        given |= {"runner": "local", **({} if "version" in options else {"model": self.model})}
        return effects(EffectsConfig.make({**given, **options}), show=False)

    def table(self) -> pl.DataFrame:
        return pl.read_delta(f"{self.store}/effects")


@pytest.fixture
def place(tmp_path: Path, model: str) -> Place:
    return Place(tmp_path, model)


def test_distances_of_equal_vectors_are_0_and_symmetrical() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 500, 33)).astype(np.float32)
    assert (distances(a, a)[0] == 0).all()
    assert (distances(a, a)[1] == 0).all()
    for there, back in zip(distances(a, b), distances(b, a), strict=True):
        np.testing.assert_array_equal(there, back)
    cosine, l2 = distances(a, b)
    np.testing.assert_allclose(l2, np.linalg.norm(a.astype(float) - b, axis=1), rtol=1e-12)
    products = (
        (a.astype(float) * b).sum(axis=1) / np.linalg.norm(a.astype(float), axis=1) / np.linalg.norm(b.astype(float), axis=1)
    )
    np.testing.assert_allclose(cosine, 1 - products, atol=1e-12)
    assert (distances(np.zeros_like(a), b)[0] == 1).all()
    assert (distances(np.zeros_like(a), np.zeros_like(a))[0] == 0).all()


def test_effects_equal_numpy_on_the_encoder_and_on_read_vectors(place: Place) -> None:
    done = place.run()
    rows = pq.read_table(done.output).to_pandas()
    windows = [slow_windows(CONTIGS[contig], position - 1, ref, alt, 32) for contig, position, ref, alt, *_ in RECORDS]
    names = [(digest(a.encode()), digest(b.encode())) for a, b in windows]
    expected = Counter(pair for pair in names for _ in range(4))
    assert Counter(zip(rows["reference_digest"], rows["alternate_digest"], strict=True)) == expected
    distinct = {name for pair in names for name in pair}
    assert (done.variants, done.rows, done.windows) == (len(RECORDS), 4 * len(RECORDS), 2 * len(RECORDS))
    assert (done.distinct, done.encoded, done.samples) == (len(distinct), len(distinct), 3)

    encoder = Encoder.from_pretrained(place.model)
    vectors = [encoder.encode([one[side] for one in windows]) for side in (0, 1)]
    stored = Store(place.store).read(source=done.source_name, columns=["sequence_digest", "mean", "projected"]).to_pandas()
    read = {row.sequence_digest: row for row in stored.itertuples()}
    for at, (first, second) in enumerate(names):
        own = rows[(rows["reference_digest"] == first) & (rows["alternate_digest"] == second)].drop_duplicates("vector")
        for row in own.itertuples():
            a, b = (np.asarray(getattr(found, row.vector)[at], np.float64) for found in vectors)
            cosine = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert row.cosine_distance == pytest.approx(cosine, abs=1e-5)
            assert row.l2 == pytest.approx(np.linalg.norm(a - b), abs=1e-4, rel=1e-5)
            if row.vector in ("mean", "projected"):
                a, b = (np.asarray(getattr(read[name], row.vector), np.float64) for name in (first, second))
                assert row.l2 == pytest.approx(np.linalg.norm(a - b), rel=1e-6)
        assert (own["reference_bases"] == len(windows[at][0])).all()
        assert (own["alternate_bases"] == len(windows[at][1])).all()
    for kind, found in done.quartiles.items():
        own = rows[(rows["kind"] == kind) & (rows["vector"] == "mean")]["cosine_distance"]
        np.testing.assert_allclose(found["mean"], np.percentile(own, [25, 50, 75]), rtol=1e-4, atol=1e-9)


def test_the_same_command_again_encodes_nothing_and_another_vcf_replaces_the_rows(place: Place) -> None:
    first = place.run()
    output = Path(first.output).read_bytes()
    version = Store(place.store).effects.version()
    again = place.run()
    assert (again.encoded, again.already_stored, again.unchanged) == (0, first.distinct, True)
    assert Path(again.output).read_bytes() == output
    assert Store(place.store).effects.version() == version

    fewer = place.run(vcf=(place.vcf(RECORDS[:-3]),), source_name=None)
    assert (fewer.encoded, fewer.variants, fewer.source_name) == (0, len(RECORDS) - 3, first.source_name)
    assert sorted(place.table()["variant_id"].unique()) == sorted(set(pq.read_table(fewer.output)["variant_id"].to_pylist()))
    # Another window and another source stand beside.
    place.run(window=16)
    place.run(window=8)
    place.run(source_name="mine")
    table = place.table()
    assert len(table) == len(table.unique(KEY)) == 4 * (len(RECORDS) - 3) + 3 * 4 * len(RECORDS)
    assert set(table["source_name"]) >= {"effects:mine#window=32"}
    maintain(Store(place.store))
    [file] = file_list(Store(place.store), "effects")["files"]
    assert file["rows"] == len(table)
    assert place.table().sort(KEY).equals(table.sort(KEY))
    for source in table["source_name"].unique():
        assert len(Store(place.store).read(source=source)) > 0
    assert place.run(source_name="mine").unchanged


def test_sites_without_samples_have_no_carriers(place: Place) -> None:
    done = place.run(vcf=(place.vcf(samples=[]),))
    assert done.samples == 0
    assert place.table()["carriers"].null_count() == place.table()["alleles"].null_count() == done.rows


def test_a_version_lends_its_settings(place: Place) -> None:
    first = place.run(strands="both", vectors=("mean",))
    again = place.run(version=first.feature_version[:8])
    assert (again.encoded, again.feature_version, again.rows) == (0, first.feature_version, len(RECORDS))
    assert set(place.table()["vector"]) == {"mean"}


@pytest.mark.long
def test_files_on_s3_and_as_bcf_give_the_same_rows(place: Place, s3: S3) -> None:
    here = place.run(source_name="x")
    there = s3.uri("files")
    client = s3.client()
    bcf = as_bcf(place.vcf(), place.folder / "v.bcf")
    for file in (place.genome, f"{place.genome}.fai", bcf, f"{bcf}.csi"):
        client.put(file, f"{there.removeprefix('s3://')}/{Path(file).name}")
    on = {"genome": f"{there}/g.fa", "vcf": (f"{there}/v.bcf",), "store": f"{there}/store", "output": f"{there}/out.parquet"}
    done = place.run(**on, source_name="x")
    with client.open(done.output) as file:
        found = pl.read_parquet(file.read())
    assert found.drop("run_id").equals(pl.read_parquet(here.output).drop("run_id"))
    assert place.run(**on, source_name="x").encoded == 0


@pytest.mark.long
def test_both_runners_write_the_same_rows(place: Place, two_cpus: None) -> None:
    here, ray = place.run(), place.run(runner="ray", store=str(place.folder / "other"), output=str(place.folder / "ray.parquet"))
    assert (ray.runner, ray.encoded) == ("ray", here.encoded)
    assert pl.read_parquet(ray.output).drop("run_id").equals(pl.read_parquet(here.output).drop("run_id"))


def test_many_parts_give_the_same_rows_as_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first = place.run()
    monkeypatch.setattr("dnafeat.effects.distances._PART_BYTES", 20_000)
    monkeypatch.setattr("dnafeat.effects.distances._PIECE_BYTES", 5_000)
    monkeypatch.setattr("dnafeat.effects.distances._PAIRS", 3)
    monkeypatch.setattr("dnafeat.sources.cohort.variants._BLOCK", 50)
    monkeypatch.setattr("dnafeat.sources.cohort.variants._BYTES", 1)
    again = place.run()
    assert (again.unchanged, again.rows) == (True, first.rows)


# Regions and haplotypes.


def test_regions_name_the_variants(place: Place) -> None:
    bed = place.folder / "r.bed"
    bed.write_text("c\t0\t200\tg1\t0\t-\nc\t150\t400\tg2\n")
    done = place.run(regions=str(bed))
    table = place.table().filter(pl.col("vector") == "mean")
    inside = [one for one in RECORDS if one[0] == "c"]
    assert done.variants == len(inside)
    assert done.windows == 2 * len(inside)
    assert set(table.select("region_id", "strand").rows()) == {("g1", "-"), ("g2", "+")}
    assert len(table) > len(inside)
    assert len(table) == len(table.unique(KEY, keep="any"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, model: str) -> Place:
    """Twelve of the bundled people, their genes in tiles."""
    place = Place(tmp_path_factory.mktemp("people"), model)
    names = [line.split("\t")[0] for line in Path(PEOPLE_PANEL).read_text().splitlines()[1:13]]
    chosen = place.folder / "people.txt"
    chosen.write_text("\n".join(names) + "\n")
    bed = place.folder / "genes.bed"
    bed.write_text(
        "".join(f"{line}\n" for line in Path(PEOPLE_REGIONS).read_text().splitlines() if "ND4" in line or "HV" in line)
    )
    place.genome = PEOPLE_GENOME
    about = {"genome": PEOPLE_GENOME, "regions": str(bed), "vcf": (PEOPLE_VCF,), "samples": str(chosen), "tile": 200}
    config = EmbedConfig.make({**about, "store": place.store, "model": model, "runner": "local", "vectors": ("mean", "max")})
    embed(config, show=False)
    return place


def test_haplotypes_of_people_beside_the_reference(people: Place) -> None:
    bed, chosen = people.folder / "genes.bed", people.folder / "people.txt"
    given = {"regions": str(bed), "vcf": (PEOPLE_VCF,), "samples": str(chosen), "tile": 200, "scope": "haplotype"}
    before = Store(people.store).features.version()
    done = people.run(**given)
    stored = pl.read_delta(f"{people.store}/haplotypes").filter(pl.col("until_run").is_null())
    table = people.table().filter(pl.col("scope") == "haplotype")
    assert done.haplotypes == len(stored) == len(table) // 2
    named = dict(zip(zip(stored["region_id"], stored["sequence_digest"], strict=True), stored["carriers"], strict=True))
    found = table.filter(pl.col("vector") == "mean")
    assert dict(zip(zip(found["region_id"], found["alternate_digest"], strict=True), found["carriers"], strict=True)) == named
    # Regions whose reference somebody carries have nothing to encode.
    carried = stored.filter("is_reference")["region_id"]
    assert done.encoded == stored["region_id"].n_unique() - len(carried)
    assert carried.len() > 0
    own = found.filter(pl.col("reference_digest") == pl.col("alternate_digest"))
    assert sorted(own["region_id"]) == sorted(carried)
    assert set(own["cosine_distance"]) == set(own["l2"]) == {0.0}
    assert own["variants"].to_list() == [[]] * len(own)
    assert (found.filter(pl.col("reference_digest") != pl.col("alternate_digest"))["l2"] > 0).all()
    vectors = Store(people.store).read(columns=["sequence_digest", "mean"]).to_pandas().drop_duplicates("sequence_digest")
    mean = dict(zip(vectors["sequence_digest"], vectors["mean"], strict=True))
    for row in found.head(20).to_dicts():
        a, b = (np.asarray(mean[row[name]], np.float64) for name in ("reference_digest", "alternate_digest"))
        assert row["l2"] == pytest.approx(np.linalg.norm(a - b), rel=1e-6)
    assert (found["alleles"] == 12).all()
    assert Store(people.store).features.version() > before
    assert people.run(**given).unchanged
    with pytest.raises(UsageError, match="has no haplotypes in these regions"):
        people.run(**{**given, "tile": 250, "source_name": done.source_name})


def test_an_erasure_takes_out_what_one_person_carries(people: Place) -> None:
    bed, chosen = people.folder / "genes.bed", people.folder / "people.txt"
    given = {"regions": str(bed), "vcf": (PEOPLE_VCF,), "samples": str(chosen)}
    people.run(**given, tile=200, scope="haplotype")
    windows = people.run(**given)
    haplotypes = pl.read_delta(f"{people.store}/haplotypes").filter(pl.col("until_run").is_null())
    entries = pl.read_delta(f"{people.store}/sequences").filter(pl.col("subject_id").is_not_null())
    whose = entries.select("subject_id", "region_id", "sequence_digest")
    alleles = haplotypes.join(whose, on=["region_id", "sequence_digest"]).explode("variants").drop_nulls("variants")
    # Somebody who has an allele that nobody else has, and others.
    rare = alleles.group_by("variants").agg(pl.col("subject_id").unique()).filter(pl.col("subject_id").list.len() == 1)
    name = sorted(one[0] for one in rare["subject_id"].to_list())[0]
    carried = set(alleles.filter(pl.col("subject_id") == name)["variants"])
    before = people.table().filter((pl.col("scope") == "window") & (pl.col("vector") == "mean")).unique("variant_id")
    counts = dict(zip(before["variant_id"], before["carriers"], strict=True))
    private = {one for one in carried if counts[one] == 1}
    assert private
    assert carried > private

    forget(Store(people.store), {"subject_id": name})
    maintain(Store(people.store))
    after = people.table().filter((pl.col("scope") == "window") & (pl.col("vector") == "mean")).unique("variant_id")
    left = dict(zip(after["variant_id"], after["carriers"], strict=True))
    assert left == {one: count - (one in carried) for one, count in counts.items() if one not in private}
    # Their windows and vectors are gone, and nobody else's.
    gone = set(before.filter(pl.col("variant_id").is_in(private))["alternate_digest"])
    kept = Store(people.store).read(source=windows.source_name, columns=["sequence_digest"])["sequence_digest"].to_pylist()
    assert set(kept) == set(before["alternate_digest"]) - gone | set(before["reference_digest"])
    held = {one for file in Path(people.store, "features").rglob("*.parquet") for one in pl.read_parquet(file)["sequence_digest"]}
    assert not held & gone
    now = pl.read_delta(f"{people.store}/haplotypes").filter(pl.col("until_run").is_null())
    compared = people.table().filter((pl.col("scope") == "haplotype") & (pl.col("vector") == "mean"))
    columns = ["region_id", "sequence_digest", "carriers"]
    assert sorted(compared.select("region_id", "alternate_digest", "carriers").rows()) == sorted(now.select(columns).rows())


def test_a_channel_does_not_wait_for_windows(place: Place) -> None:
    done = place.run(vectors=("mean",))
    store = Store(place.store)
    store.point("production", done.feature_version)
    assert store.lacking("production", "0" * 16) == []


# The command line, and what is refused.


def test_the_command_writes_tables_and_summaries(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["effects", "--store", place.store, "--genome", place.genome, "--vcf", place.vcf(), "--model", place.model]
    command += ["--window", "32", "--runner", "local"]
    assert main([*command, "--output", str(place.folder / "out.tsv"), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    with (place.folder / "out.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert (told["rows"], told["variants"], told["encoded"]) == (len(rows), len(RECORDS), told["distinct"])
    assert set(told["skipped"]) == {"star", "symbolic", "reference", "repeated", "refused"}
    assert set(told["quartiles"]) == {row["kind"] for row in rows}
    assert main([*command, "--output", "-", "--format", "csv"]) == 0
    text = capfd.readouterr().out
    assert [row["l2"] for row in csv.DictReader(text.splitlines())] == [row["l2"] for row in rows]
    assert main([*command, "--output", str(place.folder / "out.csv")]) == 0
    assert "cosine distance" in capfd.readouterr().out


def other_genome(place: Place) -> dict[str, Any]:
    text = vcf_text({"c": 400}, [], [("c", 5, "T" if CONTIGS["c"][4] != "T" else "G", "A")])
    return {"vcf": (write_vcf(place.folder / "w.vcf.gz", text),)}


def other_assembly(place: Place) -> dict[str, Any]:
    return {"vcf": (write_vcf(place.folder / "w.vcf.gz", vcf_text({"c": 399}, [], [("c", 5, CONTIGS["c"][4], "N")])),)}


def unknown_contig(place: Place) -> dict[str, Any]:
    records = [("c", 5, CONTIGS["c"][4], "N"), ("e", 1, "A", "C")]
    return {"vcf": (write_vcf(place.folder / "w.vcf.gz", vcf_text({"c": 400, "e": 9}, [], records)),)}


def no_index(place: Place) -> dict[str, Any]:
    Path(f"{place.vcf(name='w.vcf.gz')}.tbi").unlink()
    return {"vcf": (str(place.folder / "w.vcf.gz"),)}


def cut_off(place: Place) -> dict[str, Any]:
    file = Path(place.vcf(name="w.vcf.gz"))
    file.write_bytes(file.read_bytes()[:-40])
    return {"vcf": (str(file),)}


def other_index(place: Place) -> dict[str, Any]:
    file = place.vcf(name="w.vcf.gz")
    Path(place.vcf(RECORDS[:3], name="x.vcf.gz") + ".tbi").rename(f"{file}.tbi")
    return {"vcf": (file,)}


def not_called(place: Place) -> dict[str, Any]:
    text = vcf_text({"c": 400}, ["A"], [("c", 5, CONTIGS["c"][4], "<DEL>", "0|7")])
    return {"vcf": (write_vcf(place.folder / "w.vcf.gz", text.replace("<DEL>", "ACGTA")),)}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (other_genome, "the cohort is of another genome"),
        (other_assembly, "different assemblies"),
        (unknown_contig, "records on contig e, which the genome does not have"),
        (no_index, "no index beside it"),
        (cut_off, "cut off"),
        (other_index, "is not the index of"),
        (not_called, "has allele 7"),
        (lambda place: {"vcf": (place.genome,)}, "bgzip"),
        (lambda place: {"window": 1, "kmer": 3}, "too small"),
        (lambda place: {"regions": place.genome}, "of no kind of regions"),
        (lambda place: {"scope": "haplotype"}, "give the --regions"),
        (lambda place: {"tile": 100}, "tile is for scope haplotype"),
        (lambda place: {"vcf": ()}, "give --vcf"),
        (lambda place: {"version": "production", "strands": "both"}, "leave one of them out"),
        (lambda place: {"output": place.genome}, "both input and output"),
    ],
)
def test_bad_input_is_refused_in_a_sentence_with_nothing_stored(place: Place, make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        place.run(**make(place))
    assert "\n" not in str(error.value)
    store = Path(place.store)
    assert not store.exists() or not [*store.glob("features/**/*.parquet"), *store.glob("*/*.parquet"), *store.glob("effects")]
    assert not (place.folder / "out.parquet").exists()


def test_windows_of_n_are_counted_and_have_no_row(place: Place) -> None:
    letters = CONTIGS["c"]
    place.genome = write_genome(place.folder / "n.fa", {**CONTIGS, "c": letters[:100] + "N" * 100 + letters[200:]})
    records = [("c", 50, letters[49], "ACG"), ("c", 150, "N", "A"), ("c", 300, letters[299], "ACGR")]
    done = place.run(vcf=(place.vcf(records, samples=[]),))
    assert (done.variants, done.skipped["refused"], done.rows) == (3, 2, 4)
    assert place.run(vcf=(place.vcf(records, samples=[]),), iupac=True).rows == 8
