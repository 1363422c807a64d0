"""Raw clickstreams → features: events brought together by session, sessions cut by their start."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from pydantic import Field, field_validator, model_validator

from core import cluster as dask_cluster
from core.artifacts import write_parquet
from core.cluster import ClusterSettings
from core.merlin import Workflow
from core.parquet import read_frame
from pipeline import sessionize, splits, time_cuts
from pipeline.doubts import WARNINGS
from pipeline.held_out import GOES_ON, GrowSettings, Settled, can_grow
from pipeline.preprocess import Job, Part, origin, preprocess, schema_of
from pipeline.sessionize import ITEM, SessionizeSettings
from pipeline.splits import SPLITS, SplitSettings
from workflows import sessions
from workflows.names import check_names
from workflows.sessions import SessionsWorkflowSettings

RECIPE = "sessions"
SESSIONS_READ = "sessions_read"
"""Key of the manifest: sessions of the log, of which the splits lack those that are too short."""
SUPPORT = "support.parquet"
"""Events of each item in all sessions that train, those of items below the support too."""


class SessionsPreprocessSettings(GrowSettings):
    """Clickstreams → features."""

    split: SplitSettings = SplitSettings()
    sessions: SessionizeSettings = SessionizeSettings()
    workflow: SessionsWorkflowSettings = SessionsWorkflowSettings()
    events_per_part: int = Field(500_000, ge=1)
    """Events that a worker holds at once, about."""

    @model_validator(mode="after")
    def _names_fit(self) -> "SessionsPreprocessSettings":
        used = {name: "what brings events together" for name in sessionize.OWN_COLUMNS}
        check_names(self.workflow.own_names(), used.items())
        return self

    @field_validator("split")
    @classmethod
    def _in_order(cls, split: SplitSettings) -> SplitSettings:
        if split.kind == "random":
            raise ValueError(splits.NOT_RANDOM)
        return split


def preprocess_sessions(
    raw: str | Path,
    output: str | Path,
    settings: SessionsPreprocessSettings | None = None,
    cluster: ClusterSettings | None = None,
) -> dict[str, Any]:
    """Makes session features of the raw events in ``raw``.

    Returns:
        The manifest that was written to ``output/manifest.json``.
    """
    settings = settings or SessionsPreprocessSettings()
    return preprocess(RECIPE, prepare, raw, output, settings, cluster)


def prepare(
    client: Any,
    raw: Path,
    manifest: dict[str, Any],
    settings: SessionsPreprocessSettings,
    scratch: Path,
    settled: Settled | None = None,
) -> Job:
    """Brings the events of each session together; see :data:`pipeline.preprocess.Prepare`.

    Events that were held back are joined by those of the same session in ``raw``. A session that
    trains already is not opened again: what ``raw`` has of it is a session of its own.
    """
    shards = event_shards(raw, manifest, settings.split, settled)
    buckets = max(1, -(-sum(shard["rows"] for shard in shards) // settings.events_per_part))
    found = sessionize.bring_together(client, shards, scratch, buckets)
    present = [bucket for bucket in range(buckets) if len(found[bucket])]
    starts = np.concatenate(found)
    bounds = split_bounds(settings, starts, settled.record if settled else None)
    support = None
    if settings.sessions.min_item_support > 1:
        support = item_support(client, present, scratch, bounds, settled)
    reader = SessionReader(scratch, bounds, settings.sessions, _supported(settings, support))

    def hold_out(folder: Path) -> dict[str, Any]:
        if support is not None:
            write_parquet(folder / SUPPORT, support.to_arrow())
        trains = int((starts[:, 1] < bounds.get("valid_start", 0)).sum())
        before = settled.record["settled"] if settled else 0
        what = "keeping what is held out"
        keep = sessionize.hold_out
        kept = dask_cluster.run(client, what, keep, present, scratch, bounds, folder)
        files = [{"file": name, "rows": rows} for name, rows in kept if rows]
        return {"settled": before + trains, "bounds": bounds, "files": files}

    return Job(
        parts=[Part(split, bucket, bucket) for split in SPLITS for bucket in present],
        read=reader,
        workflow=partial(workflow, settings, list(manifest["columns"])),
        schema=schema_of(reader(present[0], "train")),
        about={
            "recipe": RECIPE,
            "unit": "sessions",
            **origin(manifest),
            "bounds": bounds,
            **({SESSIONS_READ: len(starts)} if _in_one_split(bounds, settled) else {}),
            WARNINGS: shared_ids(starts[:, 2], manifest),
        },
        hold_out=hold_out if can_grow(settings.split) else None,
        # Every session has its own last event to hold out: none of them is overtaken.
        stays=SPLITS if "leave_one_out" in bounds else ("train",),
    )


def _in_one_split(bounds: Mapping[str, Any], settled: Settled | None) -> bool:
    """Whether each session of the log belongs to one split, and all of them are read."""
    return settled is None and "leave_one_out" not in bounds and "end" not in bounds


def shared_ids(users: np.ndarray, manifest: dict[str, Any]) -> list[str]:
    """A warning of session ids that have several users, unless the settings of the log say that
    an id alone is the session.

    Args:
        users: how many each session has, ``(sessions,)``.
    """
    shared = int((users > 1).sum())
    source = manifest.get("source") or {}
    if not shared or source.get("session_per_user") is False:
        return []
    return [
        f"{shared:,} of {len(users):,} session ids have several users (one has "
        f"{int(users.max()):,}), and each is taken as one session. Where an id is unique only "
        "within a user, set sessions.source.session_per_user: true and run ingest again; where "
        "users share or change within a session, false says so"
    ]


def workflow(settings: SessionsPreprocessSettings, columns: list[str]) -> Workflow:
    """The unfitted workflow for a raw log that has ``columns``."""
    return sessions.build(settings.workflow, columns)


def event_shards(
    raw: Path, manifest: dict[str, Any], split: SplitSettings, settled: Settled | None
) -> list[dict[str, Any]]:
    """The files of events to deal, as :func:`pipeline.sessionize.deal` takes them."""
    held_out: set[int] = set()
    if split.kind == "files":
        files = [entry["file"] for entry in manifest["inputs"]]
        held_out = splits.test_file_indexes(split, files)
    shift = 0
    listed = []
    if settled is not None:
        shift = id_shift(manifest, settled.record)
        for entry in settled.record["files"]:
            path = str(settled.path(entry["file"]))
            listed.append({"path": path, "rows": entry["rows"], "group": 0, "shift": 0})
    for entry in manifest["shards"]:
        group = int(entry["source_index"] in held_out)
        path = str(raw / entry["file"])
        listed.append({"path": path, "rows": entry["rows"], "group": group, "shift": shift})
    first_row = 0
    for number, shard in enumerate(listed):
        shard |= {"number": number, "first_row": first_row}
        first_row += shard["rows"]
    return listed


def id_shift(manifest: dict[str, Any], before: Mapping[str, Any]) -> int:
    """What is added to the session ids of new rows so that they are not those of other sessions.

    Ids that ingest makes where it cuts sessions by idle time count from 0 in each raw log.
    """
    source = manifest.get("source") or {}
    if source.get("session_gap_minutes") is None or manifest.get(GOES_ON):
        return 0
    return int(before["rows_read"])


def split_bounds(
    settings: SessionsPreprocessSettings,
    starts: np.ndarray,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Where the splits are cut; ``starts``: group and start of each session, ``(sessions, 2)`` or
    more columns."""
    split = settings.split
    if split.kind == "files":
        training = starts[starts[:, 0] == 0, 1]
        after_all = int(starts[:, 1].max()) + 1
        return {"valid_start": time_cuts.valid_bound(split, training), "test_start": after_all}
    if split.kind == "leave_one_out":
        return {"leave_one_out": True, "drop_repeats": settings.sessions.drop_repeats}
    if before is None:
        return time_cuts.time_bounds(split, starts[:, 1])
    bounds = time_cuts.time_bounds(split, starts[:, 1], before["settled"])
    return time_cuts.not_before(bounds, before["bounds"])


def item_support(
    client: Any,
    buckets: list[int],
    events: Path,
    bounds: dict[str, Any],
    settled: Settled | None,
) -> pl.DataFrame:
    """Events of each item in the sessions that train, now and before: ``item_id``, ``len``."""
    counts = dask_cluster.run(
        client, "counting items", sessionize.item_counts, buckets, events, bounds
    )
    if settled is not None:
        counts.append(read_frame(settled.path(SUPPORT)))
    counts = [counted.cast({"len": pl.Int64}) for counted in counts]
    return pl.concat(counts).group_by(ITEM).sum().sort(ITEM)


def _supported(
    settings: SessionsPreprocessSettings, support: pl.DataFrame | None
) -> pl.Series | None:
    if support is None:
        return None
    return support.filter(pl.col("len") >= settings.sessions.min_item_support)[ITEM]


@dataclass(frozen=True)
class SessionReader:
    """Reads the sessions of one bucket and split; can be sent to a worker."""

    events: Path
    bounds: dict[str, Any]
    settings: SessionizeSettings
    supported: pl.Series | None

    def __call__(self, bucket: int, split: str) -> pd.DataFrame:
        return sessionize.read_sessions(
            bucket, self.events, split, self.bounds, self.settings, self.supported
        )
