"""What the best possible model reaches on some steps of a generated session log.

The process behind the log is drawn again from its settings, so that the true distribution of the
next item is known at every step, for any length of list and any set of candidates.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.errors import UserError
from core.parquet import read_table
from core.settings import validate
from core.sums import read_manifest
from pipeline.synthetic.bayes import TRUTH_FILE
from pipeline.synthetic.session_process import (
    filter_interests,
    predictive,
    successor_probability,
)
from pipeline.synthetic.sessions import (
    METRICS,
    SessionsGenerateSettings,
    expected_metrics,
    process_of,
)
from training.sessions.evaluation import asked_steps
from training.sessions.ragged import FIRST_ITEM, Sessions

STEPS_AT_ONCE = 1024
CHECKED_STEPS = 256
OTHER = FIRST_ITEM - 1
"""Code of every item that training does not know."""


class SessionTruth:
    """The sessions of a generated log, and what can be known of their next items.

    Args:
        folder: of the generated log.
        values: item ids by code, from ``first`` on: the items that training knows.
    """

    def __init__(self, folder: Path, values: list[str], first: int) -> None:
        columns = ["session_id", "step", "previous", "item", METRICS[0]]
        try:
            self._truth = read_table(folder / TRUTH_FILE, columns)
        except UserError:
            raise UserError(
                f"{folder / TRUTH_FILE}: made by an older version; run 'merlin-pipeline generate "
                "sessions' again"
            ) from None
        given = read_manifest(folder / "manifest.json")["settings"]
        settings = validate(SessionsGenerateSettings, given, "generate")
        self._catalog, self._process = process_of(settings)
        number = {str(item): at for at, item in enumerate(self._catalog.item_id.tolist())}
        self._codes = np.full(len(number), OTHER)
        for code, value in enumerate(values, first):
            if value in number:
                self._codes[number[value]] = code

    def matched(
        self, ids: np.ndarray, lengths: np.ndarray, codes: np.ndarray, from_end: bool
    ) -> np.ndarray | None:
        """Where each event of the features is among the events of the sessions in full.

        Args:
            ids: of the sessions of the features, ``(sessions,)``.
            lengths: their events, ``(sessions,)``.
            codes: their items, one session after another, ``(events,)``.
            from_end: whether features that hold a part of a session hold its end, where both its
                end and its beginning would fit.

        Returns:
            Indices of events, as :meth:`best` takes them, ``(events,)``; None where a session is
            not one of the log.
        """
        if not self._read(ids):
            return None
        codes = np.where(codes < FIRST_ITEM, OTHER, codes)
        places, at = np.empty(len(codes), np.int64), 0
        for session, length in enumerate(lengths):
            start, end = self._offsets[session : session + 2]
            place = _place(self._codes[self._items[start:end]], codes[at : at + length], from_end)
            if place is None:
                return None
            places[at : at + length] = start + place
            at += length
        return places

    def _read(self, ids: np.ndarray) -> bool:
        """Reads the sessions ``ids`` in full, in this order; whether all are there."""
        session = self._truth["session_id"].to_numpy()
        first = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
        counts = np.diff(np.r_[first, len(session)])
        order = np.argsort(session[first])
        there = session[first][order]
        at = np.minimum(np.searchsorted(there, ids), len(there) - 1)
        if not np.array_equal(there[at], ids):
            return False
        rows, counts = first[order][at], counts[order][at]
        self._offsets = np.r_[0, np.cumsum(counts + 1)]
        numbers = np.argsort(self._catalog.item_id)
        known = self._catalog.item_id[numbers]
        self._items = np.empty(self._offsets[-1], np.int64)
        self._stored = np.full(self._offsets[-1], np.nan)
        inner = np.repeat(rows - self._offsets[:-1], counts + 1) + np.arange(self._offsets[-1]) - 1
        opening = np.zeros(len(self._items), bool)
        opening[self._offsets[:-1]] = True
        item, previous = self._truth["item"].to_numpy(), self._truth["previous"].to_numpy()
        given = np.where(opening, previous[rows].repeat(counts + 1), item[np.maximum(inner, 0)])
        place = np.minimum(np.searchsorted(known, given), len(known) - 1)
        if not np.array_equal(known[place], given):
            return False
        self._items = numbers[place]
        self._stored[~opening] = self._truth[METRICS[0]].to_numpy()[inner[~opening]]
        return self._is_the_process()

    def _is_the_process(self) -> bool:
        """Whether the process that was drawn again gives the scores that the log was kept with."""
        steps = np.flatnonzero(~np.isnan(self._stored))[:CHECKED_STEPS]
        self._belief = filter_interests(
            self._items,
            np.diff(self._offsets),
            self._process.pi,
            self._process.base,
            successor_probability(self._process, self._items, np.diff(self._offsets)),
            self._process.follow,
            self._process.drift,
        )
        scores = expected_metrics(self._next_items(steps))[:, 0]
        return bool(np.allclose(scores, self._stored[steps], atol=1e-4))

    def _next_items(self, steps: np.ndarray) -> np.ndarray:
        """True distribution of the item at each of ``steps``, ``(steps, items)``."""
        return predictive(self._process, self._belief[steps - 1], self._items[steps - 1])

    def best(
        self, lengths: np.ndarray, codes: np.ndarray, places: np.ndarray, settings: Any
    ) -> dict[str, float]:
        """Expected metrics of ranking by the true distribution, over the steps that are asked for.

        An evaluation asks for items that training knows only, so what is expected is conditional
        on that; an item that it does not rank is no candidate here either.

        Args:
            places: what :meth:`matched` returned for ``lengths`` and ``codes``.
            settings: of the evaluation.

        Returns:
            ``name@k`` for recall, ndcg and mrr; empty where nothing is asked for.
        """
        offsets = torch.from_numpy(np.r_[0, np.cumsum(lengths)])
        columns = {"item": torch.from_numpy(codes.astype(np.int64)), "at": torch.from_numpy(places)}
        sessions, steps = asked_steps(Sessions(columns, offsets), "item", settings)
        steps, at = steps.numpy(), sessions.columns["at"].numpy()
        begins = sessions.offsets.numpy()[sessions.session_of_event()[steps].numpy()]
        total = np.zeros((3, len(settings.ks)))
        for first in range(0, len(steps), STEPS_AT_ONCE):
            part = slice(first, first + STEPS_AT_ONCE)
            total += self._expected(at, steps[part], begins[part], settings)
        if not len(steps):
            return {}
        names = [f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in settings.ks]
        return dict(zip(names, (total / len(steps)).ravel().tolist(), strict=True))

    def _expected(
        self, at: np.ndarray, steps: np.ndarray, begins: np.ndarray, settings: Any
    ) -> np.ndarray:
        """Sums over ``steps`` of each metric at each k, ``(3, ks)``."""
        probability = self._next_items(at[steps])
        probability[:, self._codes < FIRST_ITEM] = 0.0
        rows = np.arange(len(steps))
        if settings.drop_repeats:  # What was just viewed is never asked for.
            probability[rows, self._items[at[steps - 1]]] = 0.0
        asked = probability.sum(axis=1)
        if settings.exclude_seen:
            for row, (begin, step) in enumerate(zip(begins, steps, strict=True)):
                probability[row, self._items[at[begin:step]]] = 0.0
        most = min(max(settings.ks), probability.shape[1])
        top = -np.sort(np.partition(-probability, most - 1, axis=1)[:, :most], axis=1)
        top /= asked[:, None]
        rank = np.arange(1, most + 1)
        gains = np.stack([np.ones(most), 1 / np.log2(rank + 1), 1 / rank])
        summed = np.cumsum(gains[:, None, :] * top, axis=2).sum(axis=1)
        return summed[:, np.minimum(settings.ks, most) - 1]


def _place(session: np.ndarray, held: np.ndarray, from_end: bool) -> np.ndarray | None:
    """Indices in ``session`` of the events of ``held``, a part of it without a gap, or with gaps
    where training does not know the items; None where it is no part."""
    spare = len(session) - len(held)
    ends = [spare, 0] if from_end else [0, spare]
    for first in [*ends, *range(1, spare)] if spare >= 0 else ():
        if np.array_equal(session[first : first + len(held)], held):
            return np.arange(first, first + len(held))
    if (held == OTHER).any() or spare < 0:
        return None
    known = np.flatnonzero(session != OTHER)
    if len(known) == len(session):
        return None
    place = _place(session[known], held, from_end)
    return None if place is None else known[place]
