"""Rounded vectors: the nearest of bfloat16's numbers, ties to even, the same wherever they are computed, and half the bytes."""

from __future__ import annotations

import io
from pathlib import Path

import models
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from dnafeat.encoder import Encoder
from dnafeat.encoder.results import Vectors
from dnafeat.encoder.rounding import rounded
from dnafeat.errors import UsageError
from dnafeat.parquet import encode_parquet
from dnafeat.vectors import VECTORS

SEQUENCES = [models.dna(n, seed=n) for n in (1, 20, 60, 60, 150, 300, 700)] + ["N" * 40, "ACGTN" * 9]


def by_hand(values: np.ndarray) -> np.ndarray:
    """The definition on the numbers' bits: what is cut off is compared with a half, and of two as near the even one is taken."""
    bits = values.view(np.uint32)
    kept, rest = bits & np.uint32(0xFFFF0000), bits & np.uint32(0xFFFF)
    up = (rest > 0x8000) | ((rest == 0x8000) & ((bits >> 16) & 1 == 1))
    return (kept + up.astype(np.uint32) * np.uint32(0x10000)).view(np.float32)


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=50))
@example([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20])  # ties, and just beyond one
@example([0.0, -0.0, 2.0**-149, 3.4e38, 3.4028234663852886e38, float("inf"), float("-inf")])
def test_numbers_become_the_nearest_of_bfloat16_and_ties_the_even_one(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    found = rounded(torch.from_numpy(values), "bfloat16")
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy().view(np.uint32), by_hand(values).view(np.uint32))
    assert rounded(found, "bfloat16").equal(found)


def test_what_is_no_number_stays_none() -> None:
    strange = torch.tensor([0x7FC00000, 0x7FFFFFFF, 0x7F800001], dtype=torch.int32).view(torch.float32)
    assert strange.isnan().all()
    assert rounded(strange, "bfloat16").isnan().all()


def test_without_rounding_not_a_bit_changes() -> None:
    values = torch.randn(5, 7)
    assert rounded(values, None).equal(values)


def steps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many of bfloat16's numbers lie from one to the other."""
    places = [((x.view(np.int32) >> 16) ^ np.where(x.view(np.int32) < 0, 0x7FFF, 0)).astype(np.int64) for x in (one, other)]
    return np.abs(places[0] - places[1])


def check_rounded(vectors: Vectors) -> None:
    for name in VECTORS:
        assert not (getattr(vectors, name).view(np.uint32) & 0xFFFF).any(), name


@pytest.mark.parametrize("settings", [{}, {"strands": "both", "window_tokens": 24}, {"precision": "bfloat16"}], ids=str)
def test_pooled_vectors_are_the_rounded_ones_and_the_projection_is_of_the_stored_mean(
    folder: Path, settings: dict[str, str]
) -> None:
    plain = Encoder.from_pretrained(str(folder), **settings).encode(SEQUENCES)
    encoder = Encoder.from_pretrained(str(folder), round_vectors="bfloat16", **settings)
    found = encoder.encode(SEQUENCES)
    check_rounded(found)
    for name in ("cls", "mean", "max"):
        np.testing.assert_array_equal(getattr(found, name), by_hand(getattr(plain, name)))
    with torch.inference_mode():
        again = encoder.projector(torch.from_numpy(found.mean)).numpy()
    np.testing.assert_array_equal(found.projected, by_hand(again))
    assert np.abs(found.projected - plain.projected).max() < 0.05


def test_in_other_company_a_number_moves_by_a_step_at_most_and_hardly_ever(folder: Path) -> None:
    encoder = Encoder.from_pretrained(str(folder), round_vectors="bfloat16", precision="float32")
    whole, alone = encoder.encode(SEQUENCES), [encoder.encode([one]) for one in SEQUENCES]
    for name in VECTORS:
        moved = steps(getattr(whole, name), np.concatenate([getattr(one, name) for one in alone]))
        # A projection near 0 has numbers a millionth of its largest one.
        assert np.quantile(moved, 0.98) == 0
        assert name == "projected" or moved.max() <= 1


def test_rounded_vectors_take_half_the_bytes(folder: Path) -> None:
    sequences = [models.dna(60, seed=i) for i in range(200)]
    sizes = []
    for rounding in (None, "bfloat16"):
        vectors = Encoder.from_pretrained(str(folder), round_vectors=rounding).encode(sequences)
        file = io.BytesIO()
        encode_parquet(
            file, [pa.table({name: pa.array(list(getattr(vectors, name)), pa.list_(pa.float32())) for name in VECTORS})]
        )
        sizes.append(len(file.getvalue()))
    assert sizes[1] < 0.56 * sizes[0]


def test_a_rounding_that_is_none_is_refused_and_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="round_vectors 'float16'"):
        Encoder.from_pretrained(str(folder), round_vectors="float16")
