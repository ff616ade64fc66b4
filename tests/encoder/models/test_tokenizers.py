"""Sequences to ids: content alone and with special tokens, spans, what decides a fingerprint, files that are refused.

The slow references are written from the definitions; transformers' own tokenizers are a second opinion.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from letters import words

import dnafeat.encoder.models.tokenizers
from dnafeat.encoder.models.tokenizers import KmerTokenizer, LibraryTokenizer, SpacedKmers, Tokenizer, Tokens, train_bpe
from dnafeat.encoder.models.vocabularies import load
from dnafeat.errors import CheckpointError, UsageError

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "prokbert_token_ids.json").read_text())
PROKBERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BPE = [*models.SPECIAL, *"ACGT", *models.MERGES]
# Known letters most of all, then what stands in files: N, IUPAC codes, lower case, gaps, white space, one and two bytes a letter.
STRANGE = "ACGT" * 8 + "NNRYacgtU-*\n éЖ中"

letters = st.text(alphabet="ACGT" * 6 + "N", max_size=60)
strange = st.text(alphabet=STRANGE, max_size=60)
Token = tuple[str, int, int]


def dnabert(k: int) -> list[str]:
    return [*PROKBERT, *words(k, "ATCG")]


def plant(k: int) -> list[str]:
    return ["<unk>", "<pad>", "<mask>", "<cls>", *(words(k) if k > 1 else []), *"ATCGN", "<eos>", "<bos>"]


def save(folder: Path, made: tokenizers.Tokenizer) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(made.to_str(pretty=True))
    return folder


def save_words(folder: Path, entries: list[str], **tokenizer_config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")
    if tokenizer_config:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return folder


def rows(tokens: Tokens) -> list[list[int]]:
    assert (tokens.ids.dtype, tokens.offsets.dtype) == (np.int32, np.int64)
    assert tokens.offsets[0] == 0
    assert tokens.offsets[-1] == len(tokens.ids)
    return [tokens.ids[a:b].tolist() for a, b in itertools.pairwise(tokens.offsets)]


def spans(tokenizer: Tokenizer, sequences: Sequence[str]) -> list[list[tuple[int, int]]]:
    """The spans of each sequence; their ids are held against those of `ragged`."""
    tokens, starts, stops = tokenizer.spans(sequences)
    assert (starts.dtype, stops.dtype) == (np.int64, np.int64)
    assert rows(tokens) == rows(tokenizer.ragged(sequences))
    both = list(zip(starts.tolist(), stops.tolist(), strict=True))
    return [both[a:b] for a, b in itertools.pairwise(tokens.offsets)]


def slow_bpe(text: str) -> list[Token]:
    """Byte-pair encoding as its definition has it: the earliest merge first, leftmost place first, nothing across white space."""
    parts = [(letter if letter in "ACGT" else "[UNK]", i, i + 1) for i, letter in enumerate(text) if not letter.isspace()]
    while True:
        joined = [(a[0] + b[0], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a[2] == b[1]]
        rank, i = min(((models.MERGES.index(word), i) for word, i in joined if word in models.MERGES), default=(-1, 0))
        if rank < 0:
            return parts
        parts[i : i + 2] = [(parts[i][0] + parts[i + 1][0], parts[i][1], parts[i + 1][2])]


def slow_kmers(text: str, entries: list[str], k: int, shift: int = 1) -> list[int]:
    found = [text[i : i + k] for i in range(0, len(text) - k + 1, shift)]
    return [entries.index(word) if word in entries else entries.index("[UNK]") for word in found]


def slow_side_by_side(text: str, k: int) -> list[Token]:
    """From the left: a k-mer where one fits, else a letter of its own, else all letters up to a known one or white space."""
    parts: list[Token] = []
    i = 0
    while i < len(text):
        stop = i + 1
        if len(text) >= i + k and set(text[i : i + k]) <= set("ACGT"):
            stop = i + k
        elif text[i] not in "ACGTN" and not text[i].isspace():
            while stop < len(text) and text[stop] not in "ACGTN" and not text[stop].isspace():
                stop += 1
        if not text[i].isspace():
            parts.append((text[i:stop] if text[i] in "ACGTN" else "<unk>", i, stop))
        i = stop
    return parts


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each published layout."""
    home = tmp_path_factory.mktemp("tokenizers")
    save(home / "bpe", models.tokenizer())
    for k in (3, 4, 5, 6):
        save_words(home / f"dnabert-{k}", dnabert(k))
    save_words(home / "mini", [*PROKBERT, *words(6)], kmer=6, shift=1)
    save_words(home / "mini-long", [*PROKBERT, *words(6)], kmer=6, shift=2)
    save_words(home / "mini-c", [*PROKBERT, *"ACGT"], kmer=1, shift=1)
    save_words(home / "plant-6", plant(6))
    save_words(home / "plant-3", plant(3), eos_token=None)
    save_words(home / "plant-1", plant(1))
    return home


@pytest.fixture(scope="module")
def bpe(home: Path) -> Tokenizer:
    return load(home / "bpe")


# Byte-pair encoding


def test_content_ids_stand_end_to_end_without_special_tokens(bpe: Tokenizer) -> None:
    tokens = bpe.ragged(["ACGT", "GATTACA", "T"])
    assert tokens.ids.tolist() == [14, 13, 8, 8, 9, 5, 8]
    assert tokens.offsets.tolist() == [0, 1, 6, 7]


@given(st.lists(strange, max_size=5))
def test_bpe_ids_and_spans_are_those_of_the_definition_in_chunks_of_any_size(bpe: Tokenizer, sequences: list[str]) -> None:
    expected = [slow_bpe(sequence) for sequence in sequences]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dnafeat.encoder.models.tokenizers, "_CHUNK", 2)
        assert rows(bpe.ragged(sequences)) == [[BPE.index(entry) for entry, _, _ in parts] for parts in expected]
        assert spans(bpe, sequences) == [[(start, stop) for _, start, stop in parts] for parts in expected]


@given(letters)
def test_bpe_spans_cover_the_sequence(bpe: Tokenizer, sequence: str) -> None:
    found = spans(bpe, [sequence])[0]
    assert [start for start, _ in found] == [0, *(stop for _, stop in found)][: len(found)]
    assert (found[-1][1] if found else 0) == len(sequence)


def test_every_unknown_letter_is_one_unknown_token_and_white_space_is_none(bpe: Tokenizer) -> None:
    assert rows(bpe.ragged(["NNN", "ANRC", "acgt", " A\nC\t", ""])) == [[0, 0, 0], [5, 0, 0, 6], [0, 0, 0, 0], [5, 6], []]
    assert bpe.encode("ANRC") == [1, 5, 0, 0, 6, 2]
    assert bpe.encode("") == [1, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"padding": True},
        {"truncation": True, "max_length": 6},
        {"truncation": True, "max_length": 2},
        {"truncation": True, "max_length": 500},
        {"truncation": True, "max_length": 6, "padding": True},
        {"padding": True, "return_tensors": "pt"},
        {"pairs": ["TTAN", "", "GATTACA"]},
        {"pairs": ["TTAN", "", "GATTACA"], "padding": True, "return_tensors": "pt"},
    ],
)
def test_calling_answers_what_transformers_answers(bpe: Tokenizer, arguments: dict[str, Any]) -> None:
    arguments = dict(arguments)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    published = transformers.PreTrainedTokenizerFast(tokenizer_object=models.tokenizer(), **names)
    pairs = arguments.pop("pairs", None)
    batch = ["GATTACANNN", "", models.dna(40)]
    for sequences, seconds in ((batch, pairs), (batch[0], pairs and pairs[0])):
        expected = published(sequences, seconds, return_token_type_ids=True, **arguments)
        found = bpe(sequences, seconds, **arguments)
        assert sorted(found) == sorted(expected.keys())
        for name, value in found.items():
            if "return_tensors" in arguments:
                torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
            else:
                assert value == expected[name], name


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"return_tensors": "np"}, "'np'"),
        ({"truncation": True}, "max_length"),
        ({"truncation": True, "max_length": 1}, "max_length is 1"),
        ({"truncation": True, "max_length": 9, "pairs": ["A"]}, "single"),
    ],
)
def test_calls_that_mean_something_else_are_refused(bpe: Tokenizer, arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        bpe(["ACGT"], **arguments)


def test_special_ids_come_from_the_file_and_not_from_a_config(tmp_path: Path, bpe: Tokenizer) -> None:
    assert (bpe.unk_id, bpe.cls_id, bpe.sep_id, bpe.pad_id, bpe.specials, bpe.min_bases) == (0, 1, 2, 3, 2, 1)
    assert bpe.vocab_size == models.VOCABULARY
    order = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "[CLS]", "T", "G", "C", "A"]
    other = tokenizers.Tokenizer(tokenizers.models.BPE({entry: i for i, entry in enumerate(order)}, [], unk_token="[UNK]"))
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": 3, "cls_token_id": 1, "sep_token_id": 2}))
    read = load(save(tmp_path, other))
    assert (read.pad_id, read.unk_id, read.sep_id, read.cls_id) == (0, 1, 2, 4)
    assert read.token_to_id("[MASK]") == 3
    assert read.token_to_id("[NONE]") is None
    assert rows(read.ragged(["ACGTN"])) == [[8, 7, 6, 5, 1]]


def test_truncation_and_padding_set_in_the_file_do_not_touch_the_ids(tmp_path: Path, bpe: Tokenizer) -> None:
    """DNABERT-S publishes 2000 of each: what was longer would be cut, and what is shorter would be [PAD] for the most part."""
    made = models.tokenizer()
    made.enable_truncation(2000)
    made.enable_padding(pad_id=3, length=2000)
    read = load(save(tmp_path, made))
    sequences = [models.dna(9000), "A"]
    expected = [[BPE.index(entry) for entry, _, _ in slow_bpe(one)] for one in ("A", models.dna(300))]
    assert [read.encode(one) for one in ("A", models.dna(300))] == [[1, *ids, 2] for ids in expected]
    assert len(rows(read.ragged(sequences))[0]) > 2000
    assert rows(read.ragged(sequences)) == rows(bpe.ragged(sequences))
    assert spans(read, sequences)[0][-1][1] == 9000
    assert read.fingerprint == bpe.fingerprint


# Overlapping k-mers


@pytest.mark.parametrize("k", [3, 4, 5, 6])
def test_dnabert_ids_number_the_kmers_in_the_order_of_its_vocabulary(home: Path, k: int) -> None:
    tokenizer, entries, sequence = load(home / f"dnabert-{k}"), dnabert(k), models.dna(505 + k)
    ids = rows(tokenizer.ragged([sequence]))[0]
    assert ids == slow_kmers(sequence, entries, k)
    assert len(ids) == 506
    assert ids[0] == 5 + sum("ATCG".index(letter) * 4 ** (k - 1 - i) for i, letter in enumerate(sequence[:k]))
    assert tokenizer.encode(sequence) == [2, *ids, 3]
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id) == (0, 1, 2, 3)
    assert (tokenizer.vocab_size, tokenizer.min_bases, tokenizer.token_to_id("A" * k)) == (5 + 4**k, k, 5)


def test_515_bases_fill_the_510_places_of_a_6mer_model(home: Path) -> None:
    tokenizer = load(home / "dnabert-6")
    assert len(rows(tokenizer.ragged([models.dna(515)]))[0]) == 510
    assert len(tokenizer.encode(models.dna(515))) == 512


@given(sequences=st.lists(strange, max_size=6), shift=st.integers(1, 4), group=st.sampled_from([1, 7, 50, 10**6]))
def test_kmer_ids_and_spans_are_those_of_the_definition_in_groups_of_any_size(
    home: Path, sequences: list[str], shift: int, group: int
) -> None:
    tokenizer, entries = load(home / "dnabert-3", shift=shift), dnabert(3)
    assert isinstance(tokenizer, KmerTokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dnafeat.encoder.models.tokenizers, "_LETTERS_AT_A_TIME", group)
        assert rows(tokenizer.ragged(sequences)) == [slow_kmers(sequence, entries, 3, shift) for sequence in sequences]
        expected = [[(i, i + 3) for i in range(0, len(sequence) - 2, shift)] for sequence in sequences]
        assert spans(tokenizer, sequences) == expected


@pytest.mark.parametrize("letter", ["N", "R", "U", "a", "-", " ", "é", "Ā", "中", "𝟙", "\x00", "\ud800"])
def test_each_kmer_with_a_strange_letter_is_one_unknown_token(home: Path, letter: str) -> None:
    tokenizer = load(home / "dnabert-3")
    a = tokenizer.token_to_id("AAA")
    assert rows(tokenizer.ragged(["AAAA" + letter + "AAAA", letter * 3])) == [[a, a, 1, 1, 1, a, a], [1]]


def test_no_kmer_reaches_into_the_next_sequence_and_short_sequences_have_none(home: Path) -> None:
    tokenizer = load(home / "dnabert-6")
    assert rows(tokenizer.ragged(["AAAAA", "", "TTTTTTT", "A"])) == [[], [], [5 + 1365] * 2, []]
    assert rows(tokenizer.ragged([])) == rows(load(home / "bpe").ragged([])) == []
    assert spans(tokenizer, ["AAAAA"]) == [[]]
    assert tokenizer.encode("AAAAA") == [2, 3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dnafeat.encoder.models.tokenizers, "_LETTERS_AT_A_TIME", 5)
        assert rows(tokenizer.ragged(["AAAAA", "AAAAA", "AAAAAA"])) == [[], [], [5]]


def test_what_transformers_saves_of_a_kmer_vocabulary_is_read_as_overlapping_kmers(tmp_path: Path, home: Path) -> None:
    vocabulary = {entry: i for i, entry in enumerate(dnabert(3))}
    saved = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=False)
    saved.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    read, sequence = load(tmp_path), models.dna(40)
    # As it is, it knows nothing of a sequence; what it says of spaced k-mers is what is meant.
    assert saved.encode(sequence) == [2, 1, 3]
    spaced = " ".join(sequence[i : i + 3] for i in range(38))
    assert read.encode(sequence) == saved.encode(spaced) == [2, *slow_kmers(sequence, dnabert(3), 3), 3]
    assert read.fingerprint == load(home / "dnabert-3").fingerprint


@pytest.mark.parametrize("name", ["mini", "mini-long"])
def test_prokbert_answers_its_published_ids(home: Path, name: str) -> None:
    golden = GOLDEN[name]
    answer = load(home / name)(golden["sequences"], padding=True)
    assert answer["input_ids"] == golden["input_ids"]
    assert answer["attention_mask"] == golden["attention_mask"]


def test_shift_two_leaves_the_last_base_out_where_the_rest_is_odd(home: Path) -> None:
    tokenizer = load(home / "mini-long")
    assert rows(tokenizer.ragged(["ACGTACG", "ACGTACT"]))[0] == rows(tokenizer.ragged(["ACGTAC"]))[0]
    assert spans(tokenizer, ["ACGTACG", "ACGTACGT"]) == [[(0, 6)], [(0, 6), (2, 8)]]


def test_single_bases_have_a_vocabulary_of_nine(home: Path) -> None:
    tokenizer = load(home / "mini-c")
    assert (tokenizer.vocab_size, tokenizer.min_bases, tokenizer.kind) == (9, 1, "single bases")
    assert tokenizer.encode("ACGTNT") == [2, 5, 6, 7, 8, 1, 8, 3]
    assert spans(tokenizer, ["GAT"]) == [[(0, 1), (1, 2), (2, 3)]]


def test_the_shift_of_the_files_goes_before_the_one_asked_for(tmp_path: Path) -> None:
    folder = save_words(tmp_path, [*PROKBERT, *words(3)])
    assert [len(load(folder, shift=shift).encode("ACGTACGTA")) for shift in (None, 1, 2, 3)] == [9, 9, 6, 5]
    (folder / "config.json").write_text(json.dumps({"kmer": 3, "shift": 3}))
    assert len(load(folder, shift=2).encode("ACGTACGTA")) == 5
    (folder / "tokenizer_config.json").write_text(json.dumps({"shift": 2}))
    assert len(load(folder, shift=1).encode("ACGTACGTA")) == 6


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"kmer": 6, "shift": 1}', "kmer 6"),
        ('{"kmer": 6}', "kmer 6"),
        ('{"shift": 0}', "shift is 0"),
        ('{"shift": -1}', "shift is -1"),
        ('{"shift": 1.0}', "shift is 1.0"),
        ('{"shift": true}', "shift is True"),
        ('{"shift": "1"}', "shift is '1'"),
        ('{"shift": ', "not valid JSON"),
    ],
)
def test_a_config_that_does_not_fit_the_vocabulary_is_refused(tmp_path: Path, name: str, text: str, word: str) -> None:
    (save_words(tmp_path, [*PROKBERT, *words(3)]) / name).write_text(text)
    with pytest.raises(CheckpointError, match=word) as error:
        load(tmp_path)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


# k-mers side by side


@given(k=st.sampled_from([1, 3, 6]), sequences=st.lists(st.one_of(letters, strange), max_size=4))
def test_side_by_side_ids_and_spans_are_those_of_the_definition(home: Path, k: int, sequences: list[str]) -> None:
    tokenizer, entries = load(home / f"plant-{k}"), plant(k)
    expected = [slow_side_by_side(sequence, k) for sequence in sequences]
    assert rows(tokenizer.ragged(sequences)) == [[entries.index(word) for word, _, _ in parts] for parts in expected]
    assert spans(tokenizer, sequences) == [[(start, stop) for _, start, stop in parts] for parts in expected]


@pytest.mark.parametrize("end", [None, "<eos>"])
@pytest.mark.parametrize("k", [1, 6])
def test_side_by_side_ids_are_those_of_transformers_esm_tokenizer(tmp_path: Path, k: int, end: str | None) -> None:
    folder = save_words(tmp_path, plant(k), eos_token=end)
    published, tokenizer = transformers.EsmTokenizer(str(folder / "vocab.txt"), eos_token=end), load(folder)
    rng = np.random.default_rng(k)
    for alphabet in ("ACGT", "ACGT" * 5 + "N", STRANGE):
        sequences = ["".join(rng.choice(list(alphabet), length)) for length in rng.integers(0, 60, 60)]
        expected = published(sequences, padding=True)
        answer = tokenizer(sequences, padding=True)
        assert answer["input_ids"] == expected["input_ids"]
        assert answer["attention_mask"] == expected["attention_mask"]


def test_side_by_side_tails_unknown_runs_and_specials(home: Path) -> None:
    tokenizer, entries = load(home / "plant-6"), plant(6)
    assert (tokenizer.unk_id, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.specials) == (0, 1, 3, None, 1)
    assert (tokenizer.vocab_size, tokenizer.min_bases) == (4 + 4**6 + 5 + 2, 1)
    found = [entries[i] for i in tokenizer.encode("ACGTACGT ACGTACNacgtRYG")]
    assert found == ["<cls>", "ACGTAC", "G", "T", "ACGTAC", "N", "<unk>", "G"]
    assert tokenizer.encode("") == [3]
    assert tokenizer(["ACGTAC", "ACGTACG"], truncation=True, max_length=2)["input_ids"] == [tokenizer.encode("ACGTAC")] * 2


@pytest.mark.parametrize("end", ["<eos>", {"content": "<eos>", "special": True}])
def test_the_token_behind_a_sequence_is_the_one_the_configuration_names(tmp_path: Path, end: Any) -> None:
    tokenizer = load(save_words(tmp_path, plant(1), eos_token=end))
    assert tokenizer.encode("ACG") == [3, 4, 6, 7, 9]
    assert (tokenizer.sep_id, tokenizer.specials) == (9, 2)


def test_pairs_with_nothing_between_them_are_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="pairs"):
        load(home / "plant-1")(["A"], ["C"])


# k-mers with spaces between, for byte-pair encodings


@given(st.lists(letters, max_size=4), st.integers(1, 7))
def test_spaced_kmers_are_the_tokens_of_the_spaced_text_at_the_places_of_their_bases(
    home: Path, sequences: list[str], k: int
) -> None:
    tokenizer = load(home / "bpe", kmer=k)
    assert isinstance(tokenizer, SpacedKmers)
    expected, places = [], []
    for sequence in sequences:
        starts = range(len(sequence) - k + 1)
        parts = slow_bpe(" ".join(sequence[i : i + k] for i in starts))
        base = [at for i in starts for at in (*range(i, i + k), -1)]  # where each letter of that text stands in the sequence
        expected.append([BPE.index(word) for word, _, _ in parts])
        places.append([(base[start], base[stop - 1] + 1) for _, start, stop in parts])
    assert rows(tokenizer.ragged(sequences)) == expected
    assert spans(tokenizer, sequences) == places


def test_spaced_kmers_keep_the_special_tokens_and_need_k_bases(home: Path, bpe: Tokenizer) -> None:
    tokenizer = load(home / "bpe", kmer=4)
    assert tokenizer.encode("ACGTA") == bpe.encode("ACGT CGTA")
    assert rows(tokenizer.ragged(["ACG", "", "ACGT", "中中中中"])) == [[], [], [14], [0, 0, 0, 0]]
    assert (tokenizer.min_bases, tokenizer.vocab_size, tokenizer.token_to_id("ACGT")) == (4, models.VOCABULARY, 14)
    assert (tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id) == (0, 1, 2, 3)


@pytest.mark.parametrize("name", ["dnabert-3", "mini-c", "plant-6", "plant-1"])
def test_spaced_kmers_of_kmers_are_refused_in_one_sentence(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"kmer is 6: .* this is ") as error:
        load(home / name, kmer=6)
    assert "\n" not in str(error.value)


def test_a_negative_kmer_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="kmer is -1: give"):
        load(home / "bpe", kmer=-1)


# Fingerprints


def test_every_tokenizer_that_gives_other_ids_has_another_fingerprint(tmp_path: Path, home: Path) -> None:
    swapped, renumbered = (json.loads(models.tokenizer().to_str()) for _ in range(2))
    swapped["model"]["merges"][:2] = reversed(swapped["model"]["merges"][:2])
    renumbered["model"]["vocab"] |= {"A": 6, "C": 5}
    for name, changed in {"swapped": swapped, "renumbered": renumbered}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(changed))
    made = [
        *(load(home / "bpe", kmer=k) for k in (0, 1, 2)),
        *(load(tmp_path / name) for name in ("swapped", "renumbered")),
        *(load(home / f"dnabert-{k}") for k in (3, 4)),
        load(home / "dnabert-3", shift=2),
        load(save_words(tmp_path / "acgt", [*PROKBERT, *words(3)])),
        *(load(home / f"plant-{k}") for k in (1, 3)),
        *(load(save_words(tmp_path / end, plant(1), eos_token=end)) for end in ("<eos>", "<bos>")),
    ]
    assert len({tokenizer.fingerprint for tokenizer in made}) == len(made)


def test_the_fingerprint_does_not_know_the_layout_of_the_files(tmp_path: Path, home: Path, bpe: Tokenizer) -> None:
    values = json.loads(models.tokenizer().to_str())
    for i, text in enumerate([json.dumps(values), json.dumps(values, indent=7), json.dumps(dict(reversed(values.items())))]):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "tokenizer.json").write_text(text)
        assert load(tmp_path / str(i)).fingerprint == bpe.fingerprint
    same = save_words(tmp_path / "dnabert", dnabert(3), shift=1)
    (same / "vocab.txt").write_bytes("\r\n".join(dnabert(3)).encode())
    assert load(same).fingerprint == load(home / "dnabert-3").fingerprint
    assert load(save_words(tmp_path / "plant", plant(6), eos_token=None)).fingerprint == load(home / "plant-6").fingerprint


# Refusals


def refused(folder: Path, *named: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in named), str(error.value)


def test_a_folder_without_a_tokenizer_is_refused_and_the_files_are_named(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), "tokenizer.json", "vocab.txt")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": {"type": "Nonesuch"}}', "\x00\x01"])
def test_a_tokenizer_json_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    refused(tmp_path, str(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize("lacking", [["[CLS]"], ["[SEP]"], ["[PAD]"], ["[CLS]", "[PAD]"]])
def test_a_tokenizer_without_a_special_token_the_encoder_needs_is_refused(tmp_path: Path, lacking: list[str]) -> None:
    entries = [entry for entry in [*models.SPECIAL, *"ACGT"] if entry not in lacking]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({entry: i for i, entry in enumerate(entries)}, [], unk_token="[UNK]"))
    with pytest.raises(CheckpointError) as error:
        load(save(tmp_path, made))
    assert str(tmp_path / "tokenizer.json") in str(error.value)
    assert all(name in str(error.value) for name in lacking)
    assert "[UNK]" not in str(error.value)


@pytest.mark.parametrize("special", [models.SPECIAL[1:], models.SPECIAL])
def test_a_tokenizer_that_drops_unknown_letters_is_refused(tmp_path: Path, special: list[str]) -> None:
    """Without an unknown token an N vanishes: a sequence of N would have no tokens and no vector."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE({entry: i for i, entry in enumerate([*special, *"ACGT"])}, []))
    refused(save(tmp_path, made), str(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ([*dnabert(3), "ACG"], "'ACG' twice"),
        ([*plant(1), "<cls>"], "'<cls>' twice"),
        (dnabert(3)[:-1], "not understood"),
        ([*dnabert(3), "AC"], "not understood"),
        ([*dnabert(3), "N"], "not understood"),
        (dnabert(3)[1:], "not understood"),
        (["hello", "world"], "not understood"),
        ([], "not understood"),
        ([entry for entry in plant(3) if entry != "ACG"], "not understood"),
        ([*plant(3), "ACGT"], "not understood"),
        *((["AC" if entry == "ACG" else entry for entry in kind], "not understood") for kind in (dnabert(3), plant(3))),
        ([entry for entry in plant(3) if entry != "T"], "not understood"),
        ([entry for entry in plant(1) if entry != "N"], "not understood"),
        ([entry for entry in plant(1) if entry != "<pad>"], "<pad>"),
        ([entry for entry in plant(1) if entry != "<unk>"], "<unk>"),
    ],
)
def test_a_vocabulary_that_is_neither_kind_is_refused(tmp_path: Path, entries: list[str], word: str) -> None:
    refused(save_words(tmp_path, entries), str(tmp_path / "vocab.txt"), word)


@pytest.mark.parametrize("entries", [dnabert(3)[:-1], [*PROKBERT, "hello"]])
def test_a_tokenizer_json_for_words_between_spaces_is_refused(tmp_path: Path, entries: list[str]) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    refused(save(tmp_path, made), str(tmp_path / "tokenizer.json"), "without spaces")


def test_a_vocabulary_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\x80")
    refused(tmp_path, str(tmp_path / "vocab.txt"), "no text")


def test_an_end_token_the_vocabulary_lacks_is_refused(tmp_path: Path) -> None:
    refused(save_words(tmp_path, plant(1), eos_token="</s>"), str(tmp_path / "vocab.txt"), "</s>")


# Training

CORPUS = [models.dna(300, seed) for seed in range(20)] + ["ACGT" * 40, "NNNNN", "RYK" + "GATTACA" * 10, "acgtnx"]


def test_a_trained_vocabulary_of_nine_is_the_specials_and_the_alphabet() -> None:
    made = train_bpe(CORPUS, 9)
    assert made.get_vocab() == {entry: i for i, entry in enumerate([*models.SPECIAL, *"ACGT"])}
    assert rows(LibraryTokenizer(made, "BPE").ragged(["ACGTNTT"])) == [[5, 6, 7, 8, 0, 8, 8]]


def test_a_trained_vocabulary_is_laid_out_like_the_published_one(tmp_path: Path) -> None:
    made = train_bpe(CORPUS, 64)
    entries = [entry for entry, _ in sorted(made.get_vocab().items(), key=lambda item: item[1])]
    assert sorted(made.get_vocab().values()) == list(range(64))
    assert entries[:9] == [*models.SPECIAL, *"ACGT"]
    for i, entry in enumerate(entries[9:], 9):
        assert set(entry) <= set("ACGT")
        earlier = set(entries[5:i])
        assert any(entry[:cut] in earlier and entry[cut:] in earlier for cut in range(1, len(entry))), entry
    read = load(save(tmp_path, made))
    assert (read.vocab_size, read.cls_id, read.sep_id, read.pad_id) == (64, 1, 2, 3)
    ids = read.ragged(["ACGTACGTGATTACA"]).ids
    assert "".join(entries[i] for i in ids) == "ACGTACGTGATTACA"
    assert len(ids) < 15


def test_a_trained_tokenizer_puts_cls_before_and_sep_behind_for_other_programs() -> None:
    made = train_bpe(CORPUS, 9)
    assert made.encode("ACG").ids == [1, 5, 6, 7, 2]
    assert made.encode("").ids == [1, 2]


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert train_bpe(CORPUS, 64).to_str() == train_bpe(CORPUS, 64).to_str()
