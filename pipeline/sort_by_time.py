"""Rows in any order → files in the order of time, out of core.

A log that is in order already stays where it is. Otherwise its rows are dealt to ranges of time
that each fit in memory, and each range is sorted by time and the rows' place in the log. Of the
whole log only the times are ever at hand, and these on disk: 8 bytes a row.
"""

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core import cluster as dask_cluster
from core.artifacts import encodings, write_parquet
from core.parquet import read_table

TIME, ORDER = "timestamp", "_order"
ROW_GROUP = 65_536
QUICK: dict[str, Any] = {"compression": "lz4", "compression_level": None}
"""For files that are read soon and then deleted."""
SAMPLED = 256
"""One of so many rows tells where ranges of time begin."""


@dataclass(frozen=True)
class TimeSorted:
    """Files in the order of time, ``(path, rows)`` each, and the times of all rows in
    milliseconds since 1970 UTC, ``(rows,)``."""

    files: list[tuple[str, int]]
    times: np.ndarray


def sort_by_time(
    client: Any, shards: list[dict[str, Any]], folder: Path, rows_at_once: int
) -> TimeSorted:
    """Puts the rows of ``shards`` in the order of time, rows of one time in that of the log.

    Args:
        shards: ``path``, ``number``, ``rows`` and ``first_row`` (its place in the log) of each.
        folder: for what is sorted; emptied first.
        rows_at_once: rows that a worker holds, about.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scanned = dask_cluster.run(client, "reading times", scan, shards, folder)
    if _in_order(scanned):
        files = [(shard["path"], shard["rows"]) for shard in shards]
        return TimeSorted(files, _joined(folder, [shard["number"] for shard in shards]))
    bounds = range_bounds(np.concatenate([shard["sample"] for shard in scanned]), rows_at_once)
    dask_cluster.run(client, "dealing rows by time", deal, shards, folder, bounds)
    ranges = range(len(bounds) + 1)
    rows = dask_cluster.run(client, "sorting rows by time", sort_range, ranges, folder)
    held = [number for number in ranges if rows[number]]
    files = [(str(sorted_file(folder, number)), rows[number]) for number in held]
    return TimeSorted(files, _joined(folder, held))


def times_of(path: str | Path) -> np.ndarray:
    """The times of a file's rows, in milliseconds, ``(rows,)``."""
    return _milliseconds(read_table(path, [TIME]))


def _milliseconds(table: pa.Table) -> np.ndarray:
    return table[TIME].cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).to_numpy()


def scan(shard: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Keeps the times of a shard; returns its first and last one, whether they are in order, and
    of some rows time and place, ``(samples, 2)``."""
    times = times_of(shard["path"])
    np.save(_times_file(folder, shard["number"]), times)
    places = np.arange(0, len(times), SAMPLED)
    sample = np.stack([times[places], shard["first_row"] + places], axis=1)
    ends = (int(times[0]), int(times[-1])) if len(times) else None
    return {"ends": ends, "in_order": bool((times[1:] >= times[:-1]).all()), "sample": sample}


def _in_order(scanned: list[dict[str, Any]]) -> bool:
    ends = [shard["ends"] for shard in scanned if shard["ends"]]
    between = all(before[1] <= after[0] for before, after in itertools.pairwise(ends))
    return between and all(shard["in_order"] for shard in scanned)


def range_bounds(sample: np.ndarray, rows_at_once: int) -> np.ndarray:
    """Time and place of the first row of each range but the first, in order, ``(ranges - 1, 2)``.

    Args:
        sample: time and place of one of :data:`SAMPLED` rows, ``(samples, 2)``.
    """
    ordered = sample[np.lexsort((sample[:, 1], sample[:, 0]))]
    step = max(1, rows_at_once // SAMPLED)
    return ordered[step::step]


def range_of(times: np.ndarray, places: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The range of each row, ``(rows,)``: how many of ``bounds`` are not after it."""
    first = np.searchsorted(bounds[:, 0], times, "left")
    last = np.searchsorted(bounds[:, 0], times, "right")
    ranges = first.copy()
    # Rows at the very time of a bound: their place in the log decides.
    tied = np.flatnonzero(first != last)
    for begin in np.unique(first[tied]):
        rows = tied[first[tied] == begin]
        among = bounds[begin : last[rows[0]], 1]
        ranges[rows] = begin + np.searchsorted(among, places[rows], "right")
    return ranges


def deal(shard: Mapping[str, Any], folder: Path, bounds: np.ndarray) -> None:
    """Writes the rows of one shard to ``folder/<range>/<shard>.parquet``."""
    table = read_table(shard["path"])
    places = shard["first_row"] + np.arange(table.num_rows)
    where = range_of(_milliseconds(table), places, bounds)
    table = table.append_column(ORDER, pa.array(places))
    order = np.argsort(where, kind="stable")
    table, where = table.take(pa.array(order)), where[order]
    starts = np.flatnonzero(np.diff(where, prepend=-1))
    options = {**QUICK, **encodings(table)}
    for start, stop in zip(starts, [*starts[1:], len(where)], strict=True):
        path = folder / f"{where[start]:05d}" / f"{shard['number']:05d}.parquet"
        write_parquet(path, table.slice(start, stop - start), **options)


def sort_range(number: int, folder: Path) -> int:
    """Joins and sorts what was dealt to a range; returns its rows."""
    pieces = sorted((folder / f"{number:05d}").glob("*.parquet"))
    if not pieces:
        return 0
    table = pa.concat_tables([read_table(piece) for piece in pieces])
    order = pc.sort_indices(table, [(TIME, "ascending"), (ORDER, "ascending")])
    table = table.take(order).drop_columns([ORDER])
    np.save(_times_file(folder, number), _milliseconds(table))
    options = {**QUICK, **encodings(table)}
    write_parquet(sorted_file(folder, number), table, row_group_size=ROW_GROUP, **options)
    shutil.rmtree(folder / f"{number:05d}")
    return table.num_rows


def sorted_file(folder: Path, number: int) -> Path:
    """The rows of a range, in order."""
    return folder / f"sorted-{number:05d}.parquet"


def _times_file(folder: Path, number: int) -> Path:
    return folder / f"times-{number:05d}.npy"


def _joined(folder: Path, numbers: list[int]) -> np.ndarray:
    """The times of some files, one after another, on disk."""
    parts = [np.load(_times_file(folder, number), mmap_mode="r") for number in numbers]
    rows = sum(map(len, parts))
    path = folder / "times.i64"
    whole = np.memmap(path, np.int64, "w+", shape=(rows,)) if rows else np.empty(0, np.int64)
    at = 0
    for part in parts:
        whole[at : at + len(part)] = part
        at += len(part)
    return whole


def rows_from(path: str, first: int, output: Path) -> None:
    """Writes the rows of a file from row ``first`` on."""
    write_parquet(output, read_table(path).slice(first), row_group_size=ROW_GROUP)
