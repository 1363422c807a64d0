"""An ensemble: Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation
using deep ensembles", 2017 (arXiv:1612.01474).

Several click models side by side, alike or not, that begin with different weights and see the same
batches. No weight is shared, and what is predicted is the mean of their logits (the paper's is that
of their probabilities). What single nets get wrong by chance cancels out.
"""

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn

from core.merlin import Schema
from core.settings import Settings, validate
from training import ranking
from training.batches import Batch, Inputs
from training.model_settings import ModelSettings
from training.ranking.click_model import ClickModel, click_target
from training.ranking.settings import ClickSettings

MOST_MEMBERS = 64


class MemberSettings(Settings):
    """One model of several."""

    model: str
    """What ``ranking.model`` calls it."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """Its own settings, as in ``ranking.MODEL``; none of ``train``, which the ensemble has."""


class EnsembleSettings(ModelSettings):
    """The models. Their losses and initial weights are what their own settings say."""

    members: tuple[MemberSettings, ...] = Field(
        (
            MemberSettings(model="dcnv2"),
            MemberSettings(model="finalmlp"),
            MemberSettings(model="wide_and_deep"),
        ),
        min_length=2,
        max_length=MOST_MEMBERS,
    )
    """Which models; one that stands there twice is trained twice."""

    @field_validator("members")
    @classmethod
    def _known(cls, members: tuple[MemberSettings, ...]) -> tuple[MemberSettings, ...]:
        for member in members:
            if member.model not in ranking.MODELS or member.model in NO_MEMBERS:
                known = ", ".join(name for name in ranking.MODELS if name not in NO_MEMBERS)
                raise ValueError(f"{member.model!r} is no click model; known: {known}")
            if "train" in member.settings:
                raise ValueError(
                    f"{member.model}: members are trained together; set train beside members"
                )
            own_settings(member)
        return members


NO_MEMBERS = ("ensemble", *ranking.SEVERAL_LABELS)


def own_settings(member: MemberSettings) -> ClickSettings:
    """The member's settings.

    Raises:
        UserError: naming the setting that is wrong.
    """
    settings = ranking.settings_class(member.model)
    return validate(settings, member.settings, f"ranking.ensemble.members, {member.model}")


class Members(nn.Module):
    """The mean of the members' logits."""

    def __init__(self, models: list[ClickModel]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ ``(batch, 1)``."""
        logits = torch.stack([model(inputs).float() for model in self.models], dim=1)
        return logits.mean(dim=1, keepdim=True)


class Ensemble(ClickModel):
    """A click model whose loss is that of its members."""

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean of the members' losses in nats; its gradient is that of their sum, so that a
        member's step is as large as if it were alone."""
        losses = torch.stack([model.loss(batch) for model in self.body.models])
        return losses.sum() - (losses.sum() - losses.mean()).detach()


def build(schema: Schema, settings: EnsembleSettings) -> Ensemble:
    """The ensemble for the schema's columns.

    Raises:
        UserError: what a member's own ``build`` raises.
    """
    click_target(schema)
    models = [
        ranking.build(member.model, schema, own_settings(member)) for member in settings.members
    ]
    return Ensemble(Members(models), schema, settings)
