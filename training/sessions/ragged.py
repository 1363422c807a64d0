"""Ragged session batches: columns as flat values with offsets, cut into windows without a loop.

A batch as merlin-dataloader gives it holds ``<name>__values`` and ``<name>__offsets`` for each list
column. Here the list columns share one set of offsets: all lists of a row are equally long.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.errors import UserError

Inputs = Mapping[str, torch.Tensor]
Batch = tuple[Inputs, Any]
"""What the loader gives: inputs, and targets, of which sessions have none of their own."""

PADDING = 0
FIRST_ITEM = 3
"""Codes below this one are padding (0), null (1) and out of vocabulary (2): never an answer."""


@dataclass(frozen=True)
class Sessions:
    """A batch of sessions.

    Attributes:
        columns: for each list column its values, ``(events,)``, sessions one after another.
        offsets: where each session begins and the last one ends, ``(sessions + 1,)``.
    """

    columns: dict[str, torch.Tensor]
    offsets: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """Events in each session, ``(sessions,)``."""
        return self.offsets[1:] - self.offsets[:-1]

    def session_of_event(self) -> torch.Tensor:
        """The row of the session that each event belongs to, ``(events,)``."""
        rows = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return torch.repeat_interleave(rows, self.lengths)

    def keep(self, mask: torch.Tensor) -> "Sessions":
        """The sessions with only the events where ``mask``, ``(events,)``, is true."""
        kept = torch.zeros(len(mask) + 1, dtype=self.offsets.dtype, device=mask.device)
        kept[1:] = mask.cumsum(0)
        return Sessions({k: v[mask] for k, v in self.columns.items()}, kept[self.offsets])


@dataclass(frozen=True)
class Windows:
    """Stretches of events, each inside one session.

    Attributes:
        ends: one past the last event of each window, ``(windows,)``, an index into the values.
        lengths: events in each window, ``(windows,)``.
    """

    ends: torch.Tensor
    lengths: torch.Tensor

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, rows: torch.Tensor | slice) -> "Windows":
        return Windows(self.ends[rows], self.lengths[rows])


def sessions_from_inputs(inputs: Inputs, names: Sequence[str]) -> Sessions:
    """The list columns ``names`` of a loader's inputs.

    Raises:
        UserError: a column is missing, or its lists are not as long as those of the first one.
    """
    columns = {}
    for name in names:
        if f"{name}__values" not in inputs:
            here = sorted(
                key.removesuffix("__values") for key in inputs if key.endswith("__values")
            )
            raise UserError(
                f"sessions: the features have no list column '{name}' (found: {', '.join(here)}); "
                "run preprocess again with the settings that the model is trained with"
            )
        columns[name] = inputs[f"{name}__values"].reshape(-1)
        if len(columns[name]) != len(columns[names[0]]):
            raise UserError(
                f"sessions: the lists of '{name}' and '{names[0]}' differ in length; "
                "every list column needs one value an event"
            )
    return Sessions(columns, inputs[f"{names[0]}__offsets"].reshape(-1).long())


def every_step(sessions: Sessions) -> torch.Tensor:
    """Indices of the events that have an event before them in their session, ``(steps,)``."""
    return (~first_position(sessions)).nonzero().squeeze(1)


def last_steps(sessions: Sessions) -> torch.Tensor:
    """Index of the last event of each session of at least two events, ``(steps,)``."""
    return sessions.offsets[1:][sessions.lengths >= 2] - 1


def windows_before(sessions: Sessions, steps: torch.Tensor, max_length: int) -> Windows:
    """What was known just before each step: the up to ``max_length`` events that precede it."""
    starts = sessions.offsets[sessions.session_of_event()[steps]]
    return Windows(steps, (steps - starts).clamp(max=max_length))


def windows_through(sessions: Sessions, steps: torch.Tensor, max_length: int) -> Windows:
    """Each step with the events that precede it, ``max_length`` in all."""
    before = windows_before(sessions, steps, max_length - 1)
    return Windows(before.ends + 1, before.lengths + 1)


def training_windows(sessions: Sessions, max_length: int) -> Windows:
    """Every session that has a next event, in stretches of at most ``max_length`` steps.

    Each event but the first of its session is a target in one window, in which it is not the first
    event. The last window of a session holds its last ``max_length`` steps.
    """
    lengths = sessions.lengths
    cuts = (lengths - 1).clamp(min=0).add(max_length - 1).div(max_length, rounding_mode="floor")
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=cuts.device), cuts)
    number = torch.arange(len(rows), device=cuts.device) - (cuts.cumsum(0) - cuts)[rows]
    ends = sessions.offsets[1:][rows] - number * max_length
    return Windows(ends, (ends - sessions.offsets[:-1][rows]).clamp(max=max_length + 1))


def by_length(windows: Windows) -> Iterator[Windows]:
    """The windows in groups of similar length, so that little of the work goes into padding."""
    longest = int(windows.lengths.max()) if len(windows) else 0
    below, width = 0, 4
    while below < longest:
        group = (windows.lengths > below) & (windows.lengths <= width)
        if group.any():
            yield windows[group]
        below, width = width, width * 2


def positions(windows: Windows, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Which event stands where in the windows as rows, and where one does, each of shape
    ``(windows, width)``; the index is 0 where none does."""
    if width is None:
        width = int(windows.lengths.max()) if len(windows) else 0
    position = torch.arange(width, device=windows.ends.device)
    inside = position < windows.lengths[:, None]
    return ((windows.ends - windows.lengths)[:, None] + position).where(inside, 0), inside


def pad(sessions: Sessions, windows: Windows, width: int | None = None) -> dict[str, torch.Tensor]:
    """Dense columns ``(windows, width)``, zeros (padding) after the last event of each window.

    ``width`` is the longest window unless told otherwise.
    """
    index, inside = positions(windows, width)
    return {name: values[index].where(inside, 0) for name, values in sessions.columns.items()}


def first_position(sessions: Sessions) -> torch.Tensor:
    """True where an event opens its session, ``(events,)``."""
    events = int(sessions.offsets[-1])
    opening = torch.zeros(events + 1, dtype=torch.bool, device=sessions.offsets.device)
    # An empty session begins where the next one does, the last one past the end: hence the + 1.
    opening[sessions.offsets[:-1]] = True
    return opening[:-1]


def drop_unknown(sessions: Sessions, item: str) -> Sessions:
    """Without the events whose item is padding, null or unseen in training."""
    return sessions.keep(sessions.columns[item] >= FIRST_ITEM)


def drop_repeats(sessions: Sessions, item: str) -> Sessions:
    """Without the events that show the same item as the event before them in their session."""
    items = sessions.columns[item]
    same = torch.zeros(len(items), dtype=torch.bool, device=items.device)
    same[1:] = items[1:] == items[:-1]
    return sessions.keep(~same | first_position(sessions))
