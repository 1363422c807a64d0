"""The one place that decides what an output may be, and that deletes or replaces one.

An output folder is new or empty, or an earlier output of the same kind that holds nothing else.
Its marker, ``.merlin-pipeline``, lists what was written: only that is ever deleted, and no link is
followed. A folder that an older version wrote gets a marker if every file of it is such an output.
An output is none of the run's inputs, not inside or around one, and not inside another output. A
lock (:mod:`core.locks`) keeps a second run out.

A folder that is built anew comes from a sibling, ``.NAME.<16 hex digits>.partial``, which takes its
place in one step. What a killed run left of these is removed by the next run.
"""

import contextlib
import contextvars
import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.artifacts import MARKER, PARTIAL, read_json, temporary_of, write_json
from core.errors import UserError
from core.kinds import KINDS, Kind
from core.locks import locked

ASIDE = ".old"
SHOWN = 3

_held: contextvars.ContextVar[tuple[Path, ...]] = contextvars.ContextVar("held", default=())
"""Output folders that this run writes: those below them are covered by their locks."""


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
        names = [*record["files"], *record.get("scratch", ())]
        if not all(isinstance(name, str) for name in names):
            return None
        unfinished = record.get("unfinished") is True
        return Marker(
            str(record["kind"]), set(record["files"]), set(record.get("scratch", ())), unfinished
        )
    except (UserError, KeyError, TypeError, AttributeError):
        return None


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
        there = {name for name in marker.files if _exists(folder / name)}
        if there != marker.files:
            marker.files = there
            marker.write(folder)


class Claim:
    """An output folder that this run alone may write.

    Attributes:
        folder: its absolute path, links resolved.
        stopped: the unfinished folder of an earlier run beside it, to go on from, if there is one.
    """

    def __init__(self, folder: Path, kind: Kind, stopped: Path | None) -> None:
        self.folder, self.kind, self.stopped = folder, kind, stopped

    @property
    def marker(self) -> Marker:
        """What the folder holds or is going to hold."""
        return read_marker(self.folder) or Marker(self.kind.name)

    def add(self, *names: str) -> None:
        """Lists files before they are written; makes the folder."""
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / MARKER).is_file() or not (self.folder / MARKER).stat().st_size:
            Marker(self.kind.name).write(self.folder)
        list_files(self.folder, *names)

    def scratch(self) -> Path:
        """The folder for temporary files within the output, kept until :meth:`drop_scratch`."""
        marker = self.marker
        if not marker.scratch:
            marker.scratch.add(f".work-{secrets.token_hex(8)}")
            self.folder.mkdir(exist_ok=True)
            marker.write(self.folder)
        folder = self.folder / min(marker.scratch)
        folder.mkdir(exist_ok=True)
        return folder

    def drop_scratch(self) -> None:
        """Deletes the folder for temporary files."""
        marker = self.marker
        for name in marker.scratch:
            _remove_tree(self.folder / name)
        if marker.scratch:
            marker.scratch.clear()
            marker.write(self.folder)

    def remove(self, *names: str) -> None:
        """Deletes listed files, in this order, and what killed runs left of them."""
        marker = self.marker
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
        _remove_temporaries(self.folder, marker.files)
        _remove_empty_folders(self.folder, names)
        if not marker.files.isdisjoint(names):
            marker.files.difference_update(names)
            marker.write(self.folder)

    def clear(self, first: Iterable[str] = ()) -> None:
        """Deletes everything listed, ``first`` what vouches for the rest."""
        files = self.marker.files
        first = [name for name in first if name in files]
        self.remove(*first, *sorted(files.difference(first)))
        self.drop_scratch()

    def discard(self) -> None:
        """Deletes everything listed, and the folder if it is empty then."""
        remove_listed(self.folder)

    @contextlib.contextmanager
    def replaced(self) -> Iterator[Path]:
        """Gives an empty folder that takes the output's place, in one step, when the block ends."""
        with self.building() as staging:
            yield staging
            self.publish(staging)

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """Gives an empty folder beside the output, to be published within the block."""
        staging = self.staging()
        try:
            yield staging
        finally:
            remove_sibling(staging)

    def staging(self) -> Path:
        """A new folder beside the output."""
        if os.path.ismount(self.folder):
            raise UserError(
                f"{self.folder}: is a mount point, which cannot be replaced as a whole; name a "
                "folder below it"
            )
        staging = sibling(self.folder)
        staging.mkdir()
        Marker(self.kind.name, unfinished=True).write(staging)
        return staging

    def publish(self, staging: Path) -> None:
        """Puts ``staging`` in the output's place; the old output is at ``staging`` then, if there
        was one.

        Raises:
            UserError: meanwhile somebody put other files into the output.
        """
        names = {
            path.relative_to(staging).as_posix()
            for path in staging.rglob("*")
            if not path.is_dir() and path.name != MARKER
        }
        Marker(self.kind.name, names).write(staging)
        if _exists(self.folder):
            _check(self.folder, self.kind)
            exchange(staging, self.folder)
        else:
            os.rename(staging, self.folder)


@contextlib.contextmanager
def claimed(
    path: str | Path, kind: Kind, inputs: Iterable[str | Path] = (), resumable: bool = False
) -> Iterator[Claim]:
    """Claims an output folder for the block; nothing in it is touched yet.

    Args:
        inputs: files and folders that the run reads.
        resumable: whether the unfinished folder of a stopped run is kept, as ``stopped``.

    Raises:
        UserError: the folder may not be written (see this module), naming what it holds.
        Busy: another run writes it.
    """
    folder = resolved(path)
    _check_apart(folder, inputs)
    if Path.cwd().is_relative_to(folder):
        raise UserError(f"{folder}: is the folder that this command runs in; name another")
    nested = any(held in folder.parents for held in _held.get())
    with _parents(folder), contextlib.ExitStack() as stack:
        if not nested:
            stack.enter_context(locked(folder))
            _check_outside(folder)
        _finish_replacement(folder)
        _check(folder, kind)
        stopped = _remove_leftovers(folder, kind, resumable)
        stack.callback(_drop_if_empty, folder, _exists(folder))
        stack.callback(_held.reset, _held.set((*_held.get(), folder)))
        yield Claim(folder, kind, stopped)


@contextlib.contextmanager
def claimed_file(
    path: str | Path,
    inputs: Iterable[str | Path] = (),
    replaceable: Callable[[Path], bool] = lambda path: False,
) -> Iterator[Path]:
    """Claims an output file for the block; gives its absolute path, links resolved.

    Args:
        inputs: files and folders that the run reads.
        replaceable: whether the file that is there may be replaced: it is such an output.

    Raises:
        UserError: the file may not be written.
        Busy: another run writes it.
    """
    file = resolved(path)
    if file.is_dir():
        raise UserError(f"{file}: is a folder; name a file to write")
    _check_apart(file, inputs)
    nested = any(held in file.parents for held in _held.get())
    with _parents(file), contextlib.ExitStack() as stack:
        if not nested:
            stack.enter_context(locked(file))
            _check_outside(file)
        if _exists(file) and not replaceable(file):
            raise UserError(
                f"{file}: holds something else than this command writes, which would be lost; name "
                "another file, or delete it first"
            )
        _remove_file_leftovers(file)
        for held in _held.get():
            if held in file.parents:
                list_files(held, file.relative_to(held).as_posix())
        yield file


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Gives a folder for temporary files beside a claimed output; it is deleted afterwards.

    Within the block, outputs in it can be claimed.
    """
    folder = sibling(path)
    folder.mkdir()
    held = _held.set((*_held.get(), folder))
    try:
        Marker("temporary files", unfinished=True).write(folder)
        yield folder
    finally:
        _held.reset(held)
        _remove_tree(folder)


# paths


def resolved(path: str | Path) -> Path:
    """The absolute path of an output, with all links resolved.

    Raises:
        UserError: a link on the way leads to itself or to nothing.
    """
    path = Path(path).absolute()
    for part in (path, *path.parents):
        if part.is_symlink():
            try:
                part.stat()
            except FileNotFoundError:
                raise UserError(
                    f"{part}: a link to {os.readlink(part)}, which is not there; make that, or "
                    "delete the link"
                ) from None
            except OSError as error:
                raise UserError(f"{part}: a link that leads nowhere ({error.strerror})") from None
    return path.resolve()


def _check_apart(output: Path, inputs: Iterable[str | Path]) -> None:
    for given in inputs:
        source = Path(os.path.realpath(given))
        if source in _held.get() and source != output:
            continue  # A part of what this run writes, made from another part.
        if source == output or (_exists(output) and _exists(source) and output.samefile(source)):
            raise UserError(f"{output}: is an input of this command; name another output")
        if source.is_relative_to(output):
            raise UserError(f"{output}: holds {given}, an input of this command; name another")
        if output.is_relative_to(source):
            raise UserError(
                f"{output}: is inside {given}, an input of this command; name another output"
            )


def _check_outside(output: Path) -> None:
    """Refuses an output inside another."""
    for parent in output.parents:
        if _exists(parent / MARKER):
            marker = read_marker(parent)
            what = f" ({marker.kind})" if marker else ""
            raise UserError(
                f"{output}: is inside {parent}, the output of a stage{what}; name another output"
            )


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


@contextlib.contextmanager
def _parents(output: Path) -> Iterator[None]:
    """Makes the parent folders; those that hold nothing in the end are removed again."""
    made = []
    for parent in output.parents:
        if parent.exists():
            if not parent.is_dir():
                raise UserError(f"{parent}: is a file; {output} cannot be made in it")
            break
        made.append(parent)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()


def _drop_if_empty(folder: Path, existed: bool) -> None:
    """Removes the marker of an output of which nothing came, and the folder if it is new."""
    if folder.is_dir() and os.listdir(folder) == [MARKER]:
        (folder / MARKER).unlink()
        if not existed:
            folder.rmdir()


# what a folder holds


def _check(folder: Path, kind: Kind) -> None:
    """Checks that an output folder may be written.

    Raises:
        UserError: it may not.
    """
    if not _exists(folder):
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
    foreign = _unlisted(folder, marker, kind.nested)
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
    names = _unlisted(folder, Marker(kind.name), False)
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


def _unlisted(folder: Path, marker: Marker, nested: bool) -> list[str]:
    """Relative names of what ``folder`` holds and no run wrote, in order."""
    files = marker.files
    parents = {parent.as_posix() for name in files for parent in Path(name).parents}
    foreign = []
    for root, folders, names in os.walk(folder):
        at = Path(root)
        for name in sorted(folders):
            path = at / name
            relative = path.relative_to(folder).as_posix()
            below = None if path.is_symlink() or not nested else read_marker(path)
            if path.is_symlink():
                foreign.append(relative)
            elif relative in marker.scratch:
                folders.remove(name)
            elif below is not None:
                folders.remove(name)
                foreign += [f"{relative}/{one}" for one in _unlisted(path, below, nested)]
            elif relative not in parents and not any(path.iterdir()) and not nested:
                foreign.append(f"{relative}/")
        for name in sorted(names):
            path = at / name
            relative = path.relative_to(folder).as_posix()
            base = temporary_of(name)
            ours = (path.with_name(base) if base else path).relative_to(folder).as_posix()
            if path.is_symlink() or (ours not in files and ours != MARKER):
                foreign.append(relative)
    return foreign


# siblings


def sibling(path: Path, ending: str = PARTIAL) -> Path:
    """A new temporary name beside ``path``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{ending}")


def _siblings(path: Path, ending: str) -> list[Path]:
    """Folders beside ``path`` of such a name that a run made: empty, or with our marker."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}{re.escape(ending)}")
    found = []
    for entry in os.scandir(path.parent):
        if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            left = [name for name in os.listdir(entry.path) if temporary_of(name) != MARKER]
            if not left or read_marker(Path(entry.path)) is not None:
                found.append(Path(entry.path))
    return sorted(found, key=lambda one: one.stat().st_mtime_ns)


def _finish_replacement(folder: Path) -> None:
    """Ends a replacement that was killed between two renames (see :func:`exchange`)."""
    if _exists(folder):
        return
    whole = [one for one in _siblings(folder, PARTIAL) if _is_finished(one)]
    for candidates in (whole, _siblings(folder, ASIDE)):
        if candidates and not _exists(folder):
            os.rename(candidates[-1], folder)


def _is_finished(folder: Path) -> bool:
    marker = read_marker(folder)
    return marker is not None and not marker.unfinished


def _remove_leftovers(folder: Path, kind: Kind, resumable: bool) -> Path | None:
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


def _remove_file_leftovers(file: Path) -> None:
    for entry in os.scandir(file.parent):
        if temporary_of(entry.name) == file.name and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)
    for one in _siblings(file, PARTIAL):
        remove_sibling(one)


def remove_sibling(folder: Path) -> None:
    """Deletes a folder that a run made beside its output: an unfinished one whole, an old output
    as far as its marker lists it."""
    if not _exists(folder):
        return
    if _is_finished(folder):
        remove_listed(folder)
    else:
        _remove_tree(folder)


def remove_listed(folder: Path) -> None:
    """Deletes what the markers in and below ``folder`` list, and the folders that are empty then;
    whatever else is there stays."""
    for root, _, names in os.walk(folder, topdown=False):
        at = Path(root)
        marker = read_marker(at) if MARKER in names else None
        if marker is None:
            continue
        listed = {*marker.files}
        for name in sorted(listed):
            path = at / name
            if not path.is_symlink():
                path.unlink(missing_ok=True)
        for name in marker.scratch:
            _remove_tree(at / name)
        _remove_temporaries(at, listed)
        _remove_empty_folders(at, listed)
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


def _remove_temporaries(folder: Path, names: Iterable[str]) -> None:
    """Deletes what killed runs were writing of the listed files."""
    for parent in {folder, *((folder / name).parent for name in names)}:
        for entry in os.scandir(parent) if parent.is_dir() else ():
            if temporary_of(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)


def _remove_empty_folders(folder: Path, names: Iterable[str]) -> None:
    parents = {parent for name in names for parent in Path(name).parents}
    for parent in sorted(parents, key=lambda one: -len(one.parts)):
        if parent.parts:
            with contextlib.suppress(OSError):
                (folder / parent).rmdir()


def _remove_tree(folder: Path) -> None:
    """Deletes a folder of temporary files whole; a link in its place stays."""
    if not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


# two folders change places

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
    os.rename(staging, folder)
    os.rename(aside, staging)
