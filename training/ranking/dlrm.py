"""DLRM: Naumov et al., "Deep learning recommendation model for personalization and
recommendation systems", 2019 (arXiv:1906.00091), as Merlin's ``DLRMModel``.

Integers go through the bottom MLP to a vector of ``embedding_dim``; the dot products of all pairs
among it and the embeddings, beside that vector itself, go through the top MLP to a logit.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from core.settings import Settings

if TYPE_CHECKING:
    from core.merlin import Schema
    from training.ranking.click_model import ClickModel

Width = Annotated[int, Field(ge=1)]


class DLRMSettings(Settings):
    """The net's sizes."""

    embedding_dim: int = Field(16, ge=1)
    """Width of every embedding and of the bottom MLP's output."""

    bottom_mlp: list[Width] = Field([512, 256, 64])
    """Widths of the bottom MLP before its last layer, which has ``embedding_dim``."""

    top_mlp: list[Width] = Field([512, 256], min_length=1)
    """Widths of the top MLP before the logit."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the top MLP's activations dropped in training."""

    initialisation: Literal["dlrm", "normal"] = "dlrm"
    """dlrm: as in Facebook's code, tables uniform within ±1/√rows and layers normal with
    Xavier's variance; normal: tables with standard deviation 0.01, layers as torch starts them."""


def build(schema: "Schema", settings: DLRMSettings) -> "ClickModel":
    """A DLRM for the schema's CONTINUOUS and CATEGORICAL columns.

    Raises:
        UserError: the schema lacks one of the two, or the target.
    """
    from core.merlin import Tags, torch_models
    from training.embeddings import group_tables, initialise_layers
    from training.ranking.click_model import ClickModel, logit_output, required_columns

    mm = torch_models()
    required_columns(schema, Tags.CONTINUOUS, "dlrm")
    required_columns(schema, Tags.CATEGORICAL, "dlrm")
    body = mm.DLRMModel(
        schema.excluding_by_tag(Tags.TARGET),
        dim=settings.embedding_dim,
        bottom_block=mm.MLPBlock([*settings.bottom_mlp, settings.embedding_dim]),
        top_block=mm.MLPBlock(settings.top_mlp, dropout=settings.dropout or None),
        output_block=logit_output(schema),
    )
    model = ClickModel(body, schema, settings)
    group_tables(model, schema, settings.initialisation)
    if settings.initialisation == "dlrm":
        initialise_layers(model)
    return model
