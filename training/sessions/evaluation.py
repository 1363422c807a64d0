"""How well a session model ranks what came next: full ranking, exact, in bounded memory."""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core import console
from training.metrics.ranking import RankHistogram, target_ranks
from training.sessions.ragged import (
    FIRST_ITEM,
    Batch,
    drop_repeats,
    drop_unknown,
    every_step,
    last_steps,
    pad,
    windows_before,
)
from training.sessions.settings import SessionEvaluationSettings

if TYPE_CHECKING:
    from training.sessions.base import SessionModel

ROWS_AT_MOST = 1024
"""Prefixes in one chunk: more would not run faster, only take more memory inside the model."""

LENGTH_GROUPS = {"2": 2, "3-5": 5, "6-10": 10, "11-20": 20, "21+": None}
"""Session lengths by which metrics are broken down: name and longest session of each group."""


class RankedSteps(NamedTuple):
    """Where the true next items of a batch stand."""

    ranks: torch.Tensor
    """Rank of each true next item, from 1, ``(steps,)``."""
    groups: torch.Tensor
    """Index into :data:`LENGTH_GROUPS` of the session of each step, ``(steps,)``."""
    sessions: int
    """Sessions that had a step."""


class SessionMetrics:
    """Pools the ranks of a whole split, exactly."""

    def __init__(self, settings: SessionEvaluationSettings):
        self._ks = settings.ks
        self._histogram = RankHistogram(len(LENGTH_GROUPS), max(settings.ks))
        self._sessions = 0

    def update(self, prediction: RankedSteps, batch: Batch | None = None) -> None:
        """Adds a batch."""
        self._histogram.add(prediction.ranks, prediction.groups)
        self._sessions += prediction.sessions

    def state(self) -> dict[str, torch.Tensor]:
        """The counts so far."""
        return {
            "counts": self._histogram.counts,
            "sessions": torch.tensor(self._sessions),
        }

    def add(self, state: dict[str, torch.Tensor]) -> None:
        """Takes in another accumulator's counts."""
        self._histogram.counts += state["counts"]
        self._sessions += int(state["sessions"])

    def compute(self) -> dict[str, float | None]:
        """``recall@k``, ``ndcg@k``, ``mrr@k`` over all steps; None where there was no step."""
        metrics = self._histogram.metrics(self._ks)
        return metrics if self._histogram.predictions() else dict.fromkeys(metrics)

    def report(self) -> dict[str, Any]:
        """All that was counted; see :func:`evaluate_sessions`."""
        by_length = {
            name: {
                **self._histogram.metrics(self._ks, [group]),
                "predictions": self._histogram.predictions([group]),
            }
            for group, name in enumerate(LENGTH_GROUPS)
            if self._histogram.predictions([group])
        }
        return {
            **self.compute(),
            "predictions": self._histogram.predictions(),
            "sessions": self._sessions,
            "by_session_length": by_length,
        }


def evaluate_sessions(
    model: "SessionModel",
    batches: Iterable[Batch],
    settings: SessionEvaluationSettings | None = None,
) -> dict[str, Any]:
    """Ranks every item after each prefix of the sessions and pools the metrics over all steps.

    Args:
        model: any session model; it is put into evaluation mode and back.
        batches: a loader's batches of whole sessions, such as ``Batches(..., shuffle=False)``.
        settings: protocol and filters.

    Returns:
        ``recall@k``, ``ndcg@k``, ``mrr@k`` for each k (None where there was nothing to predict);
        ``predictions`` (steps) and ``sessions`` counted; ``by_session_length``: the same metrics
        and ``predictions`` for each group of :data:`LENGTH_GROUPS` that occurs, by the events that
        the session has after the filters.
    """
    settings = settings or SessionEvaluationSettings()
    metrics = SessionMetrics(settings)
    training = model.training
    model.train(False)
    rows = getattr(batches, "rows", None)
    device = next(itertools.chain(model.parameters(), model.buffers())).device
    try:
        with torch.inference_mode(), console.progress("evaluating", rows, "sessions") as advance:
            for inputs, targets in batches:
                inputs = {name: values.to(device) for name, values in inputs.items()}
                metrics.update(rank_steps(model, (inputs, targets), settings))
                advance(len(inputs[f"{model.item}__offsets"]) - 1)
    finally:
        model.train(training)
    return metrics.report()


def rank_steps(
    model: "SessionModel", batch: Batch, settings: SessionEvaluationSettings
) -> RankedSteps:
    """Ranks the true next item after each prefix that the protocol asks for.

    A model never sees more than the prefix: each is scored as a sequence of its own.
    """
    sessions = drop_unknown(model.sessions(batch), model.item)
    if settings.drop_repeats:
        sessions = drop_repeats(sessions, model.item)
    steps = every_step(sessions) if settings.protocol == "per_step" else last_steps(sessions)
    windows = windows_before(sessions, steps, model.max_length)
    items = sessions.columns[model.item].long()
    ranks = torch.empty_like(steps)
    # Prefixes of like length together: less padding.
    for chunk in torch.argsort(windows.lengths, stable=True).split(_rows(model, settings)):
        if not len(chunk):  # split() gives one empty chunk where there is no step at all
            continue
        scores = model.scores(pad(sessions, windows[chunk]))[:, FIRST_ITEM:]
        viewed = None
        if settings.exclude_last_item and settings.drop_repeats:
            viewed = items[steps[chunk] - 1, None] - FIRST_ITEM
        ranks[chunk] = target_ranks(scores, items[steps[chunk]] - FIRST_ITEM, viewed)
    groups = _length_group(sessions.lengths)[sessions.session_of_event()[steps]]
    return RankedSteps(ranks, groups, int((sessions.lengths >= 2).sum()))


def _rows(model: "SessionModel", settings: SessionEvaluationSettings) -> int:
    fitting = settings.scores_mb * 2**20 // (4 * model.num_items)
    return min(max(fitting, 1), ROWS_AT_MOST)


def _length_group(lengths: torch.Tensor) -> torch.Tensor:
    bounds = [longest for longest in LENGTH_GROUPS.values() if longest is not None]
    return torch.bucketize(lengths, torch.tensor(bounds, device=lengths.device))
