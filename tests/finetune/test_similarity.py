"""Near copies are found whatever strand they are on and in whatever order they come, and unlike sequences are not taken for them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from letters import other_strand

from dnafeat.finetune import similarity
from dnafeat.finetune.similarity import similar_groups


def letters(bases: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=bases))


def changed(sequence: str, share: float, seed: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice("ACGT".replace(c, "")) if rng.random() < share else c for c in sequence)


@pytest.mark.parametrize("step", [1, 5, 40])
def test_windows_of_one_locus_are_one_group_in_any_order(step: int) -> None:
    locus, other = letters(2_000, 0), letters(2_000, 1)
    windows = [(text[i : i + 100], side) for side, text in enumerate((locus, other)) for i in range(0, 1_900, step)]
    random.Random(2).shuffle(windows)
    found = similar_groups([window if i % 2 else other_strand(window) for i, (window, _) in enumerate(windows)])
    sides = np.array([side for _, side in windows])
    assert len(set(found[sides == 0])) == len(set(found[sides == 1])) == 1
    assert len(set(found)) == 2


@pytest.mark.parametrize(("bases", "share", "least"), [(60, 0.02, 0.95), (60, 0.05, 0.8), (300, 0.05, 0.99)])
def test_copies_with_changed_bases_are_found(bases: int, share: float, least: float) -> None:
    first = [letters(bases, i) for i in range(200)]
    second = [changed(sequence, share, i) for i, sequence in enumerate(first)]
    found = similar_groups([*first, *map(other_strand, second)])
    assert np.mean(found[:200] == found[200:]) >= least
    assert len(set(found[:200])) == 200


def test_sequences_that_share_only_a_repeat_or_nothing_are_alone() -> None:
    flanked = [letters(80, i) + "CA" * 40 + letters(80, 100 + i) for i in range(20)]
    short = ["", "ACGT", "ACGTACGTACG", "N" * 60, "A" * 60, "ACG" * 20]
    some = [*flanked, *short, *(letters(100, 200 + i) for i in range(500))]
    assert len(set(similar_groups(some))) == len(some)
    assert len(similar_groups([])) == 0


def test_a_sample_of_kmers_finds_the_same_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = [letters(3_000, i)[at : at + 300] for i in range(20) for at in range(0, 100, 20)]
    whole = similar_groups(windows)
    assert len(set(whole)) == 20
    assert np.array_equal(similar_groups(windows, kept=6_000), whole)
    # Longer k-mers, and a text in several chunks.
    monkeypatch.setattr(similarity, "_LETTERS_OF_SHORT", 0)
    monkeypatch.setattr(similarity, "_CHUNK", 1_000)
    assert np.array_equal(similar_groups(windows), whole)


@pytest.mark.parametrize("k", [12, 16])
def test_kmers_are_those_of_their_definition(k: int) -> None:
    rng = random.Random(k)
    some = ["".join(rng.choices("ACGTN", weights=[9, 9, 9, 9, 1], k=rng.randint(0, 80))) for _ in range(30)]
    wanted = set()
    for row, sequence in enumerate(some):
        for word in (sequence[i : i + k] for i in range(len(sequence) - k + 1)):
            if "N" in word or any(word[period:] == word[:-period] for period in range(1, 7)):
                continue
            code = int("".join(str("ACGT".index(base)) for base in min(word, other_strand(word))), 4)
            wanted.add((row, int(similarity._mixed(np.array([code], np.uint32))[0])))
    found = {
        (int(row), int(value)) for rows, values in similarity._hashed(some, k) for row, value in zip(rows, values, strict=True)
    }
    assert found == wanted
    assert len({value for _, value in found}) > 300
