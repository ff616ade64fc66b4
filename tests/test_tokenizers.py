"""Sequences to ids: content alone, one id for each unknown letter, ids from the file, files that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import models
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from dnafeat.errors import CheckpointError
from dnafeat.tokenizers import BPETokenizer, train_bpe


def save(folder: Path, made: tokenizers.Tokenizer, *, indent: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tokenizer.json"
    file.write_text(made.to_str(pretty=indent))
    return file


def slow_bpe(letters: str) -> list[int]:
    """Byte-pair encoding as its definition has it: the earliest merge first, leftmost place first."""
    parts = [letter if letter in "ACGT" else "[UNK]" for letter in letters]
    ranks = {merged: i for i, merged in enumerate(models.MERGES)}
    while True:
        pairs = [(ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1)]
        rank, i = min(pairs, default=(len(ranks), 0))
        if rank == len(ranks):
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    entries = [*models.SPECIAL, *"ACGT", *models.MERGES]
    return [entries.index(part) for part in parts]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BPETokenizer:
    return BPETokenizer(save(tmp_path_factory.mktemp("tokenizer"), models.tokenizer()))


def test_content_ids_stand_end_to_end_without_special_tokens(tokenizer: BPETokenizer) -> None:
    tokens = tokenizer.encode(["ACGT", "GATTACA", "T"])
    assert tokens.ids.tolist() == [14, 13, 8, 8, 9, 5, 8]
    assert tokens.offsets.tolist() == [0, 1, 6, 7]


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ACGTN", min_size=1, max_size=60), max_size=5))
def test_ids_are_those_of_a_slow_bpe_in_order_and_cut_by_the_offsets(tokenizer: BPETokenizer, sequences: list[str]) -> None:
    tokens = tokenizer.encode(sequences)
    assert (tokens.ids.dtype, tokens.offsets.dtype) == (np.int32, np.int64)
    assert tokens.offsets[0] == 0
    assert tokens.offsets[-1] == len(tokens.ids)
    cut = [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]
    assert cut == [slow_bpe(sequence) for sequence in sequences]


def test_every_unknown_letter_is_one_unknown_token(tokenizer: BPETokenizer) -> None:
    assert tokenizer.encode(["NNN", "ANRC", "N"]).ids.tolist() == [0, 0, 0, 5, 0, 0, 6, 0]


def test_special_ids_come_from_the_file(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id) == (1, 2, 3)
    assert tokenizer.vocab_size == models.VOCABULARY
    order = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "[CLS]", "T", "G", "C", "A"]
    other = tokenizers.Tokenizer(tokenizers.models.BPE({entry: i for i, entry in enumerate(order)}, [], unk_token="[UNK]"))
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": 3, "cls_token_id": 1, "sep_token_id": 2}))
    read = BPETokenizer(save(tmp_path, other))
    assert (read.pad_id, read.sep_id, read.cls_id) == (0, 2, 4)
    assert read.token_to_id("[MASK]") == 3
    assert read.token_to_id("[NONE]") is None
    assert read.encode(["ACGTN"]).ids.tolist() == [8, 7, 6, 5, 1]


def test_truncation_and_padding_set_in_the_file_do_not_touch_the_ids(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    made = models.tokenizer()
    made.enable_truncation(4)
    made.enable_padding(pad_id=3, length=50)
    read = BPETokenizer(save(tmp_path, made))
    sequences = [models.dna(200), "A"]
    np.testing.assert_array_equal(read.encode(sequences).ids, tokenizer.encode(sequences).ids)
    assert len(read.encode(["A"]).ids) == 1
    assert read.fingerprint == tokenizer.fingerprint


def test_the_fingerprint_does_not_know_indentation_or_the_order_of_keys(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    values = json.loads(models.tokenizer().to_str())
    for i, text in enumerate([json.dumps(values), json.dumps(values, indent=7), json.dumps(dict(reversed(values.items())))]):
        file = tmp_path / str(i) / "tokenizer.json"
        file.parent.mkdir()
        file.write_text(text)
        assert BPETokenizer(file).fingerprint == tokenizer.fingerprint


def test_the_fingerprint_changes_with_the_merges_and_the_vocabulary(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    values = json.loads(models.tokenizer().to_str())
    swapped = json.loads(json.dumps(values))
    swapped["model"]["merges"][0], swapped["model"]["merges"][1] = values["model"]["merges"][1], values["model"]["merges"][0]
    renumbered = json.loads(json.dumps(values))
    renumbered["model"]["vocab"] |= {"A": 6, "C": 5}
    seen = {tokenizer.fingerprint}
    for i, changed in enumerate([swapped, renumbered]):
        file = tmp_path / str(i) / "tokenizer.json"
        file.parent.mkdir()
        file.write_text(json.dumps(changed))
        seen.add(BPETokenizer(file).fingerprint)
    assert len(seen) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": {"type": "Nonesuch"}}', "\x00\x01"])
def test_a_file_that_is_no_tokenizer_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(text)
    with pytest.raises(CheckpointError) as error:
        BPETokenizer(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused_with_its_folder_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json") as error:
        BPETokenizer(tmp_path / "tokenizer.json")
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("lacking", [["[CLS]"], ["[SEP]"], ["[PAD]"], ["[CLS]", "[PAD]"]])
def test_a_tokenizer_without_a_special_token_the_encoder_needs_is_refused(tmp_path: Path, lacking: list[str]) -> None:
    entries = [entry for entry in [*models.SPECIAL, *"ACGT"] if entry not in lacking]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({entry: i for i, entry in enumerate(entries)}, [], unk_token="[UNK]"))
    with pytest.raises(CheckpointError) as error:
        BPETokenizer(save(tmp_path, made))
    assert all(name in str(error.value) for name in lacking)
    assert "[UNK]" not in str(error.value)


def test_a_tokenizer_that_drops_unknown_letters_is_refused(tmp_path: Path) -> None:
    """Without an unknown token an N vanishes: a sequence of N would have no tokens and no vector."""
    entries = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", *"ACGT"]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({entry: i for i, entry in enumerate(entries)}, []))
    with pytest.raises(CheckpointError):
        BPETokenizer(save(tmp_path, made))


CORPUS = [models.dna(300, seed) for seed in range(20)] + ["ACGT" * 40, "NNNNN", "RYK" + "GATTACA" * 10, "acgtnx"]


def test_a_trained_vocabulary_of_nine_is_the_specials_and_the_alphabet(tmp_path: Path) -> None:
    made = train_bpe(CORPUS, 9)
    assert made.get_vocab() == {entry: i for i, entry in enumerate([*models.SPECIAL, *"ACGT"])}
    assert BPETokenizer(save(tmp_path, made)).encode(["ACGTNTT"]).ids.tolist() == [5, 6, 7, 8, 0, 8, 8]


def test_a_trained_vocabulary_is_laid_out_like_the_published_one(tmp_path: Path) -> None:
    made = train_bpe(CORPUS, 64)
    entries = [entry for entry, _ in sorted(made.get_vocab().items(), key=lambda item: item[1])]
    assert sorted(made.get_vocab().values()) == list(range(64))
    assert entries[:9] == [*models.SPECIAL, *"ACGT"]
    for i, entry in enumerate(entries[9:], 9):
        assert set(entry) <= set("ACGT")
        earlier = set(entries[5:i])
        assert any(entry[:cut] in earlier and entry[cut:] in earlier for cut in range(1, len(entry))), entry
    read = BPETokenizer(save(tmp_path, made))
    assert (read.vocab_size, read.cls_id, read.sep_id, read.pad_id) == (64, 1, 2, 3)
    tokens = read.encode(["ACGTACGTGATTACA"])
    assert "".join(entries[i] for i in tokens.ids) == "ACGTACGTGATTACA"
    assert len(tokens.ids) < 15


def test_a_trained_tokenizer_puts_cls_before_and_sep_behind_for_other_programs() -> None:
    made = train_bpe(CORPUS, 9)
    assert made.encode("ACG").ids == [1, 5, 6, 7, 2]
    assert made.encode("").ids == [1, 2]


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert train_bpe(CORPUS, 64).to_str() == train_bpe(CORPUS, 64).to_str()
