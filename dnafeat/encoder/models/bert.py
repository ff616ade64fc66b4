"""BERT with absolute positions, as transformers has it: DNABERT 3- to 6-mer (Ji et al. 2021) and Plant DNABERT are that exactly."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from dnafeat.encoder.models.base import EncoderOutput, PositionedConfig, check_length, useful_mask, zero_padding


class BERT(BertModel):
    """transformers' BertModel without its pooler, called and answering like the other encoders here.

    Positions are counted over real tokens, so that padding may stand on either side.
    """

    def __init__(self, config: PositionedConfig) -> None:
        # transformers takes entry 0 for padding and lets it learn nothing. Here the mask says what padding is.
        super().__init__(BertConfig(**asdict(config), pad_token_id=None), add_pooling_layer=False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        check_length(input_ids, self.config.max_position_embeddings)
        mask = useful_mask(attention_mask)
        # Only transformers' plain attention tells its probabilities.
        self.set_attn_implementation("eager" if output_attentions else "sdpa")
        answer = super().forward(
            input_ids=input_ids,
            attention_mask=mask,
            token_type_ids=token_type_ids,
            position_ids=None if mask is None else ((mask != 0).cumsum(1) - 1).clamp(min=0),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        states = tuple(zero_padding(x, mask) for x in answer.hidden_states) if output_hidden_states else None
        last = states[-1] if states else zero_padding(cast(torch.Tensor, answer.last_hidden_state), mask)
        return EncoderOutput(last, states, answer.attentions if output_attentions else None)
