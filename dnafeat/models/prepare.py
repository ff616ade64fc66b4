"""A model made ready to encode: its products packed, and what stands between them fused or compiled."""

from __future__ import annotations

import torch
from torch import nn

from dnafeat.models.dnabert2 import DNABERT2, FusedMLP, GatedMLP, compile_between
from dnafeat.models.products import packs, replace_products


def prepared(model: nn.Module, *, int8: bool) -> nn.Module:
    """The model for inference where it is; nothing can be trained, or loaded into it, afterwards.

    On CPUs the products of its layers are packed, in float32 or int8, and of DNABERT-2 fused with what follows; on GPUs what stands between
    DNABERT-2's products is compiled. The first layer is never in int8: rounding there alone moved 6 of 1,500 vectors of real sequences by
    more than 1e-4 in cosine (dnafeat-mini), rounding everywhere else none.
    """
    parameter = next(model.parameters())
    if parameter.device.type == "cuda":
        if isinstance(model, DNABERT2):
            compile_between(model)
    elif int8 or (parameter.dtype == torch.float32 and packs()):
        for number, layer in enumerate(model.get_submodule("encoder.layer").children()):
            whole = int8 and number > 0
            if not whole and packs() and isinstance(mlp := getattr(layer, "mlp", None), GatedMLP):
                layer.mlp = FusedMLP(mlp)
            replace_products(layer, int8=whole)
    return model
