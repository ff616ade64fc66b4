"""Small modules with the call signatures and shapes of BrainLM, BrainMT and SwiFT, for the functions of schemas/PARTNERS.md."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput


class BrainLM(nn.Module):
    """As BrainLMForPretraining: `vit` keeps and orders tokens by noise, drops those of the mask, and puts CLS in front."""

    def __init__(self, hidden: int = 16, patch: int = 20, mask_ratio: float = 0.75) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(timepoint_patching_size=patch, mask_ratio=mask_ratio)
        self.vit = _Encoder(self.config, hidden)


class _Encoder(nn.Module):
    def __init__(self, config: Any, hidden: int) -> None:
        super().__init__()
        self.embeddings = SimpleNamespace(config=config)
        self.signal = nn.Linear(config.timepoint_patching_size, hidden)
        self.xyz = nn.Linear(3, hidden)
        self.dropout = nn.Dropout(0.5)

    def forward(
        self,
        signal_vectors: torch.Tensor,
        xyz_vectors: torch.Tensor,
        head_mask: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        noise: torch.Tensor | None = None,
    ) -> ModelOutput:
        batch, regions, _ = signal_vectors.shape
        patches = signal_vectors.reshape(batch, regions, -1, self.embeddings.config.timepoint_patching_size)
        tokens = (self.signal(patches) + self.xyz(xyz_vectors)[:, :, None]).flatten(1, 2)
        count = tokens.shape[1]
        noise = torch.rand(batch, count) if noise is None else noise
        assert noise.shape == (batch, count)
        order = noise.argsort(dim=1)
        restore = order.argsort(dim=1)
        kept = int(count * (1 - self.embeddings.config.mask_ratio))
        mask = torch.ones(batch, count)
        mask[:, :kept] = 0
        tokens = self.dropout(tokens.gather(1, order[:, :kept, None].expand(-1, -1, tokens.shape[2])))
        # As attention over segments of neighbours does, it depends on the order.
        cls = (tokens * torch.linspace(0, 1, kept)[:, None]).mean(dim=1, keepdim=True)
        return ModelOutput(last_hidden_state=torch.cat([cls, tokens], 1), mask=mask.gather(1, restore), ids_restore=restore)


class BrainMT(nn.Module):
    """As BrainMT: `forward_features` of [B, frames, 1, y, x, z], with a position for each of its frames."""

    def __init__(self, frames: int, size: tuple[int, int, int], hidden: int = 512) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.size = size
        self.temporal_pos_embedding = nn.Parameter(torch.randn(1, frames, hidden))
        self.embed = nn.Linear(1, hidden)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(hidden, 1)

    def forward_features(self, x: torch.Tensor, inference_params: None = None) -> torch.Tensor:
        _, _, channels, *size = x.shape
        assert channels == 1
        assert (size[1], size[0], size[2]) == self.size
        frames = self.embed(x.mean(dim=(3, 4, 5)))
        return self.dropout(frames + self.temporal_pos_embedding).sum(dim=1)

    def forward(self, x: torch.Tensor, inference_params: None = None) -> torch.Tensor:
        return self.head(self.forward_features(x))


class SwinTransformer4D(nn.Module):
    """As SwinTransformer4D: [B, 1, x, y, z, t] to [B, C, x/48, y/48, z/48, t]."""

    def __init__(self, embed_dim: int = 24) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed = nn.Linear(1, 8 * embed_dim)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.ndim == 6
        small = x[:, :, ::48, ::48, ::48].float()
        return self.dropout(self.embed(small.movedim(1, -1))).movedim(-1, 1)


class SubSequences(torch.utils.data.Dataset):
    """As the datasets of SwiFT: a subject's sub-sequences one after the other, with their first frame."""

    def __init__(self, recordings: dict[str, torch.Tensor], length: int) -> None:
        self.items = [
            {"fmri_sequence": frames[..., start : start + length], "subject_name": name, "target": 0.0, "TR": start, "sex": 0}
            for name, frames in recordings.items()
            for start in range(0, frames.shape[-1] - length + 1, length)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return self.items[at]
