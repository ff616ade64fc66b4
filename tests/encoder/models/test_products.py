"""Packed products give what plain ones give, int8 ones what integers of any size would, whatever the processor offers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dnafeat.encoder.models import products
from dnafeat.encoder.models.products import Int8Product, Product, int8_is_fast, linear, packs, replace_products

SHAPES = [(48, 144), (64, 48), (768, 768), (7, 5)]
ROWS = [(1,), (3,), (17,), (129,), (2, 5), (0,)]

packed = pytest.mark.skipif(not packs(), reason="oneDNN's packed products are not in this torch")


def layer(inputs: int, outputs: int, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias)


def some(rows: tuple[int, ...], width: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((*rows, width)).astype(np.float32))


def integers(plain: nn.Linear, x: torch.Tensor) -> np.ndarray:
    """What an int8 layer answers, with 64-bit integers: a scale for each output and one for each row.

    Levels from -63 to 63 of the weights, from -127 to 127 of the others.
    """
    weight, values = plain.weight.detach().numpy(), x.flatten(0, -2).numpy()
    weight_scale = np.abs(weight).max(1) / np.float32(63)
    scale = np.abs(values).max(1, keepdims=True) / np.float32(127)
    whole = np.rint(values / scale).astype(np.int64)
    sums = whole @ np.rint(weight / weight_scale[:, None]).astype(np.int64).T
    answer = sums * weight_scale.astype(np.float64) * scale
    return answer if plain.bias is None else answer + plain.bias.detach().numpy()


@packed
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", ROWS)
@torch.inference_mode()
def test_a_packed_product_and_what_follows_it_are_the_plain_ones(
    rows: tuple[int, ...], shape: tuple[int, int], bias: bool
) -> None:
    plain, x = layer(*shape, bias), some(rows, shape[0])
    product, wanted = Product(plain.weight, plain.bias), plain(x)
    other = some(rows, shape[1], seed=2)
    for found, expected in (
        (product(x), wanted),
        (product.gelu(x), F.gelu(wanted)),
        (product.plus(x, other), wanted + other),
        (product.times(x, other), wanted * other),
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@packed
@torch.inference_mode()
def test_a_row_of_a_packed_product_does_not_depend_on_the_others() -> None:
    product = Product(layer(768, 3072).weight, None)
    x = some((700,), 768)
    whole = product(x)
    for first, end in ((0, 1), (3, 4), (0, 699), (500, 700)):
        assert torch.equal(product(x[first:end]), whole[first:end])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("fast", [True, False])
@torch.inference_mode()
def test_int8_is_what_integers_give_with_and_without_instructions_for_it(
    rows: tuple[int, ...], shape: tuple[int, int], bias: bool, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fast and not int8_is_fast():
        pytest.skip("this processor has no exact int8 products")
    monkeypatch.setattr(products, "int8_is_fast", lambda: fast)
    plain = layer(*shape, bias)
    # Of levels, so that nothing lies between two of them, where either would do.
    levels = np.random.default_rng(1).integers(-127, 128, (*rows, shape[0]))
    levels[..., 0] = -127
    x = torch.from_numpy(levels.astype(np.float32) / 16)
    found = Int8Product(plain.weight, plain.bias)(x)
    assert found.shape == (*rows, shape[1])
    np.testing.assert_allclose(found.flatten(0, -2).numpy(), integers(plain, x), atol=2e-5, rtol=1e-5)


@pytest.mark.skipif(not int8_is_fast(), reason="this processor has no exact int8 products")
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("inputs", [48, 768, 3072, 9000])
@torch.inference_mode()
def test_int8_has_the_same_bits_with_and_without_instructions_for_it(
    inputs: int, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sharp weights, too, and where sums need more than float32's 24 bits."""
    plain = layer(inputs, 64)
    plain.weight[0] = 1.0  # its sums go over 2 ** 24
    plain.weight[1, ::7] *= 50
    x = some((40,), inputs)
    x[0] = 1.0
    x[1, 3] = 1e4
    x[2] = x[2].abs() + 3
    fast = Int8Product(plain.weight, plain.bias)(x)
    monkeypatch.setattr(products, "int8_is_fast", lambda: False)
    monkeypatch.setattr(products, "packs", lambda: packs)
    assert torch.equal(Int8Product(plain.weight, plain.bias)(x), fast)


@torch.inference_mode()
def test_int8_has_a_scale_for_each_row_so_that_one_large_row_spoils_no_other() -> None:
    plain, x = layer(64, 32), some((10,), 64)
    product = Int8Product(plain.weight, plain.bias)
    alone = product(x)
    x[3] *= 1e4
    together = product(x)
    rest = torch.arange(10) != 3
    assert torch.equal(together[rest], alone[rest])
    assert F.cosine_similarity(alone, plain(some((10,), 64)), dim=1).min() > 0.999


@torch.inference_mode()
def test_int8_reaches_the_ends_of_its_range_without_overflow() -> None:
    """All levels at their largest, where pairs of products need 17 bits."""
    plain = layer(512, 8)
    plain.weight.data.fill_(1.0)
    for sign in (1.0, -1.0):
        torch.testing.assert_close(Int8Product(plain.weight, None)(torch.full((3, 512), sign)), torch.full((3, 8), 512 * sign))


@torch.inference_mode()
def test_int8_of_rows_and_weights_of_zeros_is_zeros() -> None:
    plain = layer(16, 4, bias=False)
    assert not Int8Product(plain.weight, None)(torch.zeros(3, 16)).any()
    plain.weight.data[1] = 0
    assert not Int8Product(plain.weight, None)(some((3,), 16))[:, 1].any()


@torch.inference_mode()
def test_where_nothing_can_be_packed_the_plain_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "packs", lambda: False)
    plain, x = layer(48, 16), some((5,), 48)
    assert type(linear(plain.weight, plain.bias)) is nn.Linear
    assert torch.equal(linear(plain.weight, plain.bias)(x), plain(x))


@torch.inference_mode()
def test_linear_layers_are_replaced_at_any_depth_and_nothing_else_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4, bias=False)), nn.Bilinear(4, 4, 2))
    x = some((6,), 8)
    wanted = model[:2](x)
    replace_products(model, int8=False)
    torch.testing.assert_close(model[:2](x), wanted, atol=1e-6, rtol=1e-6)
    assert isinstance(model[2], nn.Bilinear)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    replace_products(model, int8=True)
    assert isinstance(model[0], Int8Product)
