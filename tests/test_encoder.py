"""A vector depends on its sequence alone, and is what the pooling's definition says, computed once more in float64."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from dnafeat.encoder import Encoder, Vectors, cut_windows
from dnafeat.errors import CheckpointError, UsageError
from dnafeat.projection import load_projector
from dnafeat.tokenizers import Tokens

HEADS = 8
VALUES = models.config(hidden_size=32, num_attention_heads=HEADS)
WEIGHTS = models.state(VALUES)
POOLED = ("cls", "mean", "max")
COLUMNS = (*POOLED, "projected")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("model"), VALUES, WEIGHTS)


def load(folder: Path, *, batch_tokens: int | None = None, **options: Any) -> Encoder:
    encoder = Encoder.from_pretrained(str(folder), precision="float32", **options)
    encoder.batch_tokens = batch_tokens or encoder.batch_tokens
    return encoder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load(folder)


@pytest.fixture(scope="module")
def windowed(folder: Path) -> Encoder:
    """Windows of 30 content tokens that share 9 or more: most test sequences take several."""
    return load(folder, window=32, overlap=9)


def content_ids(encoder: Encoder, sequence: str) -> list[int]:
    return encoder.tokenizer.encode([sequence]).ids.tolist()


def close(found: Vectors, wanted: Vectors, rows: Sequence[int] | None = None) -> None:
    """The columns agree within 1e-5, `found` in the order of `rows` of `wanted`."""
    rows = range(len(wanted.mean)) if rows is None else rows
    for column in COLUMNS:
        np.testing.assert_allclose(getattr(found, column), getattr(wanted, column)[list(rows)], atol=1e-5, rtol=0, err_msg=column)
    np.testing.assert_array_equal(found.tokens, wanted.tokens[list(rows)])
    np.testing.assert_array_equal(found.windows, wanted.windows[list(rows)])


# The definition, slowly.


def spans(tokens: int, capacity: int, overlap: int) -> list[tuple[int, int]]:
    """What each window sees: a window every `capacity - overlap` tokens until one reaches the end; that one is moved back to end there."""
    starts = [0]
    while starts[-1] + capacity < tokens:
        starts.append(starts[-1] + capacity - overlap)
    return [(max(0, min(start, tokens - capacity)), min(start + capacity, tokens)) for start in starts]


def pooled64(
    weights: models.State, ids: list[int], window: int, overlap: int, cls_id: int = 1, sep_id: int = 2
) -> dict[str, np.ndarray]:
    """cls, mean and max of one sequence: each token counted once, in the window that owns it."""
    seen = spans(len(ids), window - 2, overlap)
    borders = [0, *(start + (stop - start) // 2 for (_, stop), (start, _) in itertools.pairwise(seen)), len(ids)]
    owned, cls = [], np.zeros(VALUES["hidden_size"])
    for (start, stop), first, last in zip(seen, borders[:-1], borders[1:], strict=True):
        states = models.forward64(weights, HEADS, [cls_id, *ids[start:stop], sep_id])[-1]
        owned.append(states[1 + first - start : 1 + last - start])
        cls += states[0] * (last - first)
    rows = np.concatenate(owned)
    assert len(rows) == len(ids)
    return {"cls": cls / len(ids), "mean": rows.mean(0), "max": rows.max(0)}


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
    expected = load(folder, window=window, overlap=9).encode(SEQUENCES)
    encoder = load(folder, window=window, overlap=9, batch_tokens=batch_tokens)
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
    assert beside.padding_share > 0.7
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
    for column in POOLED:
        np.testing.assert_allclose(getattr(found, column)[0], expected[column], atol=1e-5, rtol=0, err_msg=column)


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
        for column in POOLED:
            np.testing.assert_allclose(getattr(found, column)[row], expected[column], atol=1e-5, rtol=0, err_msg=column)


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
    found = Encoder.from_pretrained(str(folder), precision="bfloat16").encode(SEQUENCES)
    exact = encoder.encode(SEQUENCES)
    for column in POOLED:
        a, b = getattr(found, column), getattr(exact, column)
        assert a.dtype == np.float32
        assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999
        assert np.abs(a - b).max() > 1e-4


# Windows.


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), max_size=8), st.integers(1, 50), st.data())
def test_windows_own_every_token_once_and_keep_their_bounds(lengths: list[int], capacity: int, data: st.DataObject) -> None:
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


@pytest.mark.parametrize(("window", "overlap"), [(32, 9), (32, 0), (32, 29), (12, 7), (60, 13)])
def test_several_windows_are_pooled_as_in_float64(folder: Path, window: int, overlap: int) -> None:
    encoder = load(folder, window=window, overlap=overlap)
    sequences = [models.dna(bases, bases) for bases in (40, 55, 103, 260)] + ["ACGTT" + "N" * 60 + "GATTACA"]
    found = encoder.encode(sequences)
    assert found.windows.max() > 3
    for row, sequence in enumerate(sequences):
        ids = content_ids(encoder, sequence)
        expected = pooled64(WEIGHTS, ids, window, overlap)
        assert found.windows[row] == len(spans(len(ids), window - 2, overlap))
        for column in POOLED:
            np.testing.assert_allclose(getattr(found, column)[row], expected[column], atol=1e-5, rtol=0, err_msg=column)


@pytest.mark.parametrize(("tokens", "windows"), [(29, 1), (30, 1), (31, 2), (51, 2), (52, 3)])
def test_a_sequence_that_just_fits_takes_no_further_window(windowed: Encoder, tokens: int, windows: int) -> None:
    found = windowed.encode(["N" * tokens])
    assert (found.tokens.tolist(), found.windows.tolist()) == ([tokens], [windows])
    expected = pooled64(WEIGHTS, [0] * tokens, 32, 9)
    for column in POOLED:
        np.testing.assert_allclose(getattr(found, column)[0], expected[column], atol=1e-5, rtol=0, err_msg=column)


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
    for column in POOLED:
        np.testing.assert_allclose(getattr(found, column)[1], expected[column], atol=1e-5, rtol=0, err_msg=column)


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


def test_token_ids_made_elsewhere_give_the_same_vectors(windowed: Encoder) -> None:
    close(windowed.encode_tokens(windowed.tokenizer.encode(SEQUENCES)), windowed.encode(SEQUENCES))


def test_no_tokens_give_no_silent_nan(encoder: Encoder) -> None:
    with pytest.raises(UsageError):
        encoder.encode_tokens(Tokens(np.array([5, 6], np.int32), np.array([0, 2, 2], np.int64)))


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
def test_reports_add_up_and_change_nothing(folder: Path, batch_tokens: int) -> None:
    encoder = load(folder, window=32, overlap=9, batch_tokens=batch_tokens)
    seen: list[tuple[int, int, int]] = []
    found = encoder.encode(SEQUENCES, lambda *counts: seen.append(counts))
    silent = encoder.encode(SEQUENCES)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(found, column), getattr(silent, column))
    sequences, tokens, computed = np.sum(seen, axis=0)
    assert sequences == len(SEQUENCES)
    assert tokens == found.tokens.sum()
    needed = sum(stop - start + 2 for n in found.tokens for start, stop in spans(n, 30, 9))
    assert computed >= needed
    np.testing.assert_allclose(found.padding_share, 1 - needed / computed)
    assert found.padding_share == silent.padding_share
    assert (found.padding_share == 0) == (batch_tokens == 1)
    assert (len(seen) == 1) == (batch_tokens == 10**6)


def test_encoding_twice_gives_the_same_bits(encoder: Encoder) -> None:
    assert not encoder.model.training
    assert not encoder.projector.training
    first, second = encoder.encode(SEQUENCES), encoder.encode(SEQUENCES)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))
