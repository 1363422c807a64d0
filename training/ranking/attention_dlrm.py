"""DLRM with AFM's attention in the place of its dot products.

Integers go through the bottom MLP to a vector of ``embedding_dim``, as in DLRM (Naumov et al.,
2019, arXiv:1906.00091); the products of all pairs among it and the embeddings are pooled by
attention (Xiao et al., 2017, arXiv:1708.04617) and go, beside that vector, through the top MLP.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from core.merlin import Schema, Tags, torch_models
from training.batches import Inputs
from training.compressed_tables import make_tables
from training.embeddings import stack_vectors
from training.ranking.click_model import ClickModel, assemble, logit_output
from training.ranking.layers import (
    Numbers,
    PairAttention,
    mlp,
    one_width,
    required_inputs,
    required_pairs,
)
from training.ranking.settings import DeepSettings, Width


class AttentionDLRMSettings(DeepSettings):
    """The net's sizes."""

    bottom_mlp: list[Width] = Field([512, 256, 64])
    """Widths of the bottom MLP before its last layer, which has ``embedding_dim``."""

    attention_size: int = Field(16, ge=1)
    """Hidden units of the attention net."""

    top_mlp: list[Width] = Field([512, 256], min_length=1)
    """Widths of the top MLP before the logit."""

    initialisation: Literal["dlrm", "normal"] = "dlrm"
    """dlrm: as in Facebook's code, tables uniform within ±1/√rows and layers normal with
    Xavier's variance; normal: tables with standard deviation 0.01, layers as torch starts them."""


class AttentionDLRM(nn.Module):
    """Bottom MLP, attention over pairs, top MLP; without numbers, the latter two."""

    def __init__(self, schema: Schema, settings: AttentionDLRMSettings) -> None:
        super().__init__()
        inputs = schema.excluding_by_tag(Tags.TARGET)
        codes = inputs.select_by_tag(Tags.CATEGORICAL)
        dim = one_width(inputs, settings, "attention_dlrm")
        self.tables = make_tables(codes, dim, settings.tables, settings.initialisation)
        self.numbers = Numbers(schema)
        self.bottom = None
        if self.numbers.names:
            # As in DLRM, the vector that meets the embeddings is neither dropped nor normalised.
            plain = settings.model_copy(update={"dropout": 0.0, "normalisation": "none"})
            self.bottom = mlp([*settings.bottom_mlp, dim], plain)
        vectors = len(codes) + (self.bottom is not None)
        self.attention = PairAttention(vectors, dim, settings.attention_size)
        self.top = torch_models().Block(mlp(settings.top_mlp, settings), logit_output(schema))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        vectors = stack_vectors(self.tables, inputs)
        if self.bottom is None:
            return self.top(self.attention(vectors))
        bottom = self.bottom(self.numbers(inputs))
        pooled = self.attention(torch.cat([vectors, bottom.unsqueeze(1)], dim=1))
        return self.top(torch.cat([bottom, pooled], dim=1))


def build(schema: Schema, settings: AttentionDLRMSettings) -> ClickModel:
    """The model on the schema's CATEGORICAL and, where there are any, CONTINUOUS columns.

    Raises:
        UserError: the schema lacks categorical columns, or tables of different widths.
    """
    required_inputs(schema, "attention_dlrm", Tags.CATEGORICAL)
    required_pairs(schema, "attention_dlrm")
    return assemble("attention_dlrm", AttentionDLRM(schema, settings), schema, settings)
