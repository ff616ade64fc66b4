"""Variants of random records and their windows, beside the slow way: the whole contig with one allele applied, and the same bases cut."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from people import vcf_text, write_genome, write_vcf

from dnafeat.effects.windows import windows
from dnafeat.errors import UsageError
from dnafeat.sources.cohort import variants
from dnafeat.sources.cohort.variants import GenomeLetters, Variant, VariantLayout
from dnafeat.sources.regions import genome as genomes
from dnafeat.sources.regions.genome import Genome
from dnafeat.sources.regions.region import Part, Region

SAMPLES = ["A", "B", "C"]
CALLS = ["0|0", "0|1", "1|1", "1/0", "./.", ".|1", "1", "0"]


def random_letters(rng: np.random.Generator, bases: int) -> str:
    return "".join(rng.choice(list("ACGT"), bases))


def random_records(rng: np.random.Generator, contigs: dict[str, str], count: int) -> list[tuple[Any, ...]]:
    """SNVs, insertions, deletions and others anywhere, the first and the last base too, each allele once."""
    found, seen = [], set()
    for name, letters in contigs.items():
        starts = sorted({0, len(letters) - 1, *rng.integers(0, len(letters), count).tolist()})
        for start in starts:
            ref = letters[start : start + int(rng.integers(1, 6))]
            alt = {
                0: random_letters(rng, len(ref)),
                1: ref[0] + random_letters(rng, int(rng.integers(1, 9))) + ref[1:],
                2: ref[0],
                3: random_letters(rng, int(rng.integers(1, 9))),
            }[int(rng.integers(4))]
            own = (name, *trimmed(start, ref, alt))
            if alt != ref and own not in seen:
                seen.add(own)
                found.append((name, start + 1, ref, alt, *rng.choice(CALLS, len(SAMPLES))))
    return found


def trimmed(start: int, ref: str, alt: str) -> tuple[int, str, str]:
    while min(len(ref), len(alt)) > 1 and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    while min(len(ref), len(alt)) > 1 and ref[0] == alt[0]:
        start, ref, alt = start + 1, ref[1:], alt[1:]
    return start, ref, alt


def common(one: str, other: str) -> int:
    """Letters that both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def slow_windows(letters: str, start: int, ref: str, alt: str, window: int) -> tuple[str, str]:
    first = start + common(ref, alt)
    low, high = max(0, first - window // 2), min(len(letters), first - window // 2 + window)
    changed = letters[:start] + alt + letters[start + len(ref) :]
    return letters[low:high], changed[low:high]


class Files:
    def __init__(self, folder: Path, contigs: dict[str, str], records: list[tuple[Any, ...]], samples: list[str]) -> None:
        self.contigs, self.records = contigs, records
        self.index = genomes.look(write_genome(folder / "g.fa", contigs))
        lengths = {name: len(letters) for name, letters in contigs.items()}
        self.vcf = write_vcf(folder / "v.vcf.gz", vcf_text(lengths, samples, records))

    def layout(self, regions: list[Region] | None = None) -> VariantLayout:
        return variants.look(self.index, [self.vcf], None, regions)

    def read(
        self, window: int = 1, regions: list[Region] | None = None
    ) -> tuple[list[Variant], list[tuple[str, str]], Counter[str]]:
        counts, layout = Counter[str](), self.layout(regions)
        with Genome(self.index) as genome:
            letters = GenomeLetters(genome, margin=window)
            found = [one for part in layout.portions() for one in variants.read(layout, part, letters, counts)]
            own = [windows(letters, one, window) for one in found]
        return found, [(a.decode(), b.decode()) for a, b in own], counts


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    rng = np.random.default_rng(5)
    contigs = {name: random_letters(rng, bases) for name, bases in (("long", 700), ("short", 40), ("tiny", 9))}
    return Files(tmp_path_factory.mktemp("variants"), contigs, random_records(rng, contigs, 150), SAMPLES)


@pytest.mark.parametrize("window", [1, 2, 13, 64, 2000])
def test_windows_equal_those_cut_of_the_whole_contig_with_the_allele(files: Files, window: int) -> None:
    found, own, counts = files.read(window)
    expected = {}
    for contig, position, ref, alt, *_ in files.records:
        start, short, other = trimmed(position - 1, ref, alt)
        name = f"{contig}-{start + 1}-{short}-{other}"
        expected[name] = slow_windows(files.contigs[contig], position - 1, ref, alt, window)
    assert dict(zip([one.name for one in found], own, strict=True)) == expected
    assert len(found) == len(expected) == counts["variants"] == counts["records"] > 150
    assert {one.kind for one in found} == {"snv", "mnv", "insertion", "deletion", "delins"}
    if window > 1:
        same = [one.name for one, (a, b) in zip(found, own, strict=True) if a == b and one.kind == "snv"]
        assert not same


def test_carriers_are_those_of_the_calls(files: Files) -> None:
    found, _, _ = files.read()
    expected = {}
    for contig, position, ref, alt, *calls in files.records:
        start, short, other = trimmed(position - 1, ref, alt)
        alleles = [one for call in calls for one in call.replace("/", "|").split("|") if one != "."]
        expected[f"{contig}-{start + 1}-{short}-{other}"] = alleles.count("1"), len(alleles)
    assert {one.name: (one.carriers, one.alleles) for one in found} == expected


def test_every_variant_comes_once_however_the_genome_is_cut(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    regions = [
        Region(
            name=f"r{i}", contig="long", parts=tuple(Part(int(s), int(s) + 20) for s in rng.integers(0, 680, 2)), file="r", row=i
        )
        for i in range(12)
    ]
    whole = [files.read(9, chosen) for chosen in (None, regions)]
    monkeypatch.setattr(variants, "_BLOCK", 7)
    monkeypatch.setattr(variants, "_BYTES", 1)
    assert len(files.layout().portions()) > 50
    for (variants_before, _, counts_before), chosen in zip(whole, (None, regions), strict=True):
        found, _, counts = files.read(9, chosen)
        assert counts == counts_before

        def pairs(some: list[Variant]) -> list[tuple[str, str]]:
            return sorted((one.name, region.name) for one in some for region in one.regions)

        assert {one.name for one in found} == {one.name for one in variants_before}
        assert pairs(found) == pairs(variants_before)
        assert len(pairs(found)) == len(set(pairs(found)))


def test_regions_take_the_variants_that_change_them(files: Files) -> None:
    region = Region(name="r", contig="long", parts=(Part(300, 340), Part(100, 150, "-")), file="r", row=1)
    found, _, _ = files.read(regions=[region])
    inside = {base for part in region.parts for base in range(part.start, part.end)}
    expected = set()
    for contig, position, ref, alt, *_ in files.records:
        first = position - 1 + common(ref, alt)
        rest, other = ref[first - position + 1 :], alt[first - position + 1 :]
        shared = common(rest[::-1], other[::-1])
        gone = len(rest) - shared
        changed = set(range(first, first + gone)) if gone else {max(first - 1, position - 1)}
        if contig == "long" and changed & inside:
            start, short, alternate = trimmed(position - 1, ref, alt)
            expected.add(f"{contig}-{start + 1}-{short}-{alternate}")
    assert {one.name for one in found} == expected
    assert len(expected) > 10
    assert {region.strand for one in found for region in one.regions} == {"."}


def test_alleles_without_letters_are_counted_and_each_alt_is_a_variant(tmp_path: Path) -> None:
    contigs = {"c": "ACGTACGTAC"}
    records = [
        ("c", 2, "C", "T,*,G", "1|2", "3|0"),
        ("c", 2, "CG", "TG", "1|0", "0|0"),
        ("c", 3, "G", "<DEL>", "1|0", "0|0"),
        ("c", 4, "T", "<INS>,<NON_REF>", "1|0", "0|0"),
        ("c", 5, "A", "A]c:9]", "0|1", "0|0"),
        ("c", 6, "C", ".", "0|0", "0|0"),
    ]
    found, _, counts = Files(tmp_path, contigs, records, ["A", "B"]).read()
    assert [(one.name, one.carriers, one.alleles) for one in found] == [("c-2-C-T", 1, 4), ("c-2-C-G", 1, 4)]
    expected = {"records": 6, "variants": 2, "star": 1, "symbolic": 3, "reference": 1, "repeated": 1}
    assert {name: counts[name] for name in expected} == expected


def test_a_file_of_another_genome_is_refused(tmp_path: Path) -> None:
    cases = [
        (("c", 2, "A", "T"), "REF of the cohort is A, and the genome has C"),
        (("c", 9, "ACG", "A"), "the genome has AC"),
        (("c", 12, "A", "T"), "the genome has 10 bases of c"),
    ]
    for number, (record, words) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(UsageError, match=words):
            Files(folder, {"c": "ACGTACGTAC"}, [record], []).read()
