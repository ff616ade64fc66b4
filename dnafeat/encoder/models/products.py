"""The matrix products of an encoder on CPUs: weights packed once by oneDNN, in float32 with what follows fused to them, or in int8.

oneDNN is part of torch and runs float32 products 1.2 to 2.3 times as fast as `torch.matmul`'s MKL on AMD's processors (`dnafeat
benchmark` measures both), and its int8 products up to four times as fast again. Where it is missing the plain layers stay, and int8 is
computed from the same whole numbers in float32, whose sums of them are exact, and scaled afterwards: the product has the same bits.

int8 is symmetric: a weight has a scale for each of its outputs, an activation one for each token. A scale for a whole batch would make
a vector depend on its batch-mates. Weights take 127 levels of the 255: with more, processors without VNNI instructions, which add products
in pairs of 16 bits, would overflow without a word.
"""

from __future__ import annotations

import functools
import platform

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PACKED_FOR = 1024  # tokens; packed weights serve any number of them
_ZERO = 128  # of unsigned activations
_LEVELS, _WEIGHT_LEVELS = 127, 63
# Inputs whose products float32 adds up without rounding, all of them at their largest.
_EXACT_INPUTS = 2**24 // (_LEVELS * _WEIGHT_LEVELS)


class Product(nn.Module):
    """A linear layer in float32 without gradients, x (…, inputs) to (…, outputs), with what follows it done on the way out."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _PACKED_FOR)
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """Its exact (erf) GELU."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "gelu", [], "none")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "add")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "mul")


class Int8Product(nn.Module):
    """A linear layer in int8, x (…, inputs) float32 to (…, outputs) float32; sums are exact in int32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        self._scale = (weight.abs().amax(1) / _WEIGHT_LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        whole = (weight / self._scale[:, None]).round()
        self._bias = None if bias is None else bias.detach()
        self._fast = int8_is_fast()
        if self._fast:
            self._weight = torch.ops.onednn.qlinear_prepack(whole.to(torch.int8), [_PACKED_FOR, weight.shape[1]])
            self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        else:
            self._blocks = nn.ModuleList(linear(block.contiguous(), None) for block in whole.split(_EXACT_INPUTS, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        # Both ends apart: vector_norm(inf) and aminmax took 20 to 100 times as long.
        largest = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True))
        scale = largest.clamp_min(1e-30) / _LEVELS
        # Truncation after adding a half rounds to the nearest, since all is positive.
        raised = torch.mul(rows, 1 / scale).add_(_ZERO + 0.5)
        if self._fast:
            y = _whole_product(raised.to(torch.uint8), self._weight, self._scale, self._zeros)
        else:
            y = self._exact_product(raised.floor_().sub_(_ZERO)).mul_(self._scale)
        y = y.mul_(scale) if self._bias is None else torch.addcmul(self._bias, y, scale, out=y)
        return y.view(*x.shape[:-1], y.shape[1])

    def _exact_product(self, whole: Tensor) -> Tensor:
        """Sums of products of whole numbers, exact until they are rounded to float32 once."""
        parts = [block(part.contiguous()) for block, part in zip(self._blocks, whole.split(_EXACT_INPUTS, dim=1), strict=True)]
        return parts[0] if len(parts) == 1 else torch.stack([part.int() for part in parts]).sum(0).float()


def _whole_product(x: Tensor, packed: Tensor, scale: Tensor, zeros: Tensor) -> Tensor:
    """oneDNN's product of uint8 rows, 0 being `_ZERO`, and packed int8 weights, each output times its scale: float32."""
    return torch.ops.onednn.qlinear_pointwise(x, 1.0, _ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], "")


def linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The fastest linear layer in float32 that this machine has, without gradients."""
    if packs():
        return Product(weight, bias)
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return plain


def replace_products(model: nn.Module, *, int8: bool) -> None:
    """Put packed products in the place of a model's linear layers, on a CPU."""
    for name, child in model.named_children():
        if type(child) is nn.Linear:
            setattr(model, name, Int8Product(child.weight, child.bias) if int8 else linear(child.weight, child.bias))
        else:
            replace_products(child, int8=int8)


@functools.cache
def packs() -> bool:
    """Return whether oneDNN's packed products are there and right."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    weight, x = (torch.arange(32.0 * 48).sin_().view(48, 32), torch.arange(7.0 * 32).cos_().view(7, 32))
    try:
        with torch.inference_mode():
            product = Product(weight, torch.ones(48))
            wanted = F.linear(x, weight, torch.ones(48))
            found = ((product(x), wanted), (product.gelu(x), F.gelu(wanted)), (product.times(x, wanted), wanted * wanted))
            return all(torch.allclose(a, b, atol=1e-4) for a, b in found)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


@functools.cache
def int8_is_fast() -> bool:
    """Return whether oneDNN's int8 products are there and exact at the ends of their range."""
    if not packs():
        return False
    whole = torch.full((16, 64), _WEIGHT_LEVELS, dtype=torch.int8)
    x = torch.full((5, 64), _ZERO + _LEVELS, dtype=torch.uint8)
    try:
        packed, one = torch.ops.onednn.qlinear_prepack(whole, [5, 64]), torch.ones(16)
        zeros = torch.zeros(16, dtype=torch.int64)
        y = _whole_product(x, packed, one, zeros)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((y == 64 * _LEVELS * _WEIGHT_LEVELS).all())
