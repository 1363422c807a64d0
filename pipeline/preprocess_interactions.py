"""Raw ratings → features: brought together by user, put in time order, split, encoded."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from pydantic import Field, field_validator

from core import cluster as dask_cluster
from core.artifacts import write_parquet
from core.cluster import ClusterSettings
from core.errors import UserError
from core.merlin import Workflow
from core.parquet import read_frame
from pipeline import time_cuts
from pipeline.draws import SHARES, drawn, random_bounds
from pipeline.held_out import GrowSettings, Settled, can_grow
from pipeline.preprocess import Job, Part, origin, preprocess, schema_of
from pipeline.sessionize import bucket_of, time_order, to_pandas
from pipeline.splits import HELD_BACK, LEAVE_OUT_FROM, SPLITS, SplitSettings
from workflows import interactions
from workflows.interactions import ITEM, RATING, TIME, USER, InteractionsWorkflowSettings

RECIPE = "interactions"
ORDER = "_order"
WITHOUT_TIMES = ("random", "leave_one_out")
"""Kinds of split that need no times."""
BEFORE, TRAINED = "_before", "_trained"
"""For leave_one_out: ratings of the user that train and are not among the rows, if the user has
such; whether the row is one that trains already."""


class InteractionsPreprocessSettings(GrowSettings):
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
    return preprocess(RECIPE, prepare, raw, output, settings, cluster)


def prepare(
    client: Any,
    raw: Path,
    manifest: dict[str, Any],
    settings: InteractionsPreprocessSettings,
    scratch: Path,
    settled: Settled | None = None,
) -> Job:
    """Brings the ratings of each user together; see :data:`pipeline.preprocess.Prepare`."""
    check_times(settings.split, manifest)
    shards = rating_shards(raw, manifest, settled)
    buckets = max(1, -(-sum(shard["rows"] for shard in shards) // settings.rows_per_part))
    shutil.rmtree(scratch, ignore_errors=True)
    dask_cluster.run(client, "bringing users together", deal, shards, scratch, buckets)
    found = dask_cluster.run(client, "sorting ratings", sort_bucket, range(buckets), scratch)
    present = [bucket for bucket in range(buckets) if len(found[bucket])]
    times = np.concatenate(found)
    bounds = time_bounds(settings.split, times, settled.record if settled else None)
    reader = RatingReader(scratch, bounds)

    def keep(folder: Path) -> dict[str, Any]:
        trains = 0 if bounds is None else int((times < bounds["valid_start"]).sum())
        before = settled.record["settled"] if settled else 0
        kept = dask_cluster.run(
            client, "keeping what is held out", hold_out, present, scratch, bounds, folder
        )
        files = [{"file": name, "rows": rows} for name, rows in kept if rows]
        return {"settled": before + trains, "bounds": bounds, "files": files}

    return Job(
        parts=[Part(split, bucket, bucket) for split in SPLITS for bucket in present],
        read=reader,
        workflow=partial(workflow, settings, list(manifest["columns"])),
        schema=schema_of(reader(present[0], "train")),
        about={"recipe": RECIPE, "unit": "rows", **origin(manifest), "bounds": bounds},
        hold_out=keep if can_grow(settings.split) else None,
    )


def workflow(settings: InteractionsPreprocessSettings, columns: list[str]) -> Workflow:
    """The unfitted workflow for a raw log that has ``columns``."""
    return interactions.build(settings.workflow)


def rating_shards(
    raw: Path, manifest: dict[str, Any], settled: Settled | None
) -> list[dict[str, Any]]:
    """The files of ratings to deal, those that were held back first."""
    listed = []
    if settled is not None:
        for entry in settled.record["files"]:
            listed.append({"path": str(settled.path(entry["file"])), "rows": entry["rows"]})
    for entry in manifest["shards"]:
        listed.append({"path": str(raw / entry["file"]), "rows": entry["rows"]})
    first_row = 0
    for number, shard in enumerate(listed):
        shard |= {"number": number, "first_row": first_row}
        first_row += shard["rows"]
    return listed


def time_bounds(
    split: SplitSettings, times: np.ndarray, before: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Where time cuts the ratings; None for leave_one_out, which each user's last ones cut; the
    shares of the splits where they are drawn."""
    if split.kind == "leave_one_out":
        return None
    if split.kind == "random":
        return random_bounds(split)
    bounds = time_cuts.time_bounds(split, times, before["settled"] if before else 0)
    return time_cuts.not_before(bounds, before["bounds"] if before else None)


def check_times(split: SplitSettings, manifest: Mapping[str, Any]) -> None:
    """Checks that a log without times is not to be split by time.

    Raises:
        UserError: it is.
    """
    if TIME not in manifest["columns"] and split.kind not in WITHOUT_TIMES:
        raise UserError(
            f"interactions.preprocess.split.kind '{split.kind}' cuts by time, and the log has no "
            "times (interactions.source.columns.timestamp is null): set split.kind to random, or "
            "to leave_one_out, for which each user's rows are in the order of the log"
        )


def with_all_columns(events: pl.DataFrame) -> pl.DataFrame:
    """The rows with what the log may lack: a time, the same for all, and a rating of 1."""
    missing = {
        TIME: pl.lit(0).cast(pl.Datetime("ms", "UTC")),
        RATING: pl.lit(1.0, pl.Float32),
        BEFORE: pl.lit(0, pl.Int64),
        TRAINED: pl.lit(False),
    }
    return events.with_columns(
        **{name: value for name, value in missing.items() if name not in events.columns}
    )


def deal(shard: Mapping[str, Any], folder: Path, buckets: int) -> None:
    """Writes the ratings of one raw shard to ``folder/<bucket>/<shard>.parquet``, by user."""
    events = read_frame(shard["path"])
    rows = np.arange(shard["first_row"], shard["first_row"] + len(events))
    events = with_all_columns(events)
    kept = [USER, ITEM, RATING, *time_order(events), BEFORE, TRAINED]
    events = events.select(kept)
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
    events = pl.concat([read_frame(piece) for piece in pieces])
    events = events.sort(USER, *time_order(events), ORDER)
    events = events.with_columns(pl.col(BEFORE).max().over(USER))
    write_parquet(_sorted_file(bucket, folder), events.to_arrow())
    return events[TIME].dt.timestamp("ms").to_numpy()


def _sorted_file(bucket: int, folder: Path) -> Path:
    return folder / f"events-{bucket:04d}.parquet"


def hold_out(
    bucket: int, folder: Path, bounds: dict[str, Any] | None, output: Path
) -> tuple[str, int]:
    """Writes the ratings of a bucket that growing needs: those that do not train, and where each
    user's last ones are left out all of the users that have too few."""
    events = read_frame(_sorted_file(bucket, folder))
    if bounds is not None:
        kept = events.filter(pl.col(TIME).dt.timestamp("ms") >= bounds["valid_start"])
    else:
        long_enough, trains = _long_enough(), left_out("train")
        trained = pl.when(long_enough).then(_length() - HELD_BACK["train"]).otherwise(0)
        marked = events.with_columns(
            trained.alias(BEFORE),
            (pl.col(TRAINED) | ~long_enough).alias(TRAINED),
            (~long_enough | ~trains).alias("kept"),
        )
        kept = marked.filter("kept").drop("kept")
    path = _sorted_file(bucket, output)
    if len(kept):
        write_parquet(path, kept.drop(ORDER).to_arrow())
    return path.name, len(kept)


@dataclass(frozen=True)
class RatingReader:
    """Reads the ratings of one bucket and split; can be sent to a worker."""

    events: Path
    bounds: dict[str, Any] | None
    """In time (ms); None leaves the last ratings of each user out; or the shares to draw."""

    def __call__(self, bucket: int, split: str) -> pd.DataFrame:
        events = read_frame(_sorted_file(bucket, self.events))
        if self.bounds is None:
            chosen = left_out(split)
        elif SHARES in self.bounds:
            number = SPLITS.index(split)
            chosen = pl.lit(pl.Series(drawn(events[ORDER].to_numpy(), self.bounds) == number))
        else:
            chosen = in_time(split, self.bounds)
        events = events.filter(chosen & ~pl.col(TRAINED)).select(USER, ITEM, RATING, TIME)
        return interactions.as_frame(to_pandas(events.to_arrow()), split)


def _length() -> pl.Expr:
    """Ratings of the row's user, those that train and are not among the rows too."""
    return pl.len().over(USER) + pl.col(BEFORE)


def _long_enough() -> pl.Expr:
    return _length() >= LEAVE_OUT_FROM


def left_out(split: str) -> pl.Expr:
    """The ratings of ``split`` where each user's last one tests and the one before validates."""
    from_end = pl.len().over(USER) - pl.int_range(pl.len()).over(USER)
    if split == "train":
        return ~_long_enough() | (from_end > HELD_BACK[split])
    return _long_enough() & (from_end == HELD_BACK[split] + 1)


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
