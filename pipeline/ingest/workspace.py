"""Where an ingest works until its output is whole, so that a killed run can go on.

Beside the output folder ``raw`` is ``.raw.<16 hex digits>.partial`` while an ingest runs:
``plan.json`` (what the output depends on), a folder ``file-00000 …`` for each input file with its
finished shards and ``progress.json``, and ``out``, which takes the place of ``raw`` in one step
once it is whole. Where the plan of the next run says otherwise, what no longer holds is wiped.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.artifacts import read_json, remove_partials, write_json
from core.errors import UserError
from core.marker import Marker
from core.outputs import Claim
from core.siblings import KEPT, remove_sibling, sibling
from core.sums import CHECKSUM
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.source import SourceSettings

FORMAT = 3
"""Raised when the same input gives other bytes than before."""
PLAN, MANIFEST, PROGRESS = "plan.json", "manifest.json", "progress.json"
PUBLISHED = "published.json"
"""The checksum of the output that takes its place next."""
NOT_SHAPING = {"path", "workers", "max_bad_fraction"}
"""Settings that change nothing in a shard: the share of bad lines is looked at at every run."""
SAMPLE_BYTES = 1 << 16


def plan_of(
    recipe: str, settings: SourceSettings, files: Sequence[InputFile], schema: pa.Schema
) -> dict[str, Any]:
    """What the output depends on; equal plans give equal bytes.

    ``schema``: the types that the beginning of the log led to.
    """
    return {
        "format": FORMAT,
        "pyarrow": pa.__version__,
        "recipe": recipe,
        "settings": settings.model_dump(mode="json", exclude=NOT_SHAPING),
        "columns": {field.name: str(field.type) for field in schema},
        "inputs": [_identity(file) for file in files],
    }


def _identity(file: InputFile) -> dict[str, Any]:
    """What tells whether a file is still the same: size, time, and a hash of head and tail."""
    sample = hashlib.sha256()
    try:
        with open(file.path, "rb") as data:
            sample.update(data.read(SAMPLE_BYTES))
            data.seek(max(0, file.size - SAMPLE_BYTES))
            sample.update(data.read(SAMPLE_BYTES))
        modified = file.path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read ({error.strerror})") from None
    described = {"file": file.label, "bytes": file.size, "modified": modified}
    return {**described, "sample": sample.hexdigest()}


class Workspace:
    """The folder of an ingest that runs, or was stopped."""

    def __init__(self, claim: Claim) -> None:
        self.claim, self.output = claim, claim.folder
        self.folder = claim.stopped or claim.staging()
        self.out = self.folder / "out"

    def columns_as_text(self, plan: dict[str, Any]) -> set[str]:
        """Columns that a stopped run of the same plan read as text, where this one says integer:
        it had come upon a text in them."""
        old = read_json(self.folder / PLAN) if (self.folder / PLAN).is_file() else None
        if old is None or {**old, "columns": None} != {**plan, "columns": None}:
            return set()
        new = plan["columns"]
        return {
            name
            for name, type in old["columns"].items()
            if type == "string" and new.get(name) == "int64"
        }

    def begin(self, plan: dict[str, Any]) -> bool:
        """Keeps what a stopped run left as far as ``plan`` allows, and clears the rest.

        Returns:
            Whether the output took its place already: the run was stopped while it cleaned up.
        """
        old = read_json(self.folder / PLAN) if (self.folder / PLAN).is_file() else None
        if old == plan and (self.folder / PUBLISHED).is_file():
            if _checksum(self.output) == read_json(self.folder / PUBLISHED):
                return True
            if _checksum(self.out) != read_json(self.folder / PUBLISHED):
                old = None  # The output was taken away before this folder was.
        if old is None or {**old, "inputs": None} != {**plan, "inputs": None}:
            self._clear()
        elif old != plan:
            # The plan goes first: without it, nothing here is ever taken for another plan's.
            (self.folder / PLAN).unlink()
            (self.folder / PUBLISHED).unlink(missing_ok=True)
            self._remove_out()
            self._keep_unchanged(old["inputs"], plan["inputs"])
        if not self.out.exists():
            self.out.mkdir()
            Marker(self.claim.kind.name, unfinished=True).write(self.out)
        remove_partials(self.folder)
        if old != plan:
            write_json(self.folder / PLAN, plan)
        return False

    def _remove_out(self) -> None:
        """Deletes ``out``: what was not published, or what the output was before."""
        remove_sibling(self.out, sibling(self.output, KEPT))

    def _clear(self) -> None:
        for name in (PLAN, PUBLISHED):
            (self.folder / name).unlink(missing_ok=True)
        self._remove_out()
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)

    def unit(self, file: InputFile) -> Path:
        """The folder of one input file's shards."""
        return self.folder / f"file-{file.index:05d}"

    def _keep_unchanged(self, old: list[Any], new: list[Any]) -> None:
        """Drops the units of files that changed or moved, and of those whose shards are gone."""
        for unit in self.folder.glob("file-*"):
            number = int(unit.name.removeprefix("file-"))
            same = number < len(old) and number < len(new) and old[number] == new[number]
            progress = unit / PROGRESS
            shards = read_json(progress)["shards"] if same and progress.is_file() else []
            whole = all((unit / shard["file"]).is_file() for shard in shards)
            if not same or not whole:
                shutil.rmtree(unit)

    def finish(self) -> None:
        """``out`` takes the output's place; a reader meets the old output or the new one whole."""
        write_json(self.folder / PUBLISHED, _checksum(self.out))
        self.claim.publish(self.out)
        self.clean()

    def clean(self) -> None:
        """Deletes the folder, and in it the output that was replaced as far as it was ours."""
        self._remove_out()
        # The plan goes first: without it, what is left of the rest is of no plan.
        (self.folder / PLAN).unlink(missing_ok=True)
        remove_sibling(self.folder)

    def give_up(self) -> None:
        """After a failure: what is finished stays for the next run; if nothing is, no trace."""
        if not any(self.folder.glob(f"file-*/{PROGRESS}")):
            remove_sibling(self.folder)


def _checksum(folder: Path) -> str | None:
    """The checksum of the manifest in ``folder``; None where there is none."""
    path = folder / MANIFEST
    return read_json(path).get(CHECKSUM) if path.is_file() else None
