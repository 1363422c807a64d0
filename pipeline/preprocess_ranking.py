"""Raw click logs → features: rows in input order, cut by rows, days or files."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from core import frames
from core.cluster import ClusterSettings
from core.errors import UserError
from core.merlin import Workflow
from core.parquet import read_footer, read_row_groups, reading
from pipeline import split_by_time, splits
from pipeline.doubts import WARNINGS
from pipeline.held_out import GrowSettings, Settled, can_grow, link
from pipeline.ingest.generated import GENERATED
from pipeline.ingest.row_order import ROW_ORDER
from pipeline.preprocess import Job, Part, origin, preprocess
from pipeline.splits import SplitSettings
from workflows import ranking
from workflows.ranking import RankingWorkflowSettings

RECIPE = "ranking"


class RankingPreprocessSettings(GrowSettings):
    """Click logs → features."""

    split: SplitSettings = SplitSettings()
    workflow: RankingWorkflowSettings = RankingWorkflowSettings()
    rows_per_part: int = Field(250_000, ge=1)
    """Rows that a worker holds at once; memory grows with it, about 1 KB a row."""


def preprocess_ranking(
    raw: str | Path,
    output: str | Path,
    settings: RankingPreprocessSettings | None = None,
    cluster: ClusterSettings | None = None,
) -> dict[str, Any]:
    """Makes ranking features of the raw Parquet in ``raw``.

    Returns:
        The manifest that was written to ``output/manifest.json``.
    """
    settings = settings or RankingPreprocessSettings()
    return preprocess(RECIPE, prepare, raw, output, settings, cluster)


def prepare(
    client: Any,
    raw: Path,
    manifest: dict[str, Any],
    settings: RankingPreprocessSettings,
    scratch: Path,
    settled: Settled | None = None,
) -> Job:
    """See :data:`pipeline.preprocess.Prepare`."""
    if split_by_time.has_time(manifest, settings.split):
        return _job_by_time(client, raw, manifest, settings, scratch, settled)
    log = raw_log(raw, manifest, settings.split, settled)
    ranges = told = split_ranges(log, manifest, settings.split)
    if settled is not None:
        ranges = splits.ranges_after(ranges, settled.record["settled"], settings.split)
        told = {**ranges, "train": (0, ranges["train"][1])}
    growing = can_grow(settings.split)
    about = {
        "recipe": RECIPE,
        "unit": "rows",
        **origin(manifest),
        **truth_of(log, told, manifest),
        "ranges": told,
    }
    if manifest.get(ROW_ORDER):
        about[WARNINGS] = [manifest[ROW_ORDER]]
    return Job(
        parts=ranking_parts(log, ranges, settings.rows_per_part),
        read=RowReader(settings.workflow),
        workflow=partial(workflow, settings, list(manifest["columns"])),
        schema=ranking.raw_schema(settings.workflow),
        about=about,
        hold_out=(lambda folder: hold_out(log, ranges, folder)) if growing else None,
    )


def _job_by_time(
    client: Any,
    raw: Path,
    manifest: dict[str, Any],
    settings: RankingPreprocessSettings,
    scratch: Path,
    settled: Settled | None,
) -> Job:
    """The same for a log with a time column, whose rows are sorted by it first."""
    split, rows = settings.split, settings.rows_per_part
    found = split_by_time.cut(client, raw, manifest, split, scratch, rows, settled)
    log = RowLog([Shard(path, rows) for path, rows in found.log.files], [])
    return Job(
        parts=ranking_parts(log, found.ranges, settings.rows_per_part),
        read=RowReader(settings.workflow),
        workflow=partial(workflow, settings, list(manifest["columns"])),
        schema=ranking.raw_schema(settings.workflow),
        about={"recipe": RECIPE, "unit": "rows", **origin(manifest), "bounds": found.bounds},
        hold_out=found.hold_out if can_grow(split) else None,
    )


def workflow(settings: RankingPreprocessSettings, columns: list[str]) -> Workflow:
    """The unfitted workflow for a raw log that has ``columns``.

    Raises:
        UserError: one that the settings name is not among them.
    """
    for setting in ("labels", "continuous", "categorical", "multi_valued", "vectors"):
        missing = [name for name in getattr(settings.workflow, setting) if name not in columns]
        if missing:
            raise UserError(
                f"ranking.preprocess.workflow.{setting}: the raw log has no column "
                f"{', '.join(missing)} (it has {', '.join(columns)}); name those that it has, or "
                "read more by ranking.source.columns and run ingest again"
            )
    return ranking.build(settings.workflow)


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
    found, at = {}, list(log["first_rows"])
    for entry in manifest["shards"]:
        source = entry["source_index"]
        found[entry["file"]] = (log["checksum"], at[source])
        at[source] += entry["rows"]
    return found


def truth_of(
    log: RowLog, ranges: dict[str, tuple[int, int]], manifest: dict[str, Any]
) -> dict[str, Any]:
    """``truth_rows``: of each split the rows of the generated log that it holds, as first and
    last-plus-one of consecutive ones; a split with other rows has no entry."""
    checksum = (manifest.get(GENERATED) or {}).get("checksum")
    if checksum is None:
        return {}
    found: dict[str, list[tuple[int, int]]] = {}
    for split, (first, last) in ranges.items():
        held, at = [], log.first_row
        for shard in log.shards:
            start, stop = max(first, at) - at, min(last, at + shard.rows) - at
            if start < stop and shard.truth and shard.truth[0] == checksum:
                held.append((shard.truth[1] + start, shard.truth[1] + stop))
            at += shard.rows
        if sum(stop - start for start, stop in held) == last - first:
            found[split] = held
    return {"truth_rows": found}


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
    """Links the raw files with rows that validate or test; returns where they stand in the log."""
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


class RowReader:
    """Reads rows of one raw file: ``source`` is its path, the first row and the one after the last.

    Only the row groups that hold them are read, by the GPU where the rows are to lie there.

    Args:
        labelled: whether the file holds the labels; where it does not, they are 0.
    """

    def __init__(self, settings: RankingWorkflowSettings, labelled: bool = True) -> None:
        self.settings = settings
        unread = () if labelled else settings.labels
        self.names = [name for name in ranking.raw_columns(settings) if name not in unread]

    def __call__(self, source: tuple[str, int, int], split: str) -> pd.DataFrame:
        path, start, stop = source
        groups, first = row_groups(read_footer(path), start, stop)
        table = read_row_groups(path, groups, self.names)
        with reading(path):  # a column is missing
            frame = ranking_frame(table.slice(start - first, stop - start), self.settings)
        return ranking.for_split(frame, split)

    def on_device(self, source: tuple[str, int, int], split: str) -> Any:
        path, start, stop = source
        groups, first = row_groups(read_footer(path), start, stop)
        frame = frames.read_parquet(path, self.names, groups)
        return ranking.for_split(frame.iloc[start - first : stop - first], split)


def row_groups(footer: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups of a file that hold rows ``start`` to ``stop``, and their first row."""
    groups, first, at = [], 0, 0
    for group in range(footer.num_row_groups):
        rows = footer.row_group(group).num_rows
        if at < stop and at + rows > start:
            first = first if groups else at
            groups.append(group)
        at += rows
    return groups, first


def ranking_frame(table: pa.Table, settings: RankingWorkflowSettings) -> pd.DataFrame:
    """Raw rows as the ranking workflow reads them: numbers as NumPy's, categories, and
    lists of them, as Arrow's, vectors as objects; labels that are not there are 0.

    Arrow's columns are taken as they are, with their nulls; NumPy's would be floats with NaN, each
    copied whenever the workflow selects some of them.
    """
    columns: dict[str, Any] = {}
    for name in settings.labels:
        known = name in table.column_names
        columns[name] = table[name].to_numpy() if known else np.zeros(table.num_rows)
        columns[name] = columns[name].astype(np.int8, copy=False)
    dense = np.empty((len(settings.continuous), table.num_rows))  # one block: huge pages
    for row, name in zip(dense, settings.continuous, strict=True):
        row[:] = table[name].to_numpy()
        columns[name] = row
    for name in settings.categorical:
        columns[name] = pd.Series(pd.arrays.ArrowExtensionArray(table[name]), copy=False)
    for name in settings.multi_valued:
        columns[name] = pd.Series(pd.arrays.ArrowExtensionArray(table[name]), copy=False)
    for name in settings.vectors:
        columns[name] = table[name].to_pandas()
    return pd.DataFrame(columns, copy=False)
