"""A path, folder, glob or list of them → the input files, in natural order."""

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError

# What may lie beside the logs in a folder without being one.
NOT_LOGS = re.compile(r"^[._]|^manifest\.json$|^readme|\.md$|^quarantine\.parquet$", re.IGNORECASE)


@dataclass(frozen=True)
class InputFile:
    """One input file: its place among the inputs, its path and its size on disk in bytes.

    ``modified``: its time in nanoseconds, by which a change is noticed; None: not looked at.
    """

    index: int
    path: Path
    size: int
    modified: int | None = None

    @property
    def label(self) -> str:
        """The path as text; bytes that are not UTF-8 appear as ``\\xNN``."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def check_unchanged(self) -> None:
        """Checks that the file is still what it was when the inputs were listed.

        Raises:
            UserError: it is not.
        """
        try:
            found = self.path.stat()
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read any more ({error.strerror}); give the same command "
                "again once it is there"
            ) from None
        if self.modified is not None and (found.st_size, found.st_mtime_ns) != (
            self.size,
            self.modified,
        ):
            raise UserError(
                f"{self.path}: changed while it was read; give the same command again once "
                "nothing writes to it"
            )


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts digits by value: ``day_2`` before ``day_10``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def list_inputs(path: str | Path | Iterable[str | Path]) -> list[InputFile]:
    """The files that ``path`` names.

    A folder gives the files directly in it (hidden ones, ``manifest.json`` and READMEs left out) in
    natural order, so does a glob; a list is taken in the order given. A file that is named twice is
    read once.

    Raises:
        UserError: a path that does not exist, a folder or glob with nothing in it, a file that
            cannot be read.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    found: dict[Path, None] = {}
    for entry in paths:
        found.update(dict.fromkeys(_expand(str(entry))))
    files = []
    for index, file in enumerate(found):
        if not os.access(file, os.R_OK):
            raise UserError(f"{file}: no permission to read this file")
        status = file.stat()
        files.append(InputFile(index, file, status.st_size, status.st_mtime_ns))
    if not files:
        raise UserError("path: no input file is named; give a file, a folder, a glob or a list")
    return files


def named_inputs(path: str | Path | Iterable[str | Path], files: Iterable[InputFile]) -> list[Path]:
    """The files that are read, and the folders that ``path`` names for all files in them."""
    paths = [path] if isinstance(path, str | Path) else list(path)
    folders = [Path(entry).expanduser() for entry in paths]
    return [*(folder for folder in folders if folder.is_dir()), *(file.path for file in files)]


def _expand(entry: str) -> list[Path]:
    path = Path(entry).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        names = [
            file for file in path.iterdir() if file.is_file() and not NOT_LOGS.search(file.name)
        ]
        if not names:
            raise UserError(f"{entry}: this folder holds no log file; check the setting 'path'")
        return sorted(names, key=lambda file: natural_key(file.name))
    if glob.has_magic(entry):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise UserError(f"{entry}: no file matches this pattern; check the setting 'path'")
        return sorted(matches, key=lambda file: natural_key(str(file)))
    if path.exists():
        raise UserError(f"{entry}: neither a file nor a folder; check the setting 'path'")
    raise UserError(f"{entry}: no such file or folder; check the setting 'path'")
