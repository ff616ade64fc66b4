"""DNA sequences: normalised, checked, named by their digest, reverse-complemented. Works on bytes, one call a sequence."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools

UNAMBIGUOUS = b"ACGTN"
IUPAC = b"ACGTNRYSWKMBDHV"

# Bases that follow each other in each block of a GenBank file.
_BLOCK = 10
# Letters that two neighbouring words have in common, of all words together, before it cannot be chance.
_CHANCE = 4
_OVERLAPPING = 0.9
_WHITE = b" \t\r\n\v\f"
_UPPER_U_TO_T = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyzuU", b"ABCDEFGHIJKLMNOPQRSTTVWXYZTT")
_COMPLEMENT = bytes.maketrans(b"ACGTNRYSWKMBDHV", b"TGCANYRSWMKVHDB")


def normalise(raw: bytes) -> bytes:
    """Upper case, U to T, white space removed. Every other byte is kept, so that `problem` can name it."""
    return raw.translate(_UPPER_U_TO_T, _WHITE)


def problem(sequence: bytes, *, alphabet: bytes = UNAMBIGUOUS, max_n_share: float = 1.0, min_bases: int = 1) -> str | None:
    """The reason why a normalised sequence is refused; None when it is good.

    Parameters
    ----------
    sequence : bytes
        Normalised letters.
    alphabet : bytes
        The letters allowed: `UNAMBIGUOUS` (A C G T N) or `IUPAC`.
    max_n_share : float
        Largest accepted share of N, from 0 to 1.
    min_bases : int
        Shortest accepted sequence: what the model's tokenizer makes one token of.
    """
    if not sequence:
        return "the sequence is empty"
    strange = sequence.translate(None, alphabet)
    if strange:
        letter = strange[:1]
        shown = letter.decode("ascii") if 32 < letter[0] < 127 else f"byte 0x{letter[0]:02x}"
        allowed = "A C G T N" if alphabet == UNAMBIGUOUS else "the IUPAC codes"
        return f"letter {shown!r} at base {sequence.index(letter) + 1} is outside {allowed} ({len(strange)} such)"
    if len(sequence) < min_bases:
        return f"{len(sequence)} base{'s are' if len(sequence) > 1 else ' is'} too few for a token of this model, which takes {min_bases}"
    if max_n_share < 1.0:
        share = sequence.count(b"N") / len(sequence)
        if share > max_n_share:
            return f"N makes up {share:.3f} of {len(sequence)} bases, more than the {max_n_share:g} allowed"
    return None


def spelled_in_kmers(raw: bytes) -> str | None:
    """The reason why letters are refused that are written as overlapping k-mers with white space between; None where they are not.

    `ACGTAC CGTACG` are 7 bases and not 12. Words of one length k >= 3, each with k - 1 letters of the word before it, are k-mers; blocks
    of ten bases, as GenBank writes them, are not. Of repeats such as (CAG)n both may be true: words of fewer than ten letters are then
    k-mers.
    """
    words = raw.upper().split()
    if len(words) < 2:
        return None
    k, joined = len(words[0]), b"".join(words)
    # Two codons follow each other so by chance in one case of 16.
    if k < 3 or len(joined) != k * len(words):
        return None
    # Where two sequences were put together one pair does not overlap.
    overlaps = sum(word[1:] == after[:-1] for word, after in itertools.pairwise(words))
    if overlaps * (k - 1) < _CHANCE or overlaps < _OVERLAPPING * (len(words) - 1):
        return None
    if k >= _BLOCK and joined[k - 1 :] == joined[: len(joined) - k + 1]:
        return None
    bases = len(joined) - overlaps * (k - 1)
    return (
        f"the sequence is written as {len(words)} overlapping {k}-mers, which are {bases} bases and not {len(joined)}: join them, "
        f"the first letter of each and the whole last one"
    )


def digest(sequence: bytes, salt: bytes = b"") -> str:
    """GA4GH refget digest of a normalised sequence: `SQ.` and base64url of the first 24 bytes of its SHA-512.

    With a salt, of its HMAC-SHA-512: nobody who does not know the salt can tell from it whether it is of a sequence they have.
    """
    hashed = hmac.digest(salt, sequence, "sha512") if salt else hashlib.sha512(sequence).digest()
    return "SQ." + base64.urlsafe_b64encode(hashed[:24]).decode("ascii")


def reverse_complement(sequence: bytes) -> bytes:
    """The other strand, read 5' to 3', of a normalised sequence over the IUPAC letters."""
    return sequence.translate(_COMPLEMENT)[::-1]
