"""Raw Parquet → feature Parquet: fits a workflow on the training split, applies it to every split.

What the recipes share. The work is cut into parts that each fit in memory. A part's features are
one Parquet file, written whole or not at all, so a run that was killed goes on from the finished
parts; ``plan.json`` holds what the parts were made from, and where that has changed nothing old is
used.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from core import cluster as dask_cluster
from core import frames, gpu, kinds
from core.artifacts import (
    digest,
    encodings,
    read_json,
    remove_partials,
    write_json,
    write_parquet,
    write_text,
)
from core.cluster import ClusterSettings
from core.console import counted, say
from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Workflow, schema_to_json
from core.outputs import Claim, claimed
from core.parquet import read_footer, read_table
from core.settings import Settings
from core.sums import (
    FILES,
    Contents,
    Replaced,
    Sums,
    files_below,
    read_manifest,
    sum_of,
    sums_of,
    write_manifest,
)
from pipeline import fitting, held_out
from pipeline.doubts import (
    TARGETS,
    WARNINGS,
    describe_targets,
    doubts,
    joined_targets,
    target_names,
)
from pipeline.held_out import HELD_OUT, Settled
from pipeline.ingest.generated import GENERATED
from pipeline.ingest.publish import RECIPE_OF
from pipeline.splits import SPLITS, EmptySplit
from workflows.executor import transform
from workflows.names import check_types
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

    @property
    def name(self) -> str:
        return f"{self.split}/part-{self.number:05d}.parquet"

    def path(self, output: Path) -> Path:
        return output / self.name


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
    raw = Path(raw)
    with claimed(output, kinds.FEATURES, [raw]) as claim:
        log = open_raw(raw, recipe)
        try:
            with log.watched():
                return _made(recipe, prepare, log, claim, settings, cluster or ClusterSettings())
        except Replaced:
            # Nothing tells which of the parts are of which log.
            claim.clear(first=(MANIFEST, PLAN))
            raise


def _made(
    recipe: str,
    prepare: Prepare,
    log: Contents,
    claim: Claim,
    settings: Settings,
    cluster: ClusterSettings,
) -> dict[str, Any]:
    raw = log.folder
    output, manifest = claim.folder, log.record
    if isinstance(manifest["columns"], dict):  # an older version wrote names alone
        check_types(settings.workflow, manifest["columns"], f"{recipe}.preprocess.workflow")
    begin(claim, plan_of(settings, manifest))
    scratch = claim.scratch()
    with (
        dask_cluster.start(cluster) as client,
        dask_cluster.expecting(client, cluster, raw, log.files or {}),
    ):
        device = dask_cluster.device_of(client, cluster)
        job = prepare(client, raw, manifest, settings, scratch / EVENTS, None)
        workflow = job.workflow()
        say(f"fitting the workflow on {counted(len(training_sources(job)), 'part')}")
        sources, spill = training_sources(job), scratch / EVENTS / COUNTS
        fitting.fit(client, workflow, sources, job.read, "train", job.schema, spill, device)
        save_state(workflow, scratch / STATE)
        publish_folder(claim, STATE)
        claim.add(*(part.name for part in job.parts))
        needed = ("train", "valid") if settings.split.valid else ("train",)
        done, sums = apply(client, workflow, job, output, needed, device)
        if job.hold_out is not None:
            held_out.save(scratch / HELD_OUT, recipe, manifest, job.hold_out)
            publish_folder(claim, HELD_OUT)
    log.settle()
    return finish(output, workflow, done, sums, claim.drop_scratch)


def publish_folder(claim: Claim, name: str) -> None:
    """Moves a folder from the temporary ones into the output, in the place of an earlier one."""
    scratch = claim.scratch() / name
    old = [file for file in claim.marker.files if file.startswith(f"{name}/")]
    claim.remove(*old)
    claim.add(*(f"{name}/{file}" for file in files_below(scratch)))
    os.rename(scratch, claim.folder / name)


def finish(
    output: Path,
    workflow: Workflow,
    record: dict[str, Any],
    sums: Sums,
    clean: Callable[[], None],
) -> dict[str, Any]:
    """Writes the schema and, last, the manifest, which it returns.

    Args:
        sums: of the parts.
        clean: deletes what the finished features do not need.
    """
    write_text(output / SCHEMA, schema_to_json(workflow.output_schema))
    split = read_json(output / PLAN)["settings"]["split"]
    record[WARNINGS] = [*record.get(WARNINGS, ()), *doubts(record, split)]
    names = [PLAN, SCHEMA]
    for folder in (STATE, HELD_OUT):
        names += [f"{folder}/{name}" for name in files_below(output / folder)]
    clean()
    return write_manifest(output / MANIFEST, record, sums | sums_of(output, names))


def training_sources(job: Job) -> list[Any]:
    return [part.source for part in job.parts if part.split == "train"]


def apply(
    client: Any,
    workflow: Workflow,
    job: Job,
    output: Path,
    needed: tuple[str, ...],
    device: frames.Device = "cpu",
) -> tuple[dict[str, Any], Sums]:
    """Writes the features of every part; returns the manifest of what was written, and its sums.

    Raises:
        EmptySplit: one that is ``needed``.
    """
    read = frames.reader(job.read, device)
    written = dask_cluster.run(
        client, "writing features", apply_part, job.parts, workflow, read, str(output)
    )
    remove_partials(output)  # a worker that died while it wrote was replaced by another
    sums = {part.name: of["sum"] for part, of in zip(job.parts, written, strict=True)}
    return summary(job.parts, written, workflow.output_schema, job.about, needed), sums


# the plan


def open_raw(raw: Path, recipe: str | None = None) -> Contents:
    """An ingested log: every shard is there with the size that was written.

    Args:
        recipe: that reads it; None: any.

    Raises:
        UserError: no ingest finished there, a shard is missing or altered, there are no rows, or
            they are another recipe's.
    """
    log = Contents(raw, MANIFEST, "ingest", links=True)
    if not isinstance(log.record.get("shards"), list):
        raise UserError(f"{raw / MANIFEST}: is not the manifest of an ingested log")
    made_for = RECIPE_OF.get(log.record.get("format"))
    if recipe and made_for and made_for != recipe:
        raise UserError(
            f"{raw}: was written by 'ingest {made_for}', and {recipe} reads what 'ingest {recipe}' "
            f"writes: ingest the log again for {recipe}, or preprocess it as {made_for}"
        )
    log.check_sizes()
    if not log.record["shards"]:
        raise UserError(f"{raw / MANIFEST}: the ingested log has no rows")
    return log


def raw_manifest(raw: Path) -> dict[str, Any]:
    """The manifest of an ingested log; see :func:`open_raw`."""
    return open_raw(raw).record


def log_digest(manifest: dict[str, Any]) -> str:
    """What a raw log is known by."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def plan_of(settings: Settings, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the features depend on; equal plans give equal bytes."""
    return {
        "settings": settings.model_dump(mode="json"),
        "raw": log_digest(manifest),
        # Features of an older workflow must not be taken for those of today's.
        "code": code_digest(),
    }


def code_digest() -> str:
    """The code that makes features of raw rows."""
    here = Path(__file__).parent
    names = ["draws", "fitting", "held_out", "row_log", "sessionize", "splits"]
    names += ["sort_by_time", "split_by_time", "time_cuts"]
    own = [*sorted(here.glob("preprocess*.py")), *(here / f"{name}.py" for name in names)]
    return digest(*own, here.parent / "workflows")


def begin(claim: Claim, plan: dict[str, Any]) -> None:
    """Keeps what an interrupted run of the same plan left in the output, or clears it.

    What vouches for the folder goes first: killed at any moment, no manifest is left beside parts
    that are not its own.
    """
    output = claim.folder
    if is_of(output, plan):
        altered = _altered_parts(output)
        claim.remove(MANIFEST, *altered)
    else:
        claim.clear(first=(MANIFEST, PLAN))
    claim.add(PLAN, MANIFEST, SCHEMA)
    write_json(output / PLAN, plan)


def is_of(output: Path, plan: dict[str, Any]) -> bool:
    """Whether an earlier run in ``output`` was of the same plan."""
    try:
        return read_json(output / PLAN) == plan
    except UserError:
        return False


def _altered_parts(output: Path) -> list[str]:
    """Parts of finished features that are not what their manifest says: they are made again."""
    if not (output / MANIFEST).is_file():
        return []
    try:
        sums = read_manifest(output / MANIFEST).get(FILES, {})
    except UserError:
        sums = {}
    parts = [f"{split}/{name}" for split in SPLITS for name in files_below(output / split)]
    return [name for name in parts if sums.get(name) != sum_of(output / name)]


def origin(manifest: dict[str, Any]) -> dict[str, Any]:
    """What later stages need to know of the raw log: how it was read, and what generated it."""
    return {GENERATED: manifest.get(GENERATED), "source": read_as(manifest)}


def read_as(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of the log, with what ingest had to tell from its values: later logs are read
    the same way, whatever theirs look like."""
    resolved = dict(manifest.get("resolved") or {})
    # Of a text file it is taken from the header row, file by file; nothing is lost that way.
    resolved.pop("separator", None)
    source = manifest.get("source")
    return source and {**source, **resolved}


def schema_of(frame: pd.DataFrame) -> Schema:
    """The schema of what a workflow reads, as a frame has it."""
    types = {name: frames.numpy_type(frame[name]) for name in frame.columns}
    return Schema([ColumnSchema(name, dtype=dtype) for name, dtype in types.items()])


# applying


def apply_part(part: Part, workflow: Workflow, read: Read, output: str) -> dict[str, Any]:
    """Writes the features of one part unless they are there already; returns what it holds."""
    path = part.path(Path(output))
    if path.exists():
        coded = [column.name for column in workflow.output_schema if column.int_domain]
        coded += target_names(workflow.output_schema)
        rows = read_footer(path).num_rows
        return describe(path, read_table(path, coded), rows, workflow)
    with gpu.named_shortage("writing features", fitting.SMALLER_PARTS):
        frame = read(part.source, part.split)
        if not frames.on_host(frame) and len(frame):
            features = typed(workflow, transform(workflow, frame))
            frames.write_parquet(path, features, ROW_GROUP)
            return describe(path, features, len(features), workflow)
    table = features_table(workflow, frame)
    write_parquet(path, table, row_group_size=ROW_GROUP, **encodings(table))
    return describe(path, table, table.num_rows, workflow)


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
        made = None if features is None else features[column.name]
        if made is not None and isinstance(made.dtype, pd.ArrowDtype) and column.is_list:
            columns[column.name] = pa.array(made.array).cast(kind)
            continue
        values = [] if made is None else made.to_numpy()
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


def describe(path: Path, table: Any, rows: int, workflow: Workflow) -> dict[str, Any]:
    """Sum, rows, coded values and unknown values of one part."""
    described: dict[str, Any] = {"sum": sum_of(path), "rows": rows, "oov": {}, "values": {}}
    unknown = unknown_codes(workflow)
    for column in workflow.output_schema:
        if not column.int_domain:
            continue
        codes = _codes(table[column.name], column.is_list)
        first, last = unknown.get(column.name, (OOV, OOV))
        found = codes == first if first == last else (codes >= first) & (codes <= last)
        described["oov"][column.name] = int(np.count_nonzero(found))
        described["values"][column.name] = len(codes)
    targets = target_names(workflow.output_schema)
    described[TARGETS] = describe_targets(targets, lambda name: _codes(table[name], False))
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
        mine = [record for part, record in zip(parts, written, strict=True) if part.split == split]
        rows = sum(record["rows"] for record in mine)
        if rows == 0 and split in needed:
            raise EmptySplit(
                f"the {split} split has no {unit}: the log is too short for its split settings"
            )
        coded = manifest["cardinality"]
        counts = {name: sum(record["values"][name] for record in mine) for name in coded}
        unknown = {name: sum(record["oov"][name] for record in mine) for name in coded}
        described = describe_split(unit, rows, len(mine), counts, unknown)
        targets = joined_targets(record[TARGETS] for record in mine)
        manifest["splits"][split] = described | ({TARGETS: targets} if targets else {})
    return manifest


LIST_VALUES = "list_values"
"""Key of a split's entry: how many values columns have of which a row has several."""


def describe_split(
    unit: str, rows: int, files: int, counts: dict[str, int], unknown: dict[str, int]
) -> dict[str, Any]:
    """A split's entry in the manifest; ``counts``: the values of each coded column. They are as
    many as rows, or as the events of sessions; those of columns of several values are counted
    apart.
    """
    rates = {
        name: round(count / counts[name], 6) if counts[name] else 0.0
        for name, count in unknown.items()
    }
    values = min(counts.values(), default=0)
    counted: dict[str, Any] = {"files": files, "values": values, "unknown": unknown}
    longer = {name: count for name, count in counts.items() if count != values}
    if longer:
        counted[LIST_VALUES] = longer
    return {unit: rows, **counted, "oov_rate": rates}
