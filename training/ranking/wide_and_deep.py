"""Wide & Deep: Cheng et al., "Wide & deep learning for recommender systems", 2016
(arXiv:1606.07792). A linear model over columns and their crosses, and an MLP over embeddings, are
trained together; their logits are added.
"""

import torch
from pydantic import Field
from torch import nn

from core.errors import UserError
from core.merlin import Schema, Tags, torch_models
from training.batches import Inputs
from training.ranking.click_model import ClickModel, assemble, logit_output
from training.ranking.layers import FirstOrder, FlatFeatures, mlp, required_inputs
from training.ranking.settings import DeepSettings, Width


class WideAndDeepSettings(DeepSettings):
    """The two towers."""

    deep_mlp: list[Width] = Field([512, 256], min_length=1)
    """Widths of the deep tower before its logit."""

    wide: tuple[str, ...] | None = None
    """Columns of the linear tower; null: all, the crosses among them."""

    crosses: tuple[str, ...] = ()
    """Crossed columns (``A_X_B``, made by ranking.preprocess.workflow.crosses) that the linear
    tower alone reads."""


class WideAndDeep(nn.Module):
    """The sum of two towers' logits."""

    def __init__(self, schema: Schema, settings: WideAndDeepSettings) -> None:
        super().__init__()
        inputs = schema.excluding_by_tag(Tags.TARGET)
        wide = inputs if settings.wide is None else inputs.select_by_name(list(settings.wide))
        crosses = [name for name in settings.crosses if name not in wide.column_names]
        self.wide = FirstOrder(wide + inputs.select_by_name(crosses) if crosses else wide)
        self.features = FlatFeatures(inputs.excluding_by_name(list(settings.crosses)), settings)
        self.deep = torch_models().Block(mlp(settings.deep_mlp, settings), logit_output(schema))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        return self.wide(inputs) + self.deep(self.features(inputs))


def build(schema: Schema, settings: WideAndDeepSettings) -> ClickModel:
    """The two towers on the schema's CATEGORICAL and CONTINUOUS columns.

    Raises:
        UserError: ``wide`` or ``crosses`` names a column that the features lack.
    """
    required_inputs(schema, "wide_and_deep")
    inputs = schema.excluding_by_tag(Tags.TARGET)
    for setting in ("wide", "crosses"):
        for name in getattr(settings, setting) or ():
            if name not in inputs.column_names:
                raise UserError(
                    f"model wide_and_deep: ranking.wide_and_deep.{setting}: the features have no "
                    f"column {name}; there are {', '.join(inputs.column_names)}. Crosses are made "
                    "by ranking.preprocess.workflow.crosses"
                )
    if not settings.wide and settings.wide is not None and not settings.crosses:
        raise UserError("model wide_and_deep: ranking.wide_and_deep.wide: names no column")
    if set(inputs.column_names) == set(settings.crosses):
        raise UserError(
            "model wide_and_deep: ranking.wide_and_deep.crosses: names every column; none is left "
            "for the deep tower"
        )
    return assemble("wide_and_deep", WideAndDeep(schema, settings), schema, settings)
