"""A path, folder, glob or list of them → the input files, in natural order."""

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from core.errors import UserError

KEY = re.compile(r"^([^=]+)=(.*)$", re.DOTALL)
"""The name of a folder of Hive's that says the value of a column in all its files."""
CHECK_PATH = "check the path (--input, or the setting source.path)"
"""What to do where an input is not there."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
# What may be next to the logs in a folder without being one.
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

    @cached_property
    def keys(self) -> dict[str, str | None]:
        """The columns that its folders' names give (``date=2021-01-01``), and their values."""
        keys = {}
        for part in self.path.parent.parts:
            match = KEY.match(part)
            if match:
                key, value = map(unquote, match.groups())
                keys[key] = None if value == NO_VALUE else value
        return keys

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
    natural order, so does a glob; a folder of folders such as ``date=2021-01-01`` gives all files
    in these. A list is taken in the order given. A file that is named twice is read once. What is
    there under the very name is meant, whatever it holds: in ``run[1]/*.csv`` the folder is no
    pattern where there is one called ``run[1]``.

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
    folders = [_place(str(entry)) for entry in paths]
    return [*(folder for folder in folders if folder.is_dir()), *(file.path for file in files)]


def _place(entry: str) -> Path:
    """The path that is meant; ``~`` is a home folder unless there is a folder of that name."""
    path = Path(entry)
    with contextlib.suppress(RuntimeError):  # There is no such user.
        return path if os.path.lexists(path.parts[0] if path.parts else path) else path.expanduser()
    return path


def _pattern(path: Path) -> str:
    """A glob whose leading folders, as far as they are there, are meant as they are called."""
    parts = path.parts
    for count in range(len(parts) - 1, 0, -1):
        if Path(*parts[:count]).is_dir():
            return os.path.join(glob.escape(str(Path(*parts[:count]))), *parts[count:])
    return str(path)


def _expand(entry: str) -> list[Path]:
    path = _place(entry)
    if path.is_file():
        return [path]
    if path.is_dir():
        return list(_folder(path))
    if glob.has_magic(entry):
        matches = [Path(match) for match in glob.glob(_pattern(path), recursive=True)]
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise UserError(f"{entry}: no file matches this pattern; {CHECK_PATH}")
        return sorted(matches, key=lambda file: natural_key(str(file)))
    if path.exists():
        raise UserError(f"{entry}: neither a file nor a folder; {CHECK_PATH}")
    raise UserError(f"{entry}: no such file or folder; {CHECK_PATH}")


def _folder(path: Path, top: bool = True) -> Iterator[Path]:
    """The log files of a folder, and those of its folders that are named like ``date=…``."""
    inside = sorted(path.iterdir(), key=lambda file: natural_key(file.name))
    if any(file.name == "_delta_log" for file in inside):
        raise UserError(
            f"{path}: this is a Delta table, whose folder may hold rows that are deleted; export "
            "it to Parquet first"
        )
    files = [file for file in inside if file.is_file() and not NOT_LOGS.search(file.name)]
    folders = [file for file in inside if file.is_dir() and not NOT_LOGS.search(file.name)]
    keyed = [folder for folder in folders if KEY.match(folder.name)]
    if files and keyed:
        raise UserError(
            f"{path}: it holds both log files ({files[0].name}) and folders of them "
            f"({keyed[0].name}); name one or the other, e.g. {path}/*/*"
        )
    logs = [*files, *(file for folder in keyed for file in _folder(folder, top=False))]
    if top and not logs:
        names = ", ".join(folder.name for folder in folders[:3])
        more = f"; it has folders ({names}): name the files in them, {path}/**/*" if names else ""
        raise UserError(f"{path}: this folder holds no log file; {CHECK_PATH}{more}")
    yield from logs
