"""The contrastive loss against a loop, masks, batches, and z-scoring folded into a projector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dnafeat.align import model as alignment
from dnafeat.align.artifact import Side
from dnafeat.align.model import Alignment, batches, dev_loss, losses, project
from dnafeat.align.preparation import Preparation
from dnafeat.encoder.projection import Projector


def units(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def slow_losses(x: torch.Tensor, y: torch.Tensor, same: np.ndarray, scale: float) -> list[float]:
    """A row at a time, over the candidates it is told apart from."""
    found = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j == i or not (same[i] == same[j]).any()]
        both = [np.exp(scale * np.array([float(a[i] @ b[j]) for j in others])) for a, b in ((x, y), (y, x))]
        at = others.index(i)
        found.append(-np.mean([np.log(one[at] / one.sum()) for one in both]))
    return found


def test_losses_are_those_of_a_loop_and_masked_rows_are_no_negatives() -> None:
    x, y = units(12, 0), units(12, 1)
    same = np.stack([np.arange(12), np.arange(12), np.arange(12)], axis=1)
    same[3, 1] = same[7, 1]  # the same DNA
    same[4, 2] = same[3, 2]  # the same partner vector
    same[9, 0] = same[10, 0]  # one subject
    scale = torch.tensor(np.log(9.0))
    places = torch.arange(12)
    found = losses((x, y), (x, y), places, torch.from_numpy(same), scale)
    assert found.tolist() == pytest.approx(slow_losses(x, y, same, 9.0))
    some = torch.tensor([10, 3, 4])
    part = losses((x[some], y[some]), (x, y), some, torch.from_numpy(same), scale)
    assert part.tolist() == pytest.approx(found[some].tolist())
    # What is masked has no gradient.
    candidates = y.clone().requires_grad_()
    losses((x[3:4], y[3:4]), (x, candidates), torch.tensor([3]), torch.from_numpy(same), scale).sum().backward()
    gradient = candidates.grad
    assert gradient is not None
    assert (gradient[[4, 7]] == 0).all()
    assert (gradient[[0, 3, 9]] != 0).any(dim=1).all()


def test_a_batch_of_one_has_nothing_to_learn() -> None:
    x = units(1, 2)
    assert losses((x, x), (x, x), torch.tensor([0]), torch.zeros(1, 3, dtype=torch.int64), torch.tensor(1.0)).tolist() == [0]


@pytest.mark.parametrize("count", [1, 7, 64, 65, 200])
def test_batches_hold_everybody_once_are_of_like_size_and_differ_by_epoch_and_seed(count: int) -> None:
    found = batches(count, 64, 0, 3)
    assert sorted(np.concatenate(found)) == list(range(count))
    sizes = [len(one) for one in found]
    assert max(sizes) <= 64
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == -(-count // 64)
    if count > 7:
        assert (np.concatenate(found) != np.concatenate(batches(count, 64, 0, 4))).any()
        assert (np.concatenate(found) != np.concatenate(batches(count, 64, 1, 3))).any()


def test_the_dev_loss_does_not_depend_on_how_it_is_cut_and_has_no_dropout() -> None:
    torch.manual_seed(0)
    model = Alignment(5, 7, dropout=0.5).train()
    x, y = torch.randn(50, 5), torch.randn(50, 7)
    same = torch.arange(50)[:, None].repeat(1, 3)
    found = [dev_loss(model, x, y, same, rows) for rows in (50, 7, 1024)]
    assert found == pytest.approx([found[0]] * 3, abs=1e-6)
    assert model.training
    everybody = model.eval()(x, y)
    assert found[0] == pytest.approx(
        float(losses(everybody, everybody, torch.arange(50), same, model.log_scale).mean().item()), abs=1e-6
    )


def test_the_temperature_starts_as_asked_and_stays_above_a_hundredth() -> None:
    model = Alignment(3, 3, temperature=0.2)
    assert model.log_scale.exp().item() == pytest.approx(5)
    with torch.no_grad():
        model.log_scale.fill_(99.0)
    model.clamp()
    assert model.log_scale.exp().item() == pytest.approx(100)


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_a_projection_takes_stored_vectors_however_little_they_differ(spread: float) -> None:
    rng = np.random.default_rng(0)
    raw = (rng.normal(size=(40, 24)) * rng.uniform(0.1, 3, 24) * spread + 2 + rng.normal(size=24)).astype(np.float32)
    raw[:, 5] = 2.5  # constant: it must count for nothing
    torch.manual_seed(1)
    side = Side(Preparation.fit(raw), Projector(24, 0.3).eval())
    projection = side.projection().eval()

    def projected(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return projection(torch.from_numpy(rows)).numpy()

    whole = projected(raw)
    assert whole == pytest.approx(side(raw, None), abs=1e-5)
    assert np.concatenate([projected(row[None]) for row in raw]) == pytest.approx(whole, abs=1e-5)
    other = raw.copy()
    other[:, 5] += 100
    assert (projected(other) == whole).all()
    with pytest.raises(ValueError, match="no covariates or principal components"):
        Side(Preparation.fit(raw, components=3), Projector(3)).projection()


def test_projecting_does_not_depend_on_how_many_at_a_time() -> None:
    torch.manual_seed(2)
    projector, rows = Projector(6, 0.5).train(), np.random.default_rng(1).normal(size=(23, 6)).astype(np.float32)
    assert project(projector, rows, 5) == pytest.approx(project(projector, rows), abs=1e-5)


def test_alone_a_worker_gathers_its_own_rows() -> None:
    rows = torch.randn(3, 4)
    assert alignment.gather(rows, [3]) is rows
