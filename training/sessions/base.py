"""What every session model has in common, whatever is inside."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags
from core.settings import Settings
from training.sessions.evaluation import (
    RankedSteps,
    SessionEvaluationSettings,
    SessionMetrics,
    rank_steps,
    validation_settings,
)
from training.sessions.ragged import FIRST_ITEM, Batch, Sessions, sessions_from_inputs
from training.sessions.settings import shown_length
from training.trainable import Monitor


class SessionModel(torch.nn.Module, ABC):
    """Next-item recommender over sessions; a :class:`training.engine.Trainable`.

    A subclass says how it learns (``loss``) and how it scores (``scores``); how it is validated is
    the same for all.

    Attributes:
        settings: the model's own settings.
        item: name of the item column.
        columns: names of the list columns that the model reads, the item first.
        num_items: size of the item vocabulary with its reserved codes.
        max_length: events that the model looks back over.
        evaluation: protocol and filters of the validation in training.
    """

    learns_by_gradient: ClassVar[bool] = True
    """Where false, ``observe`` is called with every training batch once, instead of ``loss``."""
    observes_first: ClassVar[bool] = False
    """Where true, ``observe`` is called so before the first call of ``loss``."""
    has_observed: bool = False
    """Whether it was: what goes on from another model's weights may have seen more than it will be
    trained on, and must not count that twice."""
    observed: ClassVar[tuple[str, ...]] = ()
    """Scalar columns that ``observe`` reads beside ``columns``."""

    def __init__(self, schema: Schema, settings: Settings, max_length: int):
        super().__init__()
        self.settings = settings
        self.item = item_column(schema).name
        self.columns = [self.item]
        self.num_items = cardinality(schema[self.item])
        self.max_length = max_length
        self.evaluation = validation_settings(SessionEvaluationSettings())

    @property
    def monitor(self) -> Monitor:
        """The metric that stops training, of those that :attr:`evaluation` asks for."""
        return Monitor(f"ndcg@{shown_length(self.evaluation.ks)}", "max")

    @abstractmethod
    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """Scores of the next item after each prefix.

        Args:
            prefixes: dense columns ``(batch, width)``, zeros after the last event; at least one
                event each, at most ``max_length``.

        Returns:
            ``(batch, num_items)``, higher is better; what stands in the reserved columns (below
            ``FIRST_ITEM``) means nothing.
        """

    def loss(self, batch: Batch) -> torch.Tensor:
        """Loss of a training batch of whole sessions: a scalar, the mean over its targets."""
        raise NotImplementedError(f"{type(self).__name__} does not learn by gradient")

    def observe(self, batch: Batch) -> None:
        """Takes in a training batch, for models that count before or instead of learning."""
        raise NotImplementedError(f"{type(self).__name__} learns by gradient alone")

    def finish(self) -> None:
        """Called once after the last ``observe``."""

    def predict(self, batch: Batch) -> RankedSteps:
        """Where the model ranks what came next in the batch's sessions."""
        return rank_steps(self, batch, self.evaluation)

    def metrics(self) -> SessionMetrics:
        """A fresh accumulator of what ``predict`` returns."""
        return SessionMetrics(self.evaluation, self.num_items)

    def sessions(self, batch: Batch) -> Sessions:
        """The columns of a loader's batch that this model reads."""
        return sessions_from_inputs(batch[0], self.columns)


def item_column(schema: Schema) -> ColumnSchema:
    """The one column tagged ITEM_ID.

    Raises:
        UserError: there is none, or more than one, or its vocabulary is empty.
    """
    found = schema.select_by_tag(Tags.ITEM_ID)
    if len(found) != 1:
        raise UserError(
            "sessions: expected one column tagged ITEM_ID in the features' schema, found "
            f"{', '.join(found.column_names) or 'none'}; run preprocess again"
        )
    column = found.first
    if cardinality(column) <= FIRST_ITEM:
        raise UserError(
            f"sessions: the vocabulary of '{column.name}' is empty: no item was frequent enough "
            "in training; check the input log and the workflow's item_freq_threshold"
        )
    return column


def cardinality(column: ColumnSchema) -> int:
    """Number of codes of a categorical column, the reserved ones included."""
    domain = column.int_domain
    if domain is None or domain.max is None:
        raise UserError(
            f"sessions: the schema gives no vocabulary size for '{column.name}'; "
            "run preprocess again"
        )
    return int(domain.max) + 1


def side_features(schema: Schema) -> list[str]:
    """Names of the categorical and continuous list columns, the item left out."""
    item = item_column(schema).name
    return [
        column.name
        for column in schema
        if column.is_list
        and column.name != item
        and {Tags.CATEGORICAL, Tags.CONTINUOUS} & set(column.tags)
    ]
