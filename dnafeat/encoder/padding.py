"""Special tokens and padding around token ids. NumPy alone."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class SpecialTokens(Protocol):
    """Ids of the special tokens, as every tokenizer has them."""

    cls_id: int
    sep_id: int | None
    pad_id: int


def frame(
    ids: np.ndarray, start: np.ndarray, stop: np.ndarray, special: SpecialTokens
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a row of [CLS], content, [SEP] where there is one, and padding, of each range of token ids.

    Parameters
    ----------
    ids : np.ndarray, shape=(total,)
    start, stop : np.ndarray, shape=(rows,), int64
        Row i holds `ids[start[i]:stop[i]]`; one row or more.
    special : SpecialTokens

    Returns
    -------
    (ids, real, content)
        Ids (int64), what is no padding, and what is content (bool): each (rows, longest content and its special tokens).
    """
    start, stop = start[:, None], stop[:, None]
    width = int((stop - start).max()) + (1 if special.sep_id is None else 2)
    position = start + np.arange(-1, width - 1)[None, :]
    content = (position >= start) & (position < stop)
    # Without any content there is nothing to take a token from.
    tokens = ids if len(ids) else np.zeros(1, np.int64)
    rows = np.where(content, tokens[np.where(content, position, 0)], special.pad_id)
    rows[:, 0] = special.cls_id
    real = position < stop
    if special.sep_id is not None:
        rows[position == stop] = special.sep_id
        real = position <= stop
    return rows.astype(np.int64), real, content
