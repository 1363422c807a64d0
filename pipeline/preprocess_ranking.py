"""Raw click logs → features: rows in input order, cut by rows, days or files."""

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
from pipeline import row_log, split_by_time, splits
from pipeline.doubts import WARNINGS
from pipeline.held_out import GrowSettings, Settled, can_grow
from pipeline.ingest.row_order import ROW_ORDER
from pipeline.preprocess import Job, origin, preprocess
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
    log = row_log.raw_log(raw, manifest, settings.split, settled)
    ranges = recorded = row_log.split_ranges(log, manifest, settings.split)
    if settled is not None:
        ranges = splits.ranges_after(ranges, settled.record["settled"], settings.split)
        recorded = {**ranges, "train": (0, ranges["train"][1])}
    growing = can_grow(settings.split)
    about = {
        "recipe": RECIPE,
        "unit": "rows",
        **origin(manifest),
        **row_log.truth_of(log, recorded, manifest),
        "ranges": recorded,
    }
    if manifest.get(ROW_ORDER):
        about[WARNINGS] = [manifest[ROW_ORDER]]
    return Job(
        parts=row_log.ranking_parts(log, ranges, settings.rows_per_part),
        read=RowReader(settings.workflow),
        workflow=partial(workflow, settings, list(manifest["columns"])),
        schema=ranking.raw_schema(settings.workflow),
        about=about,
        hold_out=(lambda folder: row_log.hold_out(log, ranges, folder)) if growing else None,
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
    cut = split_by_time.cut(client, raw, manifest, split, scratch, rows, settled)
    log = row_log.RowLog([row_log.Shard(path, rows) for path, rows in cut.log.files], [])
    return Job(
        parts=row_log.ranking_parts(log, cut.ranges, settings.rows_per_part),
        read=RowReader(settings.workflow),
        workflow=partial(workflow, settings, list(manifest["columns"])),
        schema=ranking.raw_schema(settings.workflow),
        about={"recipe": RECIPE, "unit": "rows", **origin(manifest), "bounds": cut.bounds},
        hold_out=cut.hold_out if can_grow(split) else None,
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
