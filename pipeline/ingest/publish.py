"""The units of all input files → one folder of numbered shards, one quarantine, one manifest."""

import os
from collections import Counter
from typing import Any

import pyarrow as pa

from pipeline.ingest.progress import FileReport
from pipeline.ingest.quarantine import merge_quarantines
from pipeline.ingest.workspace import Workspace

QUARANTINE = "quarantine.parquet"
RECIPE_OF = {
    "criteo": "ranking",
    "clicks": "ranking",
    "clickstream": "sessions",
    "ratings": "interactions",
}
"""The recipe that a log of each ``format`` of the manifest is ingested for."""


def number_shards(reports: list[FileReport], workspace: Workspace) -> list[dict[str, Any]]:
    """One entry for each shard of all files, as the manifest lists them.

    Returns:
        Name, rows, hash, source and the input's index; ``held`` is the path in its unit.
    """
    shards: list[dict[str, Any]] = []
    for report in reports:
        for shard in report.shards:
            shards.append(
                {
                    **shard,
                    "file": f"part-{len(shards):05d}.parquet",
                    "source": report.file.label,
                    "source_index": report.file.index,
                    "held": str(workspace.unit(report.file) / shard["file"]),
                }
            )
    return shards


def move_shards(shards: list[dict[str, Any]], workspace: Workspace) -> None:
    """Moves every shard to its place in ``out``; those that an earlier run moved are there."""
    for shard in shards:
        held = shard.pop("held")
        if os.path.exists(held):
            os.replace(held, workspace.out / shard["file"])


def join_quarantines(reports: list[FileReport], workspace: Workspace) -> None:
    """Writes the bad lines of all files, in order, to ``out/quarantine.parquet``."""
    parts = [workspace.unit(report.file) / name for report in reports for name in report.quarantine]
    merge_quarantines(parts, workspace.out / QUARANTINE)


def manifest(
    format: str, schema: pa.Schema, reports: list[FileReport], shards: list[dict[str, Any]]
) -> dict[str, Any]:
    """The record of an ingest: what was read, written and set aside, by file and by shard."""
    kinds: Counter[str] = Counter()
    for report in reports:
        kinds.update(report.kinds)
    inputs = []
    for report in reports:
        entry: dict[str, Any] = {
            "file": report.file.label,
            "bytes": report.file.size,
            "rows": report.rows_read,
            "rows_written": report.rows_written,
            "rows_quarantined": report.rows_quarantined,
        }
        if report.rows_filtered:
            entry["rows_filtered"] = report.rows_filtered
        if report.faults:
            entry["fault"] = "; ".join(report.faults)
        inputs.append(entry)
    return {
        "format": format,
        "columns": {name.name: str(name.type) for name in schema},
        "rows_read": sum(report.rows_read for report in reports),
        "rows_written": sum(shard["rows"] for shard in shards),
        "rows_quarantined": sum(report.rows_quarantined for report in reports),
        "rows_filtered": sum(report.rows_filtered for report in reports),
        "quarantined_by_reason": dict(sorted(kinds.items())),
        "inputs": inputs,
        "shards": shards,
    }
