"""What needs all events at once: exact duplicates, and sessions cut from users' events by idle gap.

Both work over the typed shards in buckets of rows that belong together (by hash), so that memory
is bounded by ``BUCKET_ROWS`` (a few hundred bytes a row while a bucket is sorted), unless one user
alone has more rows. Their results are kept by row in a file on disk (17 bytes a row for duplicates,
8 for sessions), and the shards are then rewritten one at a time. The result does not depend on the
buckets.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from core.artifacts import write_json, write_parquet
from core.parquet import read_footer, read_table
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.ingest.shards import ROW_GROUP, describe_shard
from pipeline.ingest.workspace import Workspace

BUCKET_ROWS = 4_000_000
SEED = 20_150_713
MILLISECONDS_A_MINUTE = 60_000
KEEP, SESSIONS, DONE = "keep", "sessions", "done.json"


def finish_events(
    settings: ClickstreamSourceSettings, workspace: Workspace, record: dict[str, Any]
) -> None:
    """Drops duplicates and cuts sessions where ``settings`` ask for it.

    The shards that ``record`` names are rewritten into ``workspace.out``, and ``record`` is brought
    up to date. A run that was stopped goes on after the shards that are there.
    """
    record["rows_duplicate"] = 0
    if not settings.drop_duplicates and settings.session_gap_minutes is None:
        return
    rows = record["rows_written"]
    marks = workspace.folder / "marks"
    if not (marks / DONE).is_file() and rows:
        shutil.rmtree(marks, ignore_errors=True)
        marks.mkdir()
        _mark(settings, record, marks)
        write_json(marks / DONE, {})
    keep = sessions = None
    if settings.drop_duplicates and rows:
        keep = np.memmap(marks / KEEP, dtype=bool, mode="r", shape=(rows,))
    if settings.session_gap_minutes is not None and rows:
        sessions = np.memmap(marks / SESSIONS, dtype=np.int64, mode="r", shape=(rows,))
    if settings.session_gap_minutes is not None:
        record["columns"] = {"session_id": "int64", **record["columns"]}
    _rewrite(workspace.out, record, keep, sessions)


def _mark(settings: ClickstreamSourceSettings, record: dict[str, Any], marks: Path) -> None:
    """Writes for every row whether it is kept, and its session."""
    rows, keep = record["rows_written"], None
    if settings.drop_duplicates:
        keep = _memory(marks / KEEP, bool, (rows,))
        _find_duplicates(record["shards"], keep, marks / "hashes")
        keep.flush()
    if settings.session_gap_minutes is not None:
        gap = round(settings.session_gap_minutes * MILLISECONDS_A_MINUTE)
        sessions = _memory(marks / SESSIONS, np.int64, (rows,))
        _cut_sessions(record["shards"], keep, sessions, gap)
        sessions.flush()


def _memory(path: Path, type: Any, shape: tuple[int, ...]) -> np.memmap:
    """An array on disk, so that the system may drop its pages when memory is short."""
    with open(path, "wb") as file:
        # Room is claimed now: a full disk is an error here, and a dead process later.
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * np.dtype(type).itemsize)
    return np.memmap(path, dtype=type, mode="r+", shape=shape)


def _shards(
    shards: list[dict[str, Any]], columns: list[str] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Each shard with the position of its first row."""
    first = 0
    for shard in shards:
        yield first, read_table(shard["held"], columns)
        first += shard["rows"]


def _buckets(rows: int) -> int:
    return max(1, -(-rows // BUCKET_ROWS))


def _find_duplicates(shards: list[dict[str, Any]], keep: np.ndarray, scratch: Path) -> None:
    """Marks the first of all rows that agree in every column, by a hash of 128 bits."""
    hashes = _memory(scratch, np.uint64, (2, len(keep)))
    for first, table in _shards(shards):
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
    shards: list[dict[str, Any]],
    keep: np.ndarray | None,
    sessions: np.ndarray,
    gap: int,
) -> None:
    """Gives every row its session: the position of the session's first event in the input."""
    buckets = _buckets(len(sessions))
    for bucket in range(buckets):
        parts = []
        for first, table in _shards(shards, ["user_id", "timestamp"]):
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
    out: Path, record: dict[str, Any], keep: np.ndarray | None, sessions: np.ndarray | None
) -> None:
    written = dict.fromkeys(range(len(record["inputs"])), 0)
    position = 0
    for shard in record["shards"]:
        here = slice(position, position + shard["rows"])
        position += shard["rows"]
        held, path = Path(shard["held"]), out / shard["file"]
        if held.exists():
            _rewrite_one(held, path, here, keep, sessions)
            held.unlink()
        shard.update(describe_shard(path, read_footer(path).num_rows))
        written[shard["source_index"]] += shard["rows"]
    for index, entry in enumerate(record["inputs"]):
        if keep is not None:
            entry["rows_duplicate"] = entry["rows_written"] - written[index]
        entry["rows_written"] = written[index]
    record["rows_written"] = sum(written.values())
    record["rows_duplicate"] = position - record["rows_written"]


def _rewrite_one(
    held: Path, path: Path, here: slice, keep: np.ndarray | None, sessions: np.ndarray | None
) -> None:
    table = read_table(held)
    if sessions is not None:
        table = table.add_column(0, "session_id", pa.array(np.asarray(sessions[here])))
    if keep is not None:
        table = table.filter(pa.array(np.asarray(keep[here])))
    write_parquet(path, table, row_group_size=ROW_GROUP)
