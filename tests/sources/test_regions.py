"""Regions: what is refused by line, tiles, flanks, and letters that are masked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from people import stored, write_genome

from dnafeat.errors import UsageError
from dnafeat.sequence import reverse_complement
from dnafeat.sources.regions.config import GenomeConfig
from dnafeat.sources.regions.names import same_contig

LETTERS = "ACGTTGCAACGGATCCTTAG" * 5
GFF = "##gff-version 3\n"


def settings(folder: Path, text: str, name: str = "r.bed", genome: str = LETTERS, **options: Any) -> GenomeConfig:
    (folder / name).write_text(text)
    return GenomeConfig.make(genome=write_genome(folder / "g.fa", {"c": genome}), regions=str(folder / name), **options)


def letters(config: GenomeConfig, tile: int | None = None) -> dict[str, str]:
    return {name: own for (_, name, _), own in stored(config, tile)[0].items()}


def flipped(text: str) -> str:
    return reverse_complement(text.encode()).decode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c\t10\t5\tr\n", ("line 1", "10", "5")),
        ("c\t0\t5\na\n", ("line 2", "columns")),
        ("c\t0\t101\tr\n", ("line 1", "101", "100")),
        ("c\t-1\t5\tr\n", ("line 1", "'-1'")),
        ("c\t0\t5\tr\t0\tx\n", ("line 1", "strand")),
        ("c\t0\t5\tr\nc\t7\t9\tr\n", ("line 1", "line 2", "'r'")),
        ("d\t0\t5\tr\n", ("line 1", "contig d")),
        ("# nothing\n", ("no region",)),
    ],
)
def test_a_line_that_is_no_region(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refused:
        letters(settings(tmp_path, text))
    assert [word for word in words if word not in str(refused.value)] == []


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("c\tx\tgene\t9\t5\t.\t+\t.\tID=g\n", {}, ("line 2", "9", "5")),
        ("c\tx\tgene\t1\t5\t.\t+\t.\n", {}, ("line 2", "8 columns")),
        ("c\tx\tgene\t1\t5\t.\t+\t.\tnote=x\n", {}, ("line 2", "no name")),
        ("c\tx\tgene\t1\t5\t.\t+\t.\tID=g\n", {"feature": "operon"}, ("operon",)),
        ("c\tx\tgene\t1\t5\t.\t+\t.\tID=g\n", {"splice": True}, ("--feature",)),
        (
            "c\tx\tCDS\t1\t5\t.\t+\t0\tID=p\nc\tx\tCDS\t7\t9\t.\t-\t0\tID=p\n",
            {"feature": "CDS", "splice": True},
            ("both strands", "part"),
        ),
        ("c\tx\tCDS\t1\t5\t.\t+\t0\tID=p\nc\tx\tCDS\t7\t9\t.\t+\t0\tID=p\n", {"feature": "CDS"}, ("'p'", "--splice")),
    ],
)
def test_a_feature_that_is_no_region(tmp_path: Path, text: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refused:
        letters(settings(tmp_path, GFF + text, "r.gff3", **options))
    assert [word for word in words if word not in str(refused.value)] == []


def test_tiles_are_cut_upward_on_both_strands(tmp_path: Path) -> None:
    found = stored(settings(tmp_path, "c\t10\t35\tp\t0\t+\nc\t10\t35\tm\t0\t-\n"), 10)
    own = {name: text for (_, name, _), text in found[0].items()}
    assert list(own) == ["m:10-20", "p:10-20", "m:20-30", "p:20-30", "m:30-35", "p:30-35"]
    for start, end in ((10, 20), (20, 30), (30, 35)):
        assert own[f"p:{start}-{end}"] == LETTERS[start:end]
        assert own[f"m:{start}-{end}"] == flipped(LETTERS[start:end])
    keys = found[2].regions[0].keys
    assert (keys["gene_id"], keys["region_id"], keys["start"], keys["end"], keys["strand"]) == ("m", "m:10-20", "10", "20", "-")


def test_tiles_of_spliced_parts_leave_introns_out(tmp_path: Path) -> None:
    row = "c\t10\t60\ttx\t0\t-\t10\t60\t0\t2\t10,20,\t0,30,\n"
    own = letters(settings(tmp_path, row, splice=True), 15)
    assert own == {
        "tx:10-45": flipped(LETTERS[10:20] + LETTERS[40:45]),
        "tx:45-60": flipped(LETTERS[45:60]),
    }


def test_flanks_go_by_strand_and_end_with_the_contig(tmp_path: Path) -> None:
    config = settings(tmp_path, "c\t10\t20\tp\t0\t+\nc\t10\t20\tm\t0\t-\nc\t95\t100\te\n", flank=(3, 1))
    found, counts, _ = stored(config)
    own = {name: text for (_, name, _), text in found.items()}
    assert own == {"p": LETTERS[7:21], "m": flipped(LETTERS[9:23]), "e": LETTERS[92:100]}
    assert counts["cut_flanks"] == 1


def test_trans_splicing_takes_the_parts_in_their_order(tmp_path: Path) -> None:
    lines = "c\tx\tCDS\t21\t30\t.\t-\t0\tID=p;part=1\nc\tx\tCDS\t11\t15\t.\t+\t0\tID=p;part=2\n"
    config = settings(tmp_path, GFF + lines, "r.gff3", feature="CDS", splice=True)
    assert letters(config) == {"p": flipped(LETTERS[20:30]) + LETTERS[10:15]}


def test_genes_of_a_gtf_without_lines_for_them(tmp_path: Path) -> None:
    exon = 'c\tx\texon\t{}\t{}\t.\t+\t.\tgene_id "g"; transcript_id "t";\n'
    assert letters(settings(tmp_path, exon.format(11, 15) + exon.format(21, 30), "r.gtf")) == {"g": LETTERS[10:30]}


def test_the_exon_of_two_transcripts_is_one_region(tmp_path: Path) -> None:
    exon = 'c\tx\texon\t11\t15\t.\t+\t.\tgene_id "g"; transcript_id "{}"; exon_id "e";\n'
    assert letters(settings(tmp_path, exon.format("t1") + exon.format("t2"), "r.gtf", feature="exon")) == {"e": LETTERS[10:15]}


def test_masked_letters_and_runs_of_n(tmp_path: Path) -> None:
    genome = "ACGTacgtNNNNACGTACGT" * 5
    text = "c\t0\t8\ta\nc\t2\t12\tb\nc\t12\t20\tc\n"
    assert letters(settings(tmp_path, text, genome=genome)) == {"a": "ACGTACGT", "b": "GTACGTNNNN", "c": "ACGTACGT"}
    assert letters(settings(tmp_path, text, genome=genome, soft_masked="n"))["a"] == "ACGTNNNN"
    found, counts, _ = stored(settings(tmp_path, text, genome=genome, max_n_run=3))
    assert ([name for _, name, _ in found], counts["masked"]) == (["a", "c"], 1)


@pytest.mark.parametrize(
    ("name", "others", "found"),
    [
        ("chr1", ["chr1", "1"], "chr1"),
        ("chr1", ["1"], "1"),
        ("1", ["chr1"], "chr1"),
        ("MT", ["chrM"], "chrM"),
        ("M", ["chrMT"], "chrMT"),
        ("HLA-A*01:01", ["HLA-A*01:01"], "HLA-A*01:01"),
        ("chr1", ["chr11", "chr10"], None),
    ],
)
def test_names_of_one_contig(name: str, others: list[str], found: str | None) -> None:
    assert same_contig(name, others, "the cohort") == found


def test_two_names_of_one_contig_are_ambiguous() -> None:
    with pytest.raises(UsageError, match="chrM"):
        same_contig("M", ["chrM", "MT"], "the cohort")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"genome": "g.fa"}, "belong together"),
        ({"vcf": ("v",)}, "give genome and regions"),
        ({"genome": "g", "regions": "r", "pass": True}, "give vcf"),
        ({"genome": "g", "regions": "r", "promoter": (1,)}, "UP,DOWN"),
        ({"genome": "g", "regions": "r", "promoter": (1, 2), "splice": True}, "exclude"),
        ({"genome": "g", "regions": "r", "vcf": ("v", "v")}, "twice"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GenomeConfig.make(options)
