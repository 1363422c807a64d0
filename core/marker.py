"""The marker of an output folder: what was written there, and what may therefore be deleted.

``.merlin-pipeline`` lists the files that a stage wrote. A file that it does not list is the user's
and is named in a refusal; only what it lists is ever deleted, and no link is followed. A folder
that an older version wrote, without such a list, gets one if every file of it is such an output.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.artifacts import MARKER, read_json, temporary_of, write_json
from core.errors import UserError
from core.kinds import KINDS, Kind
from core.sums import is_inside

INNER_LOCK = f"{MARKER}.lock"
"""The lock of an output that is a mount point, which has no place beside it."""
SCRATCH = re.compile(r"\.work-[0-9a-f]{16}")
GIT_IGNORE = ".gitignore"
SIBLING = re.compile(r"\.(.+)\.[0-9a-f]{16}\.(partial|old)", re.DOTALL)
"""Name of a folder that is built beside an output (:mod:`core.siblings`)."""
SHOWN = 3


@dataclass
class Marker:
    """What a marker lists.

    Attributes:
        kind: name of the folder's :class:`~core.kinds.Kind`.
        files: relative names of the files that were or will be written.
        scratch: names of folders that hold nothing but a run's temporary files.
        unfinished: whether the whole folder is such a one.
    """

    kind: str
    files: set[str] = field(default_factory=set)
    scratch: set[str] = field(default_factory=set)
    unfinished: bool = False

    def write(self, folder: Path) -> None:
        """Writes the marker into ``folder``."""
        record: dict[str, Any] = {"kind": self.kind, "files": sorted(self.files)}
        if self.scratch:
            record["scratch"] = sorted(self.scratch)
        if self.unfinished:
            record["unfinished"] = True
        write_json(folder / MARKER, record)


def read_marker(folder: Path) -> Marker | None:
    """The marker in ``folder``; None where there is none, or none that lists anything."""
    path = folder / MARKER
    if path.is_symlink() or not path.is_file() or not path.stat().st_size:
        return None
    try:
        record = read_json(path)
        files, scratch = set(record["files"]), set(record.get("scratch", ()))
        # It may be a stranger's: no name in it leads out of the folder.
        if not all(isinstance(name, str) and is_inside(name) for name in files | scratch):
            return None
        if not all(SCRATCH.fullmatch(name) for name in scratch):
            return None
        return Marker(str(record["kind"]), files, scratch, record.get("unfinished") is True)
    except (UserError, KeyError, TypeError, AttributeError):
        return None


def is_sibling(folder: Path) -> bool:
    """Whether a run made a folder beside an output: by its name, and empty or with a marker."""
    if not SIBLING.fullmatch(folder.name):
        return False
    left = [name for name in os.listdir(folder) if temporary_of(name) != MARKER]
    return not left or read_marker(folder) is not None


def list_files(folder: Path, *names: str) -> None:
    """Lists files in the marker of an output folder before they are written there.

    Without a marker, in a folder that no stage claimed, it does nothing.
    """
    marker = read_marker(folder)
    if marker is not None and not marker.files.issuperset(names):
        marker.files.update(names)
        marker.write(folder)


def unlist_absent(folder: Path) -> None:
    """Takes out of the marker's list what was not written after all, or deleted since."""
    marker = read_marker(folder)
    if marker is not None:
        there = {name for name in marker.files if os.path.lexists(folder / name)}
        if there != marker.files:
            marker.files = there
            marker.write(folder)


def check_owned(folder: Path, kind: Kind) -> None:
    """Checks that an output folder may be written.

    Raises:
        UserError: it may not.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder to write to")
    marker = read_marker(folder)
    if marker is None:
        marker = _taken_over(folder, kind)
    if marker.kind != kind.name:
        raise UserError(
            f"{folder}: the output of another stage ({marker.kind}); name another folder"
        )
    foreign = _unlisted(folder, marker, kind)
    if foreign:
        _refuse(folder, foreign)


def _refuse(folder: Path, foreign: list[str]) -> None:
    shown = ", ".join(foreign[:SHOWN]) + (" …" if len(foreign) > SHOWN else "")
    raise UserError(
        f"{folder}: holds {shown}, which no stage wrote and which would be lost; name an empty or "
        "a new folder"
    )


def _taken_over(folder: Path, kind: Kind) -> Marker:
    """The marker of a folder without one: empty, or written by an older version."""
    names = _unlisted(folder, Marker(kind.name), kind)
    if not names:
        return Marker(kind.name)
    plain = not any((folder / name).is_symlink() for name in names)
    for other in (kind, *KINDS):
        if plain and other.wrote_before(folder, names):
            marker = Marker(other.name, {name for name in names if not name.endswith("/")})
            if other is kind:
                for empty in set(names) - marker.files:
                    (folder / empty).rmdir()
                marker.write(folder)
            return marker
    _refuse(folder, names)
    raise AssertionError


def _unlisted(folder: Path, marker: Marker, kind: Kind) -> list[str]:
    """Relative names of what ``folder`` holds and no run wrote, in order."""
    files = marker.files
    parents = {parent.as_posix() for name in files for parent in Path(name).parents}
    foreign = []
    for root, folders, names in os.walk(folder):
        at = Path(root)
        for name in sorted(folders):
            path = at / name
            relative = path.relative_to(folder).as_posix()
            below = None if path.is_symlink() or not kind.nested else read_marker(path)
            if path.is_symlink():
                foreign.append(relative)
            elif relative in marker.scratch:
                folders.remove(name)
            elif kind.nested and is_sibling(path):
                folders.remove(name)  # Goes with the next run that writes what it is beside.
            elif below is not None:
                folders.remove(name)
                foreign += [f"{relative}/{one}" for one in _unlisted(path, below, kind)]
            elif relative not in parents and not any(path.iterdir()) and not kind.nested:
                foreign.append(f"{relative}/")
        for name in sorted(names):
            path = at / name
            relative = path.relative_to(folder).as_posix()
            base = temporary_of(name)
            ours = (path.with_name(base) if base else path).relative_to(folder).as_posix()
            if kind.tracked and name == GIT_IGNORE:
                continue  # Written by DVC, and never deleted.
            if path.is_symlink() or (ours not in files and ours not in (MARKER, INNER_LOCK)):
                foreign.append(relative)
    return foreign


def remove_listed(folder: Path) -> None:
    """Deletes what the markers in and below ``folder`` list, and the folders that are empty then;
    whatever else is there stays."""
    for root, _, names in os.walk(folder, topdown=False):
        at = Path(root)
        marker = read_marker(at) if MARKER in names else None
        if marker is None:
            continue
        remove_files(at, marker.files)
        for name in marker.scratch:
            remove_tree(at / name)
        (at / MARKER).unlink()
        if at != folder:
            with contextlib.suppress(OSError):
                at.rmdir()
    for root, folders, _ in os.walk(folder, topdown=False):
        for name in folders:
            with contextlib.suppress(OSError):
                os.rmdir(Path(root) / name)
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove_files(folder: Path, names: Iterable[str], listed: Iterable[str] = ()) -> None:
    """Deletes files below ``folder``, in order, and the folders that are empty then; a link stays,
    and so does what is behind one.

    Args:
        listed: of which temporary files that killed runs left are deleted too; those of ``names``
            are in any case.
    """
    names = list(names)
    for name in names:
        path = folder / name
        if _is_real(folder, Path(name)):
            path.unlink(missing_ok=True)
    bases = {*names, *listed, MARKER}
    for parent in sorted({Path(name).parent for name in bases}):
        if not _is_real(folder, parent) or not (folder / parent).is_dir():
            continue
        for entry in os.scandir(folder / parent):
            base = temporary_of(entry.name)
            ours = base is not None and (parent / base).as_posix() in bases
            if ours and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)
    parents = {parent for name in names for parent in Path(name).parents if parent.parts}
    for parent in sorted(parents, key=lambda one: -len(one.parts)):
        if _is_real(folder, parent):
            with contextlib.suppress(OSError):
                (folder / parent).rmdir()


def _is_real(folder: Path, name: Path) -> bool:
    """Whether no part of ``name`` below ``folder`` is a link."""
    return not any((folder / part).is_symlink() for part in (name, *name.parents) if part.parts)


def remove_tree(folder: Path) -> None:
    """Deletes a folder of temporary files whole, its marker last; a link in its place stays."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in sorted(os.scandir(folder), key=lambda one: one.name == MARKER):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
    with contextlib.suppress(OSError):
        folder.rmdir()
