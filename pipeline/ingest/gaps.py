"""What needs all events at once: exact duplicates, and sessions cut from users' events by idle gap.

Both work over the typed shards in buckets of rows that belong together (by hash), so that memory
is bounded by ``BUCKET_ROWS`` (a few hundred bytes a row while a bucket is sorted), unless one user
alone has more rows. What is found is kept by row in a file on disk (17 bytes a row for duplicates,
8 for sessions), and the shards are then rewritten one at a time. The result does not depend on the
buckets.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from core.artifacts import write_parquet
from pipeline.ingest.clickstream import ClickstreamSourceSettings

BUCKET_ROWS = 4_000_000
SEED = 20_150_713
MILLISECONDS_A_MINUTE = 60_000


def finish_events(
    settings: ClickstreamSourceSettings, folder: Path, record: dict[str, Any]
) -> None:
    """Drops duplicates and cuts sessions where ``settings`` ask for it.

    Rewrites the shards in ``folder`` and brings the manifest ``record`` up to date.
    """
    record["rows_duplicate"] = 0
    if not settings.drop_duplicates and settings.session_gap_minutes is None:
        return
    rows = record["rows_written"]
    keep = sessions = None
    scratch = [folder / ".keep", folder / ".sessions", folder / ".hashes"]
    try:
        if settings.drop_duplicates and rows:
            keep = _memory(scratch[0], bool, (rows,))
            _find_duplicates(folder, record["shards"], keep, scratch[2])
        if settings.session_gap_minutes is not None:
            gap = round(settings.session_gap_minutes * MILLISECONDS_A_MINUTE)
            sessions = _memory(scratch[1], np.int64, (max(1, rows),))
            _cut_sessions(folder, record["shards"], keep, sessions, gap)
        _rewrite(folder, record, keep, sessions)
    finally:
        for path in scratch:
            path.unlink(missing_ok=True)


def _memory(path: Path, type: Any, shape: tuple[int, ...]) -> np.memmap:
    """An array on disk, so that the system may drop its pages when memory is short."""
    return np.memmap(path, dtype=type, mode="w+", shape=shape)


def _shards(
    folder: Path, shards: list[dict[str, Any]], columns: list[str] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Each shard with the position of its first row."""
    first = 0
    for shard in shards:
        yield first, pq.read_table(folder / shard["file"], columns=columns)
        first += shard["rows"]


def _buckets(rows: int) -> int:
    return max(1, -(-rows // BUCKET_ROWS))


def _find_duplicates(
    folder: Path, shards: list[dict[str, Any]], keep: np.ndarray, scratch: Path
) -> None:
    """Marks the first of all rows that agree in every column, told by a hash of 128 bits."""
    hashes = _memory(scratch, np.uint64, (2, len(keep)))
    for first, table in _shards(folder, shards):
        frame = pl.from_arrow(table)
        for half in (0, 1):
            values = frame.hash_rows(seed=SEED + half).to_numpy()
            hashes[half, first : first + len(frame)] = values
    buckets = np.uint64(_buckets(len(keep)))
    for bucket in range(int(buckets)):
        positions = np.flatnonzero(hashes[0] % buckets == bucket)
        pair = pl.DataFrame({"a": hashes[0][positions], "b": hashes[1][positions]})
        keep[positions] = (
            pair.select(pl.struct("a", "b").is_first_distinct()).to_series().to_numpy()
        )


def _cut_sessions(
    folder: Path,
    shards: list[dict[str, Any]],
    keep: np.ndarray | None,
    sessions: np.ndarray,
    gap: int,
) -> None:
    """Gives every row its session: the position of the session's first event in the input."""
    buckets = _buckets(len(sessions))
    for bucket in range(buckets):
        parts = []
        for first, table in _shards(folder, shards, ["user_id", "timestamp"]):
            frame = pl.from_arrow(table).with_row_index("position", offset=first)
            frame = frame.with_columns(
                pl.col("timestamp").cast(pl.Int64), pl.col("position").cast(pl.Int64)
            )
            if keep is not None:
                frame = frame.filter(pl.Series(keep[first : first + len(frame)]))
            parts.append(frame.filter(pl.col("user_id").hash(seed=SEED) % buckets == bucket))
        events = pl.concat(parts).sort("user_id", "timestamp", "position")
        begins = (pl.col("user_id") != pl.col("user_id").shift()) | (
            pl.col("timestamp") - pl.col("timestamp").shift() > gap
        )
        events = events.with_columns(
            pl.when(begins.fill_null(True)).then("position").forward_fill().alias("session_id")
        )
        sessions[events["position"].to_numpy()] = events["session_id"].to_numpy()


def _rewrite(
    folder: Path, record: dict[str, Any], keep: np.ndarray | None, sessions: np.ndarray | None
) -> None:
    written = dict.fromkeys(range(len(record["inputs"])), 0)
    position = 0
    for shard in record["shards"]:
        table = pq.read_table(folder / shard["file"])
        here = slice(position, position + table.num_rows)
        position += table.num_rows
        if sessions is not None:
            table = table.add_column(0, "session_id", pa.array(np.asarray(sessions[here])))
        if keep is not None:
            table = table.filter(pa.array(np.asarray(keep[here])))
        write_parquet(folder / shard["file"], table, row_group_size=1 << 18)
        shard["rows"] = table.num_rows
        written[shard["source_index"]] += table.num_rows
    for index, entry in enumerate(record["inputs"]):
        if keep is not None:
            entry["rows_duplicate"] = entry["rows_written"] - written[index]
        entry["rows_written"] = written[index]
    record["rows_written"] = sum(written.values())
    record["rows_duplicate"] = position - record["rows_written"]
    if sessions is not None:
        record["columns"] = {"session_id": "int64", **record["columns"]}
