"""AFM: Xiao et al., "Attentional factorization machines", 2017 (arXiv:1708.04617).

A factorization machine whose pairwise products are weighted by an attention net before they are
summed to a vector, and that vector to a logit.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from core.merlin import Schema, Tags
from training.batches import Inputs
from training.ranking.click_model import ClickModel, assemble
from training.ranking.layers import (
    FieldVectors,
    FirstOrder,
    PairAttention,
    required_inputs,
    required_pairs,
)
from training.ranking.settings import EmbeddingSettings


class AFMSettings(EmbeddingSettings):
    """The attention net."""

    # As those of a factorization machine.
    engine_defaults: ClassVar = {
        "epochs": 20,
        "optimizer": "adam",
        "learning_rate": 0.002,
        "linear_learning_rate": 0.003,
        "table_learning_rate": 0.0001,
    }

    attention_size: int = Field(16, ge=1)
    """Hidden units of the attention net."""

    pairs: Literal["all", "categorical"] = "all"
    """Columns that are multiplied with one another; continuous ones that are not keep their linear
    weight. The cost of a step grows with the square of their number."""

    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the pooled vector's entries dropped in training."""


class AFM(nn.Module):
    """Σ w·x + pᵀ Σ_{i<j} a_ij (v_i ∘ v_j) x_i x_j + b."""

    def __init__(self, schema: Schema, settings: AFMSettings) -> None:
        super().__init__()
        self.first_order = FirstOrder(schema)
        self.vectors = FieldVectors(paired(schema, settings), settings, "afm")
        dim = self.vectors.dim
        self.attention = PairAttention(self.vectors.fields, dim, settings.attention_size)
        self.dropout = nn.Dropout(settings.dropout)
        self.projection = nn.Linear(dim, 1)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        pooled = self.dropout(self.attention(self.vectors(inputs)))
        return self.first_order(inputs) + self.projection(pooled)


def build(schema: Schema, settings: AFMSettings) -> ClickModel:
    """An AFM on the schema's CATEGORICAL and CONTINUOUS columns.

    Raises:
        UserError: tables of different widths, or fewer than two columns to multiply.
    """
    required_inputs(schema, "afm", *([Tags.CATEGORICAL] if settings.pairs == "categorical" else []))
    required_pairs(paired(schema, settings), "afm")
    return assemble("afm", AFM(schema, settings), schema, settings)


def paired(schema: Schema, settings: AFMSettings) -> Schema:
    """The columns that are multiplied with one another."""
    if settings.pairs == "all":
        return schema
    return schema.excluding_by_tag(Tags.TARGET).select_by_tag(Tags.CATEGORICAL)
