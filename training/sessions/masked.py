"""Models that attend both ways and learn by guessing hidden events."""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import nn

from core.merlin import Schema
from training.sessions.masking import training_task
from training.sessions.next_item import NeuralModel
from training.sessions.ragged import (
    Batch,
    Sessions,
    Windows,
    by_length,
    every_step,
    pad,
    training_windows,
    windows_through,
)
from training.sessions.transformer import transformer_block
from training.sessions.transformer_settings import MaskedSettings

CANDIDATES_AT_MOST = 1_000
"""Hidden events of a batch that replacements are drawn from."""


class Guessed(NamedTuple):
    """The hidden events of some sequences."""

    columns: dict[str, torch.Tensor]
    """The sequences, dense columns ``(batch, length)``."""
    where: torch.Tensor
    """Which of their events are guessed, ``(batch, length)``."""
    hidden: torch.Tensor
    """What the network makes of each guessed event, ``(events, d_model)``."""
    targets: torch.Tensor
    """What it is, ``(events,)``."""
    viewed: torch.Tensor
    """The item before it; where that is not seen, the event's own, ``(events,)``."""


class MaskedModel(NeuralModel):
    """A transformer of Transformers4Rec that is asked by a mask put after the last event.

    A subclass names the network. The whole interaction is hidden where an event is to be guessed,
    so no side feature of the answer is seen.
    """

    settings: MaskedSettings

    def __init__(self, schema: Schema, settings: MaskedSettings):
        super().__init__(schema, settings)
        # The networks drop some of their input themselves.
        self.events.dropout = nn.Identity()
        self.masking = training_task(settings)
        self.network = transformer_block(self.config(settings), self.masking)
        self.replaced = nn.Linear(settings.d_model, 1) if settings.masking == "rtd" else None

    @staticmethod
    @abstractmethod
    def config(settings: Any) -> Any:
        """Transformers4Rec's configuration of the network."""

    def weighted_loss(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """The loss, and over how many guessed events it is the mean."""
        sessions = self._filtered(batch)
        parts = [self._guess(pad(sessions, group)) for group in by_length(self._windows(sessions))]
        if not parts:
            return self.masking.masked_item_embedding.sum() * 0.0, 0
        hidden = torch.cat([part.hidden for part in parts])
        targets = torch.cat([part.targets for part in parts])
        viewed = torch.cat([part.viewed for part in parts])
        loss = self.objective(hidden, targets, viewed, self.items)
        if self.replaced is not None:
            loss = loss + self.settings.rtd_weight * self._replacement_loss(parts)
        return loss, len(targets)

    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """See :meth:`SessionModel.scores`."""
        outputs = self._outputs(prefixes, training=False)
        rows = torch.arange(len(outputs), device=outputs.device)
        return self.items.all_scores(outputs[rows, self.masking.asked])

    def _windows(self, sessions: Sessions) -> Windows:
        """What trains as a sequence: each step with the events before it, or the whole session."""
        if self.settings.sequences == "session":
            return training_windows(sessions, self.max_length)
        return windows_through(sessions, every_step(sessions), self.max_length + 1)

    def _outputs(self, columns: dict[str, torch.Tensor], training: bool) -> torch.Tensor:
        """What the network makes of the events that :attr:`masking` lets see."""
        # Transformers4Rec's own flag, rather than the module's mode, says that there are targets.
        vectors = self.masking(self.events(columns), columns[self.item].long(), training=training)
        return self.network(vectors).float()

    def _guess(self, columns: dict[str, torch.Tensor]) -> Guessed:
        outputs = self._outputs(columns, training=True)
        masking = self.masking
        wanted = masking.masked_targets != 0
        targets, viewed = masking.masked_targets[wanted], masking.viewed[wanted]
        viewed = viewed.where(viewed != 0, targets)
        return Guessed(columns, masking.mask_schema, outputs[wanted], targets, viewed)

    def _replacement_loss(self, parts: list[Guessed]) -> torch.Tensor:
        """Mean binary cross-entropy of telling, of every event, whether it was replaced.

        Hidden events become other hidden events of the batch, drawn by how probable the model finds
        their items there; where it draws the true item nothing was replaced (Clark et al., ELECTRA,
        2020, with one network for both parts).
        """
        found = {
            name: torch.cat([part.columns[name][part.where] for part in parts])
            for name in self.columns
        }
        drawn = self._draw(torch.cat([part.hidden for part in parts]), found[self.item].long())
        drawn = drawn.split([len(part.hidden) for part in parts])
        logits, labels = [], []
        for part, chosen in zip(parts, drawn, strict=True):
            columns = {name: values.clone() for name, values in part.columns.items()}
            for name, values in columns.items():
                values[part.where] = found[name][chosen]
            with self.masking.nothing_hidden():
                outputs = self._outputs(columns, training=True)
            present = columns[self.item] != 0
            logits.append(self.replaced(outputs[present]).squeeze(1))
            labels.append((columns[self.item] != part.columns[self.item])[present].float())
        return nn.functional.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(labels))

    @torch.no_grad()
    def _draw(self, hidden: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """For each hidden event the number of the one that takes its place, ``(events,)``."""
        among = torch.randperm(len(items), device=items.device)[:CANDIDATES_AT_MOST]
        logits = self.items.scores(hidden, self.items.candidates(items[among]))
        return among[self.masking.sample_from_softmax(logits)]
