"""The common parts of all encoders: fields of `config.json`, output of a forward pass, and attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Up to so many tokens the plain products took 0.5 to 0.9 of the time of torch's fused attention on CPUs.
_SHORT = 96


@dataclass(frozen=True, kw_only=True)
class Config:
    """The fields of `config.json` that shape the network; everything else in that file is ignored."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    initializer_range: float = 0.02

    @property
    def positions(self) -> int | None:
        """Longest input in tokens, special ones counted; None where the architecture has no limit."""
        return None


@dataclass(frozen=True, kw_only=True)
class PositionedConfig(Config):
    """The same for architectures with a table of positions or of distances."""

    max_position_embeddings: int
    attention_probs_dropout_prob: float = 0.1

    @property
    def positions(self) -> int | None:
        return self.max_position_embeddings


# Only training reads these: they change no vector.
TRAINING_FIELDS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")


class EncoderOutput(NamedTuple):
    """The output of an encoder.

    Attributes
    ----------
    last_hidden_state : Tensor, shape=(batch, tokens, hidden_size)
        Zeros where masked.
    hidden_states : tuple of Tensor | None
        On request: the same after the embeddings and after each layer; the last one is `last_hidden_state`.
    attentions : tuple of Tensor | None
        On request: probabilities of each layer, (batch, heads, tokens, tokens).
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An asynchronous copy on a GPU; on a CPU a tensor that shares the array's memory."""
    values = torch.from_numpy(array)
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def to_host(values: Tensor) -> Tensor:
    """A copy of a GPU's tensor that is there once the GPU has come so far; a CPU's tensor itself."""
    if values.device.type == "cpu":
        return values
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, weights: bool) -> tuple[Tensor, Tensor | None]:
    """Attention of (batch, heads, tokens, size) with an additive bias; with `weights` also its probabilities, the slow way."""
    if not weights:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout), None
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    probabilities = torch.softmax(scores if bias is None else scores + bias, dim=-1)
    return F.dropout(probabilities, dropout) @ v, probabilities


def attend_unmasked(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same for inference, the bias (1, heads, tokens, tokens) being one for all of the batch."""
    if q.device.type == "cpu" and q.shape[2] <= _SHORT:
        scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(2, 3)).add_(bias)
        return torch.softmax(scores, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(len(q), -1, -1, -1))


def masked_keys(bias: Tensor, attention_mask: Tensor | None) -> Tensor:
    """`bias` (1 or batch, heads or 1, tokens, tokens) with the most negative number where a key is masked.

    The published codes add -10000 or so, which ALiBi itself passes beyond 20,000 tokens at slope 0.5; the least finite number
    gives the same exact zeros after the softmax and has no such limit.
    """
    if attention_mask is None:
        return bias
    return bias.masked_fill(attention_mask[:, None, None, :] == 0, torch.finfo(bias.dtype).min)


def useful_mask(attention_mask: Tensor | None) -> Tensor | None:
    """None for a mask that masks nothing: without padding one bias serves the whole batch. A GPU's is taken as it is: looking waits."""
    if attention_mask is None or attention_mask.device.type != "cpu":
        return attention_mask
    return None if bool((attention_mask != 0).all()) else attention_mask


def check_length(input_ids: Tensor, positions: int) -> None:
    if input_ids.shape[1] > positions:
        raise ValueError(
            f"{input_ids.shape[1]} tokens are more than the {positions} positions this model has: cut them into windows"
        )


def zero_padding(x: Tensor, attention_mask: Tensor | None) -> Tensor:
    return x if attention_mask is None else x.masked_fill((attention_mask == 0)[:, :, None], 0.0)


def initialise(module: nn.Module, std: float) -> None:
    """BERT's initialisation, for `Module.apply`: normal weights, zero biases; norms keep theirs."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
