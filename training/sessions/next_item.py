"""What the neural models of our own share: all steps of a session learn in one causal pass."""

from abc import abstractmethod

import torch

from core.merlin import Schema
from training.sessions.base import SessionModel
from training.sessions.inputs import EventVectors, chosen_columns
from training.sessions.items import ItemVectors
from training.sessions.neural_settings import NextItemSettings
from training.sessions.objective import Objective
from training.sessions.ragged import (
    Batch,
    Sessions,
    by_length,
    drop_repeats,
    drop_unknown,
    positions,
    training_windows,
)


class NeuralModel(SessionModel):
    """A model that compares what it makes of events with item vectors.

    Before the first step it sees the training events once (:meth:`observe`) for how often items
    occur and what their features are. A subclass gives :meth:`weighted_loss` and ``scores``.
    """

    observes_first = True

    def __init__(self, schema: Schema, settings: NextItemSettings) -> None:
        super().__init__(schema, settings, settings.max_length)
        side = chosen_columns(schema, "side_features", settings.side_features)
        described = chosen_columns(schema, "item_features", settings.item_features)
        side = [name for name in side if name not in described]
        self.columns += side + described
        self.items = ItemVectors(schema, settings)
        self.events = EventVectors(schema, self.items, side, settings)
        self.objective = Objective(settings, self.num_items)

    def observe(self, batch: Batch) -> None:
        """Takes in how often items occur and what their features are."""
        sessions = self._filtered(batch)
        self.items.observe(sessions)
        self.objective.observe(sessions.columns[self.item].long())

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean loss over the targets of the batch's sessions; see :meth:`SessionModel.loss`."""
        return self.weighted_loss(batch)[0]

    @abstractmethod
    def weighted_loss(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """The loss, and over how many targets it is the mean."""

    def _filtered(self, batch: Batch) -> Sessions:
        """The events that evaluation would show the model."""
        sessions = drop_unknown(self.sessions(batch), self.item)
        return drop_repeats(sessions, self.item) if self.settings.drop_repeats else sessions


class NextItemModel(NeuralModel):
    """A model whose output at each event depends on that event and earlier ones only.

    A subclass gives :meth:`encode`. What an output learns from is the event after it.
    """

    @abstractmethod
    def encode(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Event vectors → outputs, each of its event and those before it.

        Args:
            vectors: ``(batch, width, d_model)``, padded on the right.
            present: where there is an event, ``(batch, width)``.

        Returns:
            ``(batch, width, d_model)``; what stands at padding means nothing.
        """

    def outputs(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        """Dense columns ``(batch, width)``, zeros after the last event → outputs at every event,
        ``(batch, width, d_model)``."""
        return self.encode(self.events(columns), columns[self.item] != 0)

    def weighted_loss(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """The loss, and over how many steps it is the mean."""
        sessions = self._filtered(batch)
        windows = training_windows(sessions, self.max_length)
        if not len(windows):
            return self.items(torch.tensor(0, device=sessions.offsets.device)).sum() * 0.0, 0
        items = sessions.columns[self.item].long()
        vectors = self.events(sessions.columns)
        hidden, targets = [], []
        for group in by_length(windows):
            index, inside = positions(group)
            outputs = self.encode(vectors[index[:, :-1]], inside[:, :-1])
            hidden.append(outputs[inside[:, 1:]])
            targets.append(index[:, 1:][inside[:, 1:]])
        steps = torch.cat(targets)
        loss = self.objective(torch.cat(hidden), items[steps], items[steps - 1], self.items)
        return loss, len(steps)

    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """See :meth:`SessionModel.scores`."""
        last = (prefixes[self.item] != 0).sum(1) - 1
        outputs = self.outputs(prefixes)
        hidden = outputs[torch.arange(len(last), device=last.device), last]
        return self.items.all_scores(hidden)
