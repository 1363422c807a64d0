"""DeepFM: Guo et al., "DeepFM: a factorization-machine based neural network for CTR prediction",
2017 (arXiv:1703.04247). A factorization machine and an MLP share their vectors; logits are added.
"""

import torch
from pydantic import Field
from torch import nn

from core.merlin import Schema, torch_models
from training.batches import Inputs
from training.ranking.click_model import ClickModel, assemble, logit_output
from training.ranking.layers import FieldVectors, FirstOrder, mlp, required_inputs, sum_of_pairs
from training.ranking.settings import DeepSettings, Width


class DeepFMSettings(DeepSettings):
    """The net's sizes."""

    deep_mlp: list[Width] = Field([512, 256], min_length=1)
    """Widths of the MLP before its logit."""


class DeepFM(nn.Module):
    """First order + pairs + MLP."""

    def __init__(self, schema: Schema, settings: DeepFMSettings) -> None:
        super().__init__()
        self.first_order = FirstOrder(schema)
        self.vectors = FieldVectors(schema, settings, "deepfm")
        self.deep = torch_models().Block(mlp(settings.deep_mlp, settings), logit_output(schema))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        vectors = self.vectors(inputs)
        return self.first_order(inputs) + sum_of_pairs(vectors) + self.deep(vectors.flatten(1))


def build(schema: Schema, settings: DeepFMSettings) -> ClickModel:
    """A DeepFM on the schema's CATEGORICAL and CONTINUOUS columns.

    Raises:
        UserError: tables of different widths.
    """
    required_inputs(schema, "deepfm")
    return assemble("deepfm", DeepFM(schema, settings), schema, settings)
