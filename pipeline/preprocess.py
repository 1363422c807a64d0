"""Raw Parquet → feature Parquet: fits a workflow on the training split, applies it to every split.

What the recipes share. The work is cut into parts that each fit in memory. A part's features are
one Parquet file, written whole or not at all, so a run that was killed goes on from the finished
parts; ``plan.json`` holds what the parts were made from, and where that has changed nothing old is
used.
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
import pyarrow as pa
import pyarrow.parquet as pq

from core import cluster as dask_cluster
from core import frames, gpu
from core.artifacts import (
    checked_output,
    digest,
    encodings,
    read_json,
    remove_partials,
    write_json,
    write_parquet,
)
from core.cluster import ClusterSettings
from core.console import say
from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Workflow, schema_to_json
from core.settings import Settings
from pipeline import fitting, held_out
from pipeline.held_out import HELD_OUT, Settled
from pipeline.splits import SPLITS, EmptySplit
from workflows.executor import transform
from workflows.ops.codes import OOV
from workflows.state import save_state

ROW_GROUP = 65_536
PLAN, MANIFEST, SCHEMA, STATE = "plan.json", "manifest.json", "schema.json", "state"
EVENTS = "events"
"""Folder for what is only needed while features are made."""
COUNTS = "counts"
"""Within EVENTS: what the fit cannot hold in memory."""


@dataclass(frozen=True)
class Part:
    """One unit of work: what it reads, and the feature file it becomes."""

    split: str
    number: int
    source: Any

    def path(self, output: Path) -> Path:
        return output / self.split / f"part-{self.number:05d}.parquet"


Read = Callable[[Any, str], pd.DataFrame]


@dataclass(frozen=True)
class Job:
    """What a recipe makes of a raw log: the parts, how they are read, and what is told of them."""

    parts: list[Part]
    read: Read
    workflow: Callable[[], Workflow]
    """Gives an unfitted workflow."""
    schema: Schema
    """Of what ``read`` gives."""
    about: dict[str, Any]
    """``unit`` (what a row of features is of), and what else the manifest tells."""
    hold_out: Callable[[Path], dict[str, Any]] | None
    """Keeps the rows that do not train in a folder, and returns what growing needs to know of
    them; None where the split cannot grow."""
    stays: tuple[str, ...] = ("train",)
    """Splits whose parts stay as they are when the features grow."""


Prepare = Callable[[Any, Path, dict[str, Any], Any, Path, Settled | None], Job]
"""A recipe's ``prepare(client, raw, manifest, settings, scratch, settled)``: ``scratch`` is a
folder for its use, ``settled`` what the features that grow hold already."""


def preprocess(
    recipe: str,
    prepare: Prepare,
    raw: str | Path,
    output: str | Path,
    settings: Settings,
    cluster: ClusterSettings | None = None,
) -> dict[str, Any]:
    """Makes the features of a recipe of the raw Parquet in ``raw``.

    Returns:
        The manifest that was written to ``output/manifest.json``.
    """
    raw, output = Path(raw), Path(output)
    manifest = raw_manifest(raw)
    begin(output, plan_of(settings, manifest))
    cluster = cluster or ClusterSettings()
    with dask_cluster.start(cluster) as client:
        device = dask_cluster.device_of(client, cluster)
        job = prepare(client, raw, manifest, settings, output / EVENTS, None)
        workflow = job.workflow()
        say(f"fitting the workflow on {len(training_sources(job))} part(s)")
        sources, spill = training_sources(job), output / EVENTS / COUNTS
        fitting.fit(client, workflow, sources, job.read, "train", job.schema, spill, device)
        save_state(workflow, output / STATE)
        shutil.rmtree(spill, ignore_errors=True)
        needed = ("train", "valid") if settings.split.valid else ("train",)
        done = apply(client, workflow, job, output, needed, device)
        if job.hold_out is not None:
            held_out.save(output / HELD_OUT, recipe, manifest, job.hold_out)
    shutil.rmtree(output / EVENTS, ignore_errors=True)
    (output / SCHEMA).write_text(schema_to_json(workflow.output_schema), encoding="utf-8")
    write_json(output / MANIFEST, done)
    return done


def training_sources(job: Job) -> list[Any]:
    return [part.source for part in job.parts if part.split == "train"]


def apply(
    client: Any,
    workflow: Workflow,
    job: Job,
    output: Path,
    needed: tuple[str, ...],
    device: frames.Device = "cpu",
) -> dict[str, Any]:
    """Writes the features of every part; returns the manifest of what was written.

    Raises:
        EmptySplit: one that is ``needed``.
    """
    read = frames.reader(job.read, device)
    written = dask_cluster.run(
        client, "writing features", apply_part, job.parts, workflow, read, str(output)
    )
    remove_partials(output)  # a worker that died while it wrote was replaced by another
    return summary(job.parts, written, workflow.output_schema, job.about, needed)


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


def log_digest(manifest: dict[str, Any]) -> str:
    """What a raw log is known by."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def plan_of(settings: Settings, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the features depend on; equal plans give equal bytes."""
    here = Path(__file__).parent
    names = ("fitting", "held_out", "sessionize", "splits")
    own = [*sorted(here.glob("preprocess*.py")), *(here / f"{name}.py" for name in names)]
    return {
        "settings": settings.model_dump(mode="json"),
        "raw": log_digest(manifest),
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
        remove_partials(output)
        return
    for name in (*SPLITS, STATE, HELD_OUT, EVENTS):
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


def schema_of(frame: pd.DataFrame) -> Schema:
    """The schema of what a workflow reads, as a frame has it."""
    return Schema([ColumnSchema(name, dtype=frame[name].dtype) for name in frame.columns])


# applying


def apply_part(part: Part, workflow: Workflow, read: Read, output: str) -> dict[str, Any]:
    """Writes the features of one part unless they are there already; returns what it holds."""
    path = part.path(Path(output))
    if path.exists():
        coded = [column.name for column in workflow.output_schema if column.int_domain]
        rows = pq.read_metadata(path).num_rows
        return describe(pq.read_table(path, columns=coded), rows, workflow)
    with gpu.named_shortage("writing features", fitting.SMALLER_PARTS):
        frame = read(part.source, part.split)
        if not frames.on_host(frame) and len(frame):
            features = typed(workflow, transform(workflow, frame))
            frames.write_parquet(path, features, ROW_GROUP)
            return describe(features, len(features), workflow)
    table = features_table(workflow, frame)
    write_parquet(path, table, row_group_size=ROW_GROUP, **encodings(table))
    return describe(table, table.num_rows, workflow)


def typed(workflow: Workflow, features: Any) -> Any:
    """The features of a GPU's frame, with the types of the workflow's schema, there."""
    columns = {}
    for column in workflow.output_schema:
        found, kind = features[column.name], column.dtype.name
        # Codes and floats are made as the schema has them; ids and times pass as they were read.
        plain = not column.is_list and found.dtype.kind in "iuf"
        columns[column.name] = found.astype(kind) if plain else found
    return frames.frame_of(features, columns)


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


def describe(table: Any, rows: int, workflow: Workflow) -> dict[str, Any]:
    """Rows, coded values and unknown values of one part."""
    described: dict[str, Any] = {"rows": rows, "oov": {}, "values": {}}
    unknown = unknown_codes(workflow)
    for column in workflow.output_schema:
        if not column.int_domain:
            continue
        codes = _codes(table[column.name], column.is_list)
        first, last = unknown.get(column.name, (OOV, OOV))
        found = codes == first if first == last else (codes >= first) & (codes <= last)
        described["oov"][column.name] = int(np.count_nonzero(found))
        described["values"][column.name] = len(codes)
    return described


def _codes(values: Any, listed: bool) -> frames.Array:
    """All codes of a column of an Arrow table, or of a GPU's frame."""
    if isinstance(values, pa.ChunkedArray):
        whole = values.combine_chunks()
        return (whole.flatten() if listed else whole).to_numpy()
    return frames.leaves(values) if listed else values.values


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
    needed: tuple[str, ...],
) -> dict[str, Any]:
    """The features' manifest: rows and unknown values a split, codes a column.

    Raises:
        EmptySplit: one that is ``needed``.
    """
    unit = about["unit"]
    manifest: dict[str, Any] = {**about, "splits": {}, "cardinality": {}}
    for column in schema:
        if column.int_domain:
            manifest["cardinality"][column.name] = int(column.int_domain.max) + 1
    for split in SPLITS:
        mine = [found for part, found in zip(parts, written, strict=True) if part.split == split]
        rows = sum(found["rows"] for found in mine)
        if rows == 0 and split in needed:
            raise EmptySplit(
                f"the {split} split has no {unit}: the log is too short for its split settings"
            )
        coded = manifest["cardinality"]
        # All coded columns of a row, or of a session's events, are equally long.
        values = sum(max(found["values"].values(), default=0) for found in mine)
        unknown = {name: sum(found["oov"][name] for found in mine) for name in coded}
        manifest["splits"][split] = describe_split(unit, rows, len(mine), values, unknown)
    return manifest


def describe_split(
    unit: str, rows: int, files: int, values: int, unknown: dict[str, int]
) -> dict[str, Any]:
    """A split's entry in the manifest; ``values``: of each coded column."""
    rates = {name: round(count / values, 6) if values else 0.0 for name, count in unknown.items()}
    counted = {"files": files, "values": values, "unknown": unknown}
    return {unit: rows, **counted, "oov_rate": rates}
