"""Shared bottom: Caruana, "Multitask learning", 1997. One MLP for all labels, a tower for each."""

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


class SharedBottomSettings(ObjectivesSettings):
    """The net's sizes."""

    bottom_mlp: list[Width] = Field([512, 256], min_length=1)
    """Widths of the MLP that all labels share."""


class SharedBottom(nn.Module):
    """Features, an MLP, and towers."""

    def __init__(self, schema: Schema, settings: SharedBottomSettings, names: list[str]) -> None:
        super().__init__()
        self.features = FlatFeatures(schema, settings)
        self.bottom = mlp(settings.bottom_mlp, settings)
        self.towers = Towers(schema, names, settings)
        self.names = names

    def forward(self, inputs: Inputs) -> Logits:
        """→ logits ``(batch, 1)`` by label."""
        return self.towers(dict.fromkeys(self.names, self.bottom(self.features(inputs))))


def build(schema: Schema, settings: SharedBottomSettings) -> ObjectivesModel:
    """The model for the schema's labels.

    Raises:
        UserError: fewer than two labels.
    """
    names = labels(schema, settings, "shared_bottom")
    body = SharedBottom(schema, settings, names)
    return assemble("shared_bottom", body, schema, settings, names)
