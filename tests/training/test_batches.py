"""Global batches: the same examples and the same loss whatever the number of workers and of micro-batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_folder
from torch.utils.data import Dataset

from dnafeat.encoder.models.checkpoint import load_tokenizer
from dnafeat.encoder.models.tokenizers import Tokenizer, Tokens
from dnafeat.training.batches import Batches, Choice, Collate, Examples, MicroBatches, global_batches, truncate


def tokens(parts: list[list[int]]) -> Tokens:
    flat = [i for part in parts for i in part]
    return Tokens(np.array(flat, np.int32), np.cumsum([0, *map(len, parts)]).astype(np.int64))


def lengths_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 60, count)


def steps(
    lengths: np.ndarray, *, size: int, seed: int, world: int, accumulate: int, epoch: int = 0, both_strands: bool = False
) -> list[list[list[list[Choice]]]]:
    """What each rank draws, [step][rank][micro-batch]."""
    ranks = []
    for rank in range(world):
        sampler = MicroBatches(
            lengths, size=size, seed=seed, rank=rank, world=world, accumulate=accumulate, both_strands=both_strands
        )
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        ranks.append([drawn[i : i + accumulate] for i in range(0, len(drawn), accumulate)])
    return [list(step) for step in zip(*ranks, strict=True)]


@given(st.integers(1, 400), st.integers(1, 70), st.integers(0, 3), st.integers(0, 3))
def test_global_batches_hold_every_example_once(count: int, size: int, seed: int, epoch: int) -> None:
    lengths = lengths_of(count)
    batches = global_batches(lengths, size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert sorted(map(len, batches), reverse=True) == [size] * (count // size) + [count % size] * (count % size > 0)


def test_global_batches_are_of_like_length_and_in_another_order_each_epoch() -> None:
    lengths = lengths_of(640)
    batches = global_batches(lengths, 16, seed=1, epoch=0)
    spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
    assert spread < 5  # of 59: an epoch of 40 batches is sorted as a whole
    # Long ones first would be a curriculum.
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5
    again = global_batches(lengths, 16, seed=1, epoch=0)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    for other in (global_batches(lengths, 16, seed=1, epoch=1), global_batches(lengths, 16, seed=2, epoch=0)):
        assert {frozenset(b.tolist()) for b in batches} != {frozenset(b.tolist()) for b in other}


@settings(max_examples=examples(50, 200))
@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(0, 2))
def test_a_step_is_the_same_for_any_number_of_workers(
    count: int, size: int, world: int, accumulate: int, seed: int, epoch: int
) -> None:
    lengths = lengths_of(count)
    whole = steps(lengths, size=size, seed=seed, world=1, accumulate=1, epoch=epoch, both_strands=True)
    found = steps(lengths, size=size, seed=seed, world=world, accumulate=accumulate, epoch=epoch, both_strands=True)
    assert len(whole) == len(found) == -(-count // size)
    for one, several in zip(whole, found, strict=True):
        micros = [micro for rank in several for micro in rank]
        assert all(micros)
        # Examples and the strands they are taken from; what is there to fill a micro-batch weighs nothing.
        weighed = [(i, turned) for micro in micros for i, weight, turned in micro if weight]
        assert sorted(weighed) == sorted((i, turned) for i, _, turned in one[0][0])
        # Averaged over workers, and summed over micro-batches, the weights of a step are the mean over the global batch.
        each: Counter[int] = Counter()
        for micro in micros:
            for i, weight, _ in micro:
                each[i] += weight / world
        assert list(each.values()) == pytest.approx([1 / len(one[0][0])] * len(each))
        # And no micro-batch is larger than an equal share.
        assert max(map(len, micros)) <= -(-len(one[0][0]) // (world * accumulate))


def test_coins_are_tossed_anew_each_epoch_and_only_when_asked() -> None:
    lengths = lengths_of(400)
    sides = []
    for epoch in (0, 1):
        drawn = steps(lengths, size=10, seed=3, world=1, accumulate=1, epoch=epoch, both_strands=True)
        sides.append({i: turned for step in drawn for i, _, turned in step[0][0]})
    assert [150 < sum(side.values()) < 250 for side in sides] == [True, True]
    assert 150 < sum(sides[0][i] != sides[1][i] for i in range(400)) < 250
    drawn = steps(lengths, size=10, seed=3, world=1, accumulate=1)
    assert not any(turned for step in drawn for _, _, turned in step[0][0])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 8))
def test_truncate_keeps_the_beginning(lengths: list[int], capacity: int) -> None:
    parts = [list(range(100 * i, 100 * i + length)) for i, length in enumerate(lengths)]
    kept, cut = truncate(tokens(parts), capacity)
    assert kept.ids.dtype == np.int32
    assert [kept.ids[a:b].tolist() for a, b in zip(kept.offsets, kept.offsets[1:], strict=False)] == [p[:capacity] for p in parts]
    assert cut.tolist() == [length > capacity for length in lengths]


class OpenEnd:
    """As much of a tokenizer as collating takes, one without [SEP]."""

    cls_id, sep_id, pad_id, specials = 7, None, 9, 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(str(random_folder(tmp_path_factory.mktemp("models") / "tiny")))


@pytest.mark.parametrize("open_end", [False, True])
@pytest.mark.parametrize("special_tokens", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
def test_collate_is_what_a_loop_writes(tokenizer: Tokenizer, open_end: bool, special_tokens: bool, per_token: bool) -> None:
    used = OpenEnd() if open_end else tokenizer
    parts, turned = [[5, 6, 7], [8], [9, 10], [11] * 6], [[6, 6, 6], [5, 5], [12, 12], [8]]
    classes = [[0, 1, 2], [1], [-100, 0], [2] * 6]
    targets = np.array([c for part in classes for c in part]) if per_token else np.arange(4.0, dtype=np.float32)
    examples = Examples(tokens(parts), targets, None if per_token else tokens(turned))
    chosen: list[Choice] = [(2, 0.5, False), (0, 0.25, not per_token), (1, 0.0, False)]
    batch = Collate(examples, used, special_tokens, per_token)(chosen)  # type: ignore[arg-type]
    rows = [turned[i] if other else parts[i] for i, _, other in chosen]
    width = max(map(len, rows)) + used.specials
    for r, (row, (i, weight, _)) in enumerate(zip(rows, chosen, strict=True)):
        for t in range(width):
            inside, end = 1 <= t <= len(row), t == len(row) + 1 and used.sep_id is not None
            expected = used.cls_id if t == 0 else row[t - 1] if inside else used.sep_id if end else used.pad_id
            assert batch["input_ids"][r, t] == expected
            assert batch["attention_mask"][r, t] == (t == 0 or inside or end)
            assert batch["content"][r, t] == (inside or (special_tokens and (t == 0 or end)))
            if per_token:
                assert batch["targets"][r, t] == (classes[i][t - 1] if inside else -100)
        if not per_token:
            assert batch["targets"][r] == i
        assert batch["weights"][r] == weight
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["content"].shape == (3, width)
    assert [batch[name].dtype for name in ("input_ids", "attention_mask", "content", "weights")] == [
        torch.int64,
        torch.bool,
        torch.bool,
        torch.float32,
    ]


def test_batches_hand_epochs_to_their_sampler(tokenizer: Tokenizer) -> None:
    examples = Examples(tokens([[5 + i % 8] for i in range(20)]), np.arange(20))

    class Echo(Dataset):
        def __getitem__(self, choice: Choice) -> Choice:
            return choice

    def epoch(number: int) -> list[list[int]]:
        sampler = MicroBatches(examples.lengths, size=4, seed=0, rank=0, world=1, accumulate=1, both_strands=False)
        loader = Batches(Echo(), batch_sampler=sampler, collate_fn=Collate(examples, tokenizer, False, False))
        loader.set_epoch(number)
        return [batch["targets"].tolist() for batch in loader]

    assert [sorted(i for batch in epoch(number) for i in batch) for number in (0, 1)] == [list(range(20))] * 2
    assert epoch(1) == [batch.tolist() for batch in global_batches(examples.lengths, 4, 0, 1)] != epoch(0)
