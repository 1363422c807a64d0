"""MMoE: Ma et al., "Modeling task relationships in multi-task learning with multi-gate
mixture-of-experts", 2018, of Merlin's ``MMOEBlock``.

All labels share the experts; each has a gate of its own that weights them, and a tower.
"""

from pydantic import Field
from torch import nn

from core.merlin import Schema, torch_models
from core.names import key_of
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


class MMoESettings(ObjectivesSettings):
    """The net's sizes."""

    experts: int = Field(4, ge=1)
    """Experts that all labels share."""

    expert_mlp: list[Width] = Field([256, 128], min_length=1)
    """Widths of an expert."""


class MMoE(nn.Module):
    """Features, gated experts, and towers."""

    def __init__(self, schema: Schema, settings: MMoESettings, names: list[str]) -> None:
        super().__init__()
        mm = torch_models()
        self.features = FlatFeatures(schema, settings)
        self.keys = {name: key_of(name) for name in names}
        gates = mm.ParallelBlock({key: nn.Identity() for key in self.keys.values()})
        expert = mlp(settings.expert_mlp, settings)
        self.experts = mm.MMOEBlock(expert, settings.experts, outputs=gates)
        self.towers = Towers(schema, names, settings)

    def forward(self, inputs: Inputs) -> Logits:
        """→ logits ``(batch, 1)`` by label."""
        mixed = self.experts(self.features(inputs))
        return self.towers({name: mixed[key] for name, key in self.keys.items()})


def build(schema: Schema, settings: MMoESettings) -> ObjectivesModel:
    """The model for the schema's labels.

    Raises:
        UserError: fewer than two labels.
    """
    names = labels(schema, settings, "mmoe")
    return assemble("mmoe", MMoE(schema, settings, names), schema, settings, names)
