"""Special tokens and padding around token ids."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from dnafeat.encoder.padding import frame

CLOSED = SimpleNamespace(cls_id=1, sep_id=2, pad_id=0)
OPEN = SimpleNamespace(cls_id=1, sep_id=None, pad_id=9)


def test_rows_are_framed_and_padded() -> None:
    ids = np.array([10, 11, 12, 13, 14])
    rows, real, content = frame(ids, np.array([0, 3, 4]), np.array([3, 4, 4]), CLOSED)
    assert rows.tolist() == [[1, 10, 11, 12, 2], [1, 13, 2, 0, 0], [1, 2, 0, 0, 0]]
    assert real.sum(1).tolist() == [5, 3, 2]
    assert content.astype(int).tolist() == [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_nothing_follows_the_content_where_there_is_no_such_token() -> None:
    rows, real, content = frame(np.array([10, 11, 12]), np.array([0, 2]), np.array([2, 3]), OPEN)
    assert rows.tolist() == [[1, 10, 11], [1, 12, 9]]
    assert real.tolist() == [[True, True, True], [True, True, False]]
    assert content.tolist() == [[False, True, True], [False, True, False]]


def test_rows_without_content_are_special_tokens_alone() -> None:
    rows, real, content = frame(np.empty(0, np.int32), np.array([0, 0]), np.array([0, 0]), CLOSED)
    assert rows.tolist() == [[1, 2], [1, 2]]
    assert real.all()
    assert not content.any()
