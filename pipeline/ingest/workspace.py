"""Where an ingest works until its output is whole, so that a killed run can go on.

Beside the output folder ``raw`` lies ``.raw.partial`` while an ingest runs: ``plan.json`` (what
the output depends on), a folder ``file-00000 …`` for each input file with its finished shards and
``progress.json``, and ``out``, which becomes ``raw`` in one rename once it is whole. Where the
plan of the next run says otherwise, what no longer holds is wiped.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.artifacts import PARTIAL, checked_output, read_json, remove_partials, write_json
from core.errors import UserError
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.source import SourceSettings

FORMAT = 2
"""Raised when the same input gives other bytes than before."""
PLAN, MANIFEST, PROGRESS = "plan.json", "manifest.json", "progress.json"
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
    described = {"file": str(file.path), "bytes": file.size, "modified": modified}
    return {**described, "sample": sample.hexdigest()}


class Workspace:
    """The folder of an ingest that runs, or was stopped.

    Raises:
        UserError: ``output`` holds something that no stage wrote, which would be lost.
    """

    def __init__(self, output: str | Path) -> None:
        self.output = checked_output(output)
        self.folder = self.output.with_name(f".{self.output.name}{PARTIAL}")
        self.out = self.folder / "out"

    def begin(self, plan: dict[str, Any]) -> bool:
        """Keeps what a stopped run left as far as ``plan`` allows, and clears the rest.

        Returns:
            Whether everything is done already: the run was stopped after its last step but one.
        """
        old = read_json(self.folder / PLAN) if (self.folder / PLAN).is_file() else None
        if old == plan and not self.out.exists():
            if (self.output / MANIFEST).is_file():
                return True
            old = None  # the output was taken away before this folder was
        if old is None or {**old, "inputs": None} != {**plan, "inputs": None}:
            self._clear()
        elif old != plan:
            # The plan goes first: without it, nothing here is ever taken for another plan's.
            (self.folder / PLAN).unlink()
            shutil.rmtree(self.out, ignore_errors=True)
            self._keep_unchanged(old["inputs"], plan["inputs"])
        self.out.mkdir(parents=True, exist_ok=True)
        remove_partials(self.folder)
        if old != plan:
            write_json(self.folder / PLAN, plan)
        return False

    def _clear(self) -> None:
        (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

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
        if self.out.exists():
            old = self.folder / "old"
            shutil.rmtree(old, ignore_errors=True)
            if self.output.exists():
                os.replace(self.output, old)
            os.replace(self.out, self.output)
        for left in self.folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
        shutil.rmtree(self.folder)

    def give_up(self) -> None:
        """After a failure: what is finished stays for the next run; if nothing is, no trace."""
        if not any(self.folder.glob(f"file-*/{PROGRESS}")):
            self._clear()
