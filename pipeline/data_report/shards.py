"""The raw shards as the report reads them: a column at a time, each row with its day and split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

TIME = "timestamp"
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Chunk:
    """One shard's rows of a column. ``splits``: first and last-plus-one row of each split here."""

    values: pl.Series
    days: np.ndarray
    splits: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class RawLog:
    """Shards in the order of the splits.

    ``days``: name of each day in order. In a ranking log a day is an input file; in a sessions log
    it is a date (UTC), and ``first_date`` numbers the first.
    """

    folder: Path
    shards: list[dict[str, Any]]
    days: list[str]
    ranges: Mapping[str, tuple[int, int]]
    first_date: int | None = None

    @property
    def by_date(self) -> bool:
        return self.first_date is not None

    def chunks(self, column: str, day: int | None = None) -> Iterator[Chunk]:
        """The column shard by shard: memory is bounded by a shard, whatever the log.

        ``day``: shards that cannot hold rows of this day are left out.
        """
        at = 0
        for shard in self.shards:
            if day is not None and not self.by_date and shard["source_index"] != day:
                at += shard["rows"]
                continue
            path = self.folder / shard["file"]
            wanted = [column, TIME] if self.by_date and column != TIME else [column]
            frame = pl.read_parquet(path, columns=wanted, use_statistics=False)
            splits = {}
            for split, (first, last) in self.ranges.items():
                begin, end = max(first, at) - at, min(last, at + len(frame)) - at
                if begin < end:
                    splits[split] = (begin, end)
            yield Chunk(frame[column], self._days(frame, shard), splits)
            at += shard["rows"]

    def _days(self, frame: pl.DataFrame, shard: dict[str, Any]) -> np.ndarray:
        if not self.by_date:
            return np.full(len(frame), shard["source_index"], np.int64)
        times = frame[TIME].dt.timestamp("ms").to_numpy()
        return times // DAY_MS - self.first_date


def ranking_log(
    folder: Path,
    manifest: dict[str, Any],
    shards: list[dict[str, Any]],
    ranges: Mapping[str, tuple[int, int]],
) -> RawLog:
    """A click log: its days are its input files."""
    names = [Path(entry["file"]).name for entry in manifest["inputs"]]
    return RawLog(folder, shards, names, ranges)


def sessions_log(folder: Path, manifest: dict[str, Any]) -> RawLog:
    """A clickstream: its days are dates in UTC. Splits follow sessions, so rows have none here."""
    first, last = np.iinfo(np.int64).max, 0
    for shard in manifest["shards"]:
        times = pl.read_parquet(folder / shard["file"], columns=[TIME])[TIME].dt.timestamp("ms")
        if len(times):
            first = min(first, int(times.min()) // DAY_MS)
            last = max(last, int(times.max()) // DAY_MS)
    days = [str(np.datetime64(day, "D")) for day in range(first, last + 1)]
    return RawLog(folder, manifest["shards"], days, {}, first)
