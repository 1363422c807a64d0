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

from core.artifacts import atomic_path, read_json, write_json
from core.errors import UserError
from pipeline.splits import SplitSettings

HELD_OUT = "held_out"
"""Folder within the features."""
RECORD = "held_out.json"
GOES_ON = "goes_on"
"""Stands in the manifest of a raw log that held known shards as well."""
FIXED = {
    "window": "its days are fixed; choose kind 'days', which moves on with the log",
    "files": "nothing says which rows of a test file of its own come later",
}
"""Kinds of split that new days cannot go on with, and why."""


@dataclass(frozen=True)
class Settled:
    """What is known of the features that grow: the rows held back, and what trains."""

    folder: Path
    record: Mapping[str, Any]
    """``recipe``; ``columns`` of the raw log; ``known``, hashes of all its shards; ``rows_read``;
    and what the recipe's ``hold_out`` returned."""

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


NOTHING: Mapping[str, Any] = {"known": [], "rows_read": 0}
"""What is known before the first raw log."""


def take(manifest: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What is known after one more raw log: the hashes of all shards, and rows read for them."""
    hashes = [shard["sha256"] for shard in manifest["shards"] if "sha256" in shard]
    rows = manifest.get("rows_read", sum(shard["rows"] for shard in manifest["shards"]))
    return {"known": [*before["known"], *hashes], "rows_read": before["rows_read"] + rows}


def fresh(manifest: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a raw log without the shards that are known.

    Raises:
        UserError: an input file has shards of both kinds.
    """
    known = set(before["known"])
    there = [shard.get("sha256") in known for shard in manifest["shards"]]
    if not any(there):
        return manifest
    new = [s for s, seen in zip(manifest["shards"], there, strict=True) if not seen]
    sources = {s["source_index"] for s, seen in zip(manifest["shards"], there, strict=True) if seen}
    torn = [shard["source"] for shard in new if shard["source_index"] in sources]
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
