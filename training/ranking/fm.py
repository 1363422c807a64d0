"""Factorization machine of order 2: Rendle, "Factorization machines", 2010.

A linear model plus the dot products of all pairs of the columns' vectors; a continuous column's
vector is multiplied by its value.
"""

from typing import ClassVar

import torch
from torch import nn

from core.merlin import Schema
from training.batches import Inputs
from training.ranking.click_model import ClickModel, assemble
from training.ranking.layers import FieldVectors, FirstOrder, required_inputs, sum_of_pairs
from training.ranking.settings import EmbeddingSettings


class FMSettings(EmbeddingSettings):
    """There is nothing else to set."""

    # Vectors that move as fast as the linear weights learn rare codes by heart before these are
    # learnt, and the model is then worse than a logistic regression.
    engine_defaults: ClassVar = {
        "epochs": 100,
        "patience": 8,
        "optimizer": "adam",
        "learning_rate": 0.003,
        "linear_learning_rate": 0.003,
        "table_learning_rate": 0.00003,
    }


class FactorizationMachine(nn.Module):
    """Σ w·x + Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j + b."""

    def __init__(self, schema: Schema, settings: FMSettings) -> None:
        super().__init__()
        self.first_order = FirstOrder(schema)
        self.vectors = FieldVectors(schema, settings, "fm")
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        return self.first_order(inputs) + sum_of_pairs(self.vectors(inputs)) + self.bias


def build(schema: Schema, settings: FMSettings) -> ClickModel:
    """A factorization machine on the schema's CATEGORICAL and CONTINUOUS columns.

    Raises:
        UserError: tables of different widths.
    """
    required_inputs(schema, "fm")
    return assemble("fm", FactorizationMachine(schema, settings), schema, settings)
