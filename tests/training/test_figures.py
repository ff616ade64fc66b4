"""Pictures of a run: they are pictures, and show what they are given."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from dnafeat.training import figures as report

HISTORY: list[dict[str, Any]] = [
    {"step": 1, "loss": 1.0, "learning_rate": 1e-3},
    {"step": 2, "loss": 0.5, "learning_rate": 5e-4},
    {"step": 2, "eval_loss": 0.6, "eval_mcc": 0.2},
]


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(BytesIO(png), format="png")


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], []], ids=["whole", "one step", "nothing"])
def test_curves_are_a_picture_whatever_was_logged(history: list[dict[str, Any]]) -> None:
    drawn = pixels(report.curves(history, ("mcc", "f1")))
    assert drawn.shape[1] > drawn.shape[0] > 200


def test_curves_show_dev_metrics() -> None:
    other = [*HISTORY[:2], {"step": 2, "eval_loss": 0.6, "eval_mcc": 0.9}]
    assert not np.array_equal(pixels(report.curves(HISTORY, ("mcc",))), pixels(report.curves(HISTORY, ())))
    assert pixels(report.curves(other, ("mcc",))).shape == pixels(report.curves(HISTORY, ("mcc",))).shape


@pytest.mark.parametrize("classes", [2, 3, 40])
def test_a_confusion_matrix_is_darkest_where_most_are(classes: int) -> None:
    matrix = np.eye(classes, dtype=np.int64) * 50
    drawn = pixels(report.confusion(matrix, [f"class {i}" for i in range(classes)], "test"))
    turned = pixels(report.confusion(matrix[::-1], [f"class {i}" for i in range(classes)], "test"))
    assert drawn.shape == turned.shape
    assert not np.array_equal(drawn, turned)


def test_a_class_without_rows_divides_by_nothing() -> None:
    with np.errstate(all="raise"):
        report.confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], "test")
