"""Click logs with a time column: sorted by it, split by it, and held out for the days to come."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import splits, time_cuts
from pipeline.held_out import Settled, link
from pipeline.sort_by_time import TIME, TimeSorted, rows_from, sort_by_time
from pipeline.splits import SplitSettings


@dataclass(frozen=True)
class TimeCut:
    """A log in the order of time, where its splits are cut (milliseconds), and their rows."""

    log: TimeSorted
    bounds: dict[str, int]
    ranges: dict[str, tuple[int, int]]
    hold_out: Callable[[Path], dict[str, Any]]
    """Keeps the rows that do not train in a folder, for features that grow."""


def has_time(manifest: dict[str, Any], split: SplitSettings) -> bool:
    """Whether the rows of a click log are to be sorted: it has a time column, and its files are not
    what the split is by."""
    columns = (manifest.get("source") or {}).get("columns") or {}
    return columns.get(TIME) is not None and split.kind != "files"


def cut(
    client: Any,
    raw: Path,
    manifest: dict[str, Any],
    split: SplitSettings,
    scratch: Path,
    rows_at_once: int,
    settled: Settled | None,
) -> TimeCut:
    """Sorts the rows of a raw log and those that were held back, and cuts them by time.

    Raises:
        UserError: a split would be empty, or is not one by time.
    """
    splits.check_rows(split)
    log = sort_by_time(client, _shards(raw, manifest, settled), scratch, rows_at_once)
    before = settled.record["settled"] if settled else 0
    bounds = time_cuts.time_bounds(split, log.times, before)
    bounds = time_cuts.not_before(bounds, settled.record["bounds"] if settled else None)
    ranges = time_cuts.time_ranges(bounds, log.times, split, before)

    def hold_out(folder: Path) -> dict[str, Any]:
        first = int(np.searchsorted(log.times, bounds["valid_start"]))
        return {"settled": before + first, "bounds": bounds, "files": _keep(log, first, folder)}

    return TimeCut(log, bounds, ranges, hold_out)


def _shards(raw: Path, manifest: dict[str, Any], settled: Settled | None) -> list[dict[str, Any]]:
    """The files to sort, those that were held back first."""
    files = []
    if settled is not None:
        files = [(settled.path(kept["file"]), kept["rows"]) for kept in settled.record["files"]]
    files += [(raw / entry["file"], entry["rows"]) for entry in manifest["shards"]]
    firsts = np.cumsum([0, *(rows for _, rows in files)])
    return [
        {"path": str(path), "number": number, "rows": rows, "first_row": int(firsts[number])}
        for number, (path, rows) in enumerate(files)
    ]


def _keep(log: TimeSorted, first: int, folder: Path) -> list[dict[str, Any]]:
    """Keeps the rows from ``first`` on: whole files as links, of one file its last rows."""
    kept: list[dict[str, Any]] = []
    at = 0
    for path, rows in log.files:
        skipped = max(0, first - at)
        if skipped < rows:
            name = f"raw-{len(kept):05d}.parquet"
            if skipped:
                rows_from(path, skipped, folder / name)
            else:
                link(path, folder / name)
            kept.append({"file": name, "rows": rows - skipped})
        at += rows
    return kept
