"""schemas/PARTNERS.md: its functions export from models of the projects' call signatures, and its commands print what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pages
import pyarrow.parquet as pq
import pytest
import torch
from partnermodels import BrainLM, BrainMT, SubSequences, SwinTransformer4D

PAGE = Path(__file__).parents[2] / "schemas" / "PARTNERS.md"
FRAMES, SIZE = 200, (7, 9, 5)


@pytest.fixture(scope="module")
def hooks() -> dict[str, Any]:
    """What the page's functions are called by, each block run by itself."""
    names: dict[str, Any] = {}
    for block in pages.blocks(PAGE):
        if block.kind == "python" and "\ndef " in block.text:
            exec(block.text, here := {"__name__": "page"})
            names |= {name: value for name, value in here.items() if name.startswith("export_")}
    assert sorted(names) == ["export_brainlm", "export_brainmt", "export_swift"]
    return names


def recording(seed: int, timepoints: int = 165) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(424, timepoints, generator=draw), torch.randn(424, 3, generator=draw)


def volume(seed: int, frames: int = 450) -> torch.Tensor:
    return torch.randn(*SIZE, frames, generator=torch.Generator().manual_seed(seed)).half()


def test_brainlm_is_exported_whole_and_in_order(hooks: dict[str, Any], tmp_path: Path) -> None:
    signal, xyz = recording(0)
    model = BrainLM()
    for name in ("a", "b"):
        hooks["export_brainlm"](model, signal, xyz, tmp_path / f"{name}.npz")
    first, second = np.load(tmp_path / "a.npz"), np.load(tmp_path / "b.npz")
    assert first["last_hidden_state"].shape == (424 * 8 + 1, 16)
    assert not first["mask"].any()
    assert (first["ids_restore"] == np.arange(424 * 8)).all()
    # Twice the same, which a dropout or a noise that is left on would not give.
    assert (first["last_hidden_state"] == second["last_hidden_state"]).all()
    shuffled = model.vit(signal_vectors=signal[None, :, :160], xyz_vectors=xyz[None]).last_hidden_state[0, 0]
    assert np.abs(shuffled.detach().numpy() - first["last_hidden_state"][0]).max() > 1e-3


def test_brainmt_is_exported_in_windows_from_the_first_frame_on(hooks: dict[str, Any], tmp_path: Path) -> None:
    model, frames = BrainMT(FRAMES, SIZE), volume(0)
    hooks["export_brainmt"](model, frames, FRAMES, tmp_path / "a.pt")
    told = torch.load(tmp_path / "a.pt", weights_only=True)
    assert told["vector"].shape == (2, 512)
    assert told["window"].tolist() == [0, 1]
    second = frames[..., 200:400].unsqueeze(0).permute(4, 0, 2, 1, 3).unsqueeze(0).float()
    with torch.no_grad():
        assert torch.equal(told["vector"][1], model.eval().forward_features(second)[0])


def test_swift_is_averaged_as_its_heads_do(hooks: dict[str, Any], tmp_path: Path) -> None:
    encoder, data = SwinTransformer4D(), sub_sequences()
    loader = torch.utils.data.DataLoader(data, batch_size=3)
    hooks["export_swift"](encoder, loader, "2", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["window"].to_pylist() == [0, 4, 0, 4]
    with torch.no_grad():
        maps = encoder.eval()(data[3]["fmri_sequence"][None])
    head = torch.nn.AdaptiveAvgPool1d(1)(maps.flatten(start_dim=2)).flatten(1)
    np.testing.assert_allclose(table["vector"][3].as_py(), head[0].numpy(), atol=1e-6)


def sub_sequences() -> SubSequences:
    draw = torch.Generator().manual_seed(0)
    return SubSequences({name: torch.randn(1, 96, 96, 96, 8, generator=draw).half() for name in ("1000017", "1000025")}, 4)


@pytest.fixture
def exported(hooks: dict[str, Any], tmp_path: Path) -> Path:
    """A folder with what the page's functions have written."""
    for name in ("brainlm", "brainmt", "masked"):
        (tmp_path / name).mkdir()
    for seed, name in enumerate(("1000017_20227_2_0", "1000017_20227_3_0", "1000025_20227_2_0")):
        hooks["export_brainlm"](BrainLM(), *recording(seed), tmp_path / "brainlm" / f"{name}.npz")
    for seed, name in enumerate(("1000017_20227_2_0", "1000025_20227_2_0")):
        hooks["export_brainmt"](BrainMT(FRAMES, SIZE), volume(seed), FRAMES, tmp_path / "brainmt" / f"{name}.pt")
    loader = torch.utils.data.DataLoader(sub_sequences(), batch_size=3)
    hooks["export_swift"](SwinTransformer4D(), loader, "2", tmp_path / "swift.parquet")
    signal, xyz = recording(0)
    masked = BrainLM(mask_ratio=0.6).vit(signal_vectors=signal[None, :, :160], xyz_vectors=xyz[None])
    np.save(tmp_path / "masked" / "1000017_20227_2_0.npy", masked.last_hidden_state[0].detach().numpy())
    return tmp_path


def test_the_page_prints_what_it_shows(exported: Path) -> None:
    left = pages.run(PAGE, exported)
    assert not [block for block in left if block.kind]
