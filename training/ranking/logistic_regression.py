"""Logistic regression: a weight a code, a weight a continuous column, and a bias.

Richardson et al., "Predicting clicks: estimating the click-through rate for new ads", 2007.
"""

from typing import ClassVar

import torch
from torch import nn

from core.merlin import Schema
from training.batches import Inputs
from training.ranking.click_model import ClickModel, assemble
from training.ranking.layers import FirstOrder, required_inputs
from training.ranking.settings import ClickSettings


class LogisticRegressionSettings(ClickSettings):
    """There is nothing else to set."""

    # A convex loss and cheap steps: a small log has as many epochs as it takes.
    engine_defaults: ClassVar = {
        "epochs": 100,
        "patience": 8,
        "optimizer": "adam",
        "learning_rate": 0.005,
    }


class LogisticRegression(nn.Module):
    """w·x + b."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.first_order = FirstOrder(schema)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        return self.first_order(inputs) + self.bias


def build(schema: Schema, settings: LogisticRegressionSettings) -> ClickModel:
    """A logistic regression on the schema's CATEGORICAL and CONTINUOUS columns."""
    required_inputs(schema, "logistic_regression")
    return assemble("logistic_regression", LogisticRegression(schema), schema, settings)
