"""Tokenised examples and the global batches that training takes of them. No Ray.

A global batch is a set of examples that depends on the seed, the epoch and the data alone. It is dealt out over workers and over the
micro-batches of one step; the loss is the sum over all of it divided by its size, so that neither number changes what is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dnafeat.encoder.models.tokenizers import Tokenizer, Tokens
from dnafeat.encoder.padding import frame

# Batches whose examples are sorted by length together, so that an epoch's order stays random beyond them.
_SORTED_BATCHES = 50


@dataclass(frozen=True)
class Examples:
    """Examples of one split.

    Attributes
    ----------
    tokens : Tokens
        Content tokens, cut to what fits.
    reverse : Tokens | None
        The same of the reverse complements, where training draws them.
    spans : np.ndarray | None, shape=(total tokens, 2), int64
        For per-token tasks: first base and one past the last of each token.
    per_base : list of np.ndarray | None
        For per-token tasks: the class of each base of each sequence.
    targets : np.ndarray
        (n,) int64, (n, width) float32 or (n,) float32; for per-token tasks the classes of all tokens end to end, int64.
    """

    tokens: Tokens
    targets: np.ndarray
    reverse: Tokens | None = None
    spans: np.ndarray | None = None
    per_base: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.tokens.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.tokens.offsets)


def truncate(tokens: Tokens, capacity: int) -> tuple[Tokens, np.ndarray]:
    """The first `capacity` tokens of each sequence, and which were longer (n,) bool."""
    lengths = np.diff(tokens.offsets)
    kept = np.minimum(lengths, capacity)
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], kept)
    return Tokens(tokens.ids[np.repeat(tokens.offsets[:-1], kept) + within], offsets), lengths > capacity


def global_batches(lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The epoch's batches of example numbers, all but one of `size`, of like length within, in random order."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    batches = []
    for at in range(0, len(order), size * _SORTED_BATCHES):
        some = order[at : at + size * _SORTED_BATCHES]
        some = some[np.argsort(-lengths[some], kind="stable")]
        batches += [some[i : i + size] for i in range(0, len(some), size)]
    return [batches[i] for i in random.permutation(len(batches))]


Choice = tuple[int, float, bool]  # an example, its weight, and whether its reverse complement is taken


class MicroBatches(Sampler[list[Choice]]):
    """One worker's share of the global batches: `accumulate` micro-batches of a step, each a list of choices.

    Every micro-batch has an example, so that all workers compute as often as each other; where there are too few, one is taken again
    with weight 0. The other weights are the number of workers over the size of the global batch: averaged over workers, as data-parallel
    training averages gradients, the losses of a step then sum up to the mean over the global batch.
    """

    def __init__(
        self, lengths: np.ndarray, *, size: int, seed: int, rank: int, world: int, accumulate: int, both_strands: bool
    ) -> None:
        self.lengths, self.size, self.seed, self.both_strands = lengths, size, seed, both_strands
        self.rank, self.world, self.accumulate, self.epoch = rank, world, accumulate, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.size) * self.accumulate

    def __iter__(self) -> Iterator[list[Choice]]:
        coins = np.random.default_rng([self.seed, self.epoch, 1]).random(len(self.lengths)) < 0.5
        turned = coins & self.both_strands
        for batch in global_batches(self.lengths, self.size, self.seed, self.epoch):
            share = self.world / len(batch)
            parts = np.array_split(batch, self.world * self.accumulate)
            for step in range(self.accumulate):
                part = parts[step * self.world + self.rank]
                yield [(int(i), share, bool(turned[i])) for i in part] or [(int(batch[-1]), 0.0, False)]


class Batches(DataLoader):
    """The loader over `MicroBatches`; epochs reach its sampler."""

    def set_epoch(self, epoch: int) -> None:
        sampler = self.batch_sampler
        if isinstance(sampler, MicroBatches):
            sampler.set_epoch(epoch)


@dataclass(frozen=True)
class Collate:
    """Choices of examples to tensors: `input_ids`, `attention_mask` and `content` (rows, tokens), `targets`, and `weights` (rows,)."""

    examples: Examples
    tokenizer: Tokenizer
    special_tokens: bool
    per_token: bool

    def __call__(self, chosen: Sequence[Choice]) -> dict[str, Tensor]:
        examples, tokenizer = self.examples, self.tokenizer
        parts = [self._tokens(i, turned) for i, _, turned in chosen]
        stop = np.cumsum([len(part) for part in parts])
        ids, mask, content = frame(np.concatenate(parts), stop - [len(part) for part in parts], stop, tokenizer)
        numbers = np.array([i for i, _, _ in chosen])
        if self.per_token:
            offsets = examples.tokens.offsets
            targets = np.full(ids.shape, -100, np.int64)
            targets[content] = np.concatenate([examples.targets[offsets[i] : offsets[i + 1]] for i in numbers])
        else:
            targets = examples.targets[numbers]
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "content": torch.from_numpy(mask if self.special_tokens else content),
            "targets": torch.from_numpy(targets),
            "weights": torch.tensor([weight for _, weight, _ in chosen], dtype=torch.float32),
        }

    def _tokens(self, i: int, turned: bool) -> np.ndarray:
        tokens = self.examples.reverse if turned and self.examples.reverse is not None else self.examples.tokens
        return tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]]
