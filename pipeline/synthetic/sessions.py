"""A shop's click log whose next-item distribution, and so the best possible recall, is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from core.artifacts import write_json
from core.errors import UserError
from core.settings import Settings
from pipeline.synthetic.bayes import TRUTH_FILE
from pipeline.synthetic.hashing import purpose_key, uniform_columns
from pipeline.synthetic.session_process import (
    Catalog,
    Process,
    draw_sessions,
    filter_interests,
    make_process,
    predictive,
    successor_probability,
)

DAY = 86_400
# 2024-01-01T00:00:00Z, so that day files begin at midnight UTC.
FIRST_SECOND = 1_704_067_200
FIRST_SESSION_ID = 1_000_001
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20", "mrr@10", "mrr@20")
_STEPS_AT_ONCE = 1024
_TRUTH = pa.schema(
    [
        ("session_id", pa.int64()),
        ("start", pa.int64()),
        ("step", pa.int16()),
        ("last", pa.bool_()),
        *((name, pa.float32()) for name in METRICS),
        ("rank", pa.int32()),
        ("previous", pa.int64()),
        ("item", pa.int64()),
    ]
)


class SessionsGenerateSettings(Settings):
    """Which synthetic session log to write."""

    sessions: int = Field(20_000, ge=1)
    """Sessions over all days."""
    days: int = Field(5, ge=1, le=10_000)
    """Files, ``events_day_0.csv`` onwards, one a UTC day."""
    items: int = Field(1_000, ge=20)
    """Size of the catalogue."""
    users: int = Field(6_000, ge=1)
    """People that the sessions belong to."""
    seed: int = Field(42, ge=0)
    """Draws and process; the same seed gives the same bytes."""
    interests: int = Field(20, ge=1, le=1000)
    """Hidden interests."""
    categories: int = Field(40, ge=1)
    """Categories of the catalogue."""
    brands: int = Field(60, ge=1)
    """Brands of the catalogue; one item in ten has none."""
    related: int = Field(10, ge=1)
    """Items that may follow from an item."""
    follow: float = Field(0.45, ge=0, lt=1)
    """Probability that a click follows from the item before."""
    drift: float = Field(0.08, ge=0, le=1)
    """Probability that the interest is drawn anew between two clicks of a session."""
    switch: float = Field(0.3, ge=0, le=1)
    """Probability that the interest is drawn anew between two sessions of a user."""
    mean_length: float = Field(5.7, ge=2.2, le=12)
    """Mean clicks a session before the cut at 20; the shortest has 2."""
    tail_share: float = Field(0.2, gt=0, le=1)
    """Last part of the sessions by start whose best possible scores the manifest gives."""
    chunk_sessions: int = Field(10_000, ge=1)
    """Sessions made at a time. Changes no byte of the events."""

    @model_validator(mode="after")
    def _fits(self) -> "SessionsGenerateSettings":
        if self.related >= self.items:
            raise ValueError(f"related must be below items ({self.items})")
        if self.users * self.days * 2 < self.sessions:
            raise ValueError(
                f"users must be at least {-(-self.sessions // (2 * self.days))}, "
                "or there is nobody free to start a session"
            )
        return self


def generate_sessions(
    settings: SessionsGenerateSettings,
    folder: str | Path,
    advance: Callable[[float], None] = lambda sessions: None,
) -> dict[str, Any]:
    """Writes ``log/events_day_<d>.csv``, ``items.parquet``, ``truth.parquet``, ``manifest.json``.

    The events are ``user_id,session_id,timestamp,item_id,category,brand,price`` with unix seconds,
    in time order over all sessions; a session that passes midnight goes on in the next day's file.

    ``truth.parquet`` has one row for every click after a session's first, by start of session:
    ``session_id``, ``start`` (unix seconds), ``step`` (1 is the second click), ``last`` (whether
    it is the session's last click), the six metrics that ranking by the true next-item
    distribution reaches at this step *in expectation*, ``rank``, at which the item that was drawn
    stood in that ranking (1 is first), and that ``item`` and the ``previous`` one, by their ids.

    Args:
        settings: size, seed and shape of the log.
        folder: where to write; made if absent.
        advance: called with the number of sessions written after each chunk.

    Returns:
        The manifest.
    """
    folder = Path(folder)
    (folder / "log").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(np.random.SeedSequence(settings.seed))
    catalog, process = process_of(settings, random)
    _write_items(catalog, folder)
    writer = _EventWriter(catalog, folder, settings.days)
    score = _Scores(settings, catalog, process)
    user_interest = np.full(settings.users, -1)
    user_free = np.zeros(settings.users, np.int64)
    with pq.ParquetWriter(folder / TRUTH_FILE, _TRUTH, compression="zstd") as truth, writer:
        for first in range(0, settings.sessions, settings.chunk_sessions):
            count = min(settings.chunk_sessions, settings.sessions - first)
            starts, lengths = _starts_and_lengths(settings, first, count)
            users = np.empty(count, np.int64)
            items, times = np.empty((2, lengths.sum()), np.int64)
            draw_sessions(
                purpose_key(settings.seed, "sessions"), first, starts, user_interest, user_free,
                lengths, settings.switch, settings.drift, settings.follow, np.cumsum(process.pi),
                np.cumsum(process.base, axis=1), process.successors,
                np.cumsum(process.successor_weights), items, times, users,
            )  # fmt: skip
            if users.min() < 0:
                raise UserError(
                    f"users: {settings.users} are too few, all are in a session at once"
                )
            writer.add(first, starts, lengths, users, items, times)
            truth.write_table(score.add(first, starts, lengths, items))
            advance(count)
    manifest = {
        "recipe": "sessions",
        "format": "clickstream",
        "settings": settings.model_dump(exclude={"chunk_sessions"}),
        "sessions": settings.sessions,
        "events": sum(file["rows"] for file in writer.files),
        "files": writer.files,
        "truth": TRUTH_FILE,
        **score.summary(),
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def process_of(
    settings: SessionsGenerateSettings, random: np.random.Generator | None = None
) -> tuple[Catalog, Process]:
    """The catalogue and the process of a log that was generated with ``settings``.

    Args:
        random: the generator's own state, from which it goes on; None: a fresh one.
    """
    if random is None:
        random = np.random.default_rng(np.random.SeedSequence(settings.seed))
    return make_process(
        random, settings.items, settings.interests, settings.categories, settings.brands,
        settings.related, settings.follow, settings.drift,
    )  # fmt: skip


def _starts_and_lengths(
    settings: SessionsGenerateSettings, first: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Starts in unix seconds, ascending over the whole log, and lengths; both ``(count,)``."""
    key = purpose_key(settings.seed, "session starts")
    in_slot, for_length = uniform_columns(key, first, count, 2)
    share = (np.arange(first, first + count) + in_slot) / settings.sessions * settings.days
    day = np.minimum(share.astype(np.int64), settings.days - 1)
    # Fewer people click at night: hours follow the inverse of a sine-modulated running sum.
    grid = np.linspace(0, 1, 1441)
    running = grid + 0.8 / (2 * np.pi) * (np.cos(2 * np.pi * grid + 0.5) - np.cos(0.5))
    second = np.interp(share - day, running, grid) * DAY
    starts = FIRST_SECOND + day * DAY + np.minimum(second.astype(np.int64), DAY - 1)
    stop = 1 / (settings.mean_length - 1)
    lengths = 2 + np.floor(np.log1p(-for_length) / np.log1p(-stop)).astype(np.int64)
    return starts, np.minimum(lengths, 20)


def _write_items(catalog: Catalog, folder: Path) -> None:
    frame = pl.DataFrame(_item_columns(catalog, np.arange(len(catalog.item_id))))
    frame.write_parquet(folder / "items.parquet")


def _item_columns(catalog: Catalog, items: np.ndarray) -> dict[str, pl.Series]:
    """What the log says of these items."""
    categories = pl.Series([f"category_{n:03d}" for n in range(catalog.category.max() + 1)])
    # The last name is found by brand -1: a blank in the log.
    brands = pl.Series([*(f"brand_{n:03d}" for n in range(catalog.brand.max() + 1)), None])
    return {
        "item_id": pl.Series(catalog.item_id[items]),
        "category": categories[catalog.category[items]],
        "brand": brands[catalog.brand[items] % len(brands)],
        "price": pl.Series(catalog.price[items] / 100),
    }


class _EventWriter:
    """Puts sessions' events in time order and cuts them into day files, in bounded memory."""

    def __init__(self, catalog: Catalog, folder: Path, days: int) -> None:
        self._catalog = catalog
        self._folder = folder
        self._waiting = np.empty((0, 4), np.int64)
        self.files = [{"file": f"log/events_day_{day}.csv", "rows": 0} for day in range(days)]

    def __enter__(self) -> "_EventWriter":
        for file in self.files:
            header = "user_id,session_id,timestamp,item_id,category,brand,price\n"
            (self._folder / file["file"]).write_text(header)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._flush(np.iinfo(np.int64).max)

    def add(self, first, starts, lengths, users, items, times) -> None:
        """Adds sessions; writes what no later session can come before."""
        session = np.repeat(np.arange(first, first + len(starts)), lengths)
        events = np.stack([times, session, np.repeat(users, lengths), items], axis=1)
        self._waiting = np.concatenate([self._waiting, events])
        self._flush(starts[-1])

    def _flush(self, before: int) -> None:
        ready = self._waiting[:, 0] < before
        events = self._waiting[ready]
        self._waiting = self._waiting[~ready]
        events = events[np.lexsort((events[:, 1], events[:, 0]))]
        day = np.minimum((events[:, 0] - FIRST_SECOND) // DAY, len(self.files) - 1)
        for number in np.unique(day):
            self._write(self.files[number], events[day == number])

    def _write(self, file: dict[str, Any], events: np.ndarray) -> None:
        times, session, user, item = events.T
        frame = pl.DataFrame(
            {
                "user_id": user + 1,
                "session_id": session + FIRST_SESSION_ID,
                "timestamp": times,
                **_item_columns(self._catalog, item),
            }
        )
        with open(self._folder / file["file"], "ab") as out:
            frame.write_csv(out, include_header=False, float_precision=2)
        file["rows"] += len(events)


def expected_metrics(probability: np.ndarray, ranking: np.ndarray | None = None) -> np.ndarray:
    """Mean of each of ``METRICS`` over next items drawn from ``probability``.

    Args:
        probability: true distribution of the next item, ``(n, items)``.
        ranking: items as recommended, best first, ``(20,)``; left out, the best possible ranking,
            which is by probability (all six metrics fall with the rank).

    Returns:
        ``(n, 6)`` in the order of ``METRICS``.
    """
    if ranking is None:
        count = min(20, probability.shape[1])
        top = -np.sort(np.partition(-probability, count - 1, axis=1)[:, :count], axis=1)
    else:
        top = probability[:, ranking]
    rank = np.arange(1, top.shape[1] + 1)
    gains = {"recall": np.ones(len(rank)), "ndcg": 1 / np.log2(rank + 1), "mrr": 1 / rank}
    columns = []
    for name in METRICS:
        metric, cut = name.split("@")
        columns.append(top[:, : int(cut)] @ gains[metric][: int(cut)])
    return np.stack(columns, axis=1)


def realized_metrics(rank: np.ndarray) -> np.ndarray:
    """``METRICS`` of the items that were drawn, from their ranks (1 is first); ``(n, 6)``."""
    gains = {"recall": np.ones(len(rank)), "ndcg": 1 / np.log2(rank + 1), "mrr": 1 / rank}
    columns = []
    for name in METRICS:
        metric, cut = name.split("@")
        columns.append(np.where(rank <= int(cut), gains[metric], 0.0))
    return np.stack(columns, axis=1)


class _Scores:
    """Scores every step by the true distribution, and sums up the last part of the sessions."""

    def __init__(
        self, settings: SessionsGenerateSettings, catalog: Catalog, process: Process
    ) -> None:
        self._catalog = catalog
        self._process = process
        tail = max(1, round(settings.sessions * settings.tail_share))
        self.first_session = settings.sessions - tail
        self._popularity = np.zeros(settings.items, np.int64)
        self._sums = {
            (who, steps): np.zeros(len(METRICS))
            for who in ("best", "best_realized", "popularity")
            for steps in ("every_step", "last_item")
        }
        self._steps = {"every_step": 0, "last_item": 0}

    def add(self, first, starts, lengths, items) -> pa.Table:
        """Scores whole sessions; returns their rows of the truth file."""
        process = self._process
        followed = successor_probability(process, items, lengths)
        belief = filter_interests(
            items, lengths, process.pi, process.base, followed, process.follow, process.drift
        )
        session = np.repeat(np.arange(len(lengths)), lengths)
        step = np.arange(len(items)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self._popularity += np.bincount(
            items[session + first < self.first_session], minlength=len(self._popularity)
        )
        clicks = np.flatnonzero(step > 0)
        last = step[clicks] == lengths[session[clicks]] - 1
        tail = session[clicks] + first >= self.first_session
        best, rank = np.empty((len(clicks), len(METRICS))), np.empty(len(clicks), np.int64)
        popular = np.argsort(-self._popularity, kind="stable")[:20]
        for at in range(0, len(clicks), _STEPS_AT_ONCE):
            part = slice(at, at + _STEPS_AT_ONCE)
            now = clicks[part]
            probability = predictive(process, belief[now - 1], items[now - 1])
            best[part] = expected_metrics(probability)
            drawn = probability[np.arange(len(now)), items[now]]
            rank[part] = 1 + (probability > drawn[:, None]).sum(axis=1)
            if tail[part].any():
                floor = expected_metrics(probability[tail[part]], popular)
                self._sum("popularity", floor, last[part][tail[part]])
        self._sum("best", best[tail], last[tail])
        self._sum("best_realized", realized_metrics(rank[tail]), last[tail])
        self._steps["every_step"] += int(tail.sum())
        self._steps["last_item"] += int((tail & last).sum())
        owner = session[clicks]
        columns = [owner + first + FIRST_SESSION_ID, starts[owner], step[clicks].astype(np.int16)]
        columns += [last, *best.T.astype(np.float32), rank.astype(np.int32)]
        columns += [self._catalog.item_id[items[clicks - 1]], self._catalog.item_id[items[clicks]]]
        return pa.table(columns, schema=_TRUTH)

    def _sum(self, who: str, values: np.ndarray, last: np.ndarray) -> None:
        self._sums[who, "every_step"] += values.sum(axis=0)
        self._sums[who, "last_item"] += values[last].sum(axis=0)

    def summary(self) -> dict[str, Any]:
        """Mean scores over the last part of the sessions."""
        summary: dict[str, Any] = {
            "tail": {"first_session": self.first_session, "steps": dict(self._steps)}
        }
        for (who, steps), sums in self._sums.items():
            mean = (sums / self._steps[steps]).tolist()
            summary.setdefault(who, {})[steps] = dict(zip(METRICS, mean, strict=True))
        return summary
