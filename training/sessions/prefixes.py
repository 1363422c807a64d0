"""What a session model is asked, and what is listed: one way for evaluation and for answers.

Which events count, how far back a model looks, and which items are not recommended are decided
here alone, so that an answer is what evaluation judged; docs/evaluation.md has the rules.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch

from training.metrics.lists import top_items
from training.sessions.ragged import (
    FIRST_ITEM,
    Sessions,
    Windows,
    drop_repeats,
    drop_unknown,
    pad,
)
from training.sessions.settings import SessionEvaluationSettings

if TYPE_CHECKING:
    from training.sessions.base import SessionModel

ROWS_AT_MOST = 1024
"""Prefixes in one chunk: more would not run faster, only take more memory inside the model."""


class Prefixes(NamedTuple):
    """Beginnings of sessions, each with at least one event, after which an item is asked for."""

    sessions: Sessions
    """The sessions after the filters."""
    rows: torch.Tensor
    """The session of each prefix, ``(prefixes,)``."""
    ends: torch.Tensor
    """One past the last event of each prefix, an index into the values, ``(prefixes,)``."""

    def last(self, most: int | None = None) -> Windows:
        """The last ``most`` events of each prefix; None: all."""
        lengths = self.ends - self.sessions.offsets[:-1][self.rows]
        return Windows(self.ends, lengths if most is None else lengths.clamp(max=most))


class Scored(NamedTuple):
    """Some prefixes and what the model makes of them."""

    chunk: torch.Tensor
    """Which prefixes, ``(n,)``."""
    scores: torch.Tensor
    """Of every item, from 0 for the code ``FIRST_ITEM``, float32 ``(n, items)``."""
    excluded: torch.Tensor | None
    """The items that are not recommended, as ``scores`` counts them, ``(n, most)``; negative where
    there is none. None: nothing is left out."""


class Lists(NamedTuple):
    """The recommended items of some prefixes."""

    items: torch.Tensor
    """From 0 for the code ``FIRST_ITEM``, ``(prefixes, k)``; -1 after the end of a shorter list."""
    scores: torch.Tensor
    """Their scores, of the same shape."""
    finite: torch.Tensor
    """Whether all scores of a prefix are finite numbers, ``(prefixes,)``."""


def shown_events(sessions: Sessions, item: str, settings: SessionEvaluationSettings) -> Sessions:
    """The sessions as a model is shown them: no events of unknown items, and no repeats where the
    settings drop them."""
    sessions = drop_unknown(sessions, item)
    return drop_repeats(sessions, item) if settings.drop_repeats else sessions


def prefixes_before(sessions: Sessions, steps: torch.Tensor) -> Prefixes:
    """What came before each of some events, ``(steps,)``, none of which opens its session."""
    return Prefixes(sessions, sessions.session_of_event()[steps], steps)


def whole_sessions(sessions: Sessions) -> Prefixes:
    """All events of every session that has any."""
    rows = (sessions.lengths > 0).nonzero().squeeze(1)
    return Prefixes(sessions, rows, sessions.offsets[1:][rows])


def scored(
    model: "SessionModel", prefixes: Prefixes, settings: SessionEvaluationSettings
) -> Iterator[Scored]:
    """Scores all items after every prefix, as many prefixes at a time as ``scores_mb`` holds.

    A model never sees more than the prefix: each is scored as a sequence of its own.
    """
    windows = prefixes.last(model.max_length)
    fitting = settings.scores_mb * 2**20 // (4 * model.num_items)
    at_once = min(max(fitting, 1), ROWS_AT_MOST)
    # Prefixes of like length together: less padding.
    for chunk in torch.argsort(windows.lengths, stable=True).split(at_once):
        if not len(chunk):  # split() gives one empty chunk where there is no prefix at all
            continue
        scores = model.scores(pad(prefixes.sessions, windows[chunk]))[:, FIRST_ITEM:].float()
        yield Scored(chunk, scores, _excluded(prefixes, chunk, model.item, settings))


def _excluded(
    prefixes: Prefixes, chunk: torch.Tensor, item: str, settings: SessionEvaluationSettings
) -> torch.Tensor | None:
    """The items that are not recommended after the prefixes of a chunk."""
    if settings.exclude_seen:
        seen = prefixes.last()
    elif settings.exclude_last_item and settings.drop_repeats:
        seen = prefixes.last(1)
    else:
        return None
    sessions = prefixes.sessions
    items = Sessions({item: sessions.columns[item].long()}, sessions.offsets)
    return pad(items, seen[chunk])[item] - FIRST_ITEM


def recommended(
    model: "SessionModel", prefixes: Prefixes, settings: SessionEvaluationSettings, k: int
) -> Lists:
    """The best ``k`` items after each prefix, the one of the lower code first where scores tie."""
    count, device = len(prefixes.ends), prefixes.ends.device
    items = torch.full((count, k), -1, device=device)
    scores = torch.full((count, k), torch.nan, device=device)
    finite = torch.ones(count, dtype=torch.bool, device=device)
    for chunk, values, excluded in scored(model, prefixes, settings):
        best = top_items(values, k, excluded)
        items[chunk], scores[chunk] = best, values.gather(1, best.clamp(min=0))
        finite[chunk] = values.isfinite().all(1)
    return Lists(items, scores, finite)
