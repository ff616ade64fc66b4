"""A vector depends on its sequence alone, and is what the pooling's definition says, computed once more in float64."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import references
import tokenizers
import torch
from counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import IUPAC, other_strand, words
from safetensors.torch import save_file

from dnafeat.encoder import Encoder, load_model, load_tokenizer
from dnafeat.encoder.models import products
from dnafeat.encoder.packing import ROWS
from dnafeat.encoder.projection import load_projector
from dnafeat.encoder.results import Vectors
from dnafeat.encoder.windows import cut
from dnafeat.errors import CheckpointError, DnafeatWarning, UsageError
from tests.encoder.test_windows import KINDS, Kind, kmers, slow_windows, spaced, spans

HEADS = 8
VALUES = models.config(hidden_size=32, num_attention_heads=HEADS)
WEIGHTS = models.state(VALUES)
POOLED = ("cls", "mean", "max")
COLUMNS = (*POOLED, "projected")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("model"), VALUES, WEIGHTS)


def load(folder: Path, *, batch_tokens: int | None = None, **options: Any) -> Encoder:
    encoder = Encoder.from_pretrained(str(folder), **{"precision": "float32", **options})
    encoder.batch_tokens = batch_tokens or encoder.batch_tokens
    return encoder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load(folder)


@pytest.fixture(scope="module")
def windowed(folder: Path) -> Encoder:
    """Windows of 30 content tokens that share 9 or more: most test sequences take several."""
    return load(folder, window_tokens=32, overlap_tokens=9)


def content_ids(encoder: Encoder, sequence: str) -> list[int]:
    return encoder.tokenizer.ragged([sequence]).ids.tolist()


def close(found: Vectors, wanted: Vectors, rows: Sequence[int] | None = None) -> None:
    """The columns agree within 1e-5, `found` in the order of `rows` of `wanted`."""
    rows = range(len(wanted.mean)) if rows is None else rows
    for column in COLUMNS:
        np.testing.assert_allclose(getattr(found, column), getattr(wanted, column)[list(rows)], atol=1e-5, rtol=0, err_msg=column)
    for count in ("tokens", "windows", "truncated"):
        np.testing.assert_array_equal(getattr(found, count), getattr(wanted, count)[list(rows)])


# The definition, slowly.

FORWARDS = {"": models.forward64, "bert_": references.bert_forward64, "prokbert_": references.prokbert_forward64}


@dataclass(frozen=True)
class Family:
    """A random model of one architecture with one kind of tokens."""

    prefix: str
    kind: Kind
    values: dict[str, Any]
    weights: models.State

    @property
    def specials(self) -> int:
        return 1 if self.kind.sep is None else 2

    def write(self, folder: Path) -> Path:
        self.kind.write(folder)
        (folder / "config.json").write_text(json.dumps(self.values))
        save_file({key: value.clone() for key, value in self.weights.items()}, folder / "model.safetensors")
        return folder

    def states(self, ids: list[int], **options: Any) -> list[np.ndarray]:
        """All hidden states of one window, special tokens put around it."""
        end = [] if self.kind.sep is None else [self.kind.sep]
        return FORWARDS[self.prefix](self.weights, self.values["num_attention_heads"], [self.kind.cls, *ids, *end], **options)

    def pooled(
        self, sequence: str, *, both: bool = False, special: bool = False, layers: slice = slice(-1, None), **how: Any
    ) -> dict[str, np.ndarray]:
        """cls, mean and max of one sequence: each token once, in the window that owns it; strands averaged behind everything."""
        strands = []
        for strand in [sequence, other_strand(sequence)][: 1 + both]:
            rows, cls, tokens = [], np.zeros(self.values["hidden_size"]), 0
            for ids, first, last in slow_windows(self.kind.tokens, strand, **how):
                states = np.mean(self.states(ids)[layers], axis=0)
                rows.append(states[1 + first : 1 + last])
                if special:
                    rows += [states[:1], states[1 + len(ids) :]]
                cls += states[0] * (last - first)
                tokens += last - first
            every = np.concatenate(rows)
            strands.append({"cls": cls / tokens, "mean": every.mean(0), "max": every.max(0)})
        return {column: np.mean([one[column] for one in strands], axis=0) for column in POOLED}


BERT = models.bert_config(hidden_size=24, intermediate_size=16)
PROKBERT = models.prokbert_config(hidden_size=24, intermediate_size=16)
FAMILIES = {
    "dnabert2": Family("", KINDS["bpe"], VALUES, WEIGHTS),
    "dnabert2 --kmer": Family("", KINDS["spaced"], VALUES, WEIGHTS),
    "dnabert": Family("bert_", KINDS["kmers"], BERT, models.bert_state(BERT)),
    "plant": Family("bert_", KINDS["bases"], BERT, models.bert_state(BERT)),
    "prokbert": Family("prokbert_", KINDS["kmers"], PROKBERT, models.prokbert_state(PROKBERT)),
    "prokbert, shift 2": Family("prokbert_", KINDS["shift"], PROKBERT, models.prokbert_state(PROKBERT)),
}
families = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Encoder]:
    """An encoder of a family, each one loaded once."""

    @functools.cache
    def place(name: str) -> Path:
        return FAMILIES[name].write(tmp_path_factory.mktemp("family"))

    @functools.cache
    def make(name: str, **options: Any) -> Encoder:
        if kmer := FAMILIES[name].kind.kmer:
            with pytest.warns(DnafeatWarning, match=f"kmer {kmer}"):
                return load(place(name), kmer=kmer, **options)
        return load(place(name), **options)

    return make


def agrees(found: Vectors, row: int, expected: dict[str, np.ndarray]) -> None:
    for column in POOLED:
        np.testing.assert_allclose(getattr(found, column)[row], expected[column], atol=1e-5, rtol=0, err_msg=f"{column} of {row}")


def pooled64(
    weights: models.State, ids: list[int], window: int, overlap: int, cls_id: int = 1, sep_id: int = 2
) -> dict[str, np.ndarray]:
    """cls, mean and max of one sequence of DNABERT-2's tokens, from their ids."""
    kind = Kind(lambda _: [(i, 0, 0) for i in ids], cls=cls_id, sep=sep_id)
    return Family("", kind, VALUES, weights).pooled("", capacity=window - 2, overlap=overlap)


# Sequences, windows and batches.

LENGTHS = [1, 2, 3, 17, 50, 50, 120, 400, 3, 75, 1500, 30]
SEQUENCES = [models.dna(length, seed) for seed, length in enumerate(LENGTHS)] + ["N", "ACGTNNNNACGT", "GATTACA", "GATTACA"]


@pytest.mark.parametrize("which", ["encoder", "windowed"])
def test_a_sequence_has_the_same_vectors_alone_as_beside_others(which: str, request: pytest.FixtureRequest) -> None:
    encoder: Encoder = request.getfixturevalue(which)
    together = encoder.encode(SEQUENCES)
    for i, sequence in enumerate(SEQUENCES):
        close(encoder.encode([sequence]), together, [i])


@pytest.mark.parametrize("batch_tokens", [1, 40, 333, 1_000_000])
@pytest.mark.parametrize("window", [32, 512])
def test_neither_order_nor_batch_size_changes_a_vector(folder: Path, window: int, batch_tokens: int) -> None:
    expected = load(folder, window_tokens=window, overlap_tokens=9).encode(SEQUENCES)
    encoder = load(folder, window_tokens=window, overlap_tokens=9, batch_tokens=batch_tokens)
    close(encoder.encode(SEQUENCES), expected)
    order = np.random.default_rng(0).permutation(len(SEQUENCES)).tolist()
    close(encoder.encode([SEQUENCES[i] for i in order]), expected, order)


def test_a_budget_is_kept_by_every_batch_of_more_than_one_window(folder: Path) -> None:
    sizes: list[int] = []
    load(folder, batch_tokens=200).encode(["ACGTT" * 8] * 30 + [models.dna(500)], lambda s, t, computed: sizes.append(computed))
    assert max(sizes) > 200
    assert sorted(sizes)[-2] <= 200
    assert len(sizes) < 31


@pytest.mark.parametrize("seed", range(3))
def test_sequences_of_like_length_share_a_batch_whatever_their_order(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    sequences = ["N" * int(tokens) for tokens in random.permutation(np.arange(1, 101))]
    assert load(folder, batch_tokens=512).encode(sequences).padding_share < 0.1


def test_a_vector_does_not_know_its_much_longer_neighbours(folder: Path) -> None:
    encoder = load(folder, batch_tokens=10**6)
    short = [models.dna(5), "N", "GATTACA"]
    beside = encoder.encode([*short, models.dna(500, 1)])
    close(encoder.encode(short), beside, [0, 1, 2])


def test_duplicates_have_equal_vectors(windowed: Encoder) -> None:
    vectors = windowed.encode([models.dna(200), "ACGT", models.dna(200), "ACGT", models.dna(200)])
    for column in COLUMNS:
        values = getattr(vectors, column)
        np.testing.assert_allclose(values[[2, 4, 3]], values[[0, 0, 1]], atol=1e-5, rtol=0)
        assert np.abs(values[0] - values[1]).max() > 0.01


# Pooling.


@pytest.mark.parametrize("sequence", ["A", "N", "NNNN", "ACGT", "GATTACA", "ACGTNNRACGT", models.dna(90), models.dna(600, 1)])
def test_one_window_is_pooled_as_in_float64(encoder: Encoder, sequence: str) -> None:
    found = encoder.encode([sequence])
    ids = content_ids(encoder, sequence)
    expected = pooled64(WEIGHTS, ids, 512, 128)
    assert (found.windows.tolist(), found.tokens.tolist()) == ([1], [len(ids)])
    agrees(found, 0, expected)


def test_cls_and_sep_are_out_of_mean_and_max(encoder: Encoder) -> None:
    states = models.forward64(WEIGHTS, HEADS, [1, 5, 2])[-1]
    found = encoder.encode(["A"])
    np.testing.assert_allclose(found.cls[0], states[0], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.mean[0], states[1], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.max[0], states[1], atol=1e-5, rtol=0)


def test_an_unknown_letter_is_a_token_of_the_sequence(encoder: Encoder) -> None:
    states = models.forward64(WEIGHTS, HEADS, [1, 5, 0, 0, 2])[-1]
    found = encoder.encode(["ANN", "ARY", "AKS"])
    assert found.tokens.tolist() == [3, 3, 3]
    for row in range(3):
        np.testing.assert_allclose(found.mean[row], states[1:4].mean(0), atol=1e-5, rtol=0)
        np.testing.assert_allclose(found.max[row], states[1:4].max(0), atol=1e-5, rtol=0)


def test_special_tokens_are_the_tokenizers_whatever_their_numbers(tmp_path: Path) -> None:
    """[PAD] is 0 here and [UNK] 1, and config.json says otherwise; a wrong mask or a wrong [CLS] would show."""
    order = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "[CLS]", *"TGCA"]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({entry: i for i, entry in enumerate(order)}, [], unk_token="[UNK]"))
    models.write(tmp_path, VALUES | {"pad_token_id": 8, "cls_token_id": 7}, WEIGHTS, tokens=made)
    found = load(tmp_path).encode(["ACGT", "N", "ACGTACGTACGT"])
    for row, ids in enumerate([[8, 7, 6, 5], [1], [8, 7, 6, 5] * 3]):
        expected = pooled64(WEIGHTS, ids, 512, 128, cls_id=4, sep_id=2)
        agrees(found, row, expected)


def test_the_projection_is_the_projector_on_the_mean(folder: Path) -> None:
    found = load(folder, projector="random@3").encode(SEQUENCES)
    with torch.inference_mode():
        expected = load_projector("random@3", 32)(torch.from_numpy(found.mean)).numpy()
    np.testing.assert_allclose(found.projected, expected, atol=1e-5, rtol=0)
    assert np.abs(load(folder).encode(SEQUENCES[:1]).projected - found.projected[:1]).max() > 0.1


def test_vectors_are_float32_and_one_row_a_sequence(windowed: Encoder) -> None:
    for sequences in (SEQUENCES, SEQUENCES[:1], []):
        n = len(sequences)
        found = windowed.encode(sequences)
        assert [getattr(found, column).shape for column in COLUMNS] == [(n, 32), (n, 32), (n, 32), (n, 512)]
        assert {getattr(found, column).dtype for column in COLUMNS} == {np.dtype(np.float32)}
        assert (found.tokens.dtype, found.windows.dtype) == (np.int64, np.int32)
        assert found.tokens.tolist() == [len(content_ids(windowed, sequence)) for sequence in sequences]
        assert all(np.isfinite(getattr(found, column)).all() for column in COLUMNS)


def test_bfloat16_is_near_and_gives_float32(folder: Path, encoder: Encoder) -> None:
    found = load(folder, precision="bfloat16").encode(SEQUENCES)
    exact = encoder.encode(SEQUENCES)
    for column in POOLED:
        a, b = getattr(found, column), getattr(exact, column)
        assert a.dtype == np.float32
        assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999
        assert np.abs(a - b).max() > 1e-4


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that the levels of int8 are of the size they have in models of use."""
    values = models.config(hidden_size=96, num_attention_heads=HEADS, intermediate_size=192, num_hidden_layers=3)
    return models.write(tmp_path_factory.mktemp("wider"), values, models.state(values, std=0.05))


def test_int8_is_near_is_a_version_of_its_own_and_does_not_know_a_vectors_neighbours(wider: Path) -> None:
    exact, encoder = load(wider), load(wider, precision="int8")
    assert encoder.version.digest != exact.version.digest
    wanted, found = exact.encode(SEQUENCES), encoder.encode(SEQUENCES)
    for column in POOLED:
        a, b = getattr(found, column), getattr(wanted, column)
        assert a.dtype == np.float32
        assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999
        assert np.abs(a - b).max() > 1e-4
    for batch_tokens in (1, 10**6):
        close(load(wider, precision="int8", batch_tokens=batch_tokens).encode(SEQUENCES), found)


def test_int8_vectors_do_not_depend_on_instructions_for_int8(wider: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = load(wider, precision="int8").encode(SEQUENCES)
    monkeypatch.setattr(products, "int8_is_fast", lambda: False)
    plain = load(wider, precision="int8").encode(SEQUENCES)
    for column in POOLED:
        assert np.array_equal(getattr(fast, column), getattr(plain, column)), column


@pytest.mark.parametrize("name", ["dnabert", "prokbert"])
def test_int8_of_the_other_families_is_near(made: Callable[..., Encoder], name: str) -> None:
    exact, found = made(name, **TOKENS).encode(MIXED), made(name, precision="int8", **TOKENS).encode(MIXED)
    a, b = found.mean, exact.mean
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.99
    assert np.abs(a - b).max() > 1e-4


# Windows.


@pytest.mark.parametrize(("window", "overlap"), [(32, 9), (32, 0), (32, 29), (12, 7), (60, 13)])
def test_several_windows_are_pooled_as_in_float64(folder: Path, window: int, overlap: int) -> None:
    encoder = load(folder, window_tokens=window, overlap_tokens=overlap)
    sequences = [models.dna(bases, bases) for bases in (40, 55, 103, 260)] + ["ACGTT" + "N" * 60 + "GATTACA"]
    found = encoder.encode(sequences)
    assert found.windows.max() > 3
    for row, sequence in enumerate(sequences):
        ids = content_ids(encoder, sequence)
        expected = pooled64(WEIGHTS, ids, window, overlap)
        assert found.windows[row] == len(spans(len(ids), window - 2, overlap))
        agrees(found, row, expected)


@pytest.mark.parametrize(("tokens", "windows"), [(29, 1), (30, 1), (31, 2), (51, 2), (52, 3)])
def test_a_sequence_that_just_fits_takes_no_further_window(windowed: Encoder, tokens: int, windows: int) -> None:
    found = windowed.encode(["N" * tokens])
    assert (found.tokens.tolist(), found.windows.tolist()) == ([tokens], [windows])
    expected = pooled64(WEIGHTS, [0] * tokens, 32, 9)
    agrees(found, 0, expected)


def test_twenty_thousand_bases_are_pooled_as_in_float64(tmp_path: Path) -> None:
    values = VALUES | {"num_hidden_layers": 1}
    weights = models.state(values)
    encoder = load(models.write(tmp_path, values, weights))
    sequence = models.dna(20_000)
    found = encoder.encode(["ACGT", sequence])
    ids = content_ids(encoder, sequence)
    assert found.windows[1] > 20
    assert found.tokens[1] == len(ids)
    expected = pooled64(weights, ids, 512, 128)
    agrees(found, 1, expected)


# Every family.

MIXED = [models.dna(length, seed) for seed, length in enumerate([3, 4, 7, 30, 64, 65, 150, 263])]
MIXED += ["NNN", "ACGTNNNNACGT", "ACGRYSWKMTTGA", "GATTACA", "GATTACA"]
TOKENS = {"window_tokens": 24, "overlap_tokens": 5}


@families
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_every_family_is_pooled_as_in_float64_in_any_batch_and_order(
    made: Callable[..., Encoder], name: str, strands: str
) -> None:
    family, encoder = FAMILIES[name], made(name, strands=strands, **TOKENS)
    expected = [family.pooled(one, both=strands == "both", capacity=24 - family.specials, overlap=5) for one in MIXED]
    alone = [encoder.encode([one]) for one in MIXED]
    for row, found in enumerate(alone):
        agrees(found, 0, expected[row])
    for batch_tokens in (1, 100, 10**6):
        order = np.random.default_rng(batch_tokens).permutation(len(MIXED)).tolist()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoder, "batch_tokens", batch_tokens)
            found = encoder.encode([MIXED[i] for i in order])
        for row, i in enumerate(order):
            agrees(found, row, expected[i])
            assert (found.tokens[row], found.windows[row]) == (alone[i].tokens[0], alone[i].windows[0])
    assert found.windows.max() > 4
    assert found.tokens.tolist() == [len(family.kind.tokens(MIXED[i])) for i in order]


@families
def test_a_window_with_room_for_the_whole_sequence_is_a_single_pass(made: Callable[..., Encoder], name: str) -> None:
    family, sequence = FAMILIES[name], models.dna(22, 5)
    ids = [i for i, _, _ in family.kind.tokens(sequence)]
    room = len(ids) + family.specials
    states = family.states(ids)[-1]
    content = states[1 : 1 + len(ids)]
    for window in (room, room + 1, 64, None):
        found = made(name, window_tokens=window).encode([sequence])
        assert found.windows.tolist() == [1]
        agrees(found, 0, {"cls": states[0], "mean": content.mean(0), "max": content.max(0)})
    found = made(name, window_tokens=room - 1).encode([sequence])
    assert found.windows.tolist() == [2]
    assert np.abs(found.mean[0] - content.mean(0)).max() > 1e-3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["ACGT", None], "sequence 1 of 2 is None (NoneType) and no text"),
        ([b"ACGT"], "sequence 0 of 1 is b'ACGT' (bytes) and no text"),
        ([5], "sequence 0 of 1 is 5 (int) and no text"),
        ("ACGT", "one text was given: put it into a list"),
        (b"ACGT", "this is of type bytes"),
        (None, "this is of type NoneType"),
        (5, "this is of type int"),
    ],
)
def test_what_is_no_list_of_texts_is_named_with_its_place(encoder: Encoder, wrong: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        encoder.encode(wrong)
    assert words in str(error.value)


@pytest.mark.parametrize("name", [None, 5, ["dnafeat-mini"]])
def test_a_model_is_named_by_a_text(name: Any) -> None:
    for load_it in (load_model, load_tokenizer):
        with pytest.raises(UsageError, match="a model is named by a text"):
            load_it(name)


@families
@pytest.mark.parametrize("short", ["AC", "a c"])
def test_a_sequence_shorter_than_a_kmer_is_refused_with_its_index(made: Callable[..., Encoder], name: str, short: str) -> None:
    encoder, min_bases = made(name), FAMILIES[name].kind.min_bases
    if min_bases == 1:
        assert encoder.encode(["ACG", short]).tokens[1] >= 1
        return
    with pytest.raises(UsageError, match=f"sequence 1 of 3 cannot be encoded: 2 bases are too few .* {min_bases}$"):
        encoder.encode(["ACG", short, "A"])


@families
def test_white_space_and_case_do_not_matter_to_any_family(made: Callable[..., Encoder], name: str) -> None:
    encoder = made(name)
    close(encoder.encode(["acgu ANnr\tgat\ntaca"]), encoder.encode(["ACGTANNRGATTACA"]))


# Windows in bases.


@families
@pytest.mark.parametrize(
    ("bases", "overlap", "strands"), [(20, 7, "forward"), (20, 7, "both"), (50, 0, "forward"), (13, 11, "both")]
)
def test_windows_in_bases_are_pooled_as_in_float64(
    made: Callable[..., Encoder], name: str, bases: int, overlap: int, strands: str
) -> None:
    encoder = made(name, window_bases=bases, overlap_bases=overlap, strands=strands)
    found = encoder.encode(MIXED)
    for row, sequence in enumerate(MIXED):
        agrees(found, row, FAMILIES[name].pooled(sequence, both=strands == "both", bases=bases, overlap=overlap))
    assert found.windows.tolist() == [
        len(slow_windows(FAMILIES[name].kind.tokens, s, bases=bases, overlap=overlap)) for s in MIXED
    ]


def test_windows_that_advance_by_less_than_the_next_token_are_refused(made: Callable[..., Encoder]) -> None:
    """Inner windows would own nothing, and a long sequence be represented by its ends."""
    with pytest.raises(UsageError, match="smaller overlap"):
        made("prokbert, shift 2", window_bases=13, overlap_bases=12)
    made("dnabert", window_bases=13, overlap_bases=12)


@families
def test_a_window_of_all_bases_is_a_single_pass(made: Callable[..., Encoder], name: str) -> None:
    close(made(name, window_bases=22).encode([models.dna(22, 5)]), made(name).encode([models.dna(22, 5)]))


def test_windows_of_a_quarter_overlap_unless_told(made: Callable[..., Encoder]) -> None:
    close(made("dnabert", window_bases=21).encode(MIXED), made("dnabert", window_bases=21, overlap_bases=5).encode(MIXED))
    close(made("plant", window_tokens=21).encode(MIXED), made("plant", window_tokens=21, overlap_tokens=5).encode(MIXED))


def test_a_window_of_more_bases_than_the_model_has_positions_for_is_refused(made: Callable[..., Encoder]) -> None:
    encoder = made("dnabert", window_bases=65)
    assert encoder.encode([models.dna(64)]).tokens.tolist() == [62]
    with pytest.raises(UsageError, match="window of 65 bases has 63 tokens and the model takes 62"):
        encoder.encode(["ACGT", models.dna(65)])
    one_special = made("plant", window_bases=64)
    assert one_special.encode([models.dna(63)]).tokens.tolist() == [63]
    with pytest.raises(UsageError, match="window of 64 bases has 64 tokens and the model takes 63"):
        one_special.encode([models.dna(64)])
    assert made("dnabert2", window_bases=5000).encode([models.dna(5000)]).windows.tolist() == [1]


# Both strands.

HOW: dict[str, dict[str, Any]] = {
    "tokens": {"window_tokens": 12, "overlap_tokens": 3},
    "bases": {"window_bases": 17, "overlap_bases": 6},
    "first tokens": {"window_tokens": 12, "overlap_tokens": 3, "truncate": True},
    "first bases": {"window_bases": 17, "truncate": True},
    "special": {"window_tokens": 12, "special_tokens": True, "layer": 1},
}


@pytest.mark.parametrize("how", HOW)
@families
@settings(max_examples=examples(4, 8))
@given(sequence=st.text("ACGT" * 4 + IUPAC, min_size=3, max_size=80))
def test_a_sequence_and_its_reverse_complement_get_the_mean_of_their_forward_vectors(
    made: Callable[..., Encoder], name: str, how: str, sequence: str
) -> None:
    other = other_strand(sequence)
    both = made(name, strands="both", **HOW[how]).encode([sequence, other])
    forward = made(name, **HOW[how]).encode([sequence, other])
    for column in POOLED:
        mean = getattr(forward, column).mean(0)
        np.testing.assert_allclose(getattr(both, column), [mean, mean], atol=1e-5, rtol=0, err_msg=column)
    np.testing.assert_allclose(both.projected[0], both.projected[1], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(both.tokens, forward.tokens)
    np.testing.assert_array_equal(both.windows, forward.windows)
    assert both.truncated.tolist() == [bool(forward.truncated.any())] * 2


@families
@pytest.mark.parametrize("how", HOW)
def test_the_strands_of_a_palindrome_are_one(made: Callable[..., Encoder], name: str, how: str) -> None:
    half = models.dna(23) + "NR"
    palindrome = half + other_strand(half)
    assert other_strand(palindrome) == palindrome
    close(made(name, strands="both", **HOW[how]).encode([palindrome]), made(name, **HOW[how]).encode([palindrome]))


def test_the_projection_of_both_strands_is_that_of_their_mean(made: Callable[..., Encoder]) -> None:
    found = made("dnabert2", strands="both").encode(MIXED)
    with torch.inference_mode():
        expected = load_projector("random@0", 32)(torch.from_numpy(found.mean)).numpy()
    np.testing.assert_allclose(found.projected, expected, atol=1e-5, rtol=0)
    assert np.abs(found.mean - made("dnabert2").encode(MIXED).mean).max() > 0.01


# Truncation.


@families
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_a_truncated_sequence_has_the_vectors_of_its_first_window(made: Callable[..., Encoder], name: str, strands: str) -> None:
    family, both = FAMILIES[name], strands == "both"
    capacity = 24 - family.specials
    found = made(name, truncate=True, strands=strands, **TOKENS).encode(MIXED)
    counts = [len(family.kind.tokens(one)) for one in MIXED]
    most = [max(n, len(family.kind.tokens(other_strand(one))) if both else 0) for one, n in zip(MIXED, counts, strict=True)]
    for row, sequence in enumerate(MIXED):
        agrees(found, row, family.pooled(sequence, both=both, capacity=capacity, truncate=True))
    assert found.truncated.tolist() == [n > capacity for n in most]
    assert 0 < found.truncated.sum() < len(MIXED)
    assert found.tokens.tolist() == [min(n, capacity) for n in counts]
    assert set(found.windows.tolist()) == {1}


@families
def test_a_sequence_truncated_in_bases_has_the_vectors_of_its_first_bases(made: Callable[..., Encoder], name: str) -> None:
    found = made(name, truncate=True, window_bases=20).encode(MIXED)
    first = made(name).encode([sequence[:20] for sequence in MIXED])
    for column in COLUMNS:
        np.testing.assert_allclose(getattr(found, column), getattr(first, column), atol=1e-5, rtol=0, err_msg=column)
    np.testing.assert_array_equal(found.tokens, first.tokens)
    assert found.truncated.tolist() == [len(sequence) > 20 for sequence in MIXED]
    assert not first.truncated.any()


# Special tokens and layers.


@families
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_special_tokens_count_once_a_window_where_asked_for(made: Callable[..., Encoder], name: str, strands: str) -> None:
    family, both = FAMILIES[name], strands == "both"
    sequences = ["ACG", models.dna(15), models.dna(120, 1)]
    for special, how in ((True, TOKENS), (False, TOKENS), (True, {"window_bases": 20, "overlap_bases": 5})):
        found = made(name, special_tokens=special, strands=strands, **how).encode(sequences)
        slow = {"capacity": 24 - family.specials, "overlap": 5} if "window_tokens" in how else {"bases": 20, "overlap": 5}
        for row, sequence in enumerate(sequences):
            agrees(found, row, family.pooled(sequence, both=both, special=special, **slow))
        assert found.tokens[0] == len(family.kind.tokens("ACG"))


def test_special_tokens_count_by_default_in_dnabert_s_alone(tmp_path: Path) -> None:
    named = FAMILIES["dnabert2"].write(tmp_path / "DNABERT-S")
    copied = FAMILIES["dnabert2"].write(tmp_path / "copy")
    (copied / "config.json").write_text(json.dumps(VALUES | {"_name_or_path": "zhihan1996/DNABERT-S"}))
    plain = FAMILIES["dnabert2"].write(tmp_path / "DNABERT-S2")
    for folder, special in ((named, True), (copied, True), (plain, False)):
        for asked, counted in ((None, special), (True, True), (False, False)):
            encoder = load(folder, special_tokens=asked)
            assert encoder.version.special_tokens_pooled is counted
            agrees(encoder.encode(["GATTACA"]), 0, FAMILIES["dnabert2"].pooled("GATTACA", special=counted, capacity=510))


DEEP = {"num_hidden_layers": 3}
DEEPER = {
    name: Family(family.prefix, family.kind, values, getattr(models, f"{family.prefix}state")(values))
    for name, family in FAMILIES.items()
    for values in [family.values | DEEP]
    if name in ("dnabert2", "dnabert", "prokbert")
}


@pytest.mark.parametrize("name", DEEPER)
def test_every_layer_and_mean_of_layers_is_that_of_float64(tmp_path: Path, name: str) -> None:
    """Layer 3 of 3 is the last; of ProkBERT it stands behind the final norm, which `states` ends with."""
    family, sequence = DEEPER[name], models.dna(60, 2)
    family.write(tmp_path)
    how = {"capacity": 22, "overlap": 5}
    for layer, count in [*((layer, 1) for layer in range(-4, 4)), (3, 2), (3, 4), (-2, 2), (1, 2)]:
        found = load(tmp_path, layer=layer, average_layers=count, **TOKENS)
        last = layer if layer >= 0 else 4 + layer
        expected = family.pooled(sequence, layers=slice(last - count + 1, last + 1), **how)
        agrees(found.encode([sequence]), 0, expected)
        assert found.version.layer == last - 4
    first, other = load(tmp_path, layer=2, **TOKENS), load(tmp_path, layer=-2, **TOKENS)
    assert first.version.digest == other.version.digest
    assert load(tmp_path, layer=3).version.digest == load(tmp_path).version.digest


@pytest.mark.parametrize(
    ("layer", "count", "named"),
    [(4, 1, "layer 4"), (-5, 1, "layer -5"), (3, 5, "layers is 5"), (0, 2, "layers is 2"), (-3, 3, "layers is 3")],
)
def test_layers_that_are_not_there_are_refused(tmp_path: Path, layer: int, count: int, named: str) -> None:
    DEEPER["dnabert2"].write(tmp_path)
    with pytest.raises(UsageError, match=named):
        load(tmp_path, layer=layer, average_layers=count)


# Attentions, and vectors side by side.


@families
def test_attentions_are_those_of_float64_and_rows_sum_to_one(made: Callable[..., Encoder], name: str) -> None:
    family, sequence = FAMILIES[name], models.dna(14, 3)
    expected: list[np.ndarray] = []
    tokens = len(family.states([i for i, _, _ in family.kind.tokens(sequence)], attentions=expected)[0])
    for settings_ in ({}, {"strands": "both"}, {"truncate": True}, {"window_bases": 14}, {"layer": 1, "special_tokens": True}):
        found = made(name, **settings_).attentions(sequence.lower())
        assert found.dtype == np.float32
        assert found.shape == (2, family.values["num_attention_heads"], tokens, tokens)
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"window_tokens": 12}, "12 tokens"),
        ({"window_tokens": 12, "truncate": True}, "12 tokens"),
        ({"window_bases": 12}, "12 bases"),
    ],
    ids=str,
)
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_attentions_of_more_than_one_window_are_refused(
    made: Callable[..., Encoder], options: dict[str, Any], size: str, strands: str
) -> None:
    encoder = made("dnabert", strands=strands, **options)
    assert encoder.attentions("ACGTACGTACGT").shape[-1] == 12
    with pytest.raises(UsageError, match=f"more than one window of {size}"):
        encoder.attentions("ACGTACGTACGTA")
    with pytest.raises(UsageError, match="sequence 0 of 1"):
        encoder.attentions("AC")


def test_attentions_are_of_the_forward_strand_however_long_the_other_one_is(made: Callable[..., Encoder]) -> None:
    """BPE cuts the other strand into other tokens, here into more than a window holds."""
    sequence = next(s for s in map(functools.partial(models.dna, 12), range(99)) if _counts(s)[0] < _counts(s)[1])
    found = made("dnabert2", strands="both", window_tokens=_counts(sequence)[0] + 2).attentions(sequence)
    np.testing.assert_array_equal(found, made("dnabert2").attentions(sequence))


def _counts(sequence: str) -> tuple[int, int]:
    return len(KINDS["bpe"].tokens(sequence)), len(KINDS["bpe"].tokens(other_strand(sequence)))


def test_pooled_vectors_stand_side_by_side_in_the_order_asked_for(encoder: Encoder) -> None:
    found = encoder.encode(MIXED)
    np.testing.assert_array_equal(found.pooled("max"), found.max)
    np.testing.assert_array_equal(found.pooled("mean+cls"), np.hstack([found.mean, found.cls]))
    np.testing.assert_array_equal(found.pooled("projected+cls+mean+max")[:, 512:544], found.cls)
    for strange in ("median", "cls+", "", "cls,mean", "cls + mean", "tokens"):
        with pytest.raises(UsageError, match="name some of cls, mean, max, projected"):
            found.pooled(strange)


# k-mers before BPE.


def test_kmers_are_spelled_by_bpe_one_by_one(made: Callable[..., Encoder]) -> None:
    """ACG CGT GTA TAC: merges in their order, AC before GT before TA, and never one across a space."""
    assert content_ids(made("dnabert2 --kmer"), "ACGTAC") == [9, 7, 6, 10, 10, 5, 8, 9]
    assert [i for i, _, _ in spaced("ACGTAC", 3)] == [9, 7, 6, 10, 10, 5, 8, 9]
    plain, cut_up = made("dnabert2").encode(["ACGTACGT"]), made("dnabert2 --kmer").encode(["ACGTACGT"])
    assert plain.tokens[0] < cut_up.tokens[0]
    assert made("dnabert2").version.digest != made("dnabert2 --kmer").version.digest


@pytest.mark.parametrize("name", ["dnabert", "plant", "prokbert", "prokbert, shift 2"])
def test_kmers_before_kmers_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="kmer is 3"):
        load(FAMILIES[name].write(tmp_path), kmer=3)


# DNABERT-6.

SIX = models.bert_config(
    hidden_size=12, intermediate_size=8, num_hidden_layers=1, vocab_size=5 + 4**6, max_position_embeddings=512
)
DNABERT6 = Family(
    "bert_",
    Kind(lambda s: kmers(s, 6, 1, "ATCG"), [*models.KMER_SPECIAL, *words(6, "ATCG")], cls=2, sep=3, min_bases=6),
    SIX,
    models.bert_state(SIX),
)


@pytest.fixture(scope="module")
def dnabert6(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DNABERT6.write(tmp_path_factory.mktemp("dnabert6"))


def test_dnabert_6_takes_515_bases_at_once_and_more_in_windows(dnabert6: Path) -> None:
    encoder = load(dnabert6)
    assert (encoder.version.window_tokens, encoder.version.overlap_tokens) == (512, 128)
    sequences = [models.dna(bases, bases) for bases in (6, 515, 516, 1400)]
    found = encoder.encode(sequences)
    assert found.windows.tolist() == [1, 1, 2, 4]
    assert found.tokens.tolist() == [1, 510, 511, 1395]
    for row, sequence in enumerate(sequences):
        agrees(found, row, DNABERT6.pooled(sequence, capacity=510, overlap=128))
    with pytest.raises(UsageError, match=r"sequence 0 of 1 .*5 bases are too few .* 6$"):
        encoder.encode(["ACGTA"])


def test_a_window_is_no_longer_than_the_model_has_positions(dnabert6: Path, made: Callable[..., Encoder]) -> None:
    with pytest.raises(UsageError, match="window of 513 tokens is longer than the 512 positions"):
        load(dnabert6, window_tokens=513)
    for name in ("dnabert", "plant", "prokbert"):
        assert (made(name).version.window_tokens, made(name).version.overlap_tokens) == (64, 16)
        assert made(name).encode(["ACG" * 22]).windows.tolist() == [2]
    assert (made("dnabert2").version.window_tokens, made("dnabert2").version.overlap_tokens) == (512, 128)


def test_a_hundred_thousand_bases_are_computed_a_few_windows_at_a_time(dnabert6: Path) -> None:
    encoder = load(dnabert6)
    shapes: list[torch.Size] = []
    encoder.model.register_forward_pre_hook(lambda module, given: shapes.append(given[0].shape))
    found = encoder.encode([models.dna(100_000), "ACGTACGT"])
    assert found.tokens.tolist() == [99_995, 3]
    assert found.windows.tolist() == [len(spans(99_995, 510, 128)), 1]
    assert max(rows * width for rows, width in shapes) <= encoder.batch_tokens == 1024
    assert sum(rows for rows, _ in shapes) == found.windows.sum()
    assert np.isfinite(found.pooled("cls+mean+max+projected")).all()


# Input.


def test_case_u_and_white_space_do_not_change_a_vector(encoder: Encoder) -> None:
    plain = encoder.encode(["ACGTTTGANCA"])
    for spelling in ("acgtttganca", "ACGUUUGANCA", "acguuugAnca", " ACG TTT\tGAN\r\nCA\n"):
        found = encoder.encode([spelling])
        for column in COLUMNS:
            np.testing.assert_array_equal(getattr(found, column), getattr(plain, column))


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("ACXGT", "'X' at base 3"),
        ("AC-GT", "'-' at base 3"),
        ("ACGTé", "at base 5"),
        ("[MASK]", "'[' at base 1"),
    ],
)
def test_a_sequence_that_is_none_is_refused_with_its_index(encoder: Encoder, bad: str, named: str) -> None:
    with pytest.raises(UsageError, match="sequence 2 of 4") as error:
        encoder.encode(["ACGT", "ACGTN", bad, "A"])
    assert named in str(error.value)


def test_text_that_cannot_be_encoded_is_refused_with_its_index(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="sequence 1 of 2"):
        encoder.encode(["ACGT", "AC\ud800"])


def test_windows_made_elsewhere_give_the_same_vectors(windowed: Encoder) -> None:
    windows = cut(SEQUENCES, windowed.tokenizer, windowed.cutting)
    whole = windowed.encode(SEQUENCES)
    close(windowed.encode_windows(windows), whole)
    for first, end in ((0, 1), (3, 9), (11, len(SEQUENCES))):
        close(windowed.encode_windows(windows.part(first, end)), whole, range(first, end))


@pytest.mark.parametrize("at_once", [1, 4, len(SEQUENCES), 100])
def test_some_at_a_time_as_a_gpu_is_given_them_have_the_same_vectors(
    windowed: Encoder, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = windowed.encode(SEQUENCES)
    monkeypatch.setattr(windowed, "at_once", at_once)
    seen: list[tuple[int, int, int]] = []
    found = windowed.encode(SEQUENCES, lambda *counts: seen.append(counts))
    close(found, whole)
    assert (found.needed, sum(one[0] for one in seen)) == (whole.needed, len(SEQUENCES))
    assert found.computed == sum(one[2] for one in seen)
    close(windowed.encode_windows(cut(SEQUENCES, windowed.tokenizer, windowed.cutting)), whole)
    assert windowed.encode([]).mean.shape == (0, whole.mean.shape[1])


def test_a_tokenizer_with_more_entries_than_the_model_has_is_refused(tmp_path: Path) -> None:
    values = VALUES | {"vocab_size": models.VOCABULARY - 1}
    models.write(tmp_path, values, models.state(values))
    with pytest.raises(CheckpointError, match=str(models.VOCABULARY)) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_tokenizer_with_fewer_entries_than_the_model_has_is_fine(tmp_path: Path) -> None:
    """Published models pad their vocabulary to a round number."""
    values = VALUES | {"vocab_size": 32}
    weights = models.state(values)
    found = load(models.write(tmp_path, values, weights)).encode(["GATTACA"])
    ids = [13, 8, 8, 9, 5]
    np.testing.assert_allclose(found.mean[0], pooled64(weights, ids, 512, 128)["mean"], atol=1e-5, rtol=0)


def test_a_model_whose_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    models.write(tmp_path, VALUES, WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps(VALUES | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"missing encoder\.layer\.2\."):
        load(tmp_path)


# Reports.


@pytest.mark.parametrize("batch_tokens", [1, 100, 10**6])
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_reports_add_up_and_change_nothing(folder: Path, batch_tokens: int, strands: str) -> None:
    encoder = load(folder, window_tokens=32, overlap_tokens=9, batch_tokens=batch_tokens, strands=strands)
    seen: list[tuple[int, int, int]] = []
    found = encoder.encode(SEQUENCES, lambda *counts: seen.append(counts))
    silent = encoder.encode(SEQUENCES)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(found, column), getattr(silent, column))
    sequences, tokens, computed = np.sum(seen, axis=0)
    assert sequences == len(SEQUENCES)
    assert tokens == found.tokens.sum()
    computed_on = SEQUENCES + [other_strand(one) for one in SEQUENCES if strands == "both"]
    needed = sum(stop - start + 2 for one in computed_on for start, stop in spans(len(content_ids(encoder, one)), 30, 9))
    # Up to 15 tokens of padding a batch, so that there are few sizes of products.
    assert needed <= computed < needed + ROWS * len(seen)
    assert {size % ROWS for *_, size in seen} == {0}
    assert found.padding_share == silent.padding_share == pytest.approx(1 - needed / computed)
    assert (len(seen) == 1) == (batch_tokens == 10**6)


def test_encoding_twice_gives_the_same_bits(encoder: Encoder) -> None:
    assert not encoder.model.training
    assert not encoder.projector.training
    first, second = encoder.encode(SEQUENCES), encoder.encode(SEQUENCES)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))


# Memory.


def torch_says(tokens: int) -> None:
    raise torch.OutOfMemoryError(f"CUDA out of memory. {tokens} tokens are too many.")


def host_says(tokens: int) -> None:
    torch.empty(2**57)  # torch's own words for it


def numpy_says(tokens: int) -> None:
    raise MemoryError(f"Unable to allocate an array for {tokens} tokens")


def limited(encoder: Encoder, limit: int, monkeypatch: pytest.MonkeyPatch, fail: Callable[[int], None] = torch_says) -> list[int]:
    """Gives an encoder a model that has room for so many tokens, and returns where the sizes it was asked for will stand."""
    asked: list[int] = []

    def if_it_fits(forward: Callable[..., Any]) -> Callable[..., Any]:
        def computed(ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
            asked.append(ids.numel())
            if ids.numel() > limit:
                fail(ids.numel())
            return forward(ids, *rest, **options)

        return computed

    for name in ("forward", "ragged"):
        monkeypatch.setattr(encoder.model, name, if_it_fits(getattr(encoder.model, name)))
    return asked


@pytest.mark.parametrize("fail", [torch_says, host_says, numpy_says])
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_a_batch_that_does_not_fit_into_memory_is_halved_and_the_vectors_stay(
    folder: Path, strands: str, fail: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"window_tokens": 32, "overlap_tokens": 9, "strands": strands}
    encoder = load(folder, batch_tokens=10**6, **options)
    asked = limited(encoder, 200, monkeypatch, fail)
    reports: list[tuple[int, int, int]] = []
    found = encoder.encode(SEQUENCES, lambda *report: reports.append(report))
    assert 100 < encoder.batch_tokens <= 200
    close(found, load(folder, **options).encode(SEQUENCES))
    same_batches = load(folder, batch_tokens=encoder.batch_tokens, **options).encode(SEQUENCES)
    for column in COLUMNS:
        np.testing.assert_allclose(getattr(found, column), getattr(same_batches, column), atol=1e-6, rtol=0, err_msg=column)
    failed = [tokens for tokens in asked if tokens > 200]
    assert all(2 * later <= sooner + 32 for sooner, later in itertools.pairwise(failed))
    assert [tokens for _, _, tokens in reports] == asked[len(failed) :]  # none fails once one has fitted
    assert sum(sequences for sequences, _, _ in reports) == len(SEQUENCES)
    asked.clear()
    encoder.encode(SEQUENCES)
    assert max(asked) <= 200


def test_states_of_a_batch_that_does_not_fit_come_in_smaller_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folder, batch_tokens=10**6)
    windows = cut(SEQUENCES, encoder.tokenizer, encoder.cutting)
    whole = {number: row for chosen, hidden in encoder.states(windows) for number, row in zip(chosen, hidden, strict=True)}
    limited(encoder, 700, monkeypatch)
    halved = list(encoder.states(windows))
    assert len(halved) > 2
    assert sorted(number for chosen, _ in halved for number in chosen) == sorted(whole)
    for chosen, hidden in halved:
        for number, row in zip(chosen, hidden, strict=True):
            size = 1 + windows.stop[number] - windows.start[number]
            torch.testing.assert_close(row[:size], whole[number][:size], atol=1e-5, rtol=0)


def test_a_window_that_does_not_fit_alone_and_other_errors_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folder)
    asked = limited(encoder, 40, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode([models.dna(500), models.dna(500, 1), "ACGT"])
    assert asked[-1] > 40

    def breaks(tokens: int) -> None:
        raise RuntimeError("something else is wrong")

    encoder = load(folder)
    asked = limited(encoder, 10, monkeypatch, breaks)
    with pytest.raises(RuntimeError, match="something else"):
        encoder.encode(["ACGT" * 8] * 4)
    assert len(asked) == 1


def test_an_encoder_and_its_vectors_show_what_they_are() -> None:
    encoder = Encoder.from_pretrained()
    assert repr(encoder) == (
        "Encoder('dnafeat-mini', version='0185783863a65f42', precision='float32', hidden_size=192, projection='random@0', "
        f"device='{encoder.device}')"
    )
    assert repr(encoder.encode(["ACGT", "ACGT"])).startswith(
        "Vectors(cls (2, 192), mean (2, 192), max (2, 192), projected (2, 512); "
    )
