"""Files of a cohort that cannot be taken: one sentence, and never fewer records in silence."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from pathlib import Path

import pysam
import pytest
from people import HEADER, as_bcf, stored, vcf_text, write_genome, write_vcf
from s3 import S3

from dnafeat.errors import UsageError
from dnafeat.sources.bundled import PEOPLE_GENOME, PEOPLE_REGIONS, PEOPLE_VCF
from dnafeat.sources.regions.config import GenomeConfig

GENOME = {"chr1": "ACGTTGCAAC" * 30, "chr2": "TTGACCGTAA" * 10}
RECORDS = [("chr1", 11, "A", "T", "0|1", "1|1"), ("chr1", 31, "A", "AC", "1|0", "0|0"), ("chr2", 5, "C", "G", "0|1", "0|0")]
LENGTHS = {name: len(letters) for name, letters in GENOME.items()}


@pytest.fixture
def config(tmp_path: Path) -> GenomeConfig:
    """Two regions, two people."""
    regions = tmp_path / "r.bed"
    regions.write_text("chr1\t0\t100\tr1\nchr2\t0\t50\tr2\t0\t-\n")
    vcf = write_vcf(tmp_path / "v.vcf.gz", vcf_text(LENGTHS, ["A", "B"], RECORDS))
    return GenomeConfig(genome=write_genome(tmp_path / "g.fa", GENOME), regions=str(regions), vcf=(vcf,))


def refusal(config: GenomeConfig) -> str:
    with pytest.raises(UsageError) as refused:
        stored(config)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_bundled_people() -> None:
    letters, counts, _ = stored(GenomeConfig(genome=PEOPLE_GENOME, regions=PEOPLE_REGIONS, vcf=(PEOPLE_VCF,)))
    assert (len(letters), len(set(letters.values()))) == (43_078, 7_812)
    assert (counts["regions"], counts["mixed_ploidy"], counts["missing"]) == (17, 0, 0)


def test_bcf_csi_and_two_files_give_the_same(tmp_path: Path, config: GenomeConfig) -> None:
    letters = stored(config)[0]
    bcf = as_bcf(config.vcf[0], tmp_path / "v.bcf")
    assert stored(config.replace(vcf=(bcf,)))[0] == letters
    csi = shutil.copy(config.vcf[0], tmp_path / "csi.vcf.gz")
    pysam.tabix_index(str(csi), preset="vcf", csi=True)
    assert stored(config.replace(vcf=(str(csi),)))[0] == letters
    parts = [
        write_vcf(tmp_path / f"{name}.vcf.gz", vcf_text(LENGTHS, ["A", "B"], [one for one in RECORDS if one[0] == name]))
        for name in GENOME
    ]
    assert stored(config.replace(vcf=tuple(parts)))[0] == letters


def test_two_files_of_one_contig_are_read_in_order(tmp_path: Path, config: GenomeConfig) -> None:
    letters = stored(config)[0]
    parts = [
        write_vcf(
            tmp_path / f"{name}.vcf.gz", vcf_text(LENGTHS, ["A", "B"], [one for one in RECORDS if (len(one[3]) > 1) == long])
        )
        for name, long in (("long", True), ("short", False))
    ]
    assert stored(config.replace(vcf=tuple(parts)))[0] == letters


def test_a_header_without_contigs_and_letters_in_lower_case(tmp_path: Path, config: GenomeConfig) -> None:
    letters = stored(config)[0]
    lower = [(contig, position, ref.lower(), alt.lower(), *calls) for contig, position, ref, alt, *calls in RECORDS]
    text = vcf_text({}, ["A", "B"], lower)
    assert stored(config.replace(vcf=(write_vcf(tmp_path / "bare.vcf.gz", text),)))[0] == letters


def test_genome_packed_by_bgzip(tmp_path: Path, config: GenomeConfig) -> None:
    letters = stored(config)[0]
    packed = tmp_path / "packed.fa.gz"
    pysam.tabix_compress(str(config.genome), str(packed))
    assert stored(config.replace(genome=str(packed)))[0] == letters
    assert not Path(f"{packed}.fai").exists()
    pysam.faidx(str(packed))
    assert stored(config.replace(genome=str(packed)))[0] == letters


def test_chosen_samples(tmp_path: Path, config: GenomeConfig) -> None:
    chosen = tmp_path / "samples.txt"
    chosen.write_text("B\n")
    letters = stored(config)[0]
    assert stored(config.replace(samples=str(chosen)))[0] == {key: one for key, one in letters.items() if key[0] == "B"}
    chosen.write_text("B\nC\n")
    assert "line 2" in refusal(config.replace(samples=str(chosen)))


def test_more_samples_than_are_taken_do_not_change_letters(config: GenomeConfig) -> None:
    letters = stored(config)[0]
    assert letters["A", "r2", "1"] == letters["B", "r2", "1"] != letters["A", "r2", "2"]


def test_a_file_without_index_or_not_packed(tmp_path: Path, config: GenomeConfig) -> None:
    text = vcf_text(LENGTHS, ["A", "B"], RECORDS)
    plain, packed = tmp_path / "p.vcf", tmp_path / "gzip.vcf.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    assert "bgzip" in refusal(config.replace(vcf=(str(plain),)))
    assert "packed by gzip" in refusal(config.replace(vcf=(str(packed),)))
    Path(f"{config.vcf[0]}.tbi").unlink()
    assert "tabix" in refusal(config)
    assert "does not exist" in refusal(config.replace(vcf=(str(tmp_path / "none.vcf.gz"),)))


def test_a_file_that_is_cut_off(tmp_path: Path, config: GenomeConfig) -> None:
    whole = Path(config.vcf[0]).read_bytes()
    Path(config.vcf[0]).write_bytes(whole[:-28])
    assert "cut off" in refusal(config)
    Path(config.vcf[0]).write_bytes(whole[: len(whole) // 2])
    assert "cut off" in refusal(config)


def test_a_damaged_block(tmp_path: Path) -> None:
    damaged = tmp_path / "people.vcf.gz"
    data = bytearray(Path(PEOPLE_VCF).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    damaged.write_bytes(data)
    shutil.copy(f"{PEOPLE_VCF}.tbi", f"{damaged}.tbi")
    assert "cannot be read" in refusal(GenomeConfig(genome=PEOPLE_GENOME, regions=PEOPLE_REGIONS, vcf=(str(damaged),)))


def test_an_index_of_another_file(tmp_path: Path, config: GenomeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = stored(config)[0]
    # What lies in the working directory is not taken, right or wrong.
    work = tmp_path / "work"
    work.mkdir()
    other = write_vcf(work / "v.vcf.gz", vcf_text(LENGTHS, ["A", "B"], RECORDS[2:]))
    monkeypatch.chdir(work)
    assert stored(config)[0] == letters
    shutil.copy(f"{other}.tbi", f"{config.vcf[0]}.tbi")
    assert "not the index of" in refusal(config)
    Path(f"{config.vcf[0]}.tbi").write_bytes(b"TBI")
    assert "damaged" in refusal(config)


def test_an_index_that_knows_nothing(tmp_path: Path, config: GenomeConfig) -> None:
    empty = write_vcf(tmp_path / "empty.vcf.gz", vcf_text(LENGTHS, ["A", "B"], []))
    assert len(stored(config.replace(vcf=(empty,)))[0]) == 8
    shutil.copy(f"{empty}.tbi", f"{config.vcf[0]}.tbi")
    assert "knows of no record" in refusal(config)
    pysam.tabix_index(config.vcf[0], seq_col=0, start_col=1, end_col=1, force=True)
    assert "VCF or BCF" in refusal(config)


def test_on_s3_as_on_a_disk(tmp_path: Path, config: GenomeConfig, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = stored(config)[0]
    client, place = s3.client(), s3.uri("cohort")
    bcf = as_bcf(config.vcf[0], tmp_path / "v.bcf")
    packed = tmp_path / "packed.fa.gz"
    pysam.tabix_compress(str(config.genome), str(packed))
    pysam.faidx(str(packed))
    names = ["g.fa", "g.fa.fai", "r.bed", "v.vcf.gz", "v.vcf.gz.tbi", "v.bcf", "v.bcf.csi"]
    for name in (*names, *(f"packed.fa.gz{end}" for end in ("", ".fai", ".gzi"))):
        client.put(str(tmp_path / name), f"{place}/{name}")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for vcf in (config.vcf[0], bcf):
        for genome in ("g.fa", "packed.fa.gz"):
            there = GenomeConfig(genome=f"{place}/{genome}", regions=f"{place}/r.bed", vcf=(f"{place}/{Path(vcf).name}",))
            assert stored(there)[0] == letters
    assert list(work.iterdir()) == []
    client.rm(f"{place}/v.bcf.csi")
    assert "has no index" in refusal(there)
    client.rm(f"{place}/packed.fa.gz.fai")
    assert "samtools faidx" in refusal(there)
    assert "does not exist" in refusal(there.replace(genome=f"{place}/none.fa"))


def test_a_genome_that_was_changed_after_its_index(tmp_path: Path, config: GenomeConfig) -> None:
    index = Path(f"{config.genome}.fai").read_bytes()
    genome = write_genome(tmp_path / "g.fa", {"chr2": GENOME["chr2"], "chr1": GENOME["chr1"]})
    Path(f"{genome}.fai").write_bytes(index)
    assert "where its index says" in refusal(config)
    os.utime(genome, (time.time() + 60,) * 2)
    assert "older than the genome" in refusal(config)


def test_a_genome_packed_by_gzip(tmp_path: Path, config: GenomeConfig) -> None:
    packed = tmp_path / "gzip.fa.gz"
    packed.write_bytes(gzip.compress(Path(str(config.genome)).read_bytes()))
    assert "bgzip" in refusal(config.replace(genome=str(packed)))


def test_other_samples_in_the_second_file(tmp_path: Path, config: GenomeConfig) -> None:
    other = write_vcf(tmp_path / "other.vcf.gz", vcf_text(LENGTHS, ["A", "C"], RECORDS))
    assert "'C'" in refusal(config.replace(vcf=(*config.vcf, other)))


def test_no_samples_or_no_genotypes(tmp_path: Path, config: GenomeConfig) -> None:
    sites = write_vcf(tmp_path / "sites.vcf.gz", vcf_text(LENGTHS, [], []).replace("\tFORMAT\n", "\n"))
    assert "no samples" in refusal(config.replace(vcf=(sites,)))
    text = vcf_text(LENGTHS, ["A"], [("chr1", 11, "A", "T", "1")], HEADER.replace("GT", "DP")).replace("\tGT\t", "\tDP\t")
    assert "no genotypes" in refusal(config.replace(vcf=(write_vcf(tmp_path / "dp.vcf.gz", text),)))


def test_an_allele_that_the_record_lacks(tmp_path: Path, config: GenomeConfig) -> None:
    vcf = write_vcf(tmp_path / "broken.vcf.gz", vcf_text(LENGTHS, ["A", "B"], [("chr1", 11, "A", "T", "0|1", "0|3")]))
    told = refusal(config.replace(vcf=(vcf,)))
    assert "chr1:11: sample B has allele 3" in told


def test_contigs_of_another_assembly(tmp_path: Path, config: GenomeConfig) -> None:
    vcf = write_vcf(tmp_path / "other.vcf.gz", vcf_text({"chr7": 50}, ["A"], [("chr7", 1, "A", "T", "1")]))
    assert "none of the regions' contigs" in refusal(config.replace(vcf=(vcf,)))
    vcf = write_vcf(tmp_path / "long.vcf.gz", vcf_text({"1": 301}, ["A"], [("1", 11, "A", "T", "1")]))
    assert "301" in refusal(config.replace(vcf=(vcf,)))


def test_a_contig_that_the_cohort_lacks_is_reference_for_all(tmp_path: Path, config: GenomeConfig) -> None:
    vcf = write_vcf(tmp_path / "one.vcf.gz", vcf_text({"1": LENGTHS["chr1"]}, ["A"], [("1", 11, "A", "T", "0|1")]))
    letters, counts, _ = stored(config.replace(vcf=(vcf,)))
    assert counts["absent_contigs"] == 1
    assert letters["A", "r2", "1"] == letters["A", "r2", "2"]
    assert letters["A", "r1", "1"] != letters["A", "r1", "2"]


def test_names_of_entries_that_would_meet(tmp_path: Path, config: GenomeConfig) -> None:
    Path(str(config.regions)).write_text("chr1\t0\t10\tx/r\nchr1\t0\t10\tr\n")
    vcf = write_vcf(tmp_path / "slash.vcf.gz", vcf_text(LENGTHS, ["A", "A/x"], RECORDS))
    assert "one name" in refusal(config.replace(vcf=(vcf,)))
