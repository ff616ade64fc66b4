"""The kernels for GPUs give what slow float64 gives: on a GPU where there is one, and by Triton's interpreter elsewhere (see conftest)."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch
from torch.nn import functional as F

from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.dnabert2 import DNABERT2, alibi_slopes, gate
from dnafeat.encoder.models.prepare import use_kernels
from dnafeat.errors import DnafeatWarning

pytest.importorskip("triton")
from dnafeat.encoder.models import kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The interpreter's products are wrong in bfloat16.
DTYPES = [torch.float32, torch.bfloat16 if torch.cuda.is_available() else torch.float16]
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LENGTHS = [150, 65, 64, 64, 63, 33, 32, 31, 5, 5, 5, 1, 1]
RUNS = [(len(list(same)), length) for length, same in itertools.groupby(LENGTHS)]


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def near(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "size"),
    [pytest.param(12, 64, marks=pytest.mark.long), (3, 20), (4, 16), pytest.param(2, 8, marks=pytest.mark.long)],
)
def test_attention_sees_its_own_sequence_at_alibi_distances(heads: int, size: int, dtype: torch.dtype) -> None:
    qkv = random(sum(LENGTHS), 3 * heads * size, dtype=dtype)
    slopes = torch.tensor(alibi_slopes(heads), dtype=torch.float64, device=DEVICE)[:, None, None]
    wanted = []
    for part in qkv.double().split(LENGTHS):
        q, k, v = part.view(len(part), 3, heads, size).permute(1, 2, 0, 3)
        place = torch.arange(len(part), device=DEVICE)
        scores = q @ k.transpose(1, 2) / math.sqrt(size) - slopes * (place[:, None] - place).abs()
        wanted.append((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    near(kernels.attention_over(RUNS, heads, qkv)(qkv), torch.cat(wanted), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_over_a_sequence_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    qkv = random(sum(LENGTHS), 3 * 48, dtype=dtype)
    together = kernels.attention_over(RUNS, 3, qkv)(qkv).split(LENGTHS)
    for part, found, length in zip(qkv.split(LENGTHS), together, LENGTHS, strict=True):
        assert torch.equal(kernels.attention_over([(1, length)], 3, part)(part.contiguous()), found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "width"), [((7,), 3072), ((2, 5), 400), ((3,), 1)])
def test_gate_is_gelu_of_one_half_times_the_other(shape: tuple[int, ...], width: int, dtype: torch.dtype) -> None:
    both = random(*shape, 2 * width, dtype=dtype) * 3
    first, second = both.double().chunk(2, -1)
    near(kernels.gate(both), F.gelu(first) * second, dtype)


@pytest.mark.parametrize("shape", [(1,), (300,), (3, 50)])
def test_product_and_gate_at_once(shape: tuple[int, ...]) -> None:
    dtype = DTYPES[1]
    x, weight = random(*shape, 192, dtype=dtype), random(2 * 256, 192, dtype=dtype, seed=1) / 4
    first, second = (x.double() @ weight.double().t()).chunk(2, -1)
    near(kernels.gated_product(x, weight), F.gelu(first) * second, dtype)
    odd = [random(rows, columns, dtype=dtype) for rows, columns in ((2 * 256, 100), (2 * 200, 192))]
    right = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
    assert [kernels.fuses_gate(one) for one in (weight, *odd, weight.float())] == [right, False, False, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "width"), [((7,), 768), ((2, 5), 192), ((3,), 20)])
def test_the_sum_is_normalised(shape: tuple[int, ...], width: int, dtype: torch.dtype) -> None:
    x, residual = random(*shape, width, dtype=dtype) * 50 + 20, random(*shape, width, dtype=dtype, seed=1)
    weight, bias = random(2, width, dtype=dtype, seed=2)
    wanted = F.layer_norm(x.double() + residual.double(), (width,), weight.double(), bias.double(), 1e-12)
    near(kernels.add_norm(x, residual, weight, bias, 1e-12), wanted, dtype)


def model(dtype: torch.dtype = torch.float32) -> DNABERT2:
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    return DNABERT2(Config(vocab_size=50, **shape)).eval().to(DEVICE, dtype)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("dtype", "fused"),
    [
        pytest.param(DTYPES[0], False, marks=pytest.mark.long),
        pytest.param(DTYPES[1], False, marks=pytest.mark.long),
        (DTYPES[1], True),
    ],
)
def test_a_model_with_kernels_gives_what_it_gave(dtype: torch.dtype, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "fuses_gate", lambda _: fused)
    one = model(dtype)
    ids = torch.arange(sum(LENGTHS), device=DEVICE) % 50
    rows = torch.arange(60, device=DEVICE).view(3, 20) % 50
    mask = torch.arange(20, device=DEVICE)[None, :] < torch.tensor([20, 9, 1], device=DEVICE)[:, None]
    plain, padded = one.double().ragged(ids, RUNS), one(rows, mask).last_hidden_state
    use_kernels(one.to(dtype))
    assert one.attention_over is kernels.attention_over
    assert one.encoder.layer[1].mlp.gate is kernels.gate
    assert one.encoder.layer[1].mlp.gated_product is (kernels.gated_product if fused else None)
    assert one.encoder.layer[1].attention.output.add_norm is one.encoder.layer[1].mlp.add_norm is kernels.add_norm
    for found, wanted in ((one.ragged(ids, RUNS), plain), (one(rows, mask).last_hidden_state, padded)):
        torch.testing.assert_close(found.double(), wanted, atol=3 * TOLERANCE[dtype], rtol=3 * TOLERANCE[dtype])


@torch.inference_mode()
@pytest.mark.parametrize("wrong", ["attention_over", "gate", "add_norm"])
def test_kernels_that_fail_or_are_wrong_are_not_used(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no C compiler")

    one, right = model(), getattr(kernels, wrong)
    monkeypatch.setattr(kernels, wrong, broken)
    with pytest.warns(DnafeatWarning, match="not fused, which costs .*: no C compiler"):
        use_kernels(one)
    if wrong == "attention_over":
        monkeypatch.setattr(kernels, wrong, lambda *given: lambda qkv: right(*given)(qkv) + 0.01)
    else:
        monkeypatch.setattr(kernels, wrong, lambda *given: right(*given) + 0.01)
    with pytest.warns(DnafeatWarning, match=r"the kernel for \w+ is off by 0\.01"):
        use_kernels(one)
    assert one.attention_over is None
    assert one.encoder.layer[0].mlp.gate is gate
    assert torch.isfinite(one.ragged(torch.arange(9, device=DEVICE), [(1, 9)])).all()


@torch.inference_mode()
def test_without_triton_the_plain_functions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dnafeat.encoder.models.kernels", None)
    monkeypatch.delattr("dnafeat.encoder.models.kernels")
    one = model()
    with pytest.warns(DnafeatWarning, match="not fused"):
        use_kernels(one)
    assert one.attention_over is None
