"""Sequences the slow way: the other strand letter by letter, and all words of a length."""

from __future__ import annotations

import itertools

IUPAC = "ACGTNRYSWKMBDHV"
OTHER = dict(zip(IUPAC, "TGCANYRSWMKVHDB", strict=True))


def other_strand(sequence: str) -> str:
    return "".join(OTHER[letter] for letter in reversed(sequence))


def words(k: int, order: str = "ACGT") -> list[str]:
    return ["".join(word) for word in itertools.product(order, repeat=k)]
