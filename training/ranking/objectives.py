"""Models of several labels, such as click and purchase: what they share beside a click model."""

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn

from core.errors import UserError
from core.merlin import Schema, Tags, torch_models
from core.names import key_of
from training.batches import Batch, Inputs
from training.metrics.binary import BinaryAccumulator
from training.ranking.click_model import ClickModel, finish, logit_output
from training.ranking.layers import mlp, required_inputs
from training.ranking.losses import click_loss
from training.ranking.settings import DeepSettings, Width

Logits = dict[str, torch.Tensor]


class ObjectivesSettings(DeepSettings):
    """The labels and their towers."""

    objectives: tuple[str, ...] = ()
    """Label columns to predict, the main one first; none: all that the features have. The main
    one's probability is what scores a row, and its log loss stops the training."""

    objective_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of a label's loss in the sum, by column; 1 where not given."""

    tower_mlp: list[Width] = Field([64])
    """Widths of each label's own MLP before its logit."""

    @field_validator("objective_weights")
    @classmethod
    def _positive(cls, value: dict[str, float]) -> dict[str, float]:
        wrong = [name for name, weight in value.items() if weight <= 0]
        if wrong:
            raise ValueError(f"the weight of {wrong[0]} is not above 0")
        return value


class ObjectivesModel(ClickModel):
    """A model whose body gives ``(batch, 1)`` logits by label.

    Args:
        names: of the labels, the main one first.
    """

    def __init__(
        self, body: nn.Module, schema: Schema, settings: ObjectivesSettings, names: list[str]
    ) -> None:
        super().__init__(body, schema, settings)
        self.names = names

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits of the main label, ``(batch,)``."""
        return self.logits(inputs)[self.names[0]]

    def logits(self, inputs: Inputs) -> Logits:
        """→ logits ``(batch,)`` by label."""
        return {name: logit.squeeze(-1).float() for name, logit in self.body(inputs).items()}

    def loss(self, batch: Batch) -> torch.Tensor:
        """The weighted sum of the labels' losses."""
        inputs, targets = batch
        weights = self.settings.objective_weights
        losses = [
            weights.get(name, 1.0) * click_loss(logits, targets[name], self.settings)
            for name, logits in self.logits(inputs).items()
        ]
        return sum(losses[1:], losses[0])

    def predict(self, batch: Batch) -> Logits:
        """Logits ``(batch,)`` by label, float32."""
        return self.logits(batch[0])

    def metrics(self) -> "ObjectivesAccumulator":
        """The main label's metrics, and the others' under ``LABEL_metric``."""
        return ObjectivesAccumulator(self.names)


class ObjectivesAccumulator(BinaryAccumulator):
    """Pools the main label; the others beside it."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names[0])
        self.main, *others = names
        self.others = {name: BinaryAccumulator(name) for name in others}

    def update(self, prediction: Logits, batch: Any) -> None:
        """Takes a batch's logits by label; the batch's targets are by label too."""
        super().update(prediction[self.main], batch)
        for name, accumulator in self.others.items():
            accumulator.update(prediction[name], batch)

    def state(self) -> dict[str, torch.Tensor]:
        """Every label's rows so far, those of the others under ``LABEL_name``."""
        found = super().state()
        for name, accumulator in self.others.items():
            found |= {f"{name}_{key}": rows for key, rows in accumulator.state().items()}
        return found

    def add(self, state: dict[str, torch.Tensor]) -> None:
        """Takes in another accumulator's rows."""
        super().add(state)
        for name, accumulator in self.others.items():
            accumulator.add({key: state[f"{name}_{key}"] for key in ("labels", "logits")})

    def compute(self) -> dict[str, float]:
        """The metrics of everything seen."""
        found = dict(super().compute())
        for name, accumulator in self.others.items():
            found |= {f"{name}_{key}": value for key, value in accumulator.compute().items()}
        return found


class Towers(nn.Module):
    """An MLP and a logit for each label."""

    def __init__(self, schema: Schema, names: list[str], settings: ObjectivesSettings) -> None:
        super().__init__()
        self.towers = nn.ModuleDict()
        self.keys = {name: key_of(name) for name in names}
        for name, key in self.keys.items():
            output = logit_output(schema.select_by_name([name]))
            layers = [mlp(settings.tower_mlp, settings)] if settings.tower_mlp else []
            self.towers[key] = torch_models().Block(*layers, output)

    def forward(self, features: dict[str, torch.Tensor]) -> Logits:
        """``(batch, width)`` by label → ``(batch, 1)`` by label."""
        return {name: self.towers[key](features[name]) for name, key in self.keys.items()}


def labels(schema: Schema, settings: ObjectivesSettings, model: str) -> list[str]:
    """The label columns that ``model`` is to predict.

    Raises:
        UserError: fewer than two, or one that the features lack, naming model and setting.
    """
    required_inputs(schema, model)
    found = schema.select_by_tag(Tags.BINARY_CLASSIFICATION).column_names
    for setting in ("objectives", "objective_weights"):
        for name in getattr(settings, setting):
            if name not in found:
                raise UserError(
                    f"model {model}: ranking.{model}.{setting}: the features have no label column "
                    f"{name} tagged BINARY_CLASSIFICATION; there are {', '.join(found) or 'none'}"
                )
    names = list(settings.objectives) or found
    if len(set(names)) < 2:
        raise UserError(
            f"model {model}: ranking.{model}.objectives: needs two labels at least, tagged "
            f"BINARY_CLASSIFICATION; got {', '.join(names) or 'none'}. "
            "For one label take another model, such as dlrm"
        )
    return names


def assemble(
    model: str, body: nn.Module, schema: Schema, settings: ObjectivesSettings, names: list[str]
) -> ObjectivesModel:
    """The model around ``body``, its layers as ``settings`` start them."""
    return finish(model, ObjectivesModel(body, schema, settings, names))
