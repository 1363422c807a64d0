"""DLRM: Naumov et al., "Deep learning recommendation model for personalization and
recommendation systems", 2019 (arXiv:1906.00091), from the same blocks as Merlin's ``DLRMModel``.

Integers go through the bottom MLP to a vector of ``embedding_dim``; the dot products of all pairs
among it and the embeddings, beside that vector itself, go through the top MLP to a logit.
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
from training.ranking.interaction import DotInteraction
from training.ranking.layers import Numbers, mlp, one_width, required_inputs
from training.ranking.settings import DeepSettings, Width


class DLRMSettings(DeepSettings):
    """The net's sizes."""

    bottom_mlp: list[Width] = Field([512, 256, 64])
    """Widths of the bottom MLP before its last layer, which has ``embedding_dim``."""

    top_mlp: list[Width] = Field([512, 256], min_length=1)
    """Widths of the top MLP before the logit."""

    interaction_itself: bool = False
    """Whether the dot product of each vector with itself goes into the top MLP too."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the top MLP's activations dropped in training."""

    initialisation: Literal["dlrm", "normal"] = "dlrm"
    """dlrm: as in Facebook's code, tables uniform within ±1/√rows and layers normal with
    Xavier's variance; normal: tables with standard deviation 0.01, layers as torch starts them."""


class DLRM(nn.Module):
    """Bottom MLP and tables, dot products, top MLP.

    Merlin's router hands vectors on one by one and stacks them again; here they stay one tensor.
    """

    def __init__(self, schema: Schema, settings: DLRMSettings) -> None:
        super().__init__()
        inputs = schema.excluding_by_tag(Tags.TARGET)
        codes = inputs.select_by_tag(Tags.CATEGORICAL)
        dim = one_width(inputs, settings, "dlrm")
        self.tables = make_tables(codes, dim, settings.tables, settings.initialisation)
        self.numbers = Numbers(inputs)
        # The vector that meets the embeddings is neither dropped nor normalised.
        plain = settings.model_copy(update={"dropout": 0.0, "normalisation": "none"})
        self.bottom = mlp([*settings.bottom_mlp, dim], plain)
        self.interaction = DotInteraction(len(codes) + 1, dim, settings.interaction_itself)
        self.top = torch_models().Block(mlp(settings.top_mlp, settings), logit_output(schema))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        vectors = stack_vectors(self.tables, inputs)
        return self.top(self.interaction(vectors, self.bottom(self.numbers(inputs))))


def build(schema: Schema, settings: DLRMSettings) -> ClickModel:
    """A DLRM for the schema's CONTINUOUS and CATEGORICAL columns.

    Raises:
        UserError: the schema lacks one of the two, or the target, or tables of different widths.
    """
    required_inputs(schema, "dlrm", Tags.CONTINUOUS, Tags.CATEGORICAL)
    return assemble("dlrm", DLRM(schema, settings), schema, settings)
