"""End-to-end tuning of the encoder in an alignment, by LoRA: sequences of subjects to their mean vectors, with gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dnafeat import pseudonyms as keyhash
from dnafeat.align.config import AlignConfig
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.describe import WINDOW_TOKENS
from dnafeat.encoder.models.adapter import attach, wrap
from dnafeat.encoder.models.checkpoint import load_encoder
from dnafeat.encoder.models.tokenizers import Tokenizer, Tokens
from dnafeat.encoder.pooling import pool
from dnafeat.encoder.source import Source
from dnafeat.errors import UsageError
from dnafeat.sequence import UNAMBIGUOUS, problem
from dnafeat.sources import reader as sources
from dnafeat.training.batches import Collate, Examples

# Padded tokens whose activations are in memory at a time; the others' are computed again on the way back.
_TOKENS = 8192


@dataclass(frozen=True)
class Letters:
    """Sequences of subjects, each distinct one once.

    Attributes
    ----------
    sequences : list of str
        Normalised letters.
    tokens : Tokens
        Of these.
    subject, sequence : np.ndarray, shape=(entries,), int64
        Of each entry, in the order of subjects.
    """

    sequences: list[str]
    tokens: Tokens
    subject: np.ndarray
    sequence: np.ndarray

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of sequences and their subjects."""
        found = hashlib.sha256("\n".join(self.sequences).encode())
        for numbers in (self.subject, self.sequence):
            found.update(numbers.astype("<i8").tobytes())
        return found.hexdigest()

    def means(self, vectors: np.ndarray, subjects: int) -> np.ndarray:
        """Compute the mean vector of each subject, (subjects, width) float32, from those of sequences."""
        total = np.zeros((subjects, vectors.shape[1]))
        np.add.at(total, self.subject, vectors[self.sequence].astype(np.float64))
        return (total / np.bincount(self.subject, minlength=subjects)[:, None]).astype(np.float32)


def encoding(config: AlignConfig) -> EncodingConfig:
    return EncodingConfig(model=config.model, adapter=config.adapter, precision="float32")


def read_letters(config: AlignConfig, keys: Sequence[str], source: Source, on: str) -> Letters:
    """Read the sequences of some subjects from the table `--sequences`.

    Raises
    ------
    UsageError
        It lacks the key, has nothing of a subject, or has a sequence that cannot be encoded whole.
    """
    assert config.sequences is not None
    files = sources.expand([config.sequences])
    tokenizer = source.tokenizer(encoding(config))
    salt = keyhash.read_salt(config.inputs.salt_file) if config.inputs.salt_file else None
    place = {key: i for i, key in enumerate(keys)}
    known: dict[str, int] = {}
    pairs = []
    for batch in sources.read(files, sources.ReadOptions()):
        file, names = batch["file"][0].as_py(), batch.schema.names
        if on not in names:
            raise UsageError(
                f"{file} has no column {on!r}, by which its sequences belong to subjects: name the table that was embedded"
            )
        own = batch[on] if salt is None else keyhash.hashed(batch[on], salt)
        columns = (own.to_pylist(), *(batch[name].to_pylist() for name in ("row", "sequence", "problem")))
        for key, row, raw, fault in zip(*columns, strict=True):
            if key not in place:
                continue
            if fault := fault or problem(raw, alphabet=UNAMBIGUOUS, min_bases=tokenizer.min_bases):
                raise UsageError(f"{file}, row {row}: {fault}; mend the row, or take its subject out")
            pairs.append((place[key], known.setdefault(raw.decode(), len(known))))
    found = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    if lacking := sorted(set(range(len(keys))) - set(found[:, 0].tolist())):
        raise UsageError(f"{config.sequences} has no sequence of {len(lacking):,} subjects, such as {keys[lacking[0]]!r}")
    tokens = tokenizer.ragged(list(known))
    limit = min(source.checkpoint.config().positions or WINDOW_TOKENS, WINDOW_TOKENS) - tokenizer.specials
    if (longest := int(np.diff(tokens.offsets).max())) > limit:
        raise UsageError(
            f"{config.sequences} has a sequence of {longest:,} tokens, and end to end they are encoded whole, {limit:,} at the most: "
            f"embed and align pieces (--tile)"
        )
    return Letters(list(known), tokens, found[:, 0], found[:, 1])


def tunable(source: Source, config: AlignConfig) -> nn.Module:
    """Load the base with LoRA matrices, which alone are trained: fresh ones, or those of its adapter."""
    encoder = load_encoder(source.checkpoint, dropout=0.0, initialise=True)
    if source.adapter is not None:
        tuned = attach(encoder, source.adapter)
    else:
        import peft

        targets = list(source.checkpoint.family.lora_targets)
        settings = peft.LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=0.0, target_modules=targets)
        tuned = wrap(encoder, settings)
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad = "lora_" in name
    return tuned


def subject_encoder(source: Source, config: AlignConfig, letters: Letters) -> SubjectEncoder:
    """Make the module that is tuned in an alignment."""
    asked = encoding(config)
    hidden_size = source.checkpoint.config().hidden_size
    return SubjectEncoder(tunable(source, config), hidden_size, source.tokenizer(asked), letters, source.special_tokens(asked))


class SubjectEncoder(nn.Module):
    """Rows of subjects to mean vectors (rows, hidden_size): the mean over each one's sequences of the mean over their tokens."""

    def __init__(
        self, encoder: nn.Module, hidden_size: int, tokenizer: Tokenizer, letters: Letters, special_tokens: bool
    ) -> None:
        super().__init__()
        self.encoder, self.hidden_size = encoder, hidden_size
        examples = Examples(letters.tokens, np.zeros(len(letters.sequences), np.int64))
        self.letters, self.lengths = letters, examples.lengths
        self.collate = Collate(examples, tokenizer, special_tokens, False)
        self.first = np.searchsorted(letters.subject, np.arange(int(letters.subject.max()) + 2))

    def forward(self, rows: np.ndarray) -> Tensor:
        device = next(self.encoder.parameters()).device
        spans = [np.arange(self.first[row], self.first[row + 1]) for row in rows.tolist()]
        entries = np.concatenate([*spans, np.empty(0, np.int64)])
        owner = np.repeat(np.arange(len(rows)), [len(one) for one in spans])
        distinct, at = np.unique(self.letters.sequence[entries], return_inverse=True)
        vectors = self._vectors(distinct, device)
        weight = torch.zeros(len(rows), len(distinct), device=device)
        share = 1 / np.bincount(owner, minlength=len(rows))[owner] if len(owner) else np.empty(0)
        weight.index_put_(
            (torch.from_numpy(owner).to(device), torch.from_numpy(at).to(device)),
            torch.from_numpy(share).float().to(device),
            accumulate=True,
        )
        return weight @ vectors

    def _vectors(self, distinct: np.ndarray, device: torch.device) -> Tensor:
        """Compute the mean vectors of some sequences, (sequences, hidden_size)."""
        order = distinct[np.argsort(-self.lengths[distinct], kind="stable")]
        parts, done = [], 0
        while done < len(order):
            some = order[done : done + max(1, _TOKENS // int(self.lengths[order[done]] + 2))]
            inputs = self.collate([(int(i), 1.0, False) for i in some])
            tensors = [inputs[name].to(device) for name in ("input_ids", "attention_mask", "content")]
            parts.append(checkpoint(self._pooled, *tensors, use_reentrant=False))
            done += len(some)
        if not parts:
            return torch.zeros(0, self.hidden_size, device=device)
        place = np.empty(len(order), np.int64)
        place[np.searchsorted(distinct, order)] = np.arange(len(order))
        return torch.cat(parts)[torch.from_numpy(place).to(device)]

    def _pooled(self, ids: Tensor, mask: Tensor, content: Tensor) -> Tensor:
        return pool(self.encoder(ids, mask).last_hidden_state.float(), content, "mean")
