"""The random projection is one fixed map: the same everywhere, named by its seed, known by its weights."""

from __future__ import annotations

import models
import numpy as np
import pytest
import torch
from safetensors.torch import load

from dnafeat.errors import UsageError
from dnafeat.projection import Projector, load_projector


def pooled(rows: int = 5, width: int = 48) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_the_same_seed_gives_the_same_weights_whatever_torch_drew_before() -> None:
    first = load_projector("random@0", 48)
    torch.manual_seed(123)
    torch.randn(10)
    again = load_projector("random@0", 48)
    assert first.to_bytes() == again.to_bytes()
    assert first.fingerprint() == again.fingerprint()


def test_the_weights_stay_those_that_stored_vectors_were_made_with() -> None:
    assert load_projector("random@0", 8).fingerprint() == "1de09b8b3079542a305d9ed5459821d37a01ee1ef79946b66f738842ed7666fd"


def test_other_seeds_and_widths_are_other_projectors() -> None:
    made = [
        load_projector(name, width) for name, width in [("random@0", 48), ("random@1", 48), ("random@7", 48), ("random@0", 64)]
    ]
    assert len({projector.fingerprint() for projector in made}) == 4
    with torch.inference_mode():
        assert not torch.allclose(made[0](pooled()), made[1](pooled()), atol=0.1)


@torch.inference_mode()
def test_it_is_an_mlp_with_gelu_and_layer_norm_without_dropout() -> None:
    projector = load_projector("random@3", 48)
    w = {key: value.double().numpy() for key, value in projector.state_dict().items()}
    assert {key: value.shape for key, value in w.items()} == {
        "expand.weight": (1024, 48), "expand.bias": (1024,), "reduce.weight": (512, 1024), "reduce.bias": (512,),
        "norm.weight": (512,), "norm.bias": (512,),
    }  # fmt: skip
    inner = models.gelu(pooled().double().numpy() @ w["expand.weight"].T + w["expand.bias"])
    out = inner @ w["reduce.weight"].T + w["reduce.bias"]
    out = (out - out.mean(1, keepdims=True)) / np.sqrt(out.var(1, keepdims=True) + 1e-5)
    found = projector(pooled())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), out, atol=1e-5, rtol=0)
    assert torch.equal(found, projector(pooled()))


@torch.inference_mode()
def test_a_row_does_not_depend_on_the_others() -> None:
    projector = load_projector("random@0", 48)
    together = projector(pooled(200))
    alone = torch.cat([projector(row[None]) for row in pooled(200)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_its_bytes_load_back() -> None:
    projector = load_projector("random@5", 48)
    other = Projector(48).eval()
    assert other.fingerprint() != projector.fingerprint()
    other.load_state_dict(load(projector.to_bytes()))
    assert other.fingerprint() == projector.fingerprint()
    assert torch.equal(other(pooled()), projector(pooled()))


def test_the_fingerprint_changes_with_a_single_weight() -> None:
    projector = load_projector("random@0", 48)
    before = projector.fingerprint()
    with torch.no_grad():
        projector.norm.bias[511] += 1e-6
    assert projector.fingerprint() != before


@pytest.mark.parametrize(
    "name", ["", "random", "random@", "random@-1", "random@1.5", "random@x", "Random@0", " random@0", "random@0\n", "learned@0"]
)
def test_any_other_name_is_refused_and_named(name: str) -> None:
    with pytest.raises(UsageError, match="random@SEED") as error:
        load_projector(name, 48)
    assert repr(name) in str(error.value)
