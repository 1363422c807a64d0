"""DCN V2: Wang et al., "DCN V2: improved deep & cross network and practical lessons for web-scale
learning to rank systems", 2021 (arXiv:2008.13535), of Merlin's ``CrossBlock``.

A cross layer is x ← x₀ ∘ f(x) + x with f a full matrix, a product of two thin ones, or a gated
mixture of such products.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from core.errors import UserError
from core.merlin import Schema
from training.batches import Inputs
from training.ranking.click_model import ClickModel, assemble, logit_output
from training.ranking.layers import FlatFeatures, cross_block, mlp, required_inputs
from training.ranking.settings import DeepSettings, Width


class DCNv2Settings(DeepSettings):
    """The net's sizes."""

    cross: Literal["full", "low_rank", "mixture"] = "full"
    """full: a square matrix a layer; low_rank: U (V x) with ``cross_rank``; mixture: ``experts`` of
    those, each with a nonlinear middle, weighted by a gate."""

    cross_layers: int = Field(3, ge=1)
    """Cross layers."""

    cross_rank: int = Field(32, ge=1)
    """low_rank and mixture: columns of U and V."""

    experts: int = Field(4, ge=1)
    """mixture: low-rank products a layer."""

    structure: Literal["parallel", "stacked"] = "parallel"
    """parallel: cross layers and MLP side by side; stacked: the MLP after the cross layers."""

    deep_mlp: list[Width] = Field([512, 256], min_length=1)
    """Widths of the MLP."""


class CrossMixture(nn.Module):
    """f(x) = Σ_i softmax(G x)_i · U_i tanh(C_i tanh(V_i x)) + b: the paper's mixture of low-rank
    experts with a nonlinear middle.

    Args:
        width: of the features.
        rank: of every expert.
    """

    def __init__(self, width: int, rank: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.down = nn.Parameter(torch.empty(experts, width, rank))
        self.middle = nn.Parameter(torch.empty(experts, rank, rank))
        self.up = nn.Parameter(torch.empty(experts, rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        for weight in (self.down, self.middle, self.up):
            inputs, outputs = weight.shape[1:]
            nn.init.normal_(weight, 0.0, (2 / (inputs + outputs)) ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, width)`` → the same shape."""
        low = torch.tanh(torch.einsum("bw,ewr->ebr", x, self.down))
        low = torch.tanh(torch.bmm(low, self.middle))
        each = torch.bmm(low, self.up)
        gates = torch.softmax(self.gate(x), dim=1)
        return torch.einsum("be,ebw->bw", gates, each) + self.bias


class DCNv2(nn.Module):
    """Cross layers and an MLP, joined in one logit."""

    def __init__(self, schema: Schema, settings: DCNv2Settings) -> None:
        super().__init__()
        self.features = FlatFeatures(schema, settings)
        self.cross = _cross(self.features.width, settings)
        self.deep = mlp(settings.deep_mlp, settings)
        self.output = logit_output(schema)
        self.stacked = settings.structure == "stacked"

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        features = self.features(inputs)
        crossed = self.cross(features)
        if self.stacked:
            return self.output(self.deep(crossed))
        return self.output(torch.cat([crossed, self.deep(features)], dim=1))


def _cross(width: int, settings: DCNv2Settings) -> nn.Module:
    kind, depth, rank = cross_block(), settings.cross_layers, settings.cross_rank
    if settings.cross == "full":
        return kind.with_depth(depth)
    if rank >= width:
        raise UserError(
            f"model dcnv2: ranking.dcnv2.cross_rank: {rank} is not below the width of the "
            f"features, {width}; lower it, or set ranking.dcnv2.cross to full"
        )
    if settings.cross == "low_rank":
        return kind.with_low_rank(depth, nn.LazyLinear(rank, bias=False))
    return kind(*[CrossMixture(width, rank, settings.experts) for _ in range(depth)])


def build(schema: Schema, settings: DCNv2Settings) -> ClickModel:
    """A DCN V2 on the schema's CATEGORICAL and CONTINUOUS columns.

    Raises:
        UserError: a ``cross_rank`` that the features' width does not allow.
    """
    required_inputs(schema, "dcnv2")
    return assemble("dcnv2", DCNv2(schema, settings), schema, settings)
