"""The split of every raw event, as preprocess cut the sessions; shape ``(rows,)`` for each shard.

A number is that of the split in ``SPLITS``; -1 is an event that no split has.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl

from core.parquet import read_footer, read_frame
from pipeline.data_report.shards import TIME, Shard, milliseconds
from pipeline.draws import SHARES, drawn
from pipeline.sessionize import EVENT_ORDER, ITEM, SESSION, time_order
from pipeline.splits import LEAVE_OUT_FROM, SPLITS
from workflows.interactions import USER

TRAIN, VALID, TEST = range(len(SPLITS))
PART, START = "_part", "_start"


def split_sessions(
    shards: list[Shard], shifts: list[int], bounds: list[Mapping[str, Any]]
) -> list[np.ndarray]:
    """The split of every event of a clickstream.

    Memory: 1 byte an event, and some 50 a session; where ``bounds`` leave the last event of each
    session out, some 100 an event of one raw log.

    Args:
        shards: those of all raw logs, one log after another.
        shifts: what preprocess added to the session ids of each log.
        bounds: those after each log; a session that trained by them is not opened again.
    """
    if bounds[-1].get("leave_one_out"):
        logs = [list(group) for _, group in groupby(shards, lambda shard: shard.log)]
        return [splits for log in logs for splits in _ends(log, bounds[-1]["drop_repeats"])]
    starts = _starts(shards, shifts, bounds)
    return [_by_start(shard, shifts, starts, bounds[-1]) for shard in shards]


def split_ratings(shards: list[Shard], bounds: Mapping[str, Any] | None) -> list[np.ndarray]:
    """The split of every rating by its own time; ``bounds`` None: of each user's ratings the last
    tests (memory: some 100 bytes a rating)."""
    if bounds is None:
        return _ends(shards, drop_repeats=False, key=USER)
    if SHARES in bounds:
        edges = np.cumsum([shard.rows for shard in shards])
        return np.split(drawn(np.arange(edges[-1]), bounds), edges[:-1])
    times = (read_frame(shard.path, columns=[TIME])[TIME] for shard in shards)
    return [_between(milliseconds(mine), bounds) for mine in times]


# the start decides


def _sessions(shard: Shard, shifts: list[int]) -> pl.DataFrame:
    events = read_frame(shard.path, columns=[SESSION, TIME], use_statistics=False)
    tests = pl.lit(shard.tests).alias("tests")
    events = events.with_columns(pl.col(TIME).dt.timestamp("ms"), tests)
    if shifts[shard.log]:
        events = events.with_columns(pl.col(SESSION) + shifts[shard.log])
    return events


def _starts(
    shards: list[Shard], shifts: list[int], bounds: list[Mapping[str, Any]]
) -> pl.DataFrame:
    """One row a session and log that it has events in: ``log``, session, tests, part, start.

    Events of one part are one session to preprocess.
    """
    keys = [SESSION, "tests"]
    seen: pl.DataFrame | None = None
    for log, group in groupby(shards, lambda shard: shard.log):
        mins = [_sessions(s, shifts).group_by(keys).agg(pl.col(TIME).min()) for s in group]
        here = pl.concat(mins).group_by(keys).agg(pl.col(TIME).min().alias(START))
        here = here.with_columns(pl.lit(log).alias("log"), pl.lit(log).alias(PART))
        if seen is None:
            seen = here
            continue
        latest = seen.group_by(keys).agg(pl.all().sort_by("log").last()).select(*keys, PART, START)
        joined = here.join(latest, on=keys, how="left", suffix="_before", maintain_order="left")
        goes_on = pl.col(f"{START}_before") >= bounds[log - 1]["valid_start"]
        part = pl.when(goes_on).then(f"{PART}_before").otherwise(PART).alias(PART)
        here = joined.with_columns(part).select(seen.columns)
        seen = pl.concat([seen, here]).with_columns(pl.col(START).min().over(*keys, PART))
    assert seen is not None
    return seen


def _by_start(
    shard: Shard, shifts: list[int], starts: pl.DataFrame, bounds: Mapping[str, Any]
) -> np.ndarray:
    events = _sessions(shard, shifts).with_columns(pl.lit(shard.log).alias("log"))
    keys = [SESSION, "tests", "log"]
    start = events.join(starts, on=keys, how="left", maintain_order="left")[START].to_numpy()
    if shard.tests:
        return np.full(len(start), TEST, np.int8)
    found = _between(start, bounds)
    if "end" in bounds:  # a window cuts sessions off where the next split begins
        later = _between(events[TIME].to_numpy(), bounds) != found
        found = np.where(later & (found != TEST), np.int8(-1), found)
    return found


def _between(start: np.ndarray, bounds: Mapping[str, Any]) -> np.ndarray:
    """The split of each time in milliseconds, ``(rows,)``."""
    places = [bounds["valid_start"], bounds["test_start"]]
    found = np.searchsorted(places, start, side="right").astype(np.int8)
    outside = (start < bounds.get("start", start)) | (start >= bounds.get("end", start + 1))
    return np.where(outside, np.int8(-1), found)


# the place in the session decides


def _ends(shards: list[Shard], drop_repeats: bool, key: str = SESSION) -> list[np.ndarray]:
    """The last event of each session (or other ``key``) tests, the one before it validates."""
    names = read_footer(shards[0].path).schema.names
    columns = [key, ITEM, *(name for name in (TIME, EVENT_ORDER) if name in names)]
    frames = [read_frame(s.path, columns=columns, use_statistics=False) for s in shards]
    events = pl.concat(frames).with_row_index("row")
    times = _times(frames) if TIME in names else np.zeros(len(events), np.int64)
    events = events.with_columns(pl.Series(TIME, times))
    events = events.sort(key, *time_order(events), "row")
    if drop_repeats:
        same = pl.col(key).eq_missing(pl.col(key).shift())
        events = events.filter(~(same & pl.col(ITEM).eq_missing(pl.col(ITEM).shift())))
    length = pl.len().over(key)
    from_end = length - pl.int_range(pl.len()).over(key)
    last = pl.when(from_end == 1).then(TEST).when(from_end == 2).then(VALID).otherwise(TRAIN)
    split = pl.when(length < LEAVE_OUT_FROM).then(TRAIN).otherwise(last)
    events = events.select("row", split.cast(pl.Int8).alias("split"))
    found = np.full(sum(shard.rows for shard in shards), -1, np.int8)
    found[events["row"].to_numpy()] = events["split"].to_numpy()
    return np.split(found, np.cumsum([shard.rows for shard in shards])[:-1])


def _times(frames: list[pl.DataFrame]) -> np.ndarray:
    return np.concatenate([milliseconds(frame[TIME]) for frame in frames])
