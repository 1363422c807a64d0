"""When a log's times are: counts by month, and times far from all others."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.ingest.times import DAY

if TYPE_CHECKING:
    from pipeline.ingest.progress import FileReport

Months = dict[str, list[int]]
"""Rows and the first line of each month, by ``YYYY-MM``."""
FEW = 0.01
MONTHS_APART = 13
SHOWN = 3


def months_of(times: pa.ChunkedArray, lines: np.ndarray) -> Months:
    """The months of some rows' times (milliseconds); missing ones are left out."""
    known = np.asarray(times.is_valid())
    if not known.any():
        return {}
    days = np.asarray(times.cast(pa.int64()).fill_null(0))[known] // DAY
    low = days.min()
    counts = np.bincount(days - low)
    first = np.zeros(len(counts), np.int64)
    first[(days - low)[::-1]] = lines[known][::-1]  # what is written last holds
    there = np.flatnonzero(counts)
    names = (there + low).astype("datetime64[D]").astype("datetime64[M]").astype(str)
    months: Months = {}
    for name, rows, line in zip(names, counts[there], first[there], strict=True):
        add_months(months, {str(name): [int(rows), int(line)]})
    return months


def add_months(months: Months, more: Months) -> None:
    """Adds the counts of later rows to ``months``."""
    for name, (rows, line) in more.items():
        before = months.get(name, [0, line])
        months[name] = [before[0] + rows, min(before[1], line)]


def times_apart(reports: Iterable["FileReport"]) -> dict[str, Any]:
    """Times more than a year from the bulk, if they are few: mostly faults of what wrote the log.

    Returns:
        Empty, or ``rows``, the ``bulk`` (from month to month), and ``first``: some of them, as
        ``file``, ``line``, ``month`` and ``rows``.
    """
    reports = list(reports)
    total: Months = {}
    for report in reports:
        add_months(total, report.months)
    names = sorted(total)
    if not names:
        return {}
    at = np.array(names, "datetime64[M]").astype(np.int64)
    cluster = np.cumsum(np.diff(at, prepend=at[0]) >= MONTHS_APART)
    rows = np.bincount(cluster, weights=[total[name][0] for name in names])
    bulk = int(np.argmax(rows))
    few = rows < FEW * rows.sum()
    apart = {name for name, number in zip(names, cluster, strict=True) if few[number]}
    inside = [name for name, number in zip(names, cluster, strict=True) if number == bulk]
    if not apart:
        return {}
    first = [
        {"file": report.file.label, "line": line, "month": name, "rows": count}
        for report in reports
        for name, (count, line) in sorted(report.months.items())
        if name in apart
    ]
    return {
        "rows": sum(total[name][0] for name in apart),
        "bulk": [inside[0], inside[-1]],
        "first": first[:SHOWN],
    }
