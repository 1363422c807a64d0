"""Folders beside an output: what is being built for its place, and what killed runs left.

Their names are ``.NAME.<16 hex digits>.partial``. One is ours if it is empty or holds our marker.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
from pathlib import Path

from core.artifacts import MARKER, PARTIAL, temporary_of
from core.console import say
from core.kinds import Kind
from core.marker import (
    Marker,
    is_sibling,
    read_marker,
    remove_files,
    remove_listed,
    remove_tree,
)

ASIDE, KEPT = ".old", ".kept"


def sibling(path: Path, ending: str = PARTIAL) -> Path:
    """A new temporary name beside ``path``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{ending}")


def _siblings(path: Path, ending: str) -> list[Path]:
    """Folders beside ``path`` of such a name that a run made: empty, or with our marker."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}{re.escape(ending)}")
    ours = []
    for entry in os.scandir(path.parent):
        named = pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        if named and is_sibling(Path(entry.path)):
            ours.append(Path(entry.path))
    return sorted(ours, key=lambda one: one.stat().st_mtime_ns)


def finish_replacement(folder: Path) -> None:
    """Ends a replacement that was killed between two renames (see :func:`exchange`)."""
    if os.path.lexists(folder):
        return
    aside = _siblings(folder, ASIDE)
    if aside:  # Two folders that were exchanged in one step leave none.
        whole = [one for one in _siblings(folder, PARTIAL) if _is_finished(one)]
        os.rename((whole or aside)[-1], folder)


def _is_finished(folder: Path) -> bool:
    marker = read_marker(folder)
    return marker is not None and not marker.unfinished


def remove_leftovers(folder: Path, kind: Kind, resumable: bool) -> Path | None:
    """Removes what killed runs left beside ``folder``; returns what one can go on from."""
    stopped = None
    if resumable:
        left = [one for one in _siblings(folder, PARTIAL) if not _is_finished(one)]
        left = [one for one in left if (read_marker(one) or Marker("")).kind == kind.name]
        stopped = left[-1] if left else None
    for one in (*_siblings(folder, PARTIAL), *_siblings(folder, ASIDE)):
        if one != stopped:
            remove_sibling(one)
    return stopped


def remove_file_leftovers(file: Path) -> None:
    for entry in os.scandir(file.parent):
        if temporary_of(entry.name) == file.name and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)
    for one in _siblings(file, PARTIAL):
        remove_sibling(one)


def remove_sibling(folder: Path, kept: Path | None = None) -> None:
    """Deletes a folder that a run made beside its output: an unfinished one whole, an old output
    as far as its marker lists it. What somebody put into it meanwhile is kept, and named.

    Args:
        kept: the name that the folder has then; None: its own, ending in ``.kept``.
    """
    if not os.path.lexists(folder):
        return
    marker = read_marker(folder)
    if marker is not None and marker.unfinished:
        remove_tree(folder)
        return
    if marker is not None:
        remove_listed(folder)
    else:
        remove_files(folder, [MARKER])  # It lists nothing.
        with contextlib.suppress(OSError):
            folder.rmdir()
    if folder.is_dir():
        name = folder.name.removesuffix(PARTIAL).removesuffix(ASIDE)
        kept = kept or folder.with_name(f"{name}{KEPT}")
        os.rename(folder, kept)
        say(f"{kept}: holds what was put into the output while it was replaced")


_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
CANNOT_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV}


def exchange(staging: Path, folder: Path) -> None:
    """Puts ``staging`` in the place of ``folder`` and the other way round, in one step where the
    system can (Linux); elsewhere the next run ends what a kill between two steps left."""
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is not None:
        names = os.fsencode(staging), os.fsencode(folder)
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in CANNOT_EXCHANGE:
            raise OSError(number, os.strerror(number), str(folder))
    aside = sibling(folder, ASIDE)
    os.rename(folder, aside)
    try:
        os.rename(staging, folder)
    except BaseException:
        os.rename(aside, folder)
        raise
    os.rename(aside, staging)
