"""Profiles of runs, the tests between them, and the gate: what moves is caught, what does not is let through."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stores import Entry, fill

from dnafeat.cli.main import main
from dnafeat.store import Store
from dnafeat.store.comparison import compare
from dnafeat.store.monitor import monitor
from dnafeat.store.profiles import FEWEST, Profile, keys_profile, sequences_profile, total, vectors_profile

COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


def genome(seed: int, gc: float, length: int) -> bytes:
    """A made-up genome whose composition drifts along it, as that of bacteria does."""
    random = np.random.default_rng(seed)
    local = np.clip(gc + 0.05 * np.repeat(random.standard_normal(length // 500), 500), 0.1, 0.9)
    strong, first = random.random(len(local)) < local, random.random(len(local)) < 0.5
    return np.where(strong, np.where(first, 71, 67), np.where(first, 65, 84)).astype(np.uint8).tobytes()


def tiles(letters: bytes, size: int = 150) -> list[bytes]:
    return [letters[i : i + size] for i in range(0, len(letters) - size, size)]


@functools.cache
def encoder() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    return random.standard_normal((64, 96)) / 8, random.standard_normal(96)


def encode(letters: Sequence[bytes], disturbed: float = 0.0) -> np.ndarray:
    """Made-up (n, 96) vectors of 3-mer counts that tell strands apart; `disturbed` is the share of noise in the last layer."""
    layer, bias = encoder()
    codes = np.array([[b"ACGT".index(letter) for letter in one] for one in letters])
    triplets = codes[:, :-2] * 16 + codes[:, 1:-1] * 4 + codes[:, 2:]
    counts = np.stack([np.bincount(row, minlength=64) for row in triplets]) / triplets.shape[1] * 64
    noise = np.random.default_rng(3).standard_normal(layer.shape) / 8
    return (np.tanh(counts @ (layer + disturbed * noise)) + bias).astype(np.float32)


def profile(letters: Sequence[bytes], vectors: np.ndarray, **counts: int) -> Profile:
    """The profile of a night that has these entries and vectors."""
    whole = sequences_profile(letters) + vectors_profile({"mean": vectors})
    return whole.discreet().with_counts(entries=len(letters), rejected=0, **counts)


class Source:
    """A source of which each night has some entries, drawn with replacement; all have been seen before the nights begin."""

    def __init__(self) -> None:
        self.letters, self.foreign = tiles(genome(1, 0.5, 600_000)), tiles(genome(2, 0.36, 60_000))
        self.vectors, self.of_foreign = encode(self.letters), encode(self.foreign)
        self.disturbed = encode(self.letters, 0.1)
        self.complements = [one[::-1].translate(COMPLEMENT) for one in self.letters]
        self.of_complements, self.of_short = encode(self.complements), encode([one[:100] for one in self.letters])

    def night(self, random: np.random.Generator, entries: int, shift: str = "") -> Profile:
        chosen = random.integers(0, len(self.letters), entries)
        letters, vectors = [self.letters[i] for i in chosen], self.vectors[chosen]
        counts = {"distinct": entries, "known": 0, "returning": entries, "changed": 0}
        if shift == "organism":
            count = entries // 20
            drawn = random.integers(0, len(self.foreign), count)
            letters = [*letters[count:], *(self.foreign[i] for i in drawn)]
            vectors = np.concatenate([vectors[count:], self.of_foreign[drawn]])
        elif shift == "complements":
            letters, vectors = [self.complements[i] for i in chosen], self.of_complements[chosen]
            counts["changed"] = entries
        elif shift == "truncated":
            letters, vectors = [one[:100] for one in letters], self.of_short[chosen]
        elif shift == "disturbed":
            vectors = self.disturbed[chosen]
        elif shift == "gone":
            letters, vectors = letters[::2], vectors[::2]
        return profile(letters, vectors, **counts)


SHIFTS = ("organism", "complements", "truncated", "disturbed", "gone")


@pytest.fixture(scope="module")
def source() -> Source:
    return Source()


def alarms(source: Source, nights: int, entries: int) -> Counter[str]:
    """Statistics that moved in nights without a shift, each compared with those before it."""
    random, past, found = np.random.default_rng(11), [], Counter[str]()
    for _ in range(nights):
        night = source.night(random, entries + int(random.integers(-entries // 20, entries // 20)))
        found.update(test.name for test in compare(night, past[-30:]) if test.moved)
        past.append(night)
    return found


def caught(source: Source, shift: str, tries: int, entries: int, history: int) -> int:
    random = np.random.default_rng(13)
    past = [source.night(random, entries) for _ in range(history)]
    return sum(any(test.moved for test in compare(source.night(random, entries, shift), past)) for _ in range(tries))


@pytest.mark.long
@pytest.mark.parametrize("entries", [60, 400, 2000])
def test_two_hundred_nights_of_one_source_raise_two_alarms_at_most(source: Source, entries: int) -> None:
    found = alarms(source, 200, entries)
    assert found.total() <= 2, found


@pytest.mark.long
@pytest.mark.parametrize(
    ("shift", "history"),
    # 5 % of the entries do not stand out of a single earlier run for certain.
    [(shift, history) for shift in SHIFTS for history in (1, 8) if (shift, history) != ("organism", 1)],
)
def test_each_planted_shift_is_caught_every_time(source: Source, shift: str, history: int) -> None:
    assert caught(source, shift, 20, 2000, history) == 20


def test_a_few_nights_and_each_shift_once(source: Source) -> None:
    assert not alarms(source, 5, 300)
    assert {shift: caught(source, shift, 1, 2000, 2) for shift in SHIFTS} == dict.fromkeys(SHIFTS, 1)


def test_a_profile_is_the_same_however_its_parts_are_cut(source: Source) -> None:
    letters, vectors = source.letters[:300], source.vectors[:300]
    keys = pa.array([None if i % 7 == 0 else f"k{i % 3}" for i in range(300)])

    def cut(*borders: int) -> str:
        ends = [0, *borders, 300]
        parts = [
            sequences_profile(letters[a:b]) + vectors_profile({"mean": vectors[a:b]}) + keys_profile({"k": keys[a:b]})
            for a, b in itertools.pairwise(ends)
        ]
        return total(reversed(parts)).to_json()

    assert cut() == cut(1, 2, 77) == cut(150) == cut(299)
    read = Profile.from_json(cut())
    assert read is not None
    assert read.to_json() == cut()
    assert read.counts["missing/k"] == 43


def test_moments_are_those_that_numpy_computes(source: Source) -> None:
    found = vectors_profile({"mean": source.vectors}).moments["vector/mean"]
    directions = source.vectors / np.linalg.norm(source.vectors, axis=1)[:, None]
    signs = 2.0 * np.random.Generator(np.random.PCG64(96)).integers(0, 2, (96, 16)) - 1
    projections = directions.astype(np.float64) @ signs * 1024
    assert np.allclose(found.mean(), projections.mean(0), atol=0.6)
    assert np.allclose(found.scatter() / (found.rows - 1), np.cov(projections.T), rtol=0.02, atol=2)


def test_a_profile_of_few_entries_keeps_counts_alone() -> None:
    letters = [b"ACGTACGTAC"] * (FEWEST - 1)
    few = (sequences_profile(letters) + vectors_profile({"mean": np.ones((FEWEST - 1, 4), np.float32)})).with_counts(entries=3)
    assert few.discreet() == Profile({"entries": 3})
    assert sequences_profile([*letters, b"ACG"]).discreet().histograms


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.ones((100, 8), np.float32),
        lambda: np.zeros((100, 8), np.float32),
        lambda: np.full((100, 8), 3e38, np.float32),
        lambda: np.full((100, 8), 1e-40, np.float32),
    ],
    ids=["equal", "zero", "huge", "denormal"],
)
def test_strange_vectors_are_compared_without_alarm_or_warning(make: Callable[[], np.ndarray]) -> None:
    letters = [b"ACGTTGCAAC"] * 100
    night = profile(letters, make())
    with np.errstate(all="raise"):
        assert not [test for test in compare(night, [night] * 3) if test.moved]
    turned = make()
    turned[:, ::2] = 1
    turned[:, 1::2] = -1
    assert any(test.moved for test in compare(profile(letters, turned), [night] * 3))


def test_a_key_whose_values_change_is_seen_and_no_value_is_kept() -> None:
    def night(share: float) -> Profile:
        values = pa.array(["SECRET-A" if i < 1000 * share else "SECRET-B" for i in range(1000)])
        return keys_profile({"site": values}).with_counts(entries=1000, rejected=0)

    past = [night(0.5), night(0.51), night(0.49)]
    assert not [test for test in compare(night(0.5), past) if test.moved]
    assert [test.name for test in compare(night(0.7), past) if test.moved] == ["key/site"]
    assert [test.name for test in compare(Profile({"entries": 1000, "rejected": 0}), past) if test.moved] == ["missing/site"]
    assert "SECRET" not in past[0].to_json()


def test_a_night_without_new_vectors_and_a_first_night(source: Source) -> None:
    random = np.random.default_rng(5)
    past = [source.night(random, 300) for _ in range(3)]
    assert compare(past[0], []) == []
    quiet = sequences_profile(source.letters[:300]).with_counts(entries=300, rejected=0, distinct=300, known=300)
    assert not [test for test in compare(quiet, past) if test.moved]


def test_monitor_says_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path / "store"))
    fill(store, [Entry("a", "ACGTACGT")], tmp_path, run_id="monday")
    found = monitor(store)
    assert (found.run_id, found.tests, found.note) == ("monday", (), "the run has no profile: it is of an earlier release")
    assert main(["monitor", "--store", store.uri, "--run", "mnday"]) == 2
    assert "did you mean monday?" in capsys.readouterr().err
