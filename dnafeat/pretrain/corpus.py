"""Genomes for pretraining: read, held out, and cut into tokens. No Ray, no torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers

from dnafeat.errors import UsageError
from dnafeat.sequence import problem, reverse_complement
from dnafeat.sources.content import open_text
from dnafeat.sources.entries import whole
from dnafeat.sources.fasta import read_fasta

FIRST_CONTENT = 5  # ids 0 to 4 are [UNK] [CLS] [SEP] [PAD] [MASK] in the layout of `train_bpe`
CLS, SEP, MASK = 1, 2, 4

_INTERVAL = re.compile(r"(.+):(\d+)-(\d+)")
_CHUNK = 9_996  # bases tokenised at once, a multiple of 1 to 4 and 6, so that k-mers keep their frame


@dataclass(frozen=True)
class Genomes:
    """Sequences by name.

    Attributes
    ----------
    train : dict of str to bytes
        Normalised letters of every training stretch, `<record>` or `<record>:<start>-<end>`, 0-based and half open.
    heldout : dict of str to bytes
        The same for what is kept out.
    """

    train: dict[str, bytes]
    heldout: dict[str, bytes]


def read_records(files: Sequence[str]) -> dict[str, bytes]:
    """Read normalised letters by record id. Raises UsageError for a record that cannot be read, a strange letter or an id used twice."""
    records: dict[str, bytes] = {}
    for file in files:
        with open_text(file) as handle:
            for piece in whole(read_fasta(handle, file)):
                fault = piece.problem or problem(piece.letters)
                if fault or piece.sequence_id is None:
                    raise UsageError(f"{file}, line {piece.row}: {fault}")
                if piece.sequence_id in records:
                    raise UsageError(
                        f"{file}, line {piece.row}: record {piece.sequence_id} has been read before; give each record once"
                    )
                records[piece.sequence_id] = piece.letters
    return records


def read_genomes(files: Sequence[str], holdout: Sequence[str], intervals: Sequence[str]) -> Genomes:
    """Read FASTA files and keep whole files (`holdout`) and intervals `<record>:<start>-<end>` of training records apart."""
    train = read_records(files)
    kept = read_records(holdout)
    if both := sorted(set(train) & set(kept)):
        raise UsageError(f"record {both[0]} stands both in a training file and in a held-out file")
    for text in intervals:
        match = _INTERVAL.fullmatch(text)
        if match is None:
            raise UsageError(f"held-out interval {text!r} is not of the form RECORD:START-END, 0-based and half open")
        name, start, end = match[1], int(match[2]), int(match[3])
        if name not in train:
            raise UsageError(f"held-out interval {text}: no training record {name}; there are {', '.join(list(train)[:5])}")
        letters = train.pop(name)
        if not start < end <= len(letters):
            raise UsageError(f"held-out interval {text} does not lie inside {name}, which has {len(letters):,} bases")
        kept[text] = letters[start:end]
        for a, b in ((0, start), (end, len(letters))):
            if b > a:
                train[f"{name}:{a}-{b}"] = letters[a:b]
    if not train or not kept:
        raise UsageError(
            "pretraining needs at least one training record and something held out (--holdout or --holdout-interval)"
        )
    return Genomes(train, kept)


def both_strands(letters: Sequence[bytes]) -> list[bytes]:
    """Return every stretch, then every stretch's reverse complement: training draws its crops from both."""
    return [*letters, *(reverse_complement(s) for s in letters)]


def kmer_tokenizer(k: int) -> tokenizers.Tokenizer:
    """Make a tokenizer of non-overlapping k-mers in `train_bpe`'s layout.

    A run of ACGT is cut every k bases; the rest of it is a shorter token.

    Positions enter this architecture as a symmetric distance alone, so single bases are read the same in both directions; a k-mer
    carries its own direction, and all k-mers of a sequence stand in one reading frame. Entries: 5 special ones, then all words over
    ACGT of 1 to k bases, k at most 4.
    """
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    words = ["".join(word) for n in range(1, k + 1) for word in itertools.product("ACGT", repeat=n)]
    # Merges only complete the format: a piece that is in the vocabulary is looked up as it is.
    model = tokenizers.models.BPE(
        vocab={entry: i for i, entry in enumerate(special + words)},
        merges=[(word[:-1], word[-1]) for word in words if len(word) > 1],
        unk_token="[UNK]",
        ignore_merges=True,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Whitespace(),
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(f"[ACGT]{{{k}}}"), "isolated"),
    ])  # fmt: skip
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def shortened(tokenizer: tokenizers.Tokenizer, k: int) -> np.ndarray:
    """Look up, for each entry, those of its first 1 to k bases, int64 (vocab, k): the last token of a sequence cut anywhere."""
    names = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
    rows = [[tokenizer.token_to_id(name[: n + 1]) if i >= FIRST_CONTENT else i for n in range(k)] for i, name in enumerate(names)]
    return np.array(rows)


def tokenise(tokenizer: tokenizers.Tokenizer, letters: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Tokenise all stretches: content token ids end to end, uint16, and where each starts and the last ends, int64 (n + 1)."""
    streams = []
    for stretch in letters:
        chunks = [stretch[i : i + _CHUNK].decode("ascii") for i in range(0, len(stretch), _CHUNK)]
        rows = tokenizer.encode_batch_fast(chunks, add_special_tokens=False)
        streams.append(np.concatenate([np.array(row.ids, np.uint16) for row in rows]))
    offsets = np.zeros(len(streams) + 1, np.int64)
    np.cumsum([len(s) for s in streams], out=offsets[1:])
    return np.concatenate(streams), offsets


def token_spans(tokenizer: tokenizers.Tokenizer, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Locate the first base and one past the last base of each content token, int64; an [UNK] is one base."""
    names = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
    lengths = np.array([len(name) if i >= FIRST_CONTENT else 1 for i, name in enumerate(names)])
    ends = np.cumsum(lengths[ids])
    return ends - lengths[ids], ends
