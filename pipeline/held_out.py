"""The raw rows that a split holds back, kept beside the features, so that they can train later.

When new days come, what validated and tested until then is older than them and belongs to training.
Its raw rows are all that growing reads of the old log.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from core.artifacts import atomic_path, read_json, write_json
from core.errors import UserError
from core.settings import Settings
from pipeline.splits import SplitSettings

HELD_OUT = "held_out"
"""Folder within the features."""
RECORD = "held_out.json"
GOES_ON = "goes_on"
"""Stands in the manifest of a raw log that held known shards as well."""
FIXED = {
    "window": "its days are fixed; choose kind 'days', which moves on with the log",
    "random": "no row comes later than another",
    "files": "nothing says which rows of a test file of its own come later",
}
"""Kinds of split that new days cannot go on with, and why."""


class GrowSettings(Settings):
    """Part of the preprocess settings of every recipe."""

    # Not in the plan of the features: they are the same, however they came to be.
    grow: bool = Field(False, exclude=True)
    """Whether features that are there take in the files that are new in the raw log, as
    ``preprocess --grow`` does, also under DVC. They are made anew where their settings, code or
    old files have changed. false: they are made anew whenever the raw log has changed."""


@dataclass(frozen=True)
class Settled:
    """What is known of the features that grow: the rows held back, and what trains."""

    folder: Path
    record: Mapping[str, Any]
    """``recipe``; ``columns`` of the raw log; ``known``, hashes of all its shards; ``logs``, how
    many of these each raw log added; ``sources``, its input files; ``rows_read``; and what the
    recipe's ``hold_out`` returned."""

    def path(self, name: str) -> Path:
        return self.folder / name


def can_grow(split: SplitSettings) -> bool:
    return split.kind not in FIXED


def save(
    folder: Path,
    recipe: str,
    manifest: Mapping[str, Any],
    hold_out: Callable[[Path], Mapping[str, Any]],
    settled: Settled | None = None,
) -> None:
    """Fills ``folder`` anew for the log that ``manifest`` and what is ``settled`` describe."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    taken = take(manifest, settled.record if settled else NOTHING)
    record = {"recipe": recipe, "columns": manifest["columns"], **taken, **hold_out(folder)}
    write_json(folder / RECORD, record)


NOTHING: Mapping[str, Any] = {"known": [], "logs": [], "sources": [], "rows_read": 0}
"""What is known before the first raw log."""


def take(manifest: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What is known after one more raw log: the hashes of all shards, the files that they are of,
    and rows read for them."""
    hashes = [shard["sha256"] for shard in manifest["shards"] if "sha256" in shard]
    rows = manifest.get("rows_read", sum(shard["rows"] for shard in manifest["shards"]))
    sources = [*before.get("sources", ()), *source_files(manifest)]
    return {
        "known": [*before["known"], *hashes],
        "logs": [*logs_of(before), len(hashes)],
        "sources": list(dict.fromkeys(sources)),
        "rows_read": before["rows_read"] + rows,
    }


def source_files(manifest: Mapping[str, Any]) -> list[str]:
    """The input file of each shard."""
    return [shard["source"] for shard in manifest["shards"] if "source" in shard]


def logs_of(record: Mapping[str, Any]) -> list[int]:
    """How many shards each raw log added; features of an older version count as of one log."""
    return record.get("logs", [len(record["known"])])


def restricted(manifest: dict[str, Any], hashes: set[str]) -> dict[str, Any]:
    """The manifest of a raw log with only the shards of these hashes, and their input files."""
    shards = [shard for shard in manifest["shards"] if shard.get("sha256") in hashes]
    indexes = sorted({shard["source_index"] for shard in shards})
    place = {index: number for number, index in enumerate(indexes)}
    return {
        **manifest,
        "inputs": [manifest["inputs"][index] for index in indexes],
        "shards": [{**shard, "source_index": place[shard["source_index"]]} for shard in shards],
    }


def fresh(manifest: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a raw log without the shards that are known.

    Raises:
        UserError: an input file has shards of both kinds, or is known with other rows.
    """
    known = set(before["known"])
    there = [shard.get("sha256") in known for shard in manifest["shards"]]
    if not any(there):
        return manifest
    new = [s for s, seen in zip(manifest["shards"], there, strict=True) if not seen]
    sources = {s["source_index"] for s, seen in zip(manifest["shards"], there, strict=True) if seen}
    torn = [
        shard["source"]
        for shard in new
        if shard["source_index"] in sources or shard["source"] in before.get("sources", ())
    ]
    if torn:
        raise UserError(
            f"{torn[0]}: some of its rows are in the features already and some are not; give new "
            "rows as files of their own"
        )
    rows = max(0, manifest.get("rows_read", 0) - before["rows_read"])
    return {**manifest, "shards": new, GOES_ON: True, "rows_read": rows}


def load(features: Path, split: SplitSettings) -> Settled:
    """What ``features`` keep for growing.

    Args:
        split: how they were split.

    Raises:
        UserError: nothing: their split cannot grow.
    """
    if not can_grow(split):
        raise UserError(
            f"{features}: split.kind '{split.kind}' cannot grow: {FIXED[split.kind]}. Run "
            "preprocess on all days without --grow"
        )
    if not (features / HELD_OUT / RECORD).is_file():
        raise UserError(
            f"{features}: no {HELD_OUT}/{RECORD} there; features made by an older version cannot "
            "grow. Run preprocess on all days once"
        )
    return Settled(features / HELD_OUT, read_json(features / HELD_OUT / RECORD))


def link(path: str | Path, target: Path) -> None:
    """``target`` becomes the file at ``path``, without a copy where the file system has links."""
    path = Path(path).resolve()
    try:
        os.link(path, target)
    except OSError:
        with atomic_path(target) as partial:
            shutil.copy2(path, partial)
