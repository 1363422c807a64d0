"""What every click model shares: a Merlin model that ends in a logit, its loss and its metrics."""

import torch
from torch import nn

from core.errors import UserError
from core.merlin import Schema, Tags, torch_models
from training.batches import Batch, Inputs
from training.embeddings import initialise_layers
from training.metrics.binary import BinaryAccumulator, target_of
from training.ranking.losses import click_loss
from training.ranking.low_rank import factorise_before
from training.ranking.settings import ClickSettings, DeepSettings
from training.trainable import Monitor


class ClickModel(nn.Module):
    """What gives a logit for every row, as the engine trains it.

    Args:
        body: called with the inputs of a batch, gives logits ``(batch, 1)``. Its lazy layers are
            set up here, so that it is whole before its first step.
        schema: of the features, the target among them.
        settings: the model's own.
    """

    monitor = Monitor("logloss", "min")

    def __init__(self, body: nn.Module, schema: Schema, settings: ClickSettings) -> None:
        super().__init__()
        self.settings = settings
        self.label = click_target(schema).first.name
        self.input_names = schema.excluding_by_tag(Tags.TARGET).column_names
        self.body = body
        body.train(False)
        with torch.no_grad():
            body(_example(schema))
        body.train(True)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Inputs as ``Batches`` gives them → logits ``(batch,)``; their sigmoid is P(click)."""
        return self.body(inputs).squeeze(-1)

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean of ``settings.loss`` in nats, see :func:`training.ranking.losses.click_loss`."""
        inputs, targets = batch
        target = target_of(targets, self.label)
        return click_loss(self(inputs).float(), target, self.settings)

    def predict(self, batch: Batch) -> torch.Tensor:
        """Logits ``(batch,)``, float32."""
        return self(batch[0]).float()

    def metrics(self) -> BinaryAccumulator:
        """AUC, log loss and the others of ``training.metrics.binary``."""
        return BinaryAccumulator(self.label)


def assemble(name: str, body: nn.Module, schema: Schema, settings: ClickSettings) -> ClickModel:
    """The model ``name`` around ``body``, its layers as ``settings`` start them.

    Raises:
        UserError: the schema has no target, or a rank does not fit its layer.
    """
    click_target(schema)
    return finish(name, ClickModel(body, schema, settings))


def finish(name: str, model: ClickModel) -> ClickModel:
    """``model`` with its layers initialised and, where asked for, of low rank."""
    settings = model.settings
    if settings.initialisation == "dlrm":
        initialise_layers(model)
    if isinstance(settings, DeepSettings) and settings.low_rank.asked_for:
        factorise_before(model, settings.low_rank, f"model {name}: ranking.{name}.low_rank")
    return model


def logit_output(schema: Schema) -> nn.Module:
    """Merlin's ``BinaryOutput`` without its sigmoid: the loss is computed from logits."""
    output = torch_models().BinaryOutput(click_target(schema), loss=nn.BCEWithLogitsLoss())
    del output.values[-1]
    return output


def click_target(schema: Schema) -> Schema:
    """The column that says whether a row was clicked: of several labels the first."""
    targets = schema.select_by_tag(Tags.BINARY_CLASSIFICATION).column_names
    if not targets:
        raise UserError("expected a column tagged BINARY_CLASSIFICATION to predict, got none")
    return schema.select_by_name(targets[:1])


def _example(schema: Schema) -> Inputs:
    """Two rows of zeros, for layers that learn their input size from a batch."""
    inputs = {}
    for column in schema.excluding_by_tag(Tags.TARGET):
        zeros = torch.zeros(2, dtype=torch.int32 if column.int_domain else torch.float32)
        if column.is_list:
            inputs[f"{column.name}__values"] = zeros
            inputs[f"{column.name}__offsets"] = torch.arange(3)
        else:
            inputs[column.name] = zeros
    return inputs
