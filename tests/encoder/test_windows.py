"""Windows: what each sees and owns, in tokens and in bases, on both strands, against the definition worked out slowly.

`Kind` and `slow_windows` serve the tests of the encoder too.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import IUPAC, other_strand, words

from dnafeat.encoder.models import vocabularies
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.windows import ARRAYS, Cutting, Windows, cut, cut_windows
from dnafeat.errors import UsageError

Token = tuple[int, int, int]  # id, first base, one past the last
Window = tuple[list[int], int, int]  # ids seen, first place owned, one past the last


# The definitions, slowly.


def bpe(sequence: str) -> list[Token]:
    """The library itself, a letter that is no base standing alone."""
    found = models.tokenizer().encode(sequence, add_special_tokens=False)
    return [(i, a, b) for i, (a, b) in zip(found.ids, found.offsets, strict=True)]


def spaced(sequence: str, k: int) -> list[Token]:
    return [(i, at + a, at + b) for at in range(len(sequence) - k + 1) for i, a, b in bpe(sequence[at : at + k])]


def kmers(sequence: str, k: int, shift: int, order: str = "ACGT") -> list[Token]:
    entries = {word: i for i, word in enumerate([*models.KMER_SPECIAL, *words(k, order)])}
    return [(entries.get(sequence[at : at + k], 1), at, at + k) for at in range(0, len(sequence) - k + 1, shift)]


PLANT = ["<unk>", "<pad>", "<mask>", "<cls>"]


def side_by_side(sequence: str, k: int) -> list[Token]:
    """k-mers as long as there are any, single letters between, and one <unk> for a run of letters that are none."""
    entries = {word: i for i, word in enumerate([*PLANT, *(words(k) if k > 1 else []), *"ATCGN"])}
    found, at = [], 0
    while at < len(sequence):
        if len(word := sequence[at : at + k]) == k and not set(word) - set("ACGT"):
            size = k
        elif sequence[at] in "ACGTN":
            size = 1
        else:
            size = len(list(itertools.takewhile(lambda letter: letter not in "ACGTN", sequence[at:])))
        found.append((entries.get(sequence[at : at + size], 0), at, at + size))
        at += size
    return found


@dataclass(frozen=True)
class Kind:
    """A tokenizer: its files, and what it answers by definition."""

    tokens: Callable[[str], list[Token]]
    entries: list[str] | None = None  # of vocab.txt; None: the random models' tokenizer.json
    settings: dict[str, Any] | None = None
    kmer: int = 0
    cls: int = 1
    sep: int | None = 2
    min_bases: int = 1

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if self.entries is None:
            (folder / "tokenizer.json").write_text(models.tokenizer().to_str())
        else:
            (folder / "vocab.txt").write_text("\n".join(self.entries) + "\n")
        if self.settings:
            (folder / "tokenizer_config.json").write_text(json.dumps(self.settings))
        return folder


KMERS = [*models.KMER_SPECIAL, *words(3)]
KINDS = {
    "bpe": Kind(bpe),
    "spaced": Kind(lambda s: spaced(s, 3), kmer=3, min_bases=3),
    "kmers": Kind(lambda s: kmers(s, 3, 1), KMERS, cls=2, sep=3, min_bases=3),
    "shift": Kind(lambda s: kmers(s, 3, 2), KMERS, {"kmer": 3, "shift": 2}, cls=2, sep=3, min_bases=3),
    "bases": Kind(lambda s: side_by_side(s, 1), [*PLANT, *"ATCGN"], cls=3, sep=None),
    "beside": Kind(lambda s: side_by_side(s, 3), [*PLANT, *words(3), *"ATCGN"], cls=3, sep=None),
}


def spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """What each window sees: a window every `size - overlap` places until one reaches the end; that one is moved back to end there."""
    starts = [0]
    while starts[-1] + size < length:
        starts.append(starts[-1] + size - overlap)
    return [(max(0, min(start, length - size)), min(start + size, length)) for start in starts]


def slow_windows(
    tokens: Callable[[str], list[Token]],
    sequence: str,
    *,
    capacity: int = 0,
    overlap: int = 0,
    bases: int = 0,
    truncate: bool = False,
) -> list[Window]:
    """The windows of one strand that own a token: from the first whose middle is at or behind the border to the next border's."""
    whole = tokens(sequence)
    seen = spans(len(sequence), bases, overlap) if bases else spans(len(whole), capacity, overlap)
    seen = seen[:1] if truncate else seen
    borders = [-math.inf, *((start + stop) / 2 for (_, stop), (start, _) in itertools.pairwise(seen)), math.inf]
    windows = []
    for (start, stop), (low, high) in zip(seen, itertools.pairwise(borders), strict=True):
        part = tokens(sequence[start:stop]) if bases else whole[start:stop]
        middles = [start + (a + b) / 2 for _, a, b in part] if bases else [start + i + 0.5 for i in range(len(part))]
        begin, end = (next((i for i, middle in enumerate(middles) if middle >= border), len(part)) for border in (low, high))
        if begin < end:
            windows.append(([i for i, _, _ in part], begin, end))
    return windows


# Places alone.


@given(st.lists(st.integers(1, 200), max_size=8), st.integers(1, 50), st.data())
def test_windows_own_every_place_once_and_keep_their_bounds(lengths: list[int], capacity: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, capacity - 1))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    windows = cut_windows(offsets, capacity, overlap)
    assert windows.sequence.tolist() == sorted(windows.sequence.tolist())
    owners = np.zeros(offsets[-1], int)
    for first, last in zip(windows.own_start, windows.own_stop, strict=True):
        owners[first:last] += 1
    assert np.all(owners == 1)
    for i, length in enumerate(lengths):
        mine = windows.sequence == i
        start, stop = windows.start[mine], windows.stop[mine]
        own_start, own_stop = windows.own_start[mine], windows.own_stop[mine]
        n = len(start)
        assert start[0] == offsets[i]
        assert stop[-1] == offsets[i + 1]
        assert np.all(stop - start == min(capacity, length))
        assert np.all((start <= own_start) & (own_start < own_stop) & (own_stop <= stop))
        shared = stop[:-1] - start[1:]
        assert np.all(shared >= overlap)
        # The border lies in the middle of what two neighbours share.
        assert np.all(np.abs((own_stop[:-1] - start[1:]) - (stop[:-1] - own_start[1:])) <= 1)
        # n windows that share `overlap` reach this far; one fewer would not reach the end.
        assert n * capacity - (n - 1) * overlap >= length
        assert n == 1 or (n - 1) * capacity - (n - 2) * overlap < length


def test_windows_of_a_known_sequence() -> None:
    windows = cut_windows(np.array([0, 5, 30], np.int64), 10, 3)
    assert windows.sequence.tolist() == [0, 1, 1, 1, 1]
    assert windows.start.tolist() == [0, 5, 12, 19, 20]
    assert windows.stop.tolist() == [5, 15, 22, 29, 30]
    assert windows.own_start.tolist() == [0, 5, 13, 20, 24]
    assert windows.own_stop.tolist() == [5, 13, 20, 24, 30]


# Sequences.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {name: vocabularies.load(kind.write(folder / name), kmer=kind.kmer) for name, kind in KINDS.items()}


def texts(min_bases: int, letters: str = "ACGT" * 4 + IUPAC, max_size: int = 120) -> st.SearchStrategy[list[str]]:
    return st.lists(st.text(letters, min_size=min_bases, max_size=max_size), max_size=5)


@st.composite
def cuttings(draw: st.DrawFn, min_bases: int = 1, **fixed: Any) -> Cutting:
    size = draw(st.integers(min_bases, 40))
    how = {"overlap": draw(st.integers(0, size - 1)), "truncate": draw(st.booleans()), "both_strands": draw(st.booleans())}
    capacity = None if draw(st.booleans()) else 120
    how |= {"bases": size, "capacity": capacity} if draw(st.booleans()) else {"capacity": size}
    return Cutting(**{**how, **fixed})


def shown(windows: Windows) -> Iterator[tuple[int, int, Window]]:
    """Sequence, strand and window, one after the other."""
    for i in range(len(windows)):
        start, stop, first, last = (int(getattr(windows, name)[i]) for name in ("start", "stop", "own_start", "own_stop"))
        yield int(windows.sequence[i]), int(windows.strand[i]), (windows.ids[start:stop].tolist(), first - start, last - start)


def slowly(kind: Kind, sequences: Sequence[str], how: Cutting) -> list[tuple[int, int, Window]]:
    limits = {"capacity": how.capacity or 0, "overlap": how.overlap, "bases": how.bases, "truncate": how.truncate}
    return [
        (i, strand, window)
        for i, sequence in enumerate(sequences)
        for strand, one in enumerate([sequence, other_strand(sequence)][: 1 + how.both_strands])
        for window in slow_windows(kind.tokens, one, **limits)
    ]


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=examples(20, 60))
@given(data=st.data())
def test_windows_are_those_of_the_definition(made: dict[str, Tokenizer], name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    sequences, how = data.draw(texts(kind.min_bases)), data.draw(cuttings(kind.min_bases))
    windows = cut(sequences, made[name], how)
    expected = slowly(kind, sequences, how)
    assert list(shown(windows)) == expected
    forward = [[last - first for i, strand, (_, first, last) in expected if (i, strand) == (n, 0)] for n in range(len(sequences))]
    assert windows.tokens().tolist() == [sum(owned) for owned in forward]
    assert windows.counts().tolist() == [len(owned) for owned in forward]
    whole = slowly(kind, sequences, Cutting(**{**vars(how), "truncate": False}))
    several = {i for (i, strand, _), (j, other, _) in itertools.pairwise(whole) if (i, strand) == (j, other)}
    assert windows.cut.tolist() == [how.truncate and n in several for n in range(len(sequences))]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("size", "overlap"), [(4, 0), (4, 3), (5, 2), (7, 3), (8, 5), (13, 6), (13, 7)])
def test_windows_of_some_sequences_are_those_of_the_definition(
    made: dict[str, Tokenizer], name: str, size: int, overlap: int
) -> None:
    sequences = ["A" * 13, "ACGNNRYT", *(models.dna(bases, bases) for bases in (3, 4, 13, 14, 40, 41, 77))]
    for truncate, both in itertools.product([False, True], repeat=2):
        for where in ({"capacity": size}, {"capacity": None, "bases": size}):
            how = Cutting(overlap=overlap, truncate=truncate, both_strands=both, **where)
            assert list(shown(cut(sequences, made[name], how))) == slowly(KINDS[name], sequences, how)


def test_a_sequence_of_which_either_strand_is_cut_is_cut(made: dict[str, Tokenizer]) -> None:
    """BPE cuts the strands into different numbers of tokens."""
    short = next(s for s in (models.dna(12, i) for i in range(99)) if len(bpe(s)) < len(bpe(other_strand(s))))
    how = Cutting(capacity=len(bpe(short)), truncate=True, both_strands=True)
    assert cut([short, "ACGT", other_strand(short)], made["bpe"], how).cut.tolist() == [True, False, True]
    alone = Cutting(capacity=len(bpe(short)), truncate=True)
    assert cut([short, "ACGT", other_strand(short)], made["bpe"], alone).cut.tolist() == [False, False, True]


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=examples(10, 30))
@given(data=st.data())
def test_the_strands_of_a_reverse_complement_are_the_same_ones_exchanged(
    made: dict[str, Tokenizer], name: str, data: st.DataObject
) -> None:
    sequences, how = data.draw(texts(3)), data.draw(cuttings(3, both_strands=True, capacity=120))
    one = cut(sequences, made[name], how)
    other = cut([other_strand(sequence) for sequence in sequences], made[name], how)
    assert sorted(shown(one)) == sorted((i, 1 - strand, window) for i, strand, window in shown(other))
    assert one.cut.tolist() == other.cut.tolist()


@pytest.mark.parametrize(("name", "least"), [("kmers", 2), ("spaced", 4)])
@given(sequences=texts(3, max_size=200), data=st.data())
def test_windows_in_bases_own_every_kmer_once_where_they_share_enough(
    made: dict[str, Tokenizer], name: str, least: int, sequences: list[str], data: st.DataObject
) -> None:
    """k - 1 bases for k-mers; twice that where BPE splits them."""
    bases = data.draw(st.integers(least + 1, 40))
    overlap = data.draw(st.integers(least, bases - 1))
    windows = cut(sequences, made[name], Cutting(capacity=None, bases=bases, overlap=overlap))
    owned = [[i for n, _, (ids, a, b) in shown(windows) if n == number for i in ids[a:b]] for number in range(len(sequences))]
    assert owned == [[i for i, _, _ in KINDS[name].tokens(sequence)] for sequence in sequences]


@given(texts(1, "ACGTN"), st.integers(1, 40), st.data())
def test_windows_in_bases_own_every_single_base_once(
    made: dict[str, Tokenizer], sequences: list[str], bases: int, data: st.DataObject
) -> None:
    windows = cut(sequences, made["bases"], Cutting(capacity=None, bases=bases, overlap=data.draw(st.integers(0, bases - 1))))
    assert windows.tokens().tolist() == [len(sequence) for sequence in sequences]


@settings(max_examples=examples(15, 50))
@given(data=st.data())
def test_a_part_is_what_its_sequences_alone_give(made: dict[str, Tokenizer], data: st.DataObject) -> None:
    sequences, how = data.draw(texts(1)), data.draw(cuttings())
    first = data.draw(st.integers(0, len(sequences)))
    end = data.draw(st.integers(first, len(sequences)))
    part, alone = cut(sequences, made["bpe"], how).part(first, end), cut(sequences[first:end], made["bpe"], how)
    assert list(shown(part)) == list(shown(alone))
    assert (part.cut.tolist(), part.tokens().tolist()) == (alone.cut.tolist(), alone.tokens().tolist())


@pytest.mark.parametrize("how", [Cutting(capacity=9, both_strands=True), Cutting(capacity=None, bases=9, truncate=True)])
@pytest.mark.parametrize("name", KINDS)
def test_no_sequences_have_no_windows(made: dict[str, Tokenizer], name: str, how: Cutting) -> None:
    windows = cut([], made[name], how)
    assert [len(getattr(windows, array)) for array in ARRAYS] == [0] * len(ARRAYS)
    assert len(windows.tokens()) == len(windows.counts()) == len(windows) == 0


def test_arrays_have_the_types_they_are_said_to_have(made: dict[str, Tokenizer]) -> None:
    for how in (Cutting(capacity=9, both_strands=True), Cutting(capacity=99, bases=9, overlap=2, truncate=True)):
        windows = cut(["ACGT" * 9, "N"], made["bpe"], how)
        kinds = {name: getattr(windows, name).dtype for name in ARRAYS}
        assert kinds == {name: {"ids": np.int32, "cut": np.bool_}.get(name, np.int64) for name in ARRAYS}


# What is refused.


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("bases", [0, 5])
@pytest.mark.parametrize("name", ["kmers", "shift", "spaced"])
def test_a_sequence_without_a_token_is_refused_with_its_index(
    made: dict[str, Tokenizer], name: str, bases: int, both: bool
) -> None:
    how = Cutting(capacity=90, bases=bases, both_strands=both)
    with pytest.raises(UsageError, match=r"sequence 1 of 3, 2 bases, .* 3 bases"):
        cut(["ACGTACGTACGT", "AC", "ACG"], made[name], how)


def test_a_window_of_bases_with_more_tokens_than_fit_is_refused_with_both_numbers(made: dict[str, Tokenizer]) -> None:
    for how in (Cutting(capacity=8, bases=11), Cutting(capacity=8, bases=11, both_strands=True)):
        with pytest.raises(UsageError, match="window of 11 bases has 9 tokens and the model takes 8"):
            cut(["ACGT", "ACGTACGTACG"], made["kmers"], how)
        assert cut(["ACGT", "ACGTACGTAC"], made["kmers"], how).tokens().tolist() == [2, 8]
    with pytest.raises(ValueError, match="capacity"):
        cut(["ACGT"], made["kmers"], Cutting(capacity=None))
