"""DCN: Wang et al., "Deep & cross network for ad click predictions", 2017 (arXiv:1708.05123).

Beside an MLP, cross layers with one weight vector each: x ← x₀ (xᵀw) + b + x. The defaults are
those of the DLRM paper's comparison: 6 cross layers, an MLP of 512-256.
"""

import torch
from pydantic import Field
from torch import nn

from core.merlin import Schema
from training.batches import Inputs
from training.ranking.click_model import ClickModel, assemble, logit_output
from training.ranking.layers import FlatFeatures, mlp, required_inputs
from training.ranking.settings import DeepSettings, Width


class DCNSettings(DeepSettings):
    """The net's sizes."""

    cross_layers: int = Field(6, ge=1)
    """Cross layers."""

    deep_mlp: list[Width] = Field([512, 256], min_length=1)
    """Widths of the MLP."""


class VectorCross(nn.Module):
    """The cross layers. Merlin's ``CrossBlock`` is the second version's, whose bias is crossed.

    Args:
        width: of the features.
        depth: number of layers.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.weights = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(depth))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(depth))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``(batch, width)`` → the same shape."""
        crossed = features
        for weight, bias in zip(self.weights, self.biases, strict=True):
            crossed = features * weight(crossed) + bias + crossed
        return crossed


class DCN(nn.Module):
    """Cross layers and an MLP side by side, joined in one logit."""

    def __init__(self, schema: Schema, settings: DCNSettings) -> None:
        super().__init__()
        self.features = FlatFeatures(schema, settings)
        self.cross = VectorCross(self.features.width, settings.cross_layers)
        self.deep = mlp(settings.deep_mlp, settings)
        self.output = logit_output(schema)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        features = self.features(inputs)
        return self.output(torch.cat([self.cross(features), self.deep(features)], dim=1))


def build(schema: Schema, settings: DCNSettings) -> ClickModel:
    """A DCN on the schema's CATEGORICAL and CONTINUOUS columns."""
    required_inputs(schema, "dcn")
    return assemble("dcn", DCN(schema, settings), schema, settings)
