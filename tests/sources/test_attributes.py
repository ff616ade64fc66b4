"""The ninth column of GFF3 and GTF: what a line says does not depend on the lines before it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from people import stored, write_genome

from dnafeat.errors import UsageError
from dnafeat.sequence import reverse_complement
from dnafeat.sources.regions.attributes import attributes
from dnafeat.sources.regions.config import GenomeConfig

LETTERS = "ACGTTGCAACGGATCCTTAG" * 5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('gene_id "g1";', {"gene_id": ["g1"]}),
        ('gene_id "g";transcript_id "t"', {"gene_id": ["g"], "transcript_id": ["t"]}),
        ('gene_id "g" ; gene_name "a; gene_id b, c"; tag "x"; tag "y";', {"gene_name": ["a; gene_id b, c"], "tag": ["x", "y"]}),
        ('gene_id g1; exon_number 3; exon_id "e"', {"gene_id": ["g1"], "exon_number": ["3"], "exon_id": ["e"]}),
        (
            'gene_id "A%2CB"; gene_name "5"-foo"; x "a=b"; y ""',
            {"gene_id": ["A%2CB"], "gene_name": ['5"-foo'], "x": ["a=b"], "y": [""]},
        ),
        ("ID=g", {"ID": ["g"]}),
        (";ID=g; Name = x ;;Parent=a, b;flag;", {"ID": ["g"], "Name": ["x"], "Parent": ["a", "b"], "flag": [""]}),
        ("ID=a%2Cb;Name=kinase, 1;Parent=x%2Cy,z", {"ID": ["a,b"], "Name": ["kinase, 1"], "Parent": ["x,y", "z"]}),
        ('ID="g";Note=%09%25%3B%3D;Name=a=b', {"ID": ["g"], "Note": ["\t%;="], "Name": ["a=b"]}),
    ],
)
def test_ways_to_write_attributes(text: str, found: dict[str, list[str]]) -> None:
    assert {name: values for name, values in attributes(text).items() if name in found} == found


NAMES = st.text("abcdefgXYZ_", min_size=1, max_size=8)
# GFF3 can hold any value by escapes, and its lists can; GTF what has no quote in it.
VALUES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), blacklist_characters='"'), min_size=1, max_size=8
)


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5), st.sampled_from([";", "; ", " ; "]), st.booleans())
def test_what_was_written_is_read(pairs: dict[str, str], between: str, ended: bool) -> None:
    wanted = {name: [value] for name, value in pairs.items()}
    gff3 = between.join(f"{name}={quote(value)}" for name, value in pairs.items())
    assert attributes(gff3 + ";" * ended) == wanted
    gtf = between.join(f'{name} "{value}"' for name, value in pairs.items())
    assert attributes(gtf + ";" * ended) == wanted


def regions(folder: Path, text: str, name: str, feature: str = "gene", *, splice: bool = False) -> dict[str, str]:
    (folder / name).write_text(text)
    genome = write_genome(folder / "g.fa", {"c": LETTERS, "d|1": LETTERS[::-1]})
    config = GenomeConfig.make(genome=genome, regions=str(folder / name), feature=feature, splice=splice)
    return {region: letters for (_, region, _), letters in stored(config)[0].items()}


def test_the_first_line_does_not_say_how_the_others_are_written(tmp_path: Path) -> None:
    line = "c\tx\t{}\t{}\t{}\t.\t+\t.\t{}\n".format
    gtf = line("gene", 1, 50, 'gene_id "g1";') + line("transcript", 1, 50, 'gene_id "g1"; transcript_id "t1"; note "a; b";')
    gtf += line("exon", 1, 10, 'gene_id "g1"; transcript_id "t1"; exon_id "e,1";')
    assert regions(tmp_path, gtf, "a.gtf", "transcript", splice=True) == {"t1": LETTERS[:10]}
    assert regions(tmp_path, gtf, "a.gtf", "exon") == {"e,1": LETTERS[:10]}
    gff = line("mRNA", 1, 50, "ID=t1;tag=x;tag=y") + line("mRNA", 1, 50, "ID=t2") + line("exon", 11, 20, "Parent=t1,t2")
    assert regions(tmp_path, gff, "a.gff3", "transcript", splice=True) == dict.fromkeys(("t1", "t2"), LETTERS[10:20])
    gff = line("mRNA", 1, 50, "ID=t1") + line("exon", 11, 20, "Note=y; Parent=t1")
    assert regions(tmp_path, gff, "a.gff3", "transcript", splice=True) == {"t1": LETTERS[10:20]}


def test_a_contig_whose_name_is_escaped(tmp_path: Path) -> None:
    assert regions(tmp_path, "d%7C1\tx\tgene\t1\t5\t.\t+\t.\tID=g\n", "a.gff3") == {"g": LETTERS[::-1][:5]}


def test_lines_of_a_cds_without_id_are_joined_by_their_transcript(tmp_path: Path) -> None:
    text = "c\tx\tmRNA\t1\t50\t.\t-\t.\tID=transcript:t\n"
    text += "".join(f"c\tx\tCDS\t{start}\t{end}\t.\t-\t0\tParent=transcript:t\n" for start, end in ((11, 15), (31, 40)))
    joined = reverse_complement((LETTERS[10:15] + LETTERS[30:40]).encode()).decode()
    assert regions(tmp_path, text, "a.gff3", "CDS", splice=True) == {"t": joined}


def test_a_transcript_on_two_contigs_is_refused(tmp_path: Path) -> None:
    exon = '{}\tx\texon\t{}\t{}\t.\t+\t.\tgene_id "g"; transcript_id "t";\n'
    with pytest.raises(UsageError, match=r"line 2.*on one contig"):
        regions(tmp_path, exon.format("c", 11, 15) + exon.format("d|1", 31, 35), "a.gtf", "transcript")


def test_a_line_of_bed_that_stands_there_twice(tmp_path: Path) -> None:
    (tmp_path / "r.bed").write_text("c\t0\t5\tr\nc\t0\t5\tr\n")
    config = GenomeConfig(genome=write_genome(tmp_path / "g.fa", {"c": LETTERS}), regions=str(tmp_path / "r.bed"))
    with pytest.raises(UsageError, match=r"line 1 .*line 2"):
        stored(config)


def test_an_exon_without_a_strand_has_that_of_its_transcript(tmp_path: Path) -> None:
    text = "c\tx\tmRNA\t1\t50\t.\t-\t.\tID=t\nc\tx\tCDS\t11\t15\t.\t.\t0\tID=p;Parent=t\n"
    text += "".join(
        f"c\tx\texon\t{start}\t{end}\t.\t{strand}\t.\tParent=t\n" for start, end, strand in ((11, 15, "?"), (31, 40, "."))
    )
    joined = reverse_complement((LETTERS[10:15] + LETTERS[30:40]).encode()).decode()
    assert regions(tmp_path, text, "a.gff3", "transcript", splice=True) == {"t": joined}
    assert regions(tmp_path, text, "a.gff3", "CDS", splice=True) == {"p": joined[10:]}
