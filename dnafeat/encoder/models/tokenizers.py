"""Sequences to token ids: byte-pair encoding, overlapping and side-by-side k-mers.

What each does with letters other than A C G T (nothing is upper-cased here; the encoder does that before):

- DNABERT-2, DNABERT-S (`tokenizer.json`): one [UNK] for each such letter; white space vanishes.
- DNABERT and ProkBERT k-mers: one [UNK] for each k-mer that holds such a letter.
- Plant DNABERT's 6-mers and bases: N is a token of its own, a run of any others is one <unk>.

`ragged` gives content tokens alone, because the encoder adds [CLS] and [SEP] to every window itself; `encode` and calling the
tokenizer give what the published tokenizers give, special tokens included.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers

from dnafeat.encoder.padding import frame
from dnafeat.errors import CheckpointError, UsageError

SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
# Sequences encoded at a time: what the library keeps of each beside its ids would otherwise outgrow a whole shard.
_CHUNK = 1024
_LETTERS_AT_A_TIME = 4 * 2**20


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


class Tokenizer(ABC):
    """The interface of all tokenizers.

    Attributes
    ----------
    kind : str
        In words, for people.
    vocab_size : int
    cls_id, pad_id, unk_id : int
    sep_id : int | None
        None where nothing follows the sequence.
    min_bases : int
        Shortest sequence that has a token.
    shift : int
        Bases from the start of one k-mer to the next; 1 for other tokens.
    fingerprint : str
        SHA-256 of what decides the ids.
    """

    kind: str
    vocab_size: int
    cls_id: int
    sep_id: int | None
    pad_id: int
    unk_id: int
    min_bases: int = 1
    shift: int = 1
    fingerprint: str

    @abstractmethod
    def token_to_id(self, token: str) -> int | None: ...

    @abstractmethod
    def ragged(self, sequences: Sequence[str]) -> Tokens:
        """Content token ids of each sequence, in order."""

    @abstractmethod
    def spans(self, sequences: Sequence[str]) -> tuple[Tokens, np.ndarray, np.ndarray]:
        """The same, with the first base and one past the last base of every token in its own sequence: int64, 0-based."""

    @property
    @abstractmethod
    def largest_id(self) -> int:
        """The largest id there is, which a vocabulary with gaps has beyond its size."""

    @property
    def specials(self) -> int:
        """Special tokens around a sequence: 2, or 1 where nothing follows it."""
        return 1 if self.sep_id is None else 2

    def encode(self, sequence: str) -> list[int]:
        """Ids of one sequence, special tokens included."""
        return self([sequence])["input_ids"][0]

    def __call__(
        self,
        sequences: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        truncation: bool = False,
        max_length: int | None = None,
        padding: bool = False,
        return_tensors: str | None = None,
    ) -> dict[str, Any]:
        """Tokenise as transformers' tokenizers do, with the same names: `input_ids`, `token_type_ids` and `attention_mask`.

        Parameters
        ----------
        pairs : str | Sequence[str] | None
            Second sequences, put behind the first ones with token type 1.
        truncation, max_length : bool, int | None
            Keep the first `max_length` tokens, special ones counted.
        padding : bool
            Make all as long as the longest, on the right.
        return_tensors : str | None
            `pt` for torch tensors, padded; else lists.
        """
        if return_tensors not in (None, "pt"):
            raise UsageError(f"return_tensors is {return_tensors!r}: it can be 'pt' or left out")
        if truncation and (max_length is None or pairs is not None):
            raise UsageError("truncation needs max_length, and is for single sequences")
        if truncation and max_length is not None and max_length < self.specials:
            raise UsageError(f"max_length is {max_length}: the special tokens alone are {self.specials}")
        if pairs is not None and self.sep_id is None:
            raise UsageError("pairs need a token between the two, and this tokenizer has none")
        alone = isinstance(sequences, str)
        first = self._parts([sequences] if isinstance(sequences, str) else sequences)
        end = [] if self.sep_id is None else [self.sep_id]
        room = max_length - self.specials if truncation and max_length is not None else None
        content = [part[:room] for part in first]
        second = [0] * len(content)
        if pairs is not None:
            more = self._parts([pairs] if isinstance(pairs, str) else pairs)
            # What ends the first sequence stands within the content of the two.
            content = [[*part, *end, *other] for part, other in zip(content, more, strict=True)]
            second = [len(other) + len(end) for other in more]
        answer = self._framed(content, second, padded=padding or return_tensors is not None)
        if return_tensors == "pt":
            import torch

            return {name: torch.tensor(value) for name, value in answer.items()}
        return {name: value[0] for name, value in answer.items()} if alone else answer

    def _framed(self, content: Sequence[Sequence[int]], second: Sequence[int], *, padded: bool) -> dict[str, Any]:
        """Ids, types and masks of some contents; the last `second` tokens of each that are no padding have type 1."""
        if not content:
            return {"input_ids": [], "token_type_ids": [], "attention_mask": []}
        sizes = np.array([len(part) for part in content])
        stop = np.cumsum(sizes)
        ids, real, _ = frame(np.array(list(itertools.chain(*content)), np.int64), stop - sizes, stop, self)
        lengths = real.sum(1)
        place = np.arange(ids.shape[1])
        types = ((place >= (lengths - second)[:, None]) & real).astype(np.int64)
        ends = [ids.shape[1]] * len(ids) if padded else lengths.tolist()
        arrays = {"input_ids": ids, "token_type_ids": types, "attention_mask": real.astype(np.int64)}
        return {name: [row[:end].tolist() for row, end in zip(array, ends, strict=True)] for name, array in arrays.items()}

    def _parts(self, sequences: Sequence[str]) -> list[list[int]]:
        tokens = self.ragged(sequences)
        return [tokens.ids[a:b].tolist() for a, b in itertools.pairwise(tokens.offsets)]


class LibraryTokenizer(Tokenizer):
    """Any tokenizer of the `tokenizers` library, its padding and truncation switched off.

    Ids of special tokens come from its vocabulary, never from a model's config: DNABERT-2's config names no padding id, and the
    default 0 would be [UNK] here.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, kind: str, special: Sequence[str] = SPECIAL, source: str = "tokenizer"
    ) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        vocabulary = self._tokenizer.get_vocab()
        missing = [name for name in special if name and name not in vocabulary]
        if missing:
            raise CheckpointError(f"{source} has no {' and no '.join(missing)} token, which the encoder needs")
        if not self._tokenizer.encode("N", add_special_tokens=False).ids:
            raise CheckpointError(f"{source} names no unknown token, so that an N would vanish: set its model's unk_token")
        self.cls_id, sep, self.pad_id, self.unk_id = (vocabulary[name] if name else None for name in special)  # type: ignore[assignment]
        self.sep_id = sep
        # A WordPiece model that wants words between spaces: no sequence would differ from another.
        if set(self._tokenizer.encode("ACGT" * 64, add_special_tokens=False).ids) <= {self.unk_id}:
            raise CheckpointError(f"{source} reads 256 bases as unknown: it is not for sequences without spaces")
        self.kind, self.vocab_size = kind, self._tokenizer.get_vocab_size()
        # Canonical JSON, so that indentation and key order of the file do not make another tokenizer.
        canonical = json.dumps(json.loads(self._tokenizer.to_str()), sort_keys=True, separators=(",", ":"))
        names = "" if tuple(special) == SPECIAL else " ".join(["", *(name or "open end" for name in special)])
        self.fingerprint = hashlib.sha256((canonical + names).encode()).hexdigest()

    @property
    def largest_id(self) -> int:
        return max(self._tokenizer.get_vocab().values())

    @property
    def is_bpe(self) -> bool:
        return isinstance(self._tokenizer.model, tokenizers.models.BPE)

    def token_to_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def ragged(self, sequences: Sequence[str]) -> Tokens:
        parts = [np.empty(0, np.int32)]
        lengths: list[int] = [0]
        for at in range(0, len(sequences), _CHUNK):
            encoded = self._tokenizer.encode_batch_fast(list(sequences[at : at + _CHUNK]), add_special_tokens=False)
            rows = [row.ids for row in encoded]
            lengths += map(len, rows)
            parts.append(np.fromiter(itertools.chain.from_iterable(rows), np.int32))
        return Tokens(np.concatenate(parts), np.cumsum(lengths, dtype=np.int64))

    def spans(self, sequences: Sequence[str]) -> tuple[Tokens, np.ndarray, np.ndarray]:
        ids, ends, lengths = [np.empty(0, np.int32)], [np.empty((0, 2), np.int64)], [0]
        for at in range(0, len(sequences), _CHUNK):
            for row in self._tokenizer.encode_batch(list(sequences[at : at + _CHUNK]), add_special_tokens=False):
                ids.append(np.array(row.ids, np.int32))
                ends.append(np.array(row.offsets, np.int64).reshape(-1, 2))
                lengths.append(len(row))
        both = np.concatenate(ends)
        return Tokens(np.concatenate(ids), np.cumsum(lengths, dtype=np.int64)), both[:, 0], both[:, 1]


class KmerTokenizer(Tokenizer):
    """k-mers s[i:i+k] for i = 0, shift, 2·shift … ≤ len - k: DNABERT's with shift 1, ProkBERT's local context-aware ones with 1 or 2.

    With shift 2 and an odd len - k the last base is in no token, as in the published tokenizer.
    """

    def __init__(self, vocabulary: Mapping[str, int], k: int, shift: int = 1) -> None:
        self.kind = f"overlapping {k}-mers, shift {shift}" if k > 1 else "single bases"
        self.k, self.shift, self.min_bases = k, shift, k
        self._vocabulary = dict(vocabulary)
        self.vocab_size = len(vocabulary)
        self.cls_id, self.sep_id, self.pad_id, self.unk_id = (vocabulary[name] for name in SPECIAL)
        words = itertools.product("ACGT", repeat=k)
        # Number of a k-mer in base 4 to its id; the last entry is for those with another letter.
        self._ids = np.array([*(vocabulary["".join(word)] for word in words), self.unk_id], np.int32)
        self._codes = np.full(256, 4, np.int32)
        self._codes[np.frombuffer(b"ACGT", np.uint8)] = np.arange(4)
        canonical = json.dumps({"k": k, "shift": shift, "vocabulary": self._vocabulary}, sort_keys=True)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def largest_id(self) -> int:
        return max(self._vocabulary.values())

    def token_to_id(self, token: str) -> int | None:
        return self._vocabulary.get(token)

    def ragged(self, sequences: Sequence[str]) -> Tokens:
        parts = [(np.empty(0, np.int32), np.empty(0, np.int64)), *map(self._some, _by_letters(sequences))]
        ids, counts = zip(*parts, strict=True)
        return Tokens(np.concatenate(ids), np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64))

    def _some(self, sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of some sequences end to end, and how many each has."""
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        counts = np.maximum((lengths - self.k) // self.shift + 1, 0)
        letters = np.frombuffer("".join(sequences).encode("latin-1", "replace"), np.uint8)
        codes = self._codes[letters]
        places = max(0, len(codes) - self.k + 1)
        number, strange = np.zeros(places, np.int32), np.zeros(places, bool)
        for i in range(self.k):
            part = codes[i : i + places]
            number = number * 4 + (part & 3)
            strange |= part == 4
        number[strange] = len(self._ids) - 1
        first = np.repeat(np.cumsum(lengths) - lengths, counts)
        return self._ids[number[first + self.shift * _within(counts)]], counts

    def spans(self, sequences: Sequence[str]) -> tuple[Tokens, np.ndarray, np.ndarray]:
        tokens = self.ragged(sequences)
        starts = self.shift * _within(np.diff(tokens.offsets))
        return tokens, starts, starts + self.k


class SpacedKmers(Tokenizer):
    """Another tokenizer on the sequence's overlapping k-mers with spaces between: the DNABERT-2 fine-tuning script's `--kmer`."""

    def __init__(self, inner: LibraryTokenizer, k: int) -> None:
        self._inner, self.k = inner, k
        self.kind, self.vocab_size = f"{inner.kind} of overlapping {k}-mers", inner.vocab_size
        self.cls_id, self.sep_id, self.pad_id, self.unk_id = inner.cls_id, inner.sep_id, inner.pad_id, inner.unk_id
        self.min_bases = k
        self.fingerprint = hashlib.sha256(f"{inner.fingerprint} kmer={k}".encode()).hexdigest()

    @property
    def largest_id(self) -> int:
        return self._inner.largest_id

    def token_to_id(self, token: str) -> int | None:
        return self._inner.token_to_id(token)

    def ragged(self, sequences: Sequence[str]) -> Tokens:
        return self._inner.ragged([self._spaced(sequence) for sequence in sequences])

    def spans(self, sequences: Sequence[str]) -> tuple[Tokens, np.ndarray, np.ndarray]:
        tokens, starts, stops = self._inner.spans([self._spaced(sequence) for sequence in sequences])
        word, letter = np.divmod(starts, self.k + 1)
        last_word, last_letter = np.divmod(stops - 1, self.k + 1)
        return tokens, word + letter, last_word + last_letter + 1

    def _spaced(self, sequence: str) -> str:
        letters = np.frombuffer(sequence.encode("latin-1", "replace"), np.uint8)
        if len(letters) < self.k:
            return ""
        text = np.full((len(letters) - self.k + 1, self.k + 1), ord(" "), np.uint8)
        text[:, :-1] = np.lib.stride_tricks.sliding_window_view(letters, self.k)
        return text.tobytes()[:-1].decode("latin-1")


def _by_letters(sequences: Sequence[str]) -> Iterator[Sequence[str]]:
    """The sequences in groups of some millions of letters."""
    at = letters = 0
    for i, sequence in enumerate(sequences):
        letters += len(sequence)
        if letters >= _LETTERS_AT_A_TIME:
            yield sequences[at : i + 1]
            at, letters = i + 1, 0
    if at < len(sequences):
        yield sequences[at:]


def _within(counts: np.ndarray) -> np.ndarray:
    """0 1 … count-1 for each count, end to end."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


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
