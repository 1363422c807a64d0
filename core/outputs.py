"""The one place that decides what an output may be, and that claims one for a run.

An output folder is new or empty, or an earlier output of the same kind that holds nothing else
(:mod:`core.marker`). It is none of the run's inputs, not inside or around one, and not inside
another output. A lock (:mod:`core.locks`) keeps a second run out. A folder that is built anew comes
from a sibling that takes its place in one step (:mod:`core.siblings`).
"""

import contextlib
import contextvars
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from core.artifacts import MARKER
from core.errors import UserError
from core.kinds import Kind
from core.locks import SUFFIX as LOCK
from core.locks import locked
from core.marker import (
    Marker,
    check_owned,
    list_files,
    read_marker,
    remove_files,
    remove_listed,
    remove_tree,
)
from core.siblings import (
    exchange,
    finish_replacement,
    remove_file_leftovers,
    remove_leftovers,
    remove_sibling,
    sibling,
)

_held: contextvars.ContextVar[tuple[Path, ...]] = contextvars.ContextVar("held", default=())
"""Output folders that this run writes: those below them are covered by their locks."""


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
        if read_marker(self.folder) is None:
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
            remove_tree(self.folder / name)
        # On a network file system a file that is still open is not gone.
        left = {name for name in marker.scratch if os.path.lexists(self.folder / name)}
        if left != marker.scratch:
            marker.scratch = left
            marker.write(self.folder)

    def remove(self, *names: str) -> None:
        """Deletes listed files, in this order, and what killed runs left of them."""
        marker = self.marker
        remove_files(self.folder, names, marker.files)
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
        try:
            Marker(self.kind.name, unfinished=True).write(staging)
        except OSError:
            staging.rmdir()
            raise
        return staging

    def publish(self, staging: Path, just_before: Callable[[], None] = lambda: None) -> None:
        """Puts ``staging`` in the output's place; the old output is at ``staging`` then, if there
        was one.

        Args:
            just_before: called when nothing but the replacement is left to do.

        Raises:
            UserError: meanwhile somebody put other files into the output.
        """
        names = {
            path.relative_to(staging).as_posix()
            for path in staging.rglob("*")
            if not path.is_dir() and path.name != MARKER
        }
        Marker(self.kind.name, names).write(staging)
        check_owned(self.folder, self.kind)
        just_before()
        if os.path.lexists(self.folder):
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
        finish_replacement(folder)
        check_owned(folder, kind)
        stopped = remove_leftovers(folder, kind, resumable)
        stack.callback(_drop_if_empty, folder, os.path.lexists(folder))
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
        check_replaceable(file, replaceable)
        remove_file_leftovers(file)
        for held in _held.get():
            if held in file.parents:
                list_files(held, file.relative_to(held).as_posix())
        yield file


def check_replaceable(file: Path, replaceable: Callable[[Path], bool]) -> None:
    """Checks that an output file may be written: absent, empty, or an earlier output.

    Raises:
        UserError: it may not.
    """
    if os.path.lexists(file) and file.stat().st_size and not replaceable(file):
        raise UserError(
            f"{file}: holds something else than this command writes, which would be lost; name "
            "another file, or delete it first"
        )


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
        remove_tree(folder)


# paths


def resolved(path: str | Path) -> Path:
    """The absolute path of an output, with all links resolved.

    Raises:
        UserError: a link on the way leads to itself or to nothing, or the name is one of ours.
    """
    path = Path(path).absolute()
    if path.name == MARKER or path.name.endswith(LOCK):
        raise UserError(f"{path}: a name that this program uses itself; name another output")
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
        if source == output or (output.exists() and source.exists() and output.samefile(source)):
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
        if os.path.lexists(parent / MARKER):
            marker = read_marker(parent)
            what = f" ({marker.kind})" if marker else ""
            raise UserError(
                f"{output}: is inside {parent}, the output of a stage{what}; name another output"
            )


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
