"""Sequences to token ids, in ragged arrays and without special tokens: the encoder adds [CLS] and [SEP] to every window itself."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers

from dnafeat.errors import CheckpointError, one_line

_SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
# Sequences encoded at a time: what the library keeps of each beside its ids would otherwise outgrow a whole shard.
_CHUNK = 1024


@dataclass(frozen=True)
class Tokens:
    """Token ids of n sequences, end to end.

    Attributes
    ----------
    ids : np.ndarray, shape=(total,), int32
        Content tokens only; an [UNK] (an N, say) is content.
    offsets : np.ndarray, shape=(n + 1,), int64
        Sequence i owns `ids[offsets[i]:offsets[i + 1]]`.
    """

    ids: np.ndarray
    offsets: np.ndarray


class BPETokenizer:
    """A `tokenizer.json` of the `tokenizers` library: DNABERT-2's BPE and everything laid out like it.

    Ids of [CLS], [SEP] and [PAD] come from the file, never from a model's config: DNABERT-2's config names no padding id, and
    the default 0 would be [UNK] here.
    """

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise CheckpointError(
                f"{file.parent} has no tokenizer.json: copy the one published with the model beside its weights"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{file} is no tokenizer of the `tokenizers` library: {one_line(error)}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        missing = [name for name in _SPECIAL if self._tokenizer.token_to_id(name) is None]
        if missing:
            raise CheckpointError(f"{file} has no {' and no '.join(missing)} token, which the encoder needs")
        vocabulary = self._tokenizer.get_vocab()
        self.cls_id, self.sep_id, self.pad_id = (vocabulary[name] for name in _SPECIAL[:3])
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        # Canonical JSON, so that indentation and key order of the file do not make another tokenizer.
        canonical = json.dumps(json.loads(self._tokenizer.to_str()), sort_keys=True, separators=(",", ":"))
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()

    def token_to_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def encode(self, sequences: Sequence[str]) -> Tokens:
        """Content token ids of each sequence, in order."""
        parts = [np.empty(0, np.int32)]
        lengths: list[int] = [0]
        for at in range(0, len(sequences), _CHUNK):
            encoded = self._tokenizer.encode_batch_fast(list(sequences[at : at + _CHUNK]), add_special_tokens=False)
            rows = [row.ids for row in encoded]
            lengths += map(len, rows)
            parts.append(np.fromiter(itertools.chain.from_iterable(rows), np.int32))
        return Tokens(np.concatenate(parts), np.cumsum(lengths, dtype=np.int64))


def train_bpe(sequences: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A BPE tokenizer in DNABERT-2's layout: [UNK] [CLS] [SEP] [PAD] [MASK], A C G T, then merges up to `vocab_size` entries.

    `vocab_size=9` is the alphabet alone: every base is a token.
    """
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=list("ACGT"), limit_alphabet=4, show_progress=False
    )
    tokenizer.train_from_iterator(sequences, trainer)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return tokenizer
