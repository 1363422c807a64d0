"""What the session models share that count instead of learning by gradient."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from core.errors import UserError
from core.merlin import Schema
from core.settings import Settings
from training.sessions.base import SessionModel
from training.sessions.ragged import FIRST_ITEM, Batch, drop_unknown

START = "start"
"""The scalar column with each session's start, in milliseconds since 1970 UTC."""


class CountingModel(SessionModel):
    """Learns by one pass over the training sessions.

    ``counts``, ``(num_items,)``, are the events of each item. State whose size is known only after
    training lies in the flat buffers that ``sized_by_data`` names.
    """

    learns_by_gradient = False
    sized_by_data: ClassVar[tuple[str, ...]] = ()
    any_sign: ClassVar[tuple[str, ...]] = ()
    """State that may be negative: times."""
    counts: torch.Tensor

    def __init__(self, schema: Schema, settings: Settings, max_length: int):
        super().__init__(schema, settings, max_length)
        missing = [name for name in self.observed if name not in schema.column_names]
        if missing:
            raise UserError(
                f"{type(self).__name__}: the features have no column '{missing[0]}' (found: "
                f"{', '.join(schema.column_names)}); run preprocess again"
            )
        self.register_buffer("counts", torch.zeros(self.num_items, dtype=torch.int64))

    def observe(self, batch: Batch) -> None:
        """Counts the batch's events."""
        items = self.sessions(batch).columns[self.item].long()
        self.counts += torch.bincount(items, minlength=self.num_items)

    def then_popular(self, scores: torch.Tensor) -> torch.Tensor:
        """``scores``, ``(batch, num_items)``, in which items without one (0) come after all
        others, by popularity."""
        return torch.where(scores > 0, scores, self.popularity() - 1)

    def popularity(self) -> torch.Tensor:
        """``counts`` as shares of one more than the most frequent item's, ``(num_items,)``."""
        return self.counts.float() / (self.counts[FIRST_ITEM:].max() + 1)

    def make_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Gives the buffers of ``sized_by_data`` the sizes of a saved state that is to be read."""
        for name in self.sized_by_data:
            if len(shapes.get(name, ())) == 1:
                setattr(self, name, getattr(self, name).new_zeros(shapes[name]))

    def state_fault(self) -> str:
        """What is wrong with a state that was read, which another program may have written."""
        negative = [
            name
            for name, tensor in self.state_dict().items()
            if name not in self.any_sign and tensor.numel() and tensor.min() < 0
        ]
        return f"{negative[0]} holds values below 0" if negative else ""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *more: Any) -> None:
        self.make_room({n.removeprefix(prefix): tuple(t.shape) for n, t in state_dict.items()})
        super()._load_from_state_dict(state_dict, prefix, *more)


class Observed(NamedTuple):
    """Sessions one after another."""

    items: np.ndarray
    """Codes of at least ``FIRST_ITEM``, ``(events,)`` int32."""
    offsets: np.ndarray
    """Where each session begins and the last one ends, ``(sessions + 1,)`` int64."""
    starts: np.ndarray
    """Start of each session, ``(sessions,)`` int64; zeros where it was not read."""

    def session_of_event(self) -> np.ndarray:
        """The number of the session that each event belongs to, ``(events,)``."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def chosen(self, sessions: np.ndarray) -> "Observed":
        """The sessions of these numbers, in their order."""
        lengths = np.diff(self.offsets)[sessions]
        offsets = np.concatenate([[0], lengths.cumsum()])
        events = np.arange(offsets[-1]) + np.repeat(self.offsets[sessions] - offsets[:-1], lengths)
        return Observed(self.items[events], offsets, self.starts[sessions])


def observed_sessions(model: SessionModel, batch: Batch) -> Observed:
    """A batch's sessions without events of unknown items, and those of which any are left."""
    sessions = drop_unknown(model.sessions(batch), model.item)
    lengths = sessions.lengths
    starts = batch[0].get(START, torch.zeros_like(lengths))
    kept = lengths > 0
    offsets = torch.cat([lengths.new_zeros(1), lengths[kept].cumsum(0)])
    arrays = (sessions.columns[model.item].int(), offsets, starts[kept].long())
    return Observed(*(array.cpu().numpy() for array in arrays))


class SessionLog:
    """Collects sessions: 4 bytes an event, 16 a session."""

    def __init__(self) -> None:
        self._pieces: list[Observed] = []
        self.events = 0

    def add(self, sessions: Observed) -> None:
        """Takes in sessions."""
        self._pieces.append(sessions)
        self.events += len(sessions.items)

    def clear(self) -> None:
        """Forgets all sessions."""
        self._pieces, self.events = [], 0

    def all(self) -> Observed:
        """All sessions in the order in which they came."""
        pieces = self._pieces
        if not pieces:
            return Observed(np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, np.int64))
        items, offsets, starts = zip(*pieces, strict=True)
        lengths = np.concatenate([np.diff(one) for one in offsets])
        joined = np.concatenate([[0], lengths.cumsum()])
        return Observed(np.concatenate(items), joined, np.concatenate(starts))


def offsets_fault(offsets: np.ndarray, end: int) -> str:
    """What is wrong with offsets into an array of ``end`` entries; empty if nothing is."""
    ordered = len(offsets) and offsets[0] == 0 and offsets[-1] == end
    return "" if ordered and (np.diff(offsets) >= 0).all() else "its offsets are not in order"


def items_fault(items: np.ndarray, num_items: int) -> str:
    """What is wrong with item codes; empty if nothing is."""
    if len(items) and (items.min() < FIRST_ITEM or items.max() >= num_items):
        return f"it holds item codes outside of {FIRST_ITEM} to {num_items - 1}"
    return ""
