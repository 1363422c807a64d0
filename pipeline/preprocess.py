"""Raw Parquet → feature Parquet: fits a workflow on the training split, applies it to every split.

The work is cut into parts that each fit in memory. A part's features are one Parquet file, written
whole or not at all, so a run that was killed goes on from the finished parts; ``plan.json`` holds
what the parts were made from, and where that has changed nothing old is used.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from core import cluster as dask_cluster
from core.artifacts import (
    PARTIAL,
    checked_output,
    digest,
    read_json,
    write_json,
    write_parquet,
)
from core.cluster import ClusterSettings
from core.console import say
from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Workflow, schema_to_json
from core.settings import Settings
from pipeline import fitting, sessionize, splits
from pipeline.sessionize import SessionizeSettings
from pipeline.splits import SPLITS, SplitSettings
from workflows import ranking as ranking_workflow
from workflows import sessions as sessions_workflow
from workflows.executor import transform
from workflows.ops.categorify import OOV
from workflows.ranking import RankingWorkflowSettings
from workflows.sessions import SessionsWorkflowSettings
from workflows.state import save_state

ROW_GROUP = 65_536
PLAN, MANIFEST, SCHEMA, STATE = "plan.json", "manifest.json", "schema.json", "state"


class RankingPreprocessSettings(Settings):
    """Click logs → features."""

    split: SplitSettings = SplitSettings()
    workflow: RankingWorkflowSettings = RankingWorkflowSettings()
    rows_per_part: int = Field(250_000, ge=1)
    """Rows that a worker holds at once; memory grows with it, about 1 KB a row."""


class SessionsPreprocessSettings(Settings):
    """Clickstreams → features."""

    split: SplitSettings = SplitSettings()
    sessions: SessionizeSettings = SessionizeSettings()
    workflow: SessionsWorkflowSettings = SessionsWorkflowSettings()
    events_per_part: int = Field(500_000, ge=1)
    """Events that a worker holds at once, about."""


@dataclass(frozen=True)
class Part:
    """One unit of work: what it reads, and the feature file it becomes."""

    split: str
    number: int
    source: Any

    def path(self, output: Path) -> Path:
        return output / self.split / f"part-{self.number:05d}.parquet"


Read = Callable[[Any, str], pd.DataFrame]


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
    raw, output = Path(raw), Path(output)
    manifest = raw_manifest(raw)
    shards = in_split_order(manifest, settings.split)
    ranges = split_ranges(shards, manifest, settings.split)
    parts = ranking_parts(raw, shards, ranges, settings.rows_per_part)
    begin(output, plan_of(settings, manifest))
    with dask_cluster.start(cluster or ClusterSettings()) as client:
        workflow = ranking_workflow.build(settings.workflow)
        return fit_and_apply(
            client,
            workflow,
            parts,
            read_rows,
            ranking_workflow.raw_schema(),
            output,
            {"unit": "rows", **origin(manifest), "ranges": ranges},
        )


def preprocess_sessions(
    raw: str | Path,
    output: str | Path,
    settings: SessionsPreprocessSettings | None = None,
    cluster: ClusterSettings | None = None,
) -> dict[str, Any]:
    """Makes session features of the raw events in ``raw``; see :func:`preprocess_ranking`."""
    settings = settings or SessionsPreprocessSettings()
    raw, output = Path(raw), Path(output)
    manifest = raw_manifest(raw)
    begin(output, plan_of(settings, manifest))
    with dask_cluster.start(cluster or ClusterSettings()) as client:
        reader, buckets = prepare_sessions(client, raw, manifest, settings, output / "events")
        parts = [Part(split, bucket, bucket) for split in SPLITS for bucket in buckets]
        columns = [name for name in manifest["columns"]]
        workflow = sessions_workflow.build(settings.workflow, columns)
        sample = reader(buckets[0], "train")
        about = {"unit": "sessions", **origin(manifest)}
        done = fit_and_apply(client, workflow, parts, reader, _schema_of(sample), output, about)
    shutil.rmtree(output / "events")
    return done


# the plan


def raw_manifest(raw: Path) -> dict[str, Any]:
    """The manifest of ingested data; its absence or emptiness is a UserError."""
    if not (raw / MANIFEST).is_file():
        raise UserError(
            f"{raw}: no {MANIFEST} there; this is not the output of a finished ingest. "
            "Run 'merlin-pipeline ingest' first"
        )
    manifest = read_json(raw / MANIFEST)
    if not manifest["shards"]:
        raise UserError(f"{raw / MANIFEST}: the ingested log has no rows")
    return manifest


def plan_of(settings: Settings, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the features depend on; equal plans give equal bytes."""
    described = json.dumps(manifest, sort_keys=True).encode()
    here = Path(__file__).parent
    own = [here / name for name in ("preprocess.py", "fitting.py", "sessionize.py", "splits.py")]
    return {
        "settings": settings.model_dump(mode="json"),
        "raw": hashlib.sha256(described).hexdigest(),
        # Features of an older workflow must not be taken for those of today's.
        "code": digest(*own, here.parent / "workflows"),
    }


def begin(output: Path, plan: dict[str, Any]) -> None:
    """Keeps what an interrupted run of the same plan left in ``output``, or clears it.

    Raises:
        UserError: ``output`` holds something else than features.
    """
    checked_output(output)
    if (output / MANIFEST).is_file() and not (output / PLAN).is_file():
        raise UserError(f"{output}: the output of another stage; name a folder for the features")
    if (output / PLAN).is_file() and read_json(output / PLAN) == plan:
        (output / MANIFEST).unlink(missing_ok=True)
        for stale in output.rglob(f".*{PARTIAL}"):  # what a kill left of files being written
            stale.unlink()
        return
    for name in (*SPLITS, STATE, "events"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in (MANIFEST, SCHEMA, PLAN):
        (output / name).unlink(missing_ok=True)
    write_json(output / PLAN, plan)


def origin(manifest: dict[str, Any]) -> dict[str, Any]:
    """What later stages need to know of the raw log: how it was read, and what generated it."""
    return {"generated": generated(manifest), "source": manifest.get("source")}


def generated(manifest: dict[str, Any]) -> str | None:
    """The folder of a generated log, which holds the true probabilities; None for a real log."""
    folders = {str(Path(entry["file"]).parent.parent) for entry in manifest.get("inputs", ())}
    if len(folders) == 1 and not manifest.get("rows_quarantined"):
        folder = folders.pop()
        return folder if (Path(folder) / "truth.parquet").is_file() else None
    return None


# ranking: rows in input order


def in_split_order(manifest: dict[str, Any], split: SplitSettings) -> list[dict[str, Any]]:
    """The shards, those of the files that test last where the split is by file."""
    shards = manifest["shards"]
    if split.kind != "files":
        return shards
    testing = splits.test_file_indexes(split, [entry["file"] for entry in manifest["inputs"]])
    return sorted(shards, key=lambda shard: shard["source_index"] in testing)


def split_ranges(
    shards: list[dict[str, Any]], manifest: dict[str, Any], split: SplitSettings
) -> dict[str, tuple[int, int]]:
    """First and last-plus-one row of each split, of the rows of ``shards`` in their order."""
    units: dict[int, int] = {}
    for shard in shards:
        units[shard["source_index"]] = units.get(shard["source_index"], 0) + shard["rows"]
    testing = split.test_days
    if split.kind == "files":
        files = [entry["file"] for entry in manifest["inputs"]]
        testing = len(splits.test_file_indexes(split, files) & units.keys())
    return splits.row_ranges(split, np.array(list(units.values())), testing)


def ranking_parts(
    raw: Path,
    shards: list[dict[str, Any]],
    ranges: dict[str, tuple[int, int]],
    rows_per_part: int,
) -> list[Part]:
    """Cuts every split into parts of at most ``rows_per_part`` rows of one shard."""
    parts = []
    for split, (first, last) in ranges.items():
        number = at = 0
        for shard in shards:
            start, stop = max(first, at) - at, min(last, at + shard["rows"]) - at
            for row in range(start, stop, rows_per_part):
                end = min(stop, row + rows_per_part)
                parts.append(Part(split, number, (str(raw / shard["file"]), row, end)))
                number += 1
            at += shard["rows"]
    return parts


def read_rows(source: tuple[str, int, int], split: str) -> pd.DataFrame:
    """Rows ``start`` to ``stop`` of one raw file; only the row groups that hold them are read."""
    path, start, stop = source
    names = ranking_workflow.empty_frame().columns.tolist()
    file = pq.ParquetFile(path)
    groups, offset, at = [], None, 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if at < stop and at + rows > start:
            groups.append(group)
            offset = at if offset is None else offset
        at += rows
    table = file.read_row_groups(groups, columns=names, use_threads=False)
    frame = ranking_frame(table.slice(start - (offset or 0), stop - start))
    return ranking_workflow.for_split(frame, split)


def ranking_frame(table: pa.Table) -> pd.DataFrame:
    """Raw rows as the ranking workflow reads them: numbers as NumPy's, categories as Arrow's.

    Arrow's columns are taken as they are, with their nulls; NumPy's would be floats with NaN, each
    copied whenever the workflow selects some of them.
    """
    columns = {}
    for name, dtype in ranking_workflow.empty_frame().dtypes.items():
        if name in ranking_workflow.CATEGORICAL and pa.types.is_integer(table[name].type):
            columns[name] = pd.Series(pd.arrays.ArrowExtensionArray(table[name]), copy=False)
        else:
            columns[name] = table[name].to_numpy().astype(dtype, copy=False)
    return pd.DataFrame(columns, copy=False)


# sessions: events, dealt to buckets


def prepare_sessions(
    client: Any,
    raw: Path,
    manifest: dict[str, Any],
    settings: SessionsPreprocessSettings,
    events: Path,
) -> tuple["SessionReader", list[int]]:
    """Brings the events of each session together; returns a reader of buckets and their numbers."""
    total = sum(shard["rows"] for shard in manifest["shards"])
    buckets = max(1, -(-total // settings.events_per_part))
    shards, at = [], 0
    held_out = set()
    if settings.split.kind == "files":
        files = [entry["file"] for entry in manifest["inputs"]]
        held_out = splits.test_file_indexes(settings.split, files)
    for number, shard in enumerate(manifest["shards"]):
        group = int(shard["source_index"] in held_out)
        place = {"number": number, "first_row": at, "group": group}
        shards.append({"path": str(raw / shard["file"]), **place})
        at += shard["rows"]
    shutil.rmtree(events, ignore_errors=True)
    dask_cluster.run(client, "bringing sessions together", sessionize.deal, shards, events, buckets)
    found = dask_cluster.run(
        client, "sorting sessions", sessionize.sort_bucket, range(buckets), events
    )
    sessions = np.concatenate(found)
    bounds = _bounds(settings, sessions)
    present = [bucket for bucket in range(buckets) if len(found[bucket])]
    supported = None
    if settings.sessions.min_item_support > 1:
        counts = dask_cluster.run(
            client, "counting items", sessionize.item_counts, present, events, bounds
        )
        counted = pl.concat(counts).group_by("item_id").sum()
        enough = counted.filter(pl.col("len") >= settings.sessions.min_item_support)
        supported = enough["item_id"].sort()
    reader = SessionReader(events, bounds, settings.sessions, supported)
    return reader, present


def _bounds(settings: SessionsPreprocessSettings, sessions: np.ndarray) -> dict[str, int]:
    split = settings.split
    if split.kind == "files":
        training = sessions[sessions[:, 0] == 0, 1]
        after_all = int(sessions[:, 1].max()) + 1
        return {"valid_start": splits.valid_bound(split, training), "test_start": after_all}
    if split.kind == "leave_one_out":
        return {"leave_one_out": True, "drop_repeats": settings.sessions.drop_repeats}
    return splits.time_bounds(split, sessions[:, 1])


@dataclass(frozen=True)
class SessionReader:
    """Reads the sessions of one bucket and split; can be sent to a worker."""

    events: Path
    bounds: dict[str, int]
    settings: SessionizeSettings
    supported: pl.Series | None

    def __call__(self, bucket: int, split: str) -> pd.DataFrame:
        return sessionize.read_sessions(
            bucket, self.events, split, self.bounds, self.settings, self.supported
        )


def _schema_of(frame: pd.DataFrame) -> Schema:
    return Schema([ColumnSchema(name, dtype=frame[name].dtype) for name in frame.columns])


# both: fit, apply, write


def fit_and_apply(
    client: Any,
    workflow: Workflow,
    parts: list[Part],
    read: Read,
    input_schema: Schema,
    output: Path,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Fits on the train parts, writes the features of every part, the schema and the state."""
    say(f"fitting the workflow on {sum(part.split == 'train' for part in parts)} part(s)")
    sources = [part.source for part in parts if part.split == "train"]
    fitting.fit(client, workflow, sources, read, "train", input_schema)
    save_state(workflow, output / STATE)
    written = dask_cluster.run(
        client, "writing features", apply_part, parts, workflow, read, str(output)
    )
    schema = workflow.output_schema
    (output / SCHEMA).write_text(schema_to_json(schema), encoding="utf-8")
    manifest = summary(parts, written, schema, about)
    write_json(output / MANIFEST, manifest)
    return manifest


def apply_part(part: Part, workflow: Workflow, read: Read, output: str) -> dict[str, Any]:
    """Writes the features of one part unless they are there already; returns what it holds."""
    path = part.path(Path(output))
    if path.exists():
        coded = [column.name for column in workflow.output_schema if column.int_domain]
        rows = pq.read_metadata(path).num_rows
        return describe(pq.read_table(path, columns=coded), rows, workflow)
    table = features_table(workflow, read(part.source, part.split))
    write_parquet(path, table, row_group_size=ROW_GROUP)
    return describe(table, table.num_rows, workflow)


def features_table(workflow: Workflow, frame: pd.DataFrame) -> pa.Table:
    """The features of one frame, with the types of the workflow's schema."""
    features = transform(workflow, frame) if len(frame) else None
    columns = {}
    for column in workflow.output_schema:
        kind = arrow_type(column)
        values = [] if features is None else features[column.name].to_numpy()
        if column.is_list:
            columns[column.name] = _list_array(values, kind.value_type)
        else:
            columns[column.name] = pa.array(values).cast(kind)
    return pa.table(columns)


def arrow_type(column: Any) -> pa.DataType:
    """The Arrow type of a schema's column."""
    name = column.dtype.name
    element = pa.string() if name in ("str", "string", "object") else None
    if name.startswith("datetime64"):
        element = pa.timestamp("ms")
    element = element or pa.from_numpy_dtype(np.dtype(name))
    return pa.list_(element) if column.is_list else element


def _list_array(lists: Any, element: pa.DataType) -> pa.ListArray:
    lengths = np.fromiter((len(values) for values in lists), np.int32, len(lists))
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    flat = np.concatenate(lists) if len(lists) else np.empty(0)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat).cast(element))


def describe(table: pa.Table, rows: int, workflow: Workflow) -> dict[str, Any]:
    """Rows, coded values and unknown values of one part."""
    described: dict[str, Any] = {"rows": rows, "oov": {}, "values": {}}
    unknown = unknown_codes(workflow)
    for column in workflow.output_schema:
        if not column.int_domain:
            continue
        values = table[column.name].combine_chunks()
        codes = (values.flatten() if column.is_list else values).to_numpy()
        first, last = unknown.get(column.name, (OOV, OOV))
        found = codes == first if first == last else (codes >= first) & (codes <= last)
        described["oov"][column.name] = int(np.count_nonzero(found))
        described["values"][column.name] = len(codes)
    return described


def unknown_codes(workflow: Workflow) -> dict[str, tuple[int, int]]:
    """First and last code of unknown values, by column."""
    found = {}
    for column in workflow.output_schema:
        buckets = int(column.properties.get("num_buckets") or 1)
        found[column.name] = (OOV, OOV + buckets - 1)
    return found


def summary(
    parts: list[Part],
    written: list[dict[str, Any]],
    schema: Schema,
    about: dict[str, Any],
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """The features' manifest: rows and unknown values a split, codes a column.

    Raises:
        UserError: nothing trains or validates, unless that ``may_be_empty``.
    """
    unit = about["unit"]
    manifest: dict[str, Any] = {**about, "splits": {}, "cardinality": {}}
    for column in schema:
        if column.int_domain:
            manifest["cardinality"][column.name] = int(column.int_domain.max) + 1
    for split in SPLITS:
        mine = [found for part, found in zip(parts, written, strict=True) if part.split == split]
        rates, unknown = {}, {}
        for name in manifest["cardinality"]:
            values = sum(found["values"][name] for found in mine)
            unknown[name] = sum(found["oov"][name] for found in mine)
            rates[name] = round(unknown[name] / values, 6) if values else 0.0
        rows = sum(found["rows"] for found in mine)
        if rows == 0 and split != "test" and not may_be_empty:
            raise UserError(
                f"the {split} split has no {unit}: the log is too short for its split settings"
            )
        described = {unit: rows, "files": len(mine), "oov_rate": rates, "unknown": unknown}
        manifest["splits"][split] = described
    return manifest
