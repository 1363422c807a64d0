"""PLE: Tang et al., "Progressive layered extraction (PLE): a novel multi-task learning model for
personalized recommendations", 2020.

At every level there are experts that all labels share and experts of each label; a label's gate
weights its own and the shared ones, the shared gate weights all. Merlin's ``PLEBlock`` feeds the
experts of labels at every level with the input again, so that those of lower levels do nothing;
the levels here are the paper's.
"""

import torch
from pydantic import Field
from torch import nn

from core.merlin import Schema
from training.batches import Inputs
from training.ranking.layers import FlatFeatures, mlp
from training.ranking.objectives import (
    Logits,
    ObjectivesModel,
    ObjectivesSettings,
    Towers,
    assemble,
    labels,
)
from training.ranking.settings import Width

SHARED = "(shared)"
"""The name of what all labels share, among those of the labels."""


class PLESettings(ObjectivesSettings):
    """The net's sizes."""

    levels: int = Field(2, ge=1)
    """Levels of experts."""

    shared_experts: int = Field(2, ge=1)
    """Experts a level that all labels share."""

    label_experts: int = Field(2, ge=1)
    """Experts a level of each label."""

    expert_mlp: list[Width] = Field([128], min_length=1)
    """Widths of an expert."""


class Level(nn.Module):
    """Experts and gates of one level.

    Args:
        width: of what comes in.
        names: of the labels.
        last: without a shared gate, which only a level above would read.
    """

    def __init__(self, width: int, names: list[str], settings: PLESettings, last: bool) -> None:
        super().__init__()
        counts = {SHARED: settings.shared_experts, **dict.fromkeys(names, settings.label_experts)}
        self.experts = nn.ModuleList(
            nn.ModuleList(mlp(settings.expert_mlp, settings) for _ in range(count))
            for count in counts.values()
        )
        self.streams = list(counts)
        own = settings.shared_experts + settings.label_experts
        gated = {} if last else {SHARED: sum(counts.values())}
        self.gated = gated | dict.fromkeys(names, own)
        self.gates = nn.ModuleList(
            nn.Linear(width, size, bias=False) for size in self.gated.values()
        )

    def forward(self, streams: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``(batch, width)`` by stream, the shared one too → ``(batch, expert)`` by stream."""
        found = {
            name: [expert(streams[name]) for expert in experts]
            for name, experts in zip(self.streams, self.experts, strict=True)
        }
        out = {}
        for name, gate in zip(self.gated, self.gates, strict=True):
            if name == SHARED:
                chosen = [expert for experts in found.values() for expert in experts]
            else:
                chosen = found[SHARED] + found[name]
            weights = torch.softmax(gate(streams[name]), dim=1).unsqueeze(-1)
            out[name] = (weights * torch.stack(chosen, dim=1)).sum(dim=1)
        return out


class PLE(nn.Module):
    """Features, levels of experts, and towers."""

    def __init__(self, schema: Schema, settings: PLESettings, names: list[str]) -> None:
        super().__init__()
        self.features = FlatFeatures(schema, settings)
        self.names = names
        widths = [self.features.width, *[settings.expert_mlp[-1]] * (settings.levels - 1)]
        self.levels = nn.ModuleList(
            Level(width, names, settings, number == settings.levels)
            for number, width in enumerate(widths, 1)
        )
        self.towers = Towers(schema, names, settings)

    def forward(self, inputs: Inputs) -> Logits:
        """→ logits ``(batch, 1)`` by label."""
        streams = dict.fromkeys([SHARED, *self.names], self.features(inputs))
        for level in self.levels:
            streams = level(streams)
        return self.towers(streams)


def build(schema: Schema, settings: PLESettings) -> ObjectivesModel:
    """The model for the schema's labels.

    Raises:
        UserError: fewer than two labels.
    """
    names = labels(schema, settings, "ple")
    return assemble("ple", PLE(schema, settings, names), schema, settings, names)
