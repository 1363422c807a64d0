"""Which generated log the inputs are of: its true probabilities are used for no other one."""

from collections.abc import Iterable
from pathlib import Path

from core.errors import UserError
from core.sums import CHECKSUM, read_manifest
from pipeline.ingest.inputs import InputFile

GENERATED_CHECKSUM = "generated_checksum"
"""Key of a manifest: the checksum of the generated log's manifest."""


def checksum_of(folder: Path) -> str | None:
    """The checksum of the generated log in ``folder``; None where there is none."""
    try:
        return read_manifest(folder / "manifest.json").get(CHECKSUM)
    except (UserError, OSError):
        return None


def generated_checksum(files: Iterable[InputFile]) -> str | None:
    """The checksum of the generated log whose folder ``log`` holds all ``files``; else None."""
    folders = {file.path.parent for file in files}
    if len(folders) != 1:
        return None
    folder = folders.pop()
    return checksum_of(folder.parent) if folder.name == "log" else None
