"""What is said of a click log without a time column, whose rows are taken to be in time order."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from core.parquet import read_footer, read_row_groups

TIME_NAME = re.compile(r"(^|[^a-z])(time|timestamp|datetime|date|ts|at)([^a-z]|$)", re.IGNORECASE)
"""Names of columns that are likely to hold the time of a row."""
SECONDS = 946_684_800, 4_102_444_800
"""2000-01-01 and 2100-01-01."""
UNITS = (1, 10**3, 10**6, 10**9)
ISO = r"^\d{4}-\d\d-\d\d"
SETTING = "ranking.source.columns.timestamp"
ROW_ORDER = "row_order"
"""The key of the manifest that holds the doubt, or null."""
IN_ORDER = f"ingest: rows are taken to be in time order (setting {SETTING})"
MOST_BACKWARDS = 0.01
"""Share of rows that may be earlier than the row before them where several servers write a log."""


def doubt(read: Iterable[str], seen: Iterable[str], shards: Sequence[Path]) -> str | None:
    """Why the rows may not be in the order of time; None where nothing says so.

    Args:
        read: columns of the typed log that may hold a time.
        seen: all columns of the log.
        shards: the typed log.
    """
    read = [*read]
    for name in read:
        share = backwards(name, shards)
        if share is not None and share > MOST_BACKWARDS:
            return (
                f"rows are taken to be in time order, but {share:.1%} of them have an earlier "
                f"{name!r} than the row before; if that is the time, set {SETTING}: {name}"
            )
        if share is not None:
            return None
    named = [name for name in seen if TIME_NAME.search(name) and name not in read]
    if named:
        return (
            f"rows are taken to be in time order; the column {named[0]!r} is not read: if it is "
            f"the time, set {SETTING}: {named[0]} to be sure"
        )
    return None


def backwards(name: str, shards: Sequence[Path]) -> float | None:
    """Share of rows that are earlier than the row before them by column ``name``; None where its
    values do not look like times."""
    rows = earlier = 0
    before = None
    for shard in shards:
        groups = range(read_footer(shard).num_row_groups)  # what reads files whole loads datasets
        values = read_row_groups(shard, groups, [name])[name].drop_null().combine_chunks()
        if not _look_like_times(values):
            return None
        if not len(values):
            continue
        if before is not None and pc.less(values[0], before).as_py():
            earlier += 1
        earlier += pc.sum(pc.less(values[1:], values[:-1])).as_py() or 0
        rows, before = rows + len(values), values[-1]
    return earlier / rows if rows else None


def _look_like_times(values: pa.Array) -> bool:
    if not pa.types.is_integer(values.type):
        return bool(pc.all(pc.match_substring_regex(values, ISO)).as_py())
    least, most = pc.min_max(values).values()
    units = (unit for unit in UNITS if least.as_py() is not None)
    return any(
        SECONDS[0] * unit <= least.as_py() and most.as_py() < SECONDS[1] * unit for unit in units
    )
