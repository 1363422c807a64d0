"""The raw shards as the report reads them: a column at a time, each row with its day and split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from core.parquet import read_frame
from pipeline.splits import DAY, SPLITS

TIME = "timestamp"
Rows = slice | np.ndarray
"""Some rows of a shard: a range, or positions."""


@dataclass(frozen=True)
class Shard:
    """One raw file. ``day``: of all its rows, in a click log; ``log``: which of the raw logs it is
    of, from 0; ``tests``: whether its input file tests as a whole."""

    path: Path
    rows: int
    day: int = 0
    log: int = 0
    tests: bool = False


@dataclass(frozen=True)
class Chunk:
    """One shard's rows of a column, the day of each, and which of them each split has."""

    values: pl.Series
    days: np.ndarray
    splits: Mapping[str, Rows]


@dataclass(frozen=True)
class RawLog:
    """Shards in the order of the splits.

    ``days``: name of each day in order. In a click log a day is an input file; elsewhere it is a
    date (UTC), and ``first_date`` numbers the first. ``splits``: of each shard, either the rows of
    each split, or for each row the number of its split (-1: none), shape ``(rows,)``.
    """

    shards: list[Shard]
    days: list[str]
    splits: list[Mapping[str, slice] | np.ndarray]
    first_date: int | None = None

    @property
    def by_date(self) -> bool:
        return self.first_date is not None

    def chunks(self, column: str, only: Sequence[int] | None = None) -> Iterator[Chunk]:
        """The column shard by shard: memory is bounded by a shard, whatever the log.

        ``only``: numbers of the shards to read; None: all.
        """
        numbers = range(len(self.shards)) if only is None else only
        for shard, splits in ((self.shards[number], self.splits[number]) for number in numbers):
            wanted = [column, TIME] if self.by_date and column != TIME else [column]
            frame = read_frame(shard.path, columns=wanted, use_statistics=False)
            values = frame[column].alias("value")  # Polars takes some names for patterns.
            chunk = Chunk(values, self._days(frame, shard), rows_by_split(splits))
            yield _values_as_rows(chunk) if values.dtype == pl.List else chunk

    def _days(self, frame: pl.DataFrame, shard: Shard) -> np.ndarray:
        if self.first_date is None:
            return np.full(len(frame), shard.day, np.int64)
        return milliseconds(frame[TIME]) // DAY - self.first_date


def _values_as_rows(chunk: Chunk) -> Chunk:
    """A column of lists with a row for each value; a missing list is one missing value."""
    lengths = chunk.values.list.len().fill_null(0).clip(1).to_numpy()
    owners = np.arange(len(lengths)).repeat(lengths)
    splits: dict[str, Rows] = {}
    for split, rows in chunk.splits.items():
        held = np.zeros(len(lengths), bool)
        held[rows] = True
        splits[split] = np.flatnonzero(held[owners])
    return Chunk(chunk.values.explode(), chunk.days[owners], splits)


def rows_by_split(splits: Mapping[str, slice] | np.ndarray) -> Mapping[str, Rows]:
    if not isinstance(splits, np.ndarray):
        return splits
    found = {split: np.flatnonzero(splits == number) for number, split in enumerate(SPLITS)}
    return {split: rows for split, rows in found.items() if len(rows)}


def milliseconds(times: pl.Series) -> np.ndarray:
    return times.dt.timestamp("ms").to_numpy()


def ranking_log(
    shards: list[Shard], days: list[str], ranges: Mapping[str, tuple[int, int]]
) -> RawLog:
    """A click log: its days are its input files, its splits ranges of its rows."""
    splits: list[Any] = []
    at = 0
    for shard in shards:
        here = {}
        for split, (first, last) in ranges.items():
            begin, end = max(first, at) - at, min(last, at + shard.rows) - at
            if begin < end:
                here[split] = slice(begin, end)
        splits.append(here)
        at += shard.rows
    return RawLog(shards, days, splits)


def dated_log(shards: list[Shard], splits: list[np.ndarray]) -> RawLog:
    """A log of events with times: its days are dates in UTC."""
    first, last = np.iinfo(np.int64).max, 0
    for shard in shards:
        times = milliseconds(read_frame(shard.path, columns=[TIME])[TIME])
        if len(times):
            first = min(first, int(times.min()) // DAY)
            last = max(last, int(times.max()) // DAY)
    days = [str(np.datetime64(day, "D")) for day in range(first, last + 1)]
    return RawLog(shards, days, list(splits), first)
