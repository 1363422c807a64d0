"""V-SkNN: what the most similar sessions of the past held, late events counting most.

Ludewig and Jannach, Evaluation of session-based recommendation algorithms, 2018 (V-SkNN); Garg et
al., Sequence and time aware neighborhood for session-based recommendations, 2019 (``closeness``).
"""

from collections.abc import Mapping

import numpy as np
import torch

from core.merlin import Schema
from training.sessions.counting import (
    START,
    CountingModel,
    Observed,
    SessionLog,
    items_fault,
    observed_sessions,
    offsets_fault,
)
from training.sessions.counting_settings import VSkNNSettings
from training.sessions.neighbour_loops import add_similar_sessions
from training.sessions.ragged import Batch
from training.sessions.weighting import by_distance, by_place

EVENTS_TO_PRUNE = 4_000_000
"""Events that are collected before sessions that cannot matter are let go for the first time."""


class VSkNN(CountingModel):
    """Compares the prefix with the sessions of the past.

    Of the sessions that are kept, in the order of their ``session_starts`` and, where these are
    equal, of arrival: ``session_items``, the different items of each, and ``session_offsets``. An
    item of which ``sample_size`` later sessions exist never looks at an earlier one, so sessions
    that are not among the latest ``sample_size`` of any of their items are not kept: at most
    ``sample_size`` times the number of items are.

    ``holders``, ``(num_items,)``, and ``seen`` are how many sessions held each item, and in all.
    """

    observed = (START,)
    sized_by_data = ("session_items", "session_offsets", "session_starts")
    any_sign = ("session_starts",)
    session_items: torch.Tensor
    session_offsets: torch.Tensor
    session_starts: torch.Tensor
    holders: torch.Tensor
    seen: torch.Tensor

    def __init__(self, schema: Schema, settings: VSkNNSettings):
        super().__init__(schema, settings, settings.max_length)
        self.register_buffer("session_items", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("session_offsets", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("session_starts", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("holders", torch.zeros(self.num_items, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._log = SessionLog()
        self._prune_at = EVENTS_TO_PRUNE
        self._index: tuple[np.ndarray, np.ndarray] | None = None

    def observe(self, batch: Batch) -> None:
        """Keeps the batch's sessions, as long as they are among the latest of an item."""
        if not self._log.events and len(self.session_items):
            self._log.add(self._kept())  # what was learned before is trained further
        super().observe(batch)
        sessions = _without_repeats(observed_sessions(self, batch), self.num_items)
        self.holders += torch.from_numpy(np.bincount(sessions.items, minlength=self.num_items))
        self.seen += len(sessions.starts)
        self._log.add(sessions)
        if self._log.events > self._prune_at:
            kept = self._latest()
            self._log.clear()
            self._log.add(kept)
            self._prune_at = max(EVENTS_TO_PRUNE, 2 * self._log.events)

    def finish(self) -> None:
        """Puts the sessions that are kept into the order of time."""
        kept = self._latest()
        self._log.clear()
        self._index = None
        self.session_items, self.session_offsets, self.session_starts = map(torch.from_numpy, kept)

    def _kept(self) -> Observed:
        tensors = (self.session_items, self.session_offsets, self.session_starts)
        return Observed(*(tensor.cpu().numpy() for tensor in tensors))

    def _latest(self) -> Observed:
        """The observed sessions that are among the latest of an item, by their start."""
        sessions = self._log.all()
        sessions = sessions.chosen(np.argsort(sessions.starts, kind="stable"))
        return sessions.chosen(np.unique(self._holding(sessions.items, sessions.offsets)[0]))

    def _holding(self, items: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each item the latest ``sample_size`` sessions that hold it, the latest first.

        Returns:
            The sessions, items one after another, and where those of each item begin,
            ``(num_items + 1,)``.
        """
        backwards = np.argsort(items[::-1], kind="stable")
        session_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        sessions = session_of[::-1][backwards]
        counts = np.bincount(items, minlength=self.num_items)
        begins = counts.cumsum() - counts
        place = np.arange(len(items)) - np.repeat(begins, counts)
        kept = np.minimum(counts, self.settings.sample_size)
        wanted = place < self.settings.sample_size
        return sessions[wanted], np.concatenate([[0], kept.cumsum()])

    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """See :meth:`SessionModel.scores`; items of no neighbour come last, by popularity."""
        settings = self.settings
        items, offsets, _ = self._kept()
        self._index = self._index or self._holding(items, offsets)
        idf = np.log(np.maximum(int(self.seen), 1) / np.maximum(self.holders.cpu().numpy(), 1))
        weights = np.ones(len(offsets) - 1)
        if settings.similarity == "cosine":
            weights = 1 / np.sqrt(np.diff(offsets))
        asked = prefixes[self.item].long().cpu()
        scores = torch.zeros(len(asked), self.num_items)
        add_similar_sessions(
            asked.numpy(), by_place(settings.weighting, asked.shape[1]),
            by_distance(settings.score_weighting, asked.shape[1]), 1 + settings.idf * idf, items,
            offsets, weights, *self._index, settings.sample_size, settings.k, settings.closeness,
            settings.earlier, scores.numpy(),
        )  # fmt: skip
        return self.then_popular(scores.to(self.counts.device))

    def make_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """See :meth:`CountingModel.make_room`."""
        super().make_room(shapes)
        self._index = None

    def state_fault(self) -> str:
        """See :meth:`CountingModel.state_fault`."""
        items, offsets, starts = self._kept()
        if len(starts) != len(offsets) - 1:
            return "its sessions and their starts differ in number"
        fault = offsets_fault(offsets, len(items)) or items_fault(items, self.num_items)
        return fault or super().state_fault()


def _without_repeats(sessions: Observed, num_items: int) -> Observed:
    """Of each item's events in a session the last one."""
    session_of = sessions.session_of_event()
    keys = session_of * num_items + sessions.items
    _, backwards = np.unique(keys[::-1], return_index=True)
    kept = np.sort(len(keys) - 1 - backwards)
    lengths = np.bincount(session_of[kept], minlength=len(sessions.starts))
    return Observed(sessions.items[kept], np.concatenate([[0], lengths.cumsum()]), sessions.starts)
