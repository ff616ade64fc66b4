"""A cohort over a real genome in a store: what is encoded by an independent count, and digests by bcftools 1.24."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import polars as pl
import pysam
import pytest
from consensus import ABORTED, consensus
from madecohort import MadeCohort, make
from people import as_bcf
from s3 import S3

from dnafeat.cluster.spread import Each, here
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks
from dnafeat.embed.job import embed
from dnafeat.embed.regions import take_in_regions
from dnafeat.sequence import digest
from dnafeat.sources.bundled import LAMBDA
from dnafeat.sources.cohort import layout
from dnafeat.sources.reader import ReadOptions, read
from dnafeat.sources.regions.config import GenomeConfig

ECOLI = Path(__file__).parents[3] / "shared" / "data" / "genomes" / "ecoli536_NC_008253.fna.gz"


def stored_digests(made: MadeCohort, store: str) -> dict[tuple[int, str, int], str]:
    """Digests in the store by number of the person, region and haplotype, after a run that has to encode what is distinct."""
    own = {"genome": made.genome, "regions": made.regions, "vcf": (made.vcf,), "store": store, "source_name": "made"}
    summary = embed(EmbedConfig.make({**own, "runner": "local"}), show=False)
    rows = pl.read_delta(f"{store}/sequences").select("subject_id", "region_id", "haplotype", "sequence_digest").rows()
    assert (summary.read, summary.opened, summary.rejected) == (len(rows), len(rows), 0)
    assert summary.encoded == summary.distinct == counted(made)
    return {(made.names.index(name), region, int(number)): own for name, region, number, own in rows}


def counted(made: MadeCohort) -> int:
    """Distinct sequences: by bcftools, once for each list of alleles that somebody carries in a region."""
    jobs, regions = [], []
    for region in made.places:
        alleles = {}
        for person in range(len(made.names)):
            for number, carried in enumerate(made.carried(region, person), 1):
                alleles.setdefault(carried, (person, number))
        jobs += [made.wanted(region, person, number) for person, number in alleles.values()]
        regions += [region] * len(alleles)
    return len({made.turned(region, letters) for region, letters in zip(regions, consensus(jobs), strict=True)})


def compare(made: MadeCohort, found: dict[tuple[int, str, int], str], people: range) -> None:
    keys = [(person, region, number) for person in people for region in made.places for number in (1, 2)]
    letters = consensus([made.wanted(region, person, number) for person, region, number in keys])
    assert ABORTED not in letters
    assert [found[key] for key in keys] == [
        digest(made.turned(key[1], one).encode()) for key, one in zip(keys, letters, strict=True)
    ]


def test_a_few_people_over_lambda(tmp_path: Path) -> None:
    genome = next(read([LAMBDA], ReadOptions()))["sequence"][0].as_py().decode()
    made = make(tmp_path, genome, people=8, regions=3, sizes=[60, 90], founders=6, odd=0.03)
    found = stored_digests(made, str(tmp_path / "store"))
    assert len(found) == 8 * 3 * 2
    compare(made, found, range(8))


def fingerprint(made: MadeCohort, vcf: str, folder: Path, each: Each = here, **files: str) -> bytes:
    config = GenomeConfig.make({"genome": made.genome, "regions": made.regions, "vcf": (vcf,), **files})
    return take_in_regions(layout.look(config), Checks(), folder, each=each).fingerprint


@pytest.mark.long
@pytest.mark.skipif(not ECOLI.exists(), reason="the genome lies beside the repository")
@pytest.mark.usefixtures("two_cpus")
def test_a_thousand_people_over_a_bacterium(tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    from dnafeat.cluster.tasks import over_tasks

    genome = "".join(gzip.decompress(ECOLI.read_bytes()).decode().splitlines()[1:]).upper()
    made = make(tmp_path, genome, people=1_000, regions=20, sizes=[150, 300, 500], founders=40, odd=0.0005)
    found = stored_digests(made, str(tmp_path / "store"))
    assert len(found) == 40_000
    assert len(set(found.values())) < len(found) // 8
    compare(made, found, range(0, 1_000, 50))

    first = fingerprint(made, made.vcf, tmp_path / "a")
    bcf = as_bcf(made.vcf, tmp_path / "v.bcf")
    assert fingerprint(made, bcf, tmp_path / "b") == first
    csi = shutil.copy(made.vcf, tmp_path / "csi.vcf.gz")
    pysam.tabix_index(str(csi), preset="vcf", csi=True)
    assert fingerprint(made, str(csi), tmp_path / "c") == first
    client, place = s3.client(), s3.uri("cohort")
    for name in ("g.fa", "g.fa.fai", "r.bed", "v.bcf", "v.bcf.csi", "csi.vcf.gz", "csi.vcf.gz.csi"):
        client.put(str(tmp_path / name), f"{place}/{name}")
    there = {"genome": f"{place}/g.fa", "regions": f"{place}/r.bed"}
    for name in ("v.bcf", "csi.vcf.gz"):
        assert fingerprint(made, f"{place}/{name}", tmp_path / name.partition(".")[0], **there) == first
    # Two portions, each read by a task.
    monkeypatch.setattr(layout, "_REGIONS", 10)
    assert fingerprint(made, made.vcf, tmp_path / "tasks", over_tasks(False)) == first
    assert fingerprint(made, bcf, tmp_path / "bcf-tasks", over_tasks(False)) == first
