"""The tokenizer whose files lie in a model's folder: `tokenizer.json`, or `vocab.txt` and what its entries say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from dnafeat.declarations import shown
from dnafeat.encoder.models.tokenizers import SPECIAL, KmerTokenizer, LibraryTokenizer, SpacedKmers, Tokenizer
from dnafeat.errors import CheckpointError, UsageError, one_line
from dnafeat.untrusted import check_regular, read_bytes, read_object

# Letters of a k-mer: 4 to this power is a vocabulary already that nobody has.
_LONGEST = 16
_MOST_IDS = 10_000_000


def load(folder: Path, *, kmer: int = 0, shift: int | None = None) -> Tokenizer:
    """The tokenizer whose files lie in a model's folder.

    Parameters
    ----------
    kmer : int
        Above 0: cut the sequence into overlapping k-mers with spaces between before it; for byte-pair encodings only.
    shift : int | None
        Of k-mers whose `tokenizer_config.json` or `config.json` names none; None: 1.

    Raises
    ------
    CheckpointError
        There are no such files, or they are not understood.
    """
    file = folder / "tokenizer.json"
    found = _from_json(file, folder, shift) if file.is_file() else _from_vocabulary(folder, shift)
    if not kmer:
        return found
    if kmer < 0:
        raise UsageError(f"kmer is {kmer}: give 1 or more bases, or 0 for none")
    if not isinstance(found, LibraryTokenizer) or not found.is_bpe:
        raise UsageError(f"kmer is {kmer}: k-mers with spaces between are for byte-pair encodings, and this is {found.kind}")
    return SpacedKmers(found, kmer)


def _from_json(file: Path, folder: Path, shift: int | None) -> Tokenizer:
    try:
        check_regular(file)
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{file} is no tokenizer of the `tokenizers` library: {one_line(error)}") from error
    vocabulary = tokenizer.get_vocab()
    # The library writes a tokenizer down id by id, those that nothing has among them.
    if (largest := max(vocabulary.values(), default=0)) > _MOST_IDS:
        raise CheckpointError(f"{file} has ids up to {largest}: more than {_MOST_IDS:,} are not read here")
    if isinstance(tokenizer.model, tokenizers.models.WordPiece) and (k := _kmer_length(vocabulary)):
        # What transformers saves of DNABERT's tokenizer expects k-mers with spaces between, and gives one [UNK] for a whole sequence.
        return KmerTokenizer(vocabulary, k, _shift(folder, k, shift))
    return LibraryTokenizer(tokenizer, f"{type(tokenizer.model).__name__}, {len(vocabulary):,} entries", source=str(file))


def _from_vocabulary(folder: Path, shift: int | None) -> Tokenizer:
    file = folder / "vocab.txt"
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has neither tokenizer.json nor vocab.txt: copy the one published with the model beside its weights"
        )
    try:
        entries = read_bytes(file).decode().split()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no text: {one_line(error)}") from error
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    if len(vocabulary) != len(entries):
        double = next(entry for i, entry in enumerate(entries) if vocabulary[entry] != i)
        raise CheckpointError(f"{file} has the entry {double!r} twice")
    if k := _kmer_length(vocabulary):
        return KmerTokenizer(vocabulary, k, _shift(folder, k, shift))
    words = [entry for entry in vocabulary if not entry.strip("ACGT")]
    k = max(map(len, words), default=0)
    count = 4**k + (4 if k > 1 else 0) if k <= _LONGEST else 0
    whole = set("ACGT") <= set(words) and len(words) == count and all(len(word) in (1, k) for word in words)
    if "<cls>" in vocabulary and "N" in vocabulary and whole:
        return _side_by_side(folder, vocabulary, k)
    raise CheckpointError(
        f"{file} is not understood: it should hold [PAD] [UNK] [CLS] [SEP] [MASK] and all k-mers over ACGT (DNABERT, ProkBERT), or <unk> "
        f"<pad> <mask> <cls>, all k-mers over ACGT and A C G T N (Plant DNABERT)"
    )


def _kmer_length(vocabulary: Mapping[str, int]) -> int:
    """k where the vocabulary is the special tokens and all k-mers over ACGT, else 0."""
    words = [entry for entry in vocabulary if not entry.startswith("[")]
    k = len(words[0]) if words else 0
    whole = k <= _LONGEST and len(words) == 4**k and all(len(word) == k and not word.strip("ACGT") for word in words)
    return k if whole and all(name in vocabulary for name in SPECIAL) else 0


def _settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return read_object(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {one_line(error)}") from error


def _shift(folder: Path, k: int, otherwise: int | None) -> int:
    for name in ("tokenizer_config.json", "config.json"):
        values = _settings(folder / name)
        if values.get("kmer", k) != k:
            raise CheckpointError(
                f"{folder / name} says kmer {shown(values['kmer'])} and the vocabulary holds {k}-mers: they do not belong together"
            )
        if "shift" not in values:
            continue
        if type(values["shift"]) is not int or not 1 <= values["shift"] <= k:
            raise CheckpointError(
                f"{folder / name} says shift is {shown(values['shift'])}: it should be a whole number above 0, and no more than the "
                f"{k} letters of a k-mer"
            )
        return values["shift"]
    return otherwise or 1


def _side_by_side(folder: Path, vocabulary: dict[str, int], k: int) -> LibraryTokenizer:
    """Plant DNABERT's vocab.txt, which transformers reads as an EsmTokenizer: k-mers side by side, single letters for what is left."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    pattern = (f"[ACGT]{{{k}}}|" if k > 1 else "") + r"[ACGTN]|[^ACGTN\s]+"
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.WhitespaceSplit(),
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
    ])  # fmt: skip
    # Nothing follows the sequence unless the published configuration names a token for it.
    end = _settings(folder / "tokenizer_config.json").get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    if end is not None and not isinstance(end, str):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'} says eos_token is {shown(end)}: it should be a text")
    kind = f"{k}-mers side by side" if k > 1 else "single bases"
    return LibraryTokenizer(tokenizer, kind, ("<cls>", end or "", "<pad>", "<unk>"), source=str(folder / "vocab.txt"))
