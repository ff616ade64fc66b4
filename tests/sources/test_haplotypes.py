"""Haplotypes of regions against bcftools 1.24, which runs in a process of its own, and what grouping and parsing must hold."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from consensus import ABORTED, Wanted, consensus
from counts import examples
from hypothesis import given
from hypothesis import strategies as st
from people import stored, vcf_text, write_genome, write_vcf

from dnafeat.sources.cohort import groups
from dnafeat.sources.cohort.calls import MISSING, NONE, Calls, parsed
from dnafeat.sources.cohort.groups import Numbered, group
from dnafeat.sources.regions.config import GenomeConfig

START, END, LENGTH, PEOPLE = 30, 60, 90, 4


def dense_case(folder: Path, seed: int, *, delins: bool) -> tuple[list[Wanted], list[str]]:
    """Many records on a few bases, over both borders: what bcftools is to build, and what was built."""
    draw = random.Random(seed)
    folder.mkdir()

    def bases(count: int) -> str:
        return "".join(draw.choices("ACGT", k=count))

    genome, records = bases(LENGTH), []
    for _ in range(draw.randint(15, 30)):
        at, kind = draw.randrange(START - 8, END + 3), draw.random()
        if kind < 0.35:
            ref, alt = genome[at], draw.choice([base for base in "ACGT" if base != genome[at]])
        elif kind < 0.6:
            ref, alt = genome[at], genome[at] + bases(draw.randint(1, 4))
        elif kind < 0.85 or not delins:
            ref, alt = genome[at : at + draw.randint(2, 7)], genome[at]
        else:
            ref, alt = genome[at : at + draw.randint(1, 5)], bases(draw.randint(1, 5))
        calls = [f"{draw.random() < 0.4:d}|{draw.random() < 0.4:d}" for _ in range(PEOPLE)]
        records += [("c", at + 1, ref, alt, *calls)] if ref != alt else []
    samples = [f"s{i}" for i in range(PEOPLE)]
    vcf = write_vcf(folder / "v.vcf.gz", vcf_text({"c": LENGTH}, samples, sorted(records, key=lambda one: one[1])))
    (folder / "r.bed").write_text(f"c\t{START}\t{END}\tr\n")
    config = GenomeConfig(genome=write_genome(folder / "g.fa", {"c": genome}), regions=str(folder / "r.bed"), vcf=(vcf,))
    letters, _, _ = stored(config)
    region = write_genome(folder / "region.fa", {f"c:{START + 1}-{END}": genome[START:END]})
    wanted = [Wanted(region, vcf, sample, number) for sample in samples for number in (1, 2)]
    return wanted, [letters[one.sample, "r", str(one.haplotype)] for one in wanted]


@pytest.mark.parametrize("delins", [False, True])
def test_dense_records_as_bcftools_has_them(tmp_path: Path, delins: bool) -> None:
    wanted: list[Wanted] = []
    built: list[str] = []
    for seed in range(examples(3, 400)):
        more, letters = dense_case(tmp_path / str(seed), seed + 10_000 * delins, delins=delins)
        wanted, built = wanted + more, built + letters
    found = consensus(wanted)
    compared = [(own, other) for own, other in zip(built, found, strict=True) if other != ABORTED]
    # bcftools stops at some with a false mismatch of REF, and dies of others.
    assert len(compared) > 0.8 * len(wanted)
    assert [pair for pair in compared if pair[0] != pair[1]] == []


@given(
    st.lists(
        st.lists(st.integers(-1, 130), min_size=1, max_size=4).flatmap(
            lambda alleles: st.tuples(st.just(alleles), st.lists(st.sampled_from("|/"), min_size=3, max_size=3))
        ),
        min_size=1,
        max_size=6,
    )
)
def test_genotypes_of_any_ploidy_are_parsed(calls: list[tuple[list[int], list[str]]]) -> None:
    def written(alleles: list[int], between: list[str]) -> str:
        names = ["." if one < 0 else str(one) for one in alleles]
        return names[0] + "".join(mark + name for mark, name in zip(between, names[1:], strict=False))

    found = parsed("\t".join(written(*one) for one in calls).encode(), len(calls))
    width = max(len(alleles) for alleles, _ in calls)
    assert found.alleles.tolist() == [alleles + [NONE] * (width - len(alleles)) for alleles, _ in calls]
    assert found.unphased.tolist() == ["/" in between[: len(alleles) - 1] for alleles, between in calls]


def test_a_phase_before_the_first_allele_is_no_allele() -> None:
    found = parsed(b"|0|1\t/1/.", 2)
    assert found.alleles.tolist() == [[0, 1], [1, MISSING]]
    assert found.unphased.tolist() == [False, True]


@pytest.mark.parametrize("text", [b"0|1", b"0|x\t0|1", b"0|1\t0|1\t0|1", b"0;1\t0|1"])
def test_what_is_no_genotype_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="call"):
        parsed(text, 2)


def random_calls(seed: int, records: int, samples: int) -> list[Numbered]:
    draw = np.random.default_rng(seed)
    found = []
    for number in range(records):
        alleles = draw.choice([0, 0, 0, 1, 2, MISSING], (samples, draw.integers(1, 4))).astype(np.int16)
        found.append(Numbered(number, Calls(alleles, draw.random(samples) < 0.3), None))
    return found


def plain_groups(records: list[Numbered], samples: int) -> tuple[list[list[tuple | None]], Counter]:
    """What each haplotype carries, subject by subject, the long way."""
    carried, counts = [], Counter[str]()
    for subject in range(samples):
        calls = [(one.number, [a for a in one.calls.alleles[subject].tolist() if a != NONE]) for one in records]
        known = {len(alleles) for _, alleles in calls if alleles != [MISSING]}
        ploidy = max(known, default=2)
        counts["mixed_ploidy"] += len(known) > 1
        counts["missing"] += sum(alleles.count(MISSING) for _, alleles in calls)
        own = [tuple((n, alleles[i]) for n, alleles in calls if i < len(alleles) and alleles[i] > 0) for i in range(ploidy)]
        carried.append([*own])
        for one, (_, alleles) in zip(records, calls, strict=True):
            differ = len({a for a in alleles if a >= 0}) > 1
            counts["unphased"] += bool(differ and one.calls.unphased[subject])
    return carried, counts


@pytest.mark.parametrize("kept", [10**9, 5])
def test_groups_are_those_of_equal_alleles(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(groups, "_MOST_KEPT", kept)
    monkeypatch.setattr(groups, "_BLOCK", 40)
    for seed in range(examples(20, 200)):
        records = random_calls(seed, records=6, samples=5)
        found = group(lambda records=records: records, 5)  # type: ignore[misc]
        wanted, counts = plain_groups(records, 5)
        got = [[tuple(found.alleles[code]) for code in row if code >= 0] for row in found.codes]
        assert got == wanted
        assert found.carriers.tolist() == [sum(row.count(tuple(one)) for row in wanted) for one in found.alleles]
        assert len({tuple(one) for one in found.alleles}) == len(found.alleles)
        assert {name: getattr(found, name) for name in counts} == dict(counts)


def test_without_records_everybody_has_the_reference_twice() -> None:
    found = group(list, 3)
    assert (found.codes.tolist(), found.carriers.tolist(), found.alleles) == ([[0, 0]] * 3, [6], [[]])


def test_phase_sets_tell_whether_two_calls_are_ambiguous() -> None:
    both = np.array([[0, 1]] * 3, np.int16)
    phased = np.zeros(3, bool)
    first = Numbered(0, Calls(both, phased), np.array([7, 7, 0]))
    second = Numbered(1, Calls(both, phased), np.array([7, 8, 0]))
    assert group(lambda: [first, second], 3).ambiguous == 1


def test_who_has_too_many_missing_alleles_has_no_rows() -> None:
    alleles = np.array([[MISSING, MISSING], [0, MISSING], [0, 1]], np.int16)
    record = Numbered(0, Calls(alleles, np.zeros(3, bool)), None)
    found = group(lambda: [record], 3, max_missing=0.5)
    assert found.codes[0].tolist() == [-1, -1]
    assert (found.left_out, found.carriers.sum()) == (1, 4)
