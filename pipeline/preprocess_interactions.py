"""Raw ratings → features: brought together by user, put in time order, split, encoded."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from pydantic import Field, field_validator

from core import cluster as dask_cluster
from core.artifacts import write_parquet
from core.cluster import ClusterSettings
from core.merlin import ColumnSchema, Schema
from core.settings import Settings
from pipeline import splits
from pipeline.preprocess import Part, begin, fit_and_apply, generated, plan_of, raw_manifest
from pipeline.sessionize import bucket_of, to_pandas
from pipeline.splits import HELD_BACK, LEAVE_OUT_FROM, SPLITS, SplitSettings
from workflows import interactions
from workflows.interactions import ITEM, RATING, TIME, USER, InteractionsWorkflowSettings

ORDER = "_order"


class InteractionsPreprocessSettings(Settings):
    """Ratings → features."""

    split: SplitSettings = SplitSettings()
    workflow: InteractionsWorkflowSettings = InteractionsWorkflowSettings()
    rows_per_part: int = Field(500_000, ge=1)
    """Ratings that a worker holds at once, about."""

    @field_validator("split")
    @classmethod
    def _in_time(cls, split: SplitSettings) -> SplitSettings:
        if split.kind == "files":
            raise ValueError("kind 'files' is for the recipes ranking and sessions")
        return split


def preprocess_interactions(
    raw: str | Path,
    output: str | Path,
    settings: InteractionsPreprocessSettings | None = None,
    cluster: ClusterSettings | None = None,
) -> dict[str, Any]:
    """Makes features of the raw ratings in ``raw``; rows are in order of user and time.

    Splits are by the time of the rating, whoever rated, but for leave_one_out, which cuts each
    user's ratings.

    Returns:
        The manifest that was written to ``output/manifest.json``.
    """
    settings = settings or InteractionsPreprocessSettings()
    raw, output = Path(raw), Path(output)
    manifest = raw_manifest(raw)
    begin(output, plan_of(settings, manifest))
    scratch = output / "events"
    shutil.rmtree(scratch, ignore_errors=True)
    with dask_cluster.start(cluster or ClusterSettings()) as client:
        shards, buckets = _numbered(raw, manifest, settings.rows_per_part)
        dask_cluster.run(client, "bringing users together", deal, shards, scratch, buckets)
        found = dask_cluster.run(client, "sorting ratings", sort_bucket, range(buckets), scratch)
        filled = [bucket for bucket in range(buckets) if len(found[bucket])]
        bounds: dict[str, int] | None = None
        if settings.split.kind != "leave_one_out":
            bounds = splits.time_bounds(settings.split, np.concatenate(found))
        reader = RatingReader(scratch, bounds)
        parts = [Part(split, bucket, bucket) for split in SPLITS for bucket in filled]
        sample = reader(filled[0], "train")
        schema = Schema([ColumnSchema(name, dtype=sample[name].dtype) for name in sample.columns])
        workflow = interactions.build(settings.workflow)
        about = {"unit": "rows", "generated": generated(manifest)}
        done = fit_and_apply(client, workflow, parts, reader, schema, output, about)
    shutil.rmtree(scratch)
    return done


def _numbered(
    raw: Path, manifest: dict[str, Any], rows_per_part: int
) -> tuple[list[dict[str, Any]], int]:
    shards, at = [], 0
    for number, shard in enumerate(manifest["shards"]):
        shards.append({"path": str(raw / shard["file"]), "number": number, "first_row": at})
        at += shard["rows"]
    return shards, max(1, -(-at // rows_per_part))


def deal(shard: Mapping[str, Any], folder: Path, buckets: int) -> None:
    """Writes the ratings of one raw shard to ``folder/<bucket>/<shard>.parquet``, by user."""
    events = pl.read_parquet(shard["path"], columns=[USER, ITEM, RATING, TIME])
    rows = np.arange(shard["first_row"], shard["first_row"] + len(events))
    events = events.with_columns(pl.Series(ORDER, rows, pl.Int64))
    where = bucket_of(events[USER], buckets)
    for bucket in np.unique(where):
        piece = events.filter(pl.Series(where == bucket)).to_arrow()
        write_parquet(folder / f"{bucket:04d}" / f"{shard['number']:05d}.parquet", piece)


def sort_bucket(bucket: int, folder: Path) -> np.ndarray:
    """Sorts a bucket by user, time and input order; returns its times (ms), ``(ratings,)``."""
    pieces = sorted((folder / f"{bucket:04d}").glob("*.parquet"))
    if not pieces:
        return np.empty(0, np.int64)
    events = pl.concat([pl.read_parquet(piece) for piece in pieces])
    events = events.sort(USER, TIME, ORDER).drop(ORDER)
    write_parquet(_sorted_file(bucket, folder), events.to_arrow())
    return events[TIME].dt.timestamp("ms").to_numpy()


def _sorted_file(bucket: int, folder: Path) -> Path:
    return folder / f"events-{bucket:04d}.parquet"


@dataclass(frozen=True)
class RatingReader:
    """Reads the ratings of one bucket and split; can be sent to a worker."""

    events: Path
    bounds: dict[str, int] | None
    """In time (ms); None leaves the last ratings of each user out."""

    def __call__(self, bucket: int, split: str) -> pd.DataFrame:
        events = pl.read_parquet(_sorted_file(bucket, self.events))
        chosen = left_out(split) if self.bounds is None else in_time(split, self.bounds)
        return interactions.as_frame(to_pandas(events.filter(chosen).to_arrow()), split)


def left_out(split: str) -> pl.Expr:
    """The ratings of ``split`` where each user's last one tests and the one before validates."""
    length = pl.len().over(USER)
    from_end = length - pl.int_range(pl.len()).over(USER)
    long_enough = length >= LEAVE_OUT_FROM
    if split == "train":
        return ~long_enough | (from_end > HELD_BACK[split])
    return long_enough & (from_end == HELD_BACK[split] + 1)


def in_time(split: str, bounds: Mapping[str, int]) -> pl.Expr:
    """The ratings of ``split`` where time cuts them, whoever rated."""
    time = pl.col(TIME).dt.timestamp("ms")
    valid, test = bounds["valid_start"], bounds["test_start"]
    if split == "train":
        return (time >= bounds.get("start", 0)) & (time < valid)
    if split == "valid":
        return (time >= valid) & (time < test)
    last = bounds.get("end")
    return time >= test if last is None else (time >= test) & (time < last)
