"""A model made ready to encode: its products packed, and what stands between them fused."""

from __future__ import annotations

import warnings
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from dnafeat.encoder.models.dnabert2 import DNABERT2, DNABERT2Residual, FusedMLP, GatedMLP, add_norm, gate
from dnafeat.encoder.models.products import packs, replace_products
from dnafeat.errors import DnafeatWarning, one_line


def prepared(model: nn.Module, *, int8: bool) -> nn.Module:
    """The model for inference where it is; nothing can be trained, or loaded into it, afterwards.

    On CPUs the products of its layers are packed, in float32 or int8, and of DNABERT-2 fused with what follows; on GPUs kernels stand
    between DNABERT-2's products. The first layer is never in int8: rounding there alone moved 6 of 1,500 vectors of real sequences by
    more than 1e-4 in cosine (dnafeat-mini), rounding everywhere else none.
    """
    parameter = next(model.parameters())
    if parameter.device.type == "cuda":
        if isinstance(model, DNABERT2):
            use_kernels(model)
    elif int8 or (parameter.dtype == torch.float32 and packs()):
        for number, layer in enumerate(model.get_submodule("encoder.layer").children()):
            whole = int8 and number > 0
            if not whole and packs() and isinstance(mlp := getattr(layer, "mlp", None), GatedMLP):
                layer.mlp = FusedMLP(mlp)
            replace_products(layer, int8=whole)
    return model


def use_kernels(model: DNABERT2) -> None:
    """Put the kernels for GPUs between a model's products where they run and give what the plain functions do; else return why not."""
    try:
        from dnafeat.encoder.models import kernels

        _compare(model, kernels)
    except Exception as error:  # whatever Triton and a compiler raise
        warnings.warn(
            f"what stands between the products is not fused, which costs a fifth of the speed or more: {one_line(error)}",
            DnafeatWarning,
            stacklevel=2,
        )
        return
    model.attention_over = kernels.attention_over
    for module in model.modules():
        if isinstance(module, GatedMLP):
            module.gate = kernels.gate
            if kernels.fuses_gate(module.gated_layers.weight):
                module.gated_product = kernels.gated_product
        if isinstance(module, GatedMLP | DNABERT2Residual):
            module.add_norm = kernels.add_norm


@torch.inference_mode()
def _compare(model: DNABERT2, kernels: ModuleType) -> None:
    """Raise RuntimeError where kernels give other numbers than the plain functions, in the model's type on its device."""
    weight = model.embeddings.word_embeddings.weight
    width, runs = model.config.hidden_size, [(1, 150), (3, 17), (7, 1)]
    random = torch.Generator().manual_seed(0)
    qkv, x, residual = (torch.randn(208, n * width, generator=random).to(weight) for n in (3, 2, 2))
    pairs = {
        "attention": (
            kernels.attention_over(runs, model.config.num_attention_heads, qkv)(qkv),
            model.plain_attention_over(runs, qkv)(qkv),
        ),
        "gate": (kernels.gate(x), gate(x)),
        "norm": (kernels.add_norm(x, residual, x[0], x[1], 1e-12), add_norm(x, residual, x[0], x[1], 1e-12)),
    }
    both = model.get_parameter("encoder.layer.0.mlp.gated_layers.weight")
    if kernels.fuses_gate(both):
        pairs["gated product"] = (kernels.gated_product(qkv[:, :width], both), gate(F.linear(qkv[:, :width], both)))
    tolerance = 1e-4 if weight.dtype == torch.float32 else 0.05
    for name, (found, wanted) in pairs.items():
        if not torch.allclose(found, wanted, atol=tolerance, rtol=tolerance):
            raise RuntimeError(f"the kernel for {name} is off by {float((found - wanted).abs().max()):.2g}")
