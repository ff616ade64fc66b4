"""Sequences to windows of token ids: strands, overlapping windows in tokens or in bases, truncation. Neither torch nor Ray.

Every token of a sequence is *owned* by one window: the border lies in the middle of what two windows share, so that each token is
represented where it has context on both sides and counts once. Where windows are cut in bases each is tokenised for itself, and owns
the tokens from the first whose middle lies behind its first border to the first whose middle lies behind its last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from dnafeat import sequence as dna
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.errors import UsageError


@dataclass(frozen=True)
class Windows:
    """Windows over n sequences, in their order; within a sequence all of the forward strand, then all of the other one.

    Attributes
    ----------
    ids : np.ndarray, shape=(total,), int32
        Content token ids that the windows lie on.
    sequence, strand : np.ndarray, shape=(windows,), int64
        Number of the sequence; 0 for its forward strand, 1 for its reverse complement.
    start, stop : np.ndarray, shape=(windows,), int64
        What a window sees: `ids[start:stop]`.
    own_start, own_stop : np.ndarray, shape=(windows,), int64
        What it owns of that.
    cut : np.ndarray, shape=(n,), bool
        Sequences of which only a first window is there.
    """

    ids: np.ndarray
    sequence: np.ndarray
    strand: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    own_start: np.ndarray
    own_stop: np.ndarray
    cut: np.ndarray

    def __len__(self) -> int:
        return len(self.sequence)

    def part(self, first: int, end: int) -> Windows:
        """The windows of sequences `first` to before `end`."""
        a, b = np.searchsorted(self.sequence, [first, end])
        some = {name: getattr(self, name)[a:b] for name in ("strand", "start", "stop", "own_start", "own_stop")}
        return Windows(ids=self.ids, sequence=self.sequence[a:b] - first, cut=self.cut[first:end], **some)

    def tokens(self) -> np.ndarray:
        """Content tokens of each sequence's forward strand that are represented, (n,) int64."""
        return self._count(self.own_stop - self.own_start)

    def counts(self) -> np.ndarray:
        """Windows of each sequence's forward strand, (n,) int64."""
        return self._count(np.ones(len(self), np.int64))

    def _count(self, values: np.ndarray) -> np.ndarray:
        forward = self.strand == 0
        return np.bincount(self.sequence[forward], values[forward], minlength=len(self.cut)).astype(np.int64)


ARRAYS = tuple(field.name for field in fields(Windows))


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """The settings by which sequences are cut into windows.

    Attributes
    ----------
    capacity : int | None
        Content tokens a window may hold; None: any number.
    overlap : int
        Least number of tokens (with `bases`: of bases) that neighbouring windows share.
    bases : int
        Length of windows that are cut in bases; 0: cut in tokens.
    truncate : bool
        Keep a strand's first window alone.
    both_strands : bool
    """

    capacity: int | None
    overlap: int = 0
    bases: int = 0
    truncate: bool = False
    both_strands: bool = False


def cut_windows(offsets: np.ndarray, capacity: int, overlap: int) -> Windows:
    """Cut each stretch into the fewest windows of at most `capacity` places that share `overlap` or more.

    A window starts every `capacity - overlap` places; the last is moved back to end with the stretch. Of a shared stretch of odd
    length, the place in the middle belongs to the later window.

    Parameters
    ----------
    offsets : np.ndarray, shape=(n + 1,), int64
    overlap : int
        Less than `capacity`.
    """
    length = np.diff(offsets)
    stride = capacity - overlap
    count = np.where(length <= capacity, 1, -(-(length - capacity) // stride) + 1)
    sequence = np.repeat(np.arange(len(length)), count)
    index = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    size = length[sequence]
    # The last window ends with the stretch and is as long as the others, so that its tokens have as much context.
    start = np.minimum(index * stride, np.maximum(size - capacity, 0))
    stop = np.minimum(start + capacity, size)
    first, last = index == 0, index == count[sequence] - 1
    border = np.empty(len(start) + 1, np.int64)
    border[1:-1] = (start[1:] + stop[:-1]) // 2
    border[[0, -1]] = 0
    own_start = np.where(first, 0, border[:-1])
    own_stop = np.where(last, size, border[1:])
    base = offsets[:-1][sequence]
    none, uncut = np.empty(0, np.int32), np.zeros(len(length), bool)
    strand = np.zeros(len(sequence), np.int64)
    return Windows(none, sequence, strand, base + start, base + stop, base + own_start, base + own_stop, uncut)


def cut(sequences: Sequence[str], tokenizer: Tokenizer, how: Cutting) -> Windows:
    """Tokenise and cut normalised sequences. Raises UsageError for one without a token, or a window with more than fit."""
    texts = list(sequences)
    if how.both_strands:
        texts = [text for one in texts for text in (one, dna.reverse_complement(one.encode()).decode())]
    windows = _in_bases(texts, tokenizer, how) if how.bases else _in_tokens(texts, tokenizer, how)
    owned = np.bincount(windows.sequence, windows.own_stop - windows.own_start, minlength=len(texts))
    if len(texts) and owned.min() < 1:
        i = int(owned.argmin())
        raise UsageError(
            f"sequence {i // (1 + how.both_strands)} of {len(sequences)}, {len(texts[i])} bases, has no token: the shortest one is "
            f"{tokenizer.min_bases} bases; leave it out"
        )
    if how.both_strands:
        sequence, strand = np.divmod(windows.sequence, 2)
        return replace(windows, sequence=sequence, strand=strand, cut=windows.cut[0::2] | windows.cut[1::2])
    return windows


def _in_tokens(texts: Sequence[str], tokenizer: Tokenizer, how: Cutting) -> Windows:
    tokens = tokenizer.ragged(texts)
    if how.capacity is None:
        raise ValueError("windows in tokens need a capacity")
    windows = cut_windows(tokens.offsets, how.capacity, how.overlap)
    if how.truncate:
        windows = _first(windows)
    return replace(windows, ids=tokens.ids)


def _in_bases(texts: Sequence[str], tokenizer: Tokenizer, how: Cutting) -> Windows:
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
    cuts = cut_windows(offsets, how.bases, how.overlap)
    if how.truncate:
        cuts = _first(cuts)
    base = offsets[:-1][cuts.sequence]
    pieces = [texts[i][a:b] for i, a, b in zip(cuts.sequence, cuts.start - base, cuts.stop - base, strict=True)]
    tokens, starts, stops = tokenizer.spans(pieces)
    sizes = np.diff(tokens.offsets)
    if how.capacity is not None and len(sizes) and sizes.max() > how.capacity:
        raise UsageError(
            f"a window of {how.bases} bases has {sizes.max()} tokens and the model takes {how.capacity} beside the special ones: give "
            f"shorter windows"
        )
    window = np.repeat(np.arange(len(pieces)), sizes)
    # Twice the middles of tokens and of what neighbours share, so that they stay whole numbers: a border rounded to a base would leave
    # a token out where windows share k - 1 bases.
    shared = np.where(np.diff(cuts.sequence) == 0, cuts.stop[:-1] - cuts.start[1:], 0)
    first, last = np.append(0, shared), 2 * (cuts.stop - cuts.start) - np.append(shared, 0)[: len(cuts)]
    # How far the middles have come, window by window: those of k-mers that BPE has split go back with every k-mer.
    step = 2 * how.bases + 1
    reached = np.maximum.accumulate(starts + stops + window * step) - window * step
    before = np.bincount(window[reached < first[window]], minlength=len(pieces))
    owned = np.bincount(window[(reached >= first[window]) & (reached < last[window])], minlength=len(pieces))
    start, own_start = tokens.offsets[:-1], tokens.offsets[:-1] + before
    every = replace(cuts, ids=tokens.ids, start=start, stop=tokens.offsets[1:], own_start=own_start, own_stop=own_start + owned)
    return _some(every, owned > 0)


def _first(windows: Windows) -> Windows:
    """Each strand's first window alone, which owns all it sees."""
    first = np.concatenate([[True], np.diff(windows.sequence) > 0]) if len(windows) else np.zeros(0, bool)
    several = np.bincount(windows.sequence, minlength=len(windows.cut)) > 1
    some = _some(windows, first)
    return replace(some, own_start=some.start, own_stop=some.stop, cut=several)


def _some(windows: Windows, chosen: np.ndarray) -> Windows:
    names = ("sequence", "strand", "start", "stop", "own_start", "own_stop")
    return replace(windows, **{name: getattr(windows, name)[chosen] for name in names})
