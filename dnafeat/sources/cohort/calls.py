"""Genotypes of a record as NumPy arrays, of the text that htslib writes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

NONE, MISSING = -2, -1
"""What stands for an allele that a call of fewer alleles does not have, and for a missing one."""

_TAB, _PHASED, _UNPHASED, _DOT = b"\t|/."
_MOST_DIGITS = 4


class Calls(NamedTuple):
    """The calls of a record.

    Attributes
    ----------
    alleles : np.ndarray, shape=(samples, ploidy), int16
        Numbers of alleles, `MISSING` or `NONE`.
    unphased : np.ndarray, shape=(samples,), bool
        Whether a call has a / in it.
    """

    alleles: np.ndarray
    unphased: np.ndarray


def genotypes(record: Any, samples: int) -> Calls:
    """The calls of a pysam record, of which all but GT is taken away. A record without GT has none that is known."""
    for name in [name for name in record.format if name != "GT"]:
        del record.format[name]
    if "GT" not in record.format:
        return Calls(np.full((samples, 1), MISSING, np.int16), np.zeros(samples, bool))
    text = str(record).rstrip("\n").split("\t", 9)[9]
    return parsed(text.encode(), samples)


def parsed(text: bytes, samples: int) -> Calls:
    """The calls of GT fields with tabs between them. Raises ValueError where they are not as many as the samples, or no numbers."""
    letters = np.frombuffer(text + b"\t", np.uint8)
    for ploidy in (2, 1):
        if len(letters) == 2 * ploidy * samples:
            table = letters.reshape(samples, 2 * ploidy)
            alleles = table[:, ::2].astype(np.int16) - ord("0")
            between = table[:, 1] if ploidy == 2 else np.full(samples, _PHASED, np.uint8)
            shaped = (table[:, -1] == _TAB).all() and ((between == _PHASED) | (between == _UNPHASED)).all()
            digits = ((alleles >= 0) & (alleles < 10)) | (alleles == _DOT - ord("0"))
            if shaped and digits.all():
                alleles[alleles < 0] = MISSING
                return Calls(alleles, between == _UNPHASED)
    return _parsed(letters, samples)


def _parsed(letters: np.ndarray, samples: int) -> Calls:
    """The same for calls of any ploidy and numbers of several digits."""
    tabs = letters == _TAB
    ends = np.flatnonzero(tabs | (letters == _PHASED) | (letters == _UNPHASED))
    starts = np.concatenate([[0], ends[:-1] + 1])
    sample = np.concatenate([[0], np.cumsum(tabs[ends])[:-1]])
    if sample[-1] != samples - 1 or not tabs[-1]:
        raise ValueError(f"{sample[-1] + 1} calls for {samples} samples")
    # VCF 4.4 may write the phase of the first allele before it.
    there = ends > starts
    starts, sample_of, sizes = starts[there], sample[there], (ends - starts)[there]
    values = np.zeros(len(starts), np.int16)
    for digit in range(int(sizes.max(initial=0))):
        has = sizes > digit
        letter = letters[starts[has] + digit].astype(np.int16)
        values[has] = np.where(letter == _DOT, MISSING, values[has] * 10 + letter - ord("0"))
        if (
            not ((letter == _DOT) & (sizes[has] == 1) | (letter >= ord("0")) & (letter <= ord("9"))).all()
            or digit >= _MOST_DIGITS
        ):
            raise ValueError("a call is no number")
    order = np.arange(len(starts)) - np.searchsorted(sample_of, sample_of)
    alleles = np.full((samples, int(order.max(initial=0)) + 1), NONE, np.int16)
    alleles[sample_of, order] = values
    unphased = np.zeros(samples, bool)
    unphased[sample[letters[ends] == _UNPHASED]] = True
    return Calls(alleles, unphased)
