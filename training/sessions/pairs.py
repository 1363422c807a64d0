"""Models that keep for each item the items that go with it best."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from core.errors import UserError
from core.merlin import Schema
from training.sessions.counting import (
    CountingModel,
    Observed,
    SessionLog,
    items_fault,
    observed_sessions,
    offsets_fault,
)
from training.sessions.counting_settings import NeighbourSettings
from training.sessions.neighbour_loops import add_partners, strongest_pairs
from training.sessions.ragged import FIRST_ITEM, Batch

ITEMS_AT_ONCE = 4096


class Pairs(NamedTuple):
    """How a model counts pairs of items; see :func:`strongest_pairs`."""

    weights: np.ndarray
    """What a pair counts by its distance, from 1, ``(distances,)``."""
    both: bool
    """Whether an item's partners may come before it."""
    own: bool
    """Whether an item can be its own partner."""
    rows: np.ndarray
    """Factor of the item, ``(num_items,)``."""
    columns: np.ndarray
    """Factor of the partner, ``(num_items,)``."""


class PairModel(CountingModel):
    """Scores the partners of the last event and, less, of those before it.

    The partners of item i are ``partners[offsets[i]:offsets[i + 1]]``, the strongest first, with
    their ``strengths``. Items that are no partner come after those that are, by popularity.
    """

    sized_by_data = ("partners", "strengths")
    offsets: torch.Tensor
    partners: torch.Tensor
    strengths: torch.Tensor

    def __init__(self, schema: Schema, settings: NeighbourSettings):
        super().__init__(schema, settings, settings.max_length)
        self.register_buffer("offsets", torch.zeros(self.num_items + 1, dtype=torch.int64))
        self.register_buffer("partners", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("strengths", torch.zeros(0, dtype=torch.float32))
        self._log = SessionLog()

    def pairs(self, longest: int) -> Pairs:
        """What is counted, once ``counts`` are known.

        Args:
            longest: events of the longest session.
        """
        raise NotImplementedError

    def observe(self, batch: Batch) -> None:
        """Keeps the batch's sessions: the pairs of all of them are counted by :meth:`finish`.

        Raises:
            UserError: the model was read from a file, which does not hold its sessions.
        """
        if self.counts[FIRST_ITEM:].any() and not self._log.events:
            raise UserError(
                f"{type(self).__name__}: a saved model holds no sessions and cannot be trained "
                "further; train a new one on all sessions"
            )
        super().observe(batch)
        self._log.add(observed_sessions(self, batch))

    def finish(self) -> None:
        """Finds each item's partners in all sessions that were observed."""
        sessions = self._log.all()
        longest = int(np.diff(sessions.offsets).max(initial=1))
        blocks = list(_blocks(sessions, self.pairs(longest), self.settings.neighbours))
        found, partners, strengths = (np.concatenate(part) for part in zip(*blocks, strict=True))
        self.offsets[1:] = torch.from_numpy(found.cumsum())
        self.partners = torch.from_numpy(partners)
        self.strengths = torch.from_numpy(strengths)

    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """See :meth:`SessionModel.scores`."""
        items = prefixes[self.item].long().cpu()
        scores = torch.zeros(len(items), self.num_items)
        weights = np.float32(self.settings.decay) ** np.arange(items.shape[1], dtype=np.float32)
        tables = (self.offsets, self.partners, self.strengths)
        add_partners(
            items.numpy(), weights, *(table.cpu().numpy() for table in tables), scores.numpy()
        )
        return self.then_popular(scores.to(self.counts.device))

    def state_fault(self) -> str:
        """See :meth:`CountingModel.state_fault`."""
        if len(self.partners) != len(self.strengths):
            return "its partners and strengths differ in number"
        fault = offsets_fault(self.offsets.numpy(), len(self.partners))
        fault = fault or items_fault(self.partners.numpy(), self.num_items)
        return fault or super().state_fault()


def _blocks(
    sessions: Observed, pairs: Pairs, kept: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For some items at a time: how many partners each has, the partners, their strengths."""
    num_items = len(pairs.rows)
    events = np.argsort(sessions.items, kind="stable")
    counts = np.bincount(sessions.items, minlength=num_items)
    event_offsets = np.concatenate([[0], counts.cumsum()])
    session_of = sessions.session_of_event()
    for first in range(0, num_items, ITEMS_AT_ONCE):
        last = min(num_items, first + ITEMS_AT_ONCE)
        partners = np.empty((last - first, kept), np.int32)
        strengths = np.empty((last - first, kept), np.float32)
        found = np.zeros(last - first, np.int64)
        strongest_pairs(
            sessions.items, sessions.offsets, session_of, events, event_offsets, first, last,
            pairs.weights, pairs.both, pairs.own, pairs.rows, pairs.columns, kept, partners,
            strengths, found,
        )  # fmt: skip
        filled = np.arange(kept) < found[:, None]
        yield found, partners[filled], strengths[filled]
