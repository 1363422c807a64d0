"""How well a session model ranks what came next: full ranking, exact, in bounded memory.

docs/evaluation.md defines the protocols, filters and metrics.
"""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core import console
from training.metrics.clusters import ClusteredMeans
from training.metrics.lists import (
    POPULARITY_GROUPS,
    ListCounts,
    popularity_groups,
    top_items,
)
from training.metrics.ranking import MAIN_METRICS, METRICS, RankHistogram, target_ranks
from training.sessions.prefixes import prefixes_before, scored, shown_events
from training.sessions.ragged import (
    FIRST_ITEM,
    Batch,
    Sessions,
    every_step,
    first_position,
    last_steps,
)
from training.sessions.settings import SessionEvaluationSettings

if TYPE_CHECKING:
    from training.sessions.base import SessionModel

LENGTH_GROUPS = {"2": 2, "3-5": 5, "6-10": 10, "11-20": 20, "21+": None}
"""Session lengths by which metrics are broken down: name and longest session of each group."""
NOTHING_ASKED = (
    "nothing was asked: once items unseen in training and what the filters drop are left out, no "
    "session has an event to ask for with another before it"
)
"""Why a report has no metrics."""
LIST_METRICS = ("coverage", "popularity", "novelty", "popularity_bias")
CLOSING = "closing event"


class RankedSteps(NamedTuple):
    """Where the true next items of a batch stand."""

    ranks: torch.Tensor
    """Rank of each true next item, from 1, ``(steps,)``."""
    targets: torch.Tensor
    """The true next items, from 0 for the code ``FIRST_ITEM``, ``(steps,)``."""
    sessions: torch.Tensor
    """Row in the batch of the session of each step, ``(steps,)``."""
    groups: torch.Tensor
    """Index into :data:`LENGTH_GROUPS` of the session of each step, ``(steps,)``."""
    lists: torch.Tensor | None
    """The recommended items, as ``targets`` counts them, ``(steps, max(ks))``; -1 where a list is
    shorter. None unless the settings ask for lists."""


class SessionMetrics:
    """Pools the ranks and lists of a whole split, exactly.

    Args:
        num_items: size of the item vocabulary with its reserved codes.
        counts: training events of each code, ``(num_items,)``; without it nothing is said of
            popularity.
    """

    def __init__(
        self,
        settings: SessionEvaluationSettings,
        num_items: int,
        counts: torch.Tensor | None = None,
    ):
        self._settings = settings
        items = num_items - FIRST_ITEM
        self._counts = None if counts is None else counts[FIRST_ITEM:].cpu()
        self._popularity = torch.zeros(items, dtype=torch.int64)
        if self._counts is not None:
            self._popularity = popularity_groups(self._counts)
        groups = len(LENGTH_GROUPS) * len(POPULARITY_GROUPS)
        self._ranks = RankHistogram(groups, max(settings.ks))
        self._means = ClusteredMeans(len(settings.metrics) * len(settings.ks))
        self._lists = ListCounts(settings.ks, items if settings.lists else 0)
        self._targets = torch.zeros(items if settings.lists else 0, dtype=torch.int64)

    def update(self, prediction: RankedSteps, batch: Batch | None = None) -> None:
        """Adds a batch."""
        targets, ranks = prediction.targets.cpu(), prediction.ranks.cpu()
        groups = prediction.groups.cpu() * len(POPULARITY_GROUPS) + self._popularity[targets]
        self._ranks.add(ranks, groups)
        ks = self._settings.ks
        values = [METRICS[name](ranks, k) for name in self._settings.metrics for k in ks]
        self._means.add(torch.stack(values, 1), prediction.sessions)
        if prediction.lists is not None:
            self._lists.add(prediction.lists)
            self._targets.index_add_(0, targets, torch.ones_like(targets))

    def state(self) -> dict[str, torch.Tensor]:
        """The counts so far."""
        return {
            "ranks": self._ranks.counts,
            "means": self._means.sums,
            "lists": self._lists.counts,
            "targets": self._targets,
        }

    def add(self, state: dict[str, torch.Tensor]) -> None:
        """Takes in another accumulator's counts."""
        for name, mine in self.state().items():
            mine += state[name]

    def compute(self) -> dict[str, float | None]:
        """``name@k`` for each metric and k, over all steps; None where there was no step."""
        metrics = self._over(None)
        return metrics if self._ranks.predictions() else dict.fromkeys(metrics)

    def report(self) -> dict[str, Any]:
        """All that was counted; see :func:`evaluate_sessions`."""
        found: dict[str, Any] = self.compute()
        predictions = self._ranks.predictions()
        if not predictions:
            found["undefined_because"] = NOTHING_ASKED
        elif self._settings.lists:
            found |= self._of_lists()
        found |= {"predictions": predictions, "sessions": self._means.clusters}
        intervals = self._means.intervals(self._settings.confidence)
        if intervals is not None:
            names = at_ks(self._settings.metrics, self._settings.ks)
            found["intervals"] = dict(zip(names, intervals, strict=True))
        lengths, popularities = len(LENGTH_GROUPS), len(POPULARITY_GROUPS)
        cells = torch.arange(lengths * popularities).view(lengths, popularities)
        found["by_session_length"] = self._by_group(LENGTH_GROUPS, cells)
        if self._counts is not None:
            found["by_popularity"] = self._by_group(POPULARITY_GROUPS, cells.T)
            items = torch.bincount(self._popularity, minlength=popularities).tolist()
            for name, count in zip(POPULARITY_GROUPS, items, strict=True):
                if name in found["by_popularity"]:
                    found["by_popularity"][name]["items"] = count
        return found

    def _over(self, groups: list[int] | None) -> dict[str, float]:
        return self._ranks.metrics(self._settings.ks, groups, self._settings.metrics)

    def _by_group(self, names: Iterable[str], cells: torch.Tensor) -> dict[str, dict[str, Any]]:
        return {
            name: {**self._over(row), "predictions": self._ranks.predictions(row)}
            for name, row in zip(names, cells.tolist(), strict=True)
            if self._ranks.predictions(row)
        }

    def _of_lists(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {**self._lists.coverage()}
        if self._counts is None:
            return found
        found |= self._lists.popularity(self._counts)
        shares = self._counts.double() / self._counts.sum().clamp(min=1)
        chosen = float((self._targets * shares).sum() / self._targets.sum())
        for k in self._settings.ks:
            listed = found[f"popularity@{k}"]
            found[f"popularity_bias@{k}"] = listed / chosen if chosen else None
        return found


def metric_names(settings: SessionEvaluationSettings) -> list[str]:
    """The names of all metrics that an evaluation by ``settings`` gives, with ``counts``."""
    measures = (*settings.metrics, *(LIST_METRICS if settings.lists else ()))
    return at_ks(measures, settings.ks)


def at_ks(measures: Iterable[str], ks: Iterable[int]) -> list[str]:
    """``name@k`` of each measure at each k."""
    return [f"{name}@{k}" for name, k in itertools.product(measures, ks)]


def validation_settings(settings: SessionEvaluationSettings) -> SessionEvaluationSettings:
    """The same protocol, filters and lengths, but only the metrics that are followed while
    training."""
    return settings.model_copy(update={"metrics": MAIN_METRICS, "lists": False})


def evaluate_sessions(
    model: "SessionModel",
    batches: Iterable[Batch],
    settings: SessionEvaluationSettings | None = None,
    counts: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Ranks every item after each prefix of the sessions and pools the metrics over all steps.

    Args:
        model: any session model; it is put into evaluation mode and back.
        batches: a loader's batches of whole sessions, such as ``Batches(..., shuffle=False)``.
        settings: protocol and filters.
        counts: training events of each item code, ``(num_items,)``.

    Returns:
        Each metric as ``name@k`` (None where there was nothing to predict, and then
        ``undefined_because`` says why), and of the lists
        ``coverage@k`` and, with ``counts``, ``popularity@k``, ``popularity_bias@k`` and
        ``novelty@k``; ``predictions`` (steps) and ``sessions`` counted; ``intervals``: for each
        metric its ``standard_error`` by session and the ends ``low`` and ``high`` of its confidence
        interval; ``by_session_length`` and, with ``counts``, ``by_popularity``: metrics and
        ``predictions`` of each group of :data:`LENGTH_GROUPS` (by the events that the session has
        after the filters) and :data:`POPULARITY_GROUPS` (of the true next item) that occurs.
    """
    settings = settings or SessionEvaluationSettings()
    metrics = SessionMetrics(settings, model.num_items, counts)
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
    sessions, steps = asked_steps(model.sessions(batch), model.item, settings)
    prefixes = prefixes_before(sessions, steps)
    targets = sessions.columns[model.item][steps].long() - FIRST_ITEM
    ranks = torch.empty_like(steps)
    longest = max(settings.ks)
    lists = steps.new_empty(len(steps), longest) if settings.lists else None
    for chunk, scores, excluded in scored(model, prefixes, settings):
        ranks[chunk] = target_ranks(scores, targets[chunk], excluded)
        if lists is not None:
            lists[chunk] = top_items(scores, longest, excluded)
    groups = _length_group(sessions.lengths)[prefixes.rows]
    return RankedSteps(ranks, targets, prefixes.rows, groups, lists)


def asked_steps(
    sessions: Sessions, item: str, settings: SessionEvaluationSettings
) -> tuple[Sessions, torch.Tensor]:
    """The sessions after the filters, and which of their events are asked for."""
    items = sessions.columns[item]
    closing = torch.zeros(len(items), dtype=torch.bool, device=items.device)
    closing[sessions.offsets[1:][sessions.lengths > 0] - 1] = True
    sessions = Sessions({**sessions.columns, CLOSING: closing}, sessions.offsets)
    sessions = shown_events(sessions, item, settings)
    closing = sessions.columns.pop(CLOSING)
    if settings.protocol == "per_step":
        return sessions, every_step(sessions)
    if settings.protocol == "last_item":
        return sessions, last_steps(sessions)
    # Where the last event is gone, the one before it is no substitute: it may have trained.
    return sessions, (closing & ~first_position(sessions)).nonzero().squeeze(1)


def _length_group(lengths: torch.Tensor) -> torch.Tensor:
    bounds = [longest for longest in LENGTH_GROUPS.values() if longest is not None]
    return torch.bucketize(lengths, torch.tensor(bounds, device=lengths.device))
