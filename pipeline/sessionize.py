"""Raw events in any order → whole sessions in time order, out of core.

NVTabular's workflows see one partition at a time, so the events of a session must stand together.
Events are dealt to buckets by a hash of their session id, each bucket is sorted by session, time
and input order, and a bucket fits in memory whatever the size of the log.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from pydantic import Field, model_validator

from core import cluster as dask_cluster
from core import frames
from core.artifacts import write_parquet
from core.hashing import mix
from core.parquet import read_frame
from core.settings import Settings
from pipeline.splits import HELD_BACK, LEAVE_OUT_FROM

SESSION, ITEM, TIME, USER = "session_id", "item_id", "timestamp", "user_id"
EVENT_ORDER = "event_order"
"""The log's own order of the events of one time, where it has such a column."""
ORDER, GROUP, START = "_order", "_group", "_start"
OWN_COLUMNS = (EVENT_ORDER, ORDER, GROUP, START)
"""Columns that serve to bring events together, and are no features."""
MAX_TIME = 2**62
"""Later than any event, in milliseconds."""


class SessionizeSettings(Settings):
    """Which events and sessions are kept, and how sessions are cut."""

    drop_repeats: bool = True
    """Keeps one of consecutive events on the same item, as the field's protocols do."""
    min_item_support: int = Field(1, ge=1)
    """Items with fewer events in the training sessions are left out of them."""
    min_length: int = Field(2, ge=2)
    """Sessions with fewer events than this are left out: they have no next item."""
    max_length: int = Field(50, ge=2)
    """Longer sessions keep their last events, at most this many. The last of them is what a model
    is asked for, so it is shown one fewer, by ``recommend`` too."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> "SessionizeSettings":
        if self.max_length < self.min_length:
            raise ValueError(
                f"max_length ({self.max_length}) is below min_length ({self.min_length})"
            )
        return self


def bucket_of(sessions: pl.Series, buckets: int) -> np.ndarray:
    """The bucket of each session id, the same on every machine and in every run."""
    if sessions.dtype.is_integer():
        hashed = mix(sessions.cast(pl.Int64).to_numpy().astype(np.uint64))
    else:
        hashed = pd.util.hash_array(sessions.to_numpy().astype(object), categorize=False)
    return (hashed % np.uint64(buckets)).astype(np.int32)


def bring_together(
    client: Any, shards: list[dict[str, Any]], folder: Path, buckets: int
) -> list[np.ndarray]:
    """Deals and sorts the events of ``shards``; gives the sessions of each bucket, as
    :func:`sort_bucket` does."""
    shutil.rmtree(folder, ignore_errors=True)
    dask_cluster.run(client, "bringing sessions together", deal, shards, folder, buckets)
    return dask_cluster.run(client, "sorting sessions", sort_bucket, range(buckets), folder)


def deal(shard: Mapping[str, Any], folder: Path, buckets: int) -> None:
    """Writes the events of one raw shard to ``folder/<bucket>/<shard>.parquet``.

    ``shard``: ``path``, ``number``, ``first_row`` (its place in the log), ``group`` (0, or 1 for a
    file that tests as a whole: its sessions are never joined with the others') and ``shift``,
    which is added to its session ids.
    """
    events = read_frame(shard["path"], use_statistics=False)
    if shard["shift"]:
        events = events.with_columns(pl.col(SESSION) + shard["shift"])
    rows = np.arange(shard["first_row"], shard["first_row"] + len(events))
    events = events.with_columns(
        pl.Series(ORDER, rows, pl.Int64), pl.lit(shard["group"], pl.Int8).alias(GROUP)
    )
    where = bucket_of(events[SESSION], buckets)
    for bucket in np.unique(where):
        piece = events.filter(pl.Series(where == bucket)).to_arrow()
        write_parquet(folder / f"{bucket:04d}" / f"{shard['number']:05d}.parquet", piece)


def sort_bucket(bucket: int, folder: Path) -> np.ndarray:
    """Joins and sorts a bucket's pieces into ``folder/events-<bucket>.parquet``.

    Returns:
        One row a session, shape ``(sessions, 3)``: group, start in milliseconds since 1970 UTC,
        and how many users it has (0 where none is known).
    """
    pieces = sorted((folder / f"{bucket:04d}").glob("*.parquet"))
    if not pieces:
        return np.empty((0, 3), np.int64)
    events = pl.concat([read_frame(piece) for piece in pieces])
    keys = [GROUP, SESSION]
    events = events.sort(*keys, *time_order(events), ORDER)
    milliseconds = pl.col(TIME).dt.timestamp("ms")
    events = events.with_columns(milliseconds.min().over(keys).alias(START)).drop(ORDER)
    write_parquet(events_file(bucket, folder), events.to_arrow())
    known = USER in events.columns
    users = (pl.col(USER).drop_nulls().n_unique() if known else pl.lit(0)).cast(pl.Int64)
    starts = events.group_by(*keys, maintain_order=True).agg(pl.first(START), users.alias(USER))
    return starts.select(
        pl.col(GROUP).cast(pl.Int64), START, pl.col(USER).cast(pl.Int64)
    ).to_numpy()


def time_order(events: pl.DataFrame) -> list[str]:
    """The columns by which the events of a session are in order; the order of the input decides
    between those that agree in all of them."""
    return [TIME, EVENT_ORDER] if EVENT_ORDER in events.columns else [TIME]


def events_file(bucket: int, folder: Path) -> Path:
    return folder / f"events-{bucket:04d}.parquet"


def in_split(split: str, bounds: Mapping[str, Any]) -> pl.Expr:
    """Which events belong to ``split``: ``bounds`` holds valid_start and test_start (ms), and
    where there is a window its start and end."""
    start, group = pl.col(START), pl.col(GROUP)
    inside = (start >= bounds.get("start", 0)) & (start < bounds.get("end", MAX_TIME))
    return inside & _in_split(split, bounds, start, group)


def _in_split(split: str, bounds: Mapping[str, Any], start: pl.Expr, group: pl.Expr) -> pl.Expr:
    held_out = (group == 1) | (start >= bounds["test_start"])
    if split == "test":
        return held_out
    validates = start >= bounds["valid_start"]
    return ~held_out & (validates if split == "valid" else ~validates)


def events_of(events: pl.DataFrame, split: str, bounds: Mapping[str, Any]) -> pl.DataFrame:
    """The events that ``split`` sees; ``bounds`` with ``leave_one_out`` cut each session's end,
    those of a window (with ``end``) cut sessions off where the next split begins."""
    if not bounds.get("leave_one_out"):
        events = events.filter(in_split(split, bounds))
        if "end" in bounds and split != "test":
            # A session may go on for days: what it holds of the days to come must not train.
            until = bounds["valid_start" if split == "train" else "test_start"]
            events = events.filter(pl.col(TIME).dt.timestamp("ms") < until)
        return events
    if bounds["drop_repeats"]:
        events = events.filter(~repeats())
    long_enough = pl.len().over(SESSION) >= LEAVE_OUT_FROM
    if split == "train":
        return events.filter(~long_enough | (from_end() > HELD_BACK[split]))
    return events.filter(long_enough & (from_end() > HELD_BACK[split]))


def repeats() -> pl.Expr:
    """Events on the same item as the event before them in their session."""
    same_session = pl.col(SESSION).eq_missing(pl.col(SESSION).shift(1))
    return same_session & pl.col(ITEM).eq_missing(pl.col(ITEM).shift(1))


def from_end() -> pl.Expr:
    """Place of an event from the end of its session: 1 for the last."""
    return pl.len().over(SESSION) - pl.int_range(pl.len()).over(SESSION)


def hold_out(bucket: int, folder: Path, bounds: Mapping[str, Any], output: Path) -> tuple[str, int]:
    """Writes the raw events of a bucket's sessions that do not train; returns its name and rows.

    Nothing where ``bounds`` cut each session's end.
    """
    path = events_file(bucket, output)
    if bounds.get("leave_one_out"):
        return path.name, 0
    events = read_frame(events_file(bucket, folder))
    kept = events.filter(pl.col(START) >= bounds["valid_start"]).drop(GROUP, START)
    if len(kept):
        write_parquet(path, kept.to_arrow())
    return path.name, len(kept)


def item_counts(bucket: int, folder: Path, bounds: Mapping[str, Any]) -> pl.DataFrame:
    """Events of each item in the training sessions of one bucket: ``item_id``, ``len``."""
    events = read_frame(events_file(bucket, folder))
    return events_of(events, "train", bounds).group_by(ITEM).len()


def read_sessions(
    bucket: int,
    folder: Path,
    split: str,
    bounds: Mapping[str, Any],
    settings: SessionizeSettings,
    supported: pl.Series | None = None,
) -> pd.DataFrame:
    """The events of one bucket's sessions of one split, filtered and cut, in session order.

    ``supported``: the items that training sessions may hold (None: all).
    """
    events = events_of(read_frame(events_file(bucket, folder)), split, bounds)
    if split == "train" and supported is not None:
        events = events.filter(pl.col(ITEM).is_in(supported.implode()))
    if settings.drop_repeats:
        events = events.filter(~repeats())
    length = pl.len().over(SESSION)
    events = events.filter((length >= settings.min_length) & (from_end() <= settings.max_length))
    events = events.drop(GROUP, START, pl.selectors.by_name(EVENT_ORDER, require_all=False))
    return to_pandas(events.to_arrow())


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Arrow → pandas as the workflow takes it: naive UTC times, strings as objects."""
    for name in table.column_names:
        kind = table.schema.field(name).type
        at = table.schema.get_field_index(name)
        if pa.types.is_timestamp(kind):
            table = table.set_column(at, name, table[name].cast(pa.timestamp("ms")))
        elif pa.types.is_large_string(kind):
            table = table.set_column(at, name, table[name].cast(pa.string()))
    return frames.from_arrow(table)
