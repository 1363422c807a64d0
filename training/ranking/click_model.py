"""What every click model shares: a Merlin model that ends in a logit, its loss and its metrics."""

import torch
from torch import nn

from core.errors import UserError
from core.merlin import Schema, Tags, torch_models
from core.settings import Settings
from training.batches import Batch, Inputs
from training.engine import Monitor
from training.metrics.binary import BinaryAccumulator


class ClickModel(nn.Module):
    """A Merlin model with a :func:`logit_output`, as the engine trains it.

    Args:
        body: called with the inputs of a batch, gives logits ``(batch, 1)``. Its lazy layers are
            set up here, so that it is whole before its first step.
        schema: of the features, the target among them.
        settings: the model's own.
    """

    monitor = Monitor("logloss", "min")

    def __init__(self, body: nn.Module, schema: Schema, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.input_names = schema.excluding_by_tag(Tags.TARGET).column_names
        self.body = body
        body.initialize(_example(schema))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Inputs as ``Batches`` gives them → logits ``(batch,)``; their sigmoid is P(click)."""
        return self.body(inputs).squeeze(-1)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean binary cross-entropy in nats, computed from logits: exact however sure the model."""
        inputs, targets = batch
        return nn.functional.binary_cross_entropy_with_logits(self(inputs).float(), targets)

    def predict(self, batch: Batch) -> torch.Tensor:
        """Logits ``(batch,)``, float32."""
        return self(batch[0]).float()

    def metrics(self) -> BinaryAccumulator:
        """AUC, log loss and the others of ``training.metrics.binary``."""
        return BinaryAccumulator()


def logit_output(schema: Schema) -> nn.Module:
    """Merlin's ``BinaryOutput`` without its sigmoid: the loss is computed from logits."""
    output = torch_models().BinaryOutput(_target(schema), loss=nn.BCEWithLogitsLoss())
    del output.values[-1]
    return output


def required_columns(schema: Schema, tag: Tags, model: str) -> Schema:
    """The inputs with ``tag``.

    Raises:
        UserError: there is none, naming ``model`` and the tag.
    """
    columns = schema.excluding_by_tag(Tags.TARGET).select_by_tag(tag)
    if not columns:
        raise UserError(f"model {model}: needs columns tagged {tag.name}; the features have none")
    return columns


def _target(schema: Schema) -> Schema:
    targets = schema.select_by_tag(Tags.BINARY_CLASSIFICATION)
    if len(targets) != 1:
        found = ", ".join(targets.column_names) or "none"
        raise UserError(f"expected one column tagged BINARY_CLASSIFICATION to predict, got {found}")
    return targets


def _example(schema: Schema):
    """A batch of two rows of zeros, for layers that learn their input size from one."""
    inputs = {}
    for column in schema.excluding_by_tag(Tags.TARGET):
        dtype = torch.int32 if column.int_domain else torch.float32
        inputs[column.name] = torch.zeros(2, dtype=dtype)
    return torch_models().Batch(inputs)
