"""On a GPU: vectors are the plain model's in float64, whatever is encoded beside a sequence. Skipped where there is none.

Needs torch and transformers alone: `python -m pytest --noconftest tests/encoder/test_gpu.py tests/encoder/models/test_kernels.py`.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dnafeat.bench import inputs as benchinputs
from dnafeat.encoder import Encoder
from dnafeat.encoder.models.checkpoint import find, load_encoder
from dnafeat.encoder.results import Vectors
from dnafeat.encoder.windows import cut

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
# Of the largest number, and as a cosine.
TOLERANCE = {"float32": (1e-5, 0.999999), "bfloat16": (5e-2, 0.999)}
NAMES = ("cls", "mean", "max", "projected")


@pytest.fixture(scope="module", params=["dnafeat-mini", "dnabert2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "dnafeat-mini":
        return request.param
    return str(benchinputs.write_model(tmp_path_factory.mktemp("model") / "full", benchinputs.FULL, None))


@pytest.fixture(scope="module")
def sequences() -> list[str]:
    """Real ones, random ones of all lengths, and odd ones."""
    draw = random.Random(0)
    lengths = [1, 2, 3, 7, 20, 100, 333, 800, 1500, 2500, 6000, 10_000]
    some = ["".join(draw.choices("ACGT", k=length)) for length in lengths]
    return [*benchinputs.tiles(40), *some, "N" * 40, "N" * 3000, "A", "ACGT" * 30 + "NN" + "GATTACA" * 9]


def agree(found: np.ndarray, wanted: np.ndarray, precision: str) -> None:
    most, least = TOLERANCE[precision]
    assert np.abs(found - wanted).max() <= most * max(1.0, np.abs(wanted).max())
    cosine = (found * wanted).sum(1) / (np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1))
    assert cosine.min() >= least


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_vectors_are_those_of_the_plain_model_in_float64(model: str, sequences: list[str], precision: str) -> None:
    encoder = Encoder.from_pretrained(model, precision=precision, window_tokens=2048)
    assert encoder.device.type == "cuda"
    assert encoder.model.attention_over is not None
    exact = copy.deepcopy(load_encoder(find(model))).to("cuda", torch.float64).eval()
    windows = cut(sequences, encoder.tokenizer, encoder.cutting)
    kept = [i for i, count in enumerate(windows.counts()) if count == 1]
    assert len(kept) > 45
    found = encoder.encode(sequences)
    cls, mean, largest = [], [], []
    for i in kept:
        ids = torch.tensor([encoder.tokenizer.encode(sequences[i])], device="cuda")
        states = exact(ids, torch.ones_like(ids)).last_hidden_state[0]
        cls.append(states[0])
        mean.append(states[1:-1].mean(0))
        largest.append(states[1:-1].amax(0))
    for name, states in (("cls", cls), ("mean", mean), ("max", largest)):
        agree(getattr(found, name)[kept], torch.stack(states).cpu().numpy(), precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", [{}, {"window_tokens": 64, "overlap_tokens": 16, "strands": "both", "special_tokens": True}])
def test_vectors_do_not_depend_on_what_is_encoded_beside(
    model: str, sequences: list[str], precision: str, settings: dict[str, object]
) -> None:
    encoder = Encoder.from_pretrained(model, precision=precision, **settings)
    together = encoder.encode(sequences)
    apart = [encoder.encode([one]) for one in sequences[::3]]
    encoder.batch_tokens = 700
    batches = encoder.encode(sequences[::-1])
    for name in NAMES:
        whole = getattr(together, name)
        agree(np.concatenate([getattr(one, name) for one in apart]), whole[::3], precision)
        agree(getattr(batches, name)[::-1], whole, precision)


def test_half_the_batch_is_tried_where_memory_does_not_suffice(tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(
        str(benchinputs.write_model(tmp_path / "full", benchinputs.FULL, None)), precision="bfloat16"
    )
    many = benchinputs.tiles(2000)
    wanted = encoder.encode(many)
    assert encoder.halved == 0
    torch.cuda.empty_cache()
    room = torch.cuda.memory_allocated() + 2**29
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        found: Vectors = encoder.encode(many)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert encoder.halved > 0
    for name in NAMES:
        agree(getattr(found, name), getattr(wanted, name), "bfloat16")
