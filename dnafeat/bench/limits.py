"""What the machine could do at most: the matrix products of a model's own layers, and nothing else.

A multiplication and an addition count as two operations. Products inside attention are no part of it, neither here nor in an engine's rate:
their number grows with the square of a sequence's tokens, and at 500 bases they would be 1.7 % of DNABERT-2's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def products(model: nn.Module) -> list[nn.Linear]:
    """The linear layers that every token goes through."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def operations(layers: Sequence[nn.Linear]) -> int:
    """Floating-point operations of these layers for one token; biases are not counted."""
    return sum(2 * layer.weight.numel() for layer in layers)


def attention_operations(tokens: Sequence[int], hidden_size: int, layers: int) -> int:
    """Those of the products inside attention (queries by keys, probabilities by values) for sequences of so many tokens each."""
    return sum(4 * n * n * hidden_size for n in tokens) * layers


class Products:
    """Runs the products of a model's layers one after another, as a pass over a batch does, without anything between them.

    Parameters
    ----------
    layers : sequence of nn.Linear
        On the device they are to be measured on; their weights are used in `dtype`.
    tokens : int
        Rows of a batch.
    packed : bool
        The fastest product that this PyTorch offers on CPUs: oneDNN's, on weights that were laid out for it beforehand. Otherwise
        `torch.matmul`, which is what nn.Linear calls.
    """

    def __init__(self, layers: Sequence[nn.Linear], tokens: int, dtype: torch.dtype, *, packed: bool = False) -> None:
        self.tokens, self.operations = tokens, tokens * operations(layers)
        device = layers[0].weight.device
        generator = torch.Generator().manual_seed(0)
        inputs, outputs = (
            {size: _buffer(tokens, size, generator).to(device, dtype) for size in sizes} for sizes in _sizes(layers)
        )
        self._synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        make = _packed if packed else _plain
        weights = (layer.weight.detach().to(dtype) for layer in layers)
        self._calls = [make(inputs[weight.shape[1]], weight, outputs[weight.shape[0]]) for weight in weights]

    @torch.inference_mode()
    def rate(self, passes: int = 1) -> float:
        """Operations a second over some passes."""
        self._synchronise()
        began = time.perf_counter()
        for _ in range(passes):
            for call in self._calls:
                call()
        self._synchronise()
        return passes * self.operations / (time.perf_counter() - began)


def has_packed() -> bool:
    """Whether this PyTorch has oneDNN's products on packed weights."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _sizes(layers: Sequence[nn.Linear]) -> tuple[set[int], set[int]]:
    return {layer.in_features for layer in layers}, {layer.out_features for layer in layers}


def _buffer(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator)


def _plain(x: Tensor, weight: Tensor, out: Tensor) -> Callable[[], object]:
    turned = weight.t()
    return lambda: torch.matmul(x, turned, out=out)


def _packed(x: Tensor, weight: Tensor, out: Tensor) -> Callable[[], object]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
