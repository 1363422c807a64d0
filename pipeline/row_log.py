"""The rows of a click log in the order of their splits: shards, parts, what is held out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import splits
from pipeline.held_out import Settled, link
from pipeline.ingest.generated import GENERATED
from pipeline.preprocess import Part
from pipeline.splits import SplitSettings


@dataclass(frozen=True)
class Shard:
    """One file of raw rows.

    ``truth``: the checksum of the generated log that it is of and its first row there, if it is of
    one.
    """

    path: str
    rows: int
    truth: tuple[str, int] | None = None


@dataclass(frozen=True)
class RowLog:
    """Raw rows in the order in which they are split.

    ``units``: rows of each day or input file of the whole log; ``first_row``: how many of its rows
    come before the first of ``shards``.
    """

    shards: list[Shard]
    units: list[int]
    first_row: int = 0


def raw_log(
    raw: Path, manifest: dict[str, Any], split: SplitSettings, settled: Settled | None = None
) -> RowLog:
    """The rows of ``raw``, after those that were held back where features grow."""
    shards, units, first_row = [], [], 0
    if settled is not None:
        units, first_row = list(settled.record["units"]), settled.record["first_row"]
        for entry in settled.record["shards"]:
            truth = tuple(entry["truth"]) if entry.get("truth") else None
            shards.append(Shard(str(settled.path(entry["file"])), entry["rows"], truth))
    truths = _truths(manifest)
    numbers: dict[int, int] = {}
    for entry in in_split_order(manifest, split):
        source = entry["source_index"]
        if source not in numbers:
            numbers[source] = len(units)
            units.append(0)
        units[numbers[source]] += entry["rows"]
        truth = truths.get(entry["file"])
        shards.append(Shard(str(raw / entry["file"]), entry["rows"], truth))
    return RowLog(shards, units, first_row)


def _truths(manifest: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Where the rows of each shard of a generated log begin in it, by the shard's name.

    Of every input file all shards are here, in their order, or none.
    """
    log = manifest.get(GENERATED) or {}
    if "checksum" not in log:
        return {}
    truths, at = {}, list(log["first_rows"])
    for entry in manifest["shards"]:
        source = entry["source_index"]
        truths[entry["file"]] = (log["checksum"], at[source])
        at[source] += entry["rows"]
    return truths


def truth_of(
    log: RowLog, ranges: dict[str, tuple[int, int]], manifest: dict[str, Any]
) -> dict[str, Any]:
    """``truth_rows``: of each split the rows of the generated log that it holds, as first and
    last-plus-one of consecutive ones; a split with other rows has no entry."""
    checksum = (manifest.get(GENERATED) or {}).get("checksum")
    if checksum is None:
        return {}
    rows: dict[str, list[tuple[int, int]]] = {}
    for split, (first, last) in ranges.items():
        held, at = [], log.first_row
        for shard in log.shards:
            start, stop = max(first, at) - at, min(last, at + shard.rows) - at
            if start < stop and shard.truth and shard.truth[0] == checksum:
                held.append((shard.truth[1] + start, shard.truth[1] + stop))
            at += shard.rows
        if sum(stop - start for start, stop in held) == last - first:
            rows[split] = held
    return {"truth_rows": rows}


def in_split_order(manifest: dict[str, Any], split: SplitSettings) -> list[dict[str, Any]]:
    """The shards, those of the files that test last where the split is by file."""
    shards = manifest["shards"]
    if split.kind != "files":
        return shards
    testing = splits.test_file_indexes(split, [entry["file"] for entry in manifest["inputs"]])
    return sorted(shards, key=lambda shard: shard["source_index"] in testing)


def split_ranges(
    log: RowLog, manifest: dict[str, Any], split: SplitSettings
) -> dict[str, tuple[int, int]]:
    """First and last-plus-one row of each split, of the rows of the whole log in their order."""
    testing = split.test_days
    if split.kind == "files":
        files = [entry["file"] for entry in manifest["inputs"]]
        present = {shard["source_index"] for shard in manifest["shards"]}
        testing = len(splits.test_file_indexes(split, files) & present)
    return splits.row_ranges(split, np.array(log.units), testing)


def ranking_parts(
    log: RowLog, ranges: dict[str, tuple[int, int]], rows_per_part: int
) -> list[Part]:
    """Cuts every split into parts of at most ``rows_per_part`` rows of one shard."""
    parts = []
    for split, (first, last) in ranges.items():
        number, at = 0, log.first_row
        for shard in log.shards:
            start, stop = max(first, at) - at, min(last, at + shard.rows) - at
            for row in range(start, stop, rows_per_part):
                end = min(stop, row + rows_per_part)
                parts.append(Part(split, number, (shard.path, row, end)))
                number += 1
            at += shard.rows
    return parts


def hold_out(log: RowLog, ranges: dict[str, tuple[int, int]], folder: Path) -> dict[str, Any]:
    """Links the raw files with rows that validate or test; returns their places in the log."""
    settled, at = ranges["valid"][0], log.first_row
    kept: list[dict[str, Any]] = []
    first_row = None
    for shard in log.shards:
        if at + shard.rows > settled:
            first_row = at if first_row is None else first_row
            name = f"raw-{len(kept):05d}.parquet"
            link(shard.path, folder / name)
            kept.append({"file": name, "rows": shard.rows, "truth": shard.truth})
        at += shard.rows
    first_row = at if first_row is None else first_row
    return {"units": log.units, "settled": settled, "first_row": first_row, "shards": kept}
