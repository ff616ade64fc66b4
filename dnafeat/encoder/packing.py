"""Windows put together for one forward pass: end to end without padding, or one a row with padding. NumPy alone.

Either way a window is [CLS], its content, [SEP] where the tokenizer has one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.padding import frame
from dnafeat.encoder.windows import Windows

# oneDNN and torch make a program for every number of rows that a product has had, and keep a thousand of them, some 100 MB: so there are
# few such numbers. More than 16 would cost more products than it saves programs.
ROWS = 16


@dataclass(frozen=True)
class Packed:
    """Windows end to end, without padding.

    Attributes
    ----------
    ids : np.ndarray, shape=(total,), int64
    own : np.ndarray, shape=(total,), bool
        What is pooled.
    runs : list of (int, int)
        How many windows of one length stand next to each other, and that length in tokens.
    whole : list of bool
        Of each run, whether content alone is pooled, and all of it.
    """

    ids: np.ndarray
    own: np.ndarray
    runs: list[tuple[int, int]]
    whole: list[bool]

    def filled(self, pad_id: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Ids and runs for the network: up to 15 windows of a single [PAD] behind the others make their number one of few."""
        more = -len(self.ids) % ROWS
        return np.append(self.ids, np.full(more, pad_id)), [*self.runs, *([(more, 1)] if more else [])]


def pack(windows: Windows, chosen: np.ndarray, tokenizer: Tokenizer, *, special_tokens: bool) -> Packed:
    """Windows by their numbers, of which those of one length stand together; `special_tokens`: [CLS] and [SEP] are pooled."""
    start, stop = windows.start[chosen], windows.stop[chosen]
    own_start, own_stop = windows.own_start[chosen], windows.own_stop[chosen]
    sizes = stop - start + tokenizer.specials
    ends = np.cumsum(sizes)
    first = ends - sizes
    # Where in `windows.ids` each token lies, if it is content.
    position = np.arange(ends[-1]) + np.repeat(start - first - 1, sizes)
    ids = windows.ids.take(position, mode="clip").astype(np.int64)
    own = (position >= np.repeat(own_start, sizes)) & (position < np.repeat(own_stop, sizes))
    special = [(first, tokenizer.cls_id)]
    if tokenizer.sep_id is not None:
        special.append((ends - 1, tokenizer.sep_id))
    for places, token in special:
        ids[places] = token
        own[places] = special_tokens
    borders = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(sizes)]
    owned = (own_start == start) & (own_stop == stop) & (not special_tokens)
    return Packed(
        ids=ids,
        own=own,
        runs=[(end - begin, int(sizes[begin])) for begin, end in itertools.pairwise(borders)],
        whole=[bool(owned[begin:end].all()) for begin, end in itertools.pairwise(borders)],
    )


def pad(
    windows: Windows, chosen: np.ndarray, tokenizer: Tokenizer, *, special_tokens: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (int64), mask and what is pooled (bool) of some windows, each (rows, longest window), padding behind."""
    ids, real, content = frame(windows.ids, windows.start[chosen], windows.stop[chosen], tokenizer)
    position = windows.start[chosen, None] + np.arange(-1, ids.shape[1] - 1)[None, :]
    own = (position >= windows.own_start[chosen, None]) & (position < windows.own_stop[chosen, None])
    if special_tokens:
        own |= real & ~content
    return ids, real, own
