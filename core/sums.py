"""Size and SHA-256 of every file of a folder, in a manifest that carries its own checksum.

A stage writes its manifest last, and with it the sizes and sums of all that it wrote. A stage that
reads checks sizes always, and sums where it reads the bytes anyway. What is beside a manifest
of another run, was cut short, or was altered is then noticed, also where no lock could be had.
"""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from core.artifacts import write_json
from core.errors import UserError
from core.locks import holder
from core.strict import LONGEST, LONGEST_MANIFEST, read_plain

FILES, CHECKSUM = "checksums", "sha256"
"""Keys of a manifest: the sums of the files, and the checksum of the manifest itself."""
ATTEMPTS, WAIT_SECONDS = 8, 0.05
Sums = dict[str, dict[str, Any]]
"""``{relative name: {"bytes": size, "sha256": hex}}``"""
Result = TypeVar("Result")


class Replaced(UserError):
    """An input was replaced by another run while it was read."""


def sum_of(path: str | Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}


def sums_of(folder: str | Path, names: Iterable[str]) -> Sums:
    """The sums of files of ``folder``, in the order of their names."""
    return {name: sum_of(Path(folder) / name) for name in sorted(names)}


_expected: dict[str, dict[str, Any]] = {}
"""Sums of the files that a run reads, by absolute path."""
_checked: dict[str, tuple[int, ...]] = {}
"""What tells whether a file that was checked is still the same one."""


def expect(folder: str | Path, files: Sums) -> list[str]:
    """Has every reader of Parquet in this process check these files when it first reads them.

    Returns:
        What :func:`forget` takes: a block within another leaves the other's.
    """
    paths = {os.path.abspath(Path(folder) / name): entry for name, entry in files.items()}
    added = [path for path in paths if path not in _expected]
    _expected.update({path: paths[path] for path in added})
    return added


def forget(paths: Iterable[str]) -> None:
    """Ends what :func:`expect` began."""
    for path in paths:
        _expected.pop(path, None)
        _checked.pop(path, None)


def check_expected(path: str | Path) -> None:
    """Reads a file against its size and sum, if they are expected and this very file was not
    checked yet.

    Raises:
        UserError: it is not what was written.
    """
    key = os.path.abspath(path)
    entry = _expected.get(key)
    if entry is None:
        return
    status = os.stat(path)
    identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    if _checked.get(key) == identity:
        return
    if sum_of(path) != entry:
        raise UserError(
            f"{path}: altered since it was written (its checksum does not match); run the stage "
            "that made it again"
        )
    if key in _expected:
        _checked[key] = identity


def files_below(folder: str | Path) -> list[str]:
    """Relative names of all files below ``folder``, in order; hidden ones are left out."""
    folder = Path(folder)
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(name.as_posix() for name in names if not name.name.startswith("."))


def write_manifest(path: str | Path, record: Mapping[str, Any], files: Sums) -> dict[str, Any]:
    """Writes ``record`` with the sums of ``files`` and its own checksum; returns what it holds."""
    whole = {**record, FILES: dict(sorted(files.items()))}
    whole.pop(CHECKSUM, None)
    whole[CHECKSUM] = _own_sum(whole)
    write_json(path, whole)
    return whole


def read_manifest(path: str | Path, required: bool = False) -> dict[str, Any]:
    """Reads a manifest and checks it against its own checksum.

    Args:
        required: whether one without a checksum, which an older version wrote, is refused.

    Raises:
        UserError: it is absent, no JSON object, or altered.
    """
    record = read_plain(path, LONGEST if required else LONGEST_MANIFEST)
    if not isinstance(record, dict):
        raise UserError(f"{path}: expected a JSON object")
    if FILES not in record and CHECKSUM not in record:
        if required:
            raise UserError(f"{path}: made by an older version (it has no checksums)")
        return record
    if record.get(CHECKSUM) != _own_sum({**record, CHECKSUM: None}):
        raise UserError(f"{path}: altered since it was written (its checksum does not match)")
    _check_sums(path, record.get(FILES))
    return record


def _own_sum(record: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in record.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_sums(path: str | Path, files: Any) -> None:
    """Checks that ``files`` is what :data:`Sums` says, with names that stay in the folder."""
    if not isinstance(files, dict):
        raise UserError(f"{path}: {FILES}: expected an object")
    for name, entry in files.items():
        if not is_inside(name):
            raise UserError(f"{path}: {FILES}: {name!r} is no path within the folder")
        right = isinstance(entry, dict) and set(entry) == {"bytes", "sha256"}
        right = right and type(entry["bytes"]) is int and entry["bytes"] >= 0
        if not right or not isinstance(entry["sha256"], str):
            raise UserError(f"{path}: {FILES}: {name}: expected its bytes and its sha256")


def is_inside(name: str) -> bool:
    """Whether ``name`` is a plain relative path that stays below the folder it is of."""
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and "\0" not in name and (os.sep == "/" or "\\" not in name)
    return plain and bool(parts) and parts[0] != "/" and ".." not in parts


class Contents:
    """A folder as its manifest describes it, checked as its files are read.

    Args:
        folder: the output of an earlier stage.
        manifest: name of its manifest.
        made_by: the stage that makes it, for messages.
        required: whether a manifest without sums, which an older version wrote, is refused.
        links: whether its files may be links, as a data version control's cache makes them.

    Attributes:
        record: what the manifest holds.

    Raises:
        UserError: there is no manifest, or it is altered.
    """

    def __init__(
        self,
        folder: str | Path,
        manifest: str,
        made_by: str,
        required: bool = False,
        links: bool = False,
    ) -> None:
        self.folder, self.made_by, self._links = Path(folder), made_by, links
        self._checked: dict[str, tuple[int, ...]] = {}
        self.manifest = self.folder / manifest
        self._settled = False
        self._identity = _identity(self.manifest, links)
        if self._identity is None and os.path.lexists(self.manifest):
            raise UserError(f"{self.manifest}: is a link, no plain file, or too long")
        if self._identity is None:
            raise _unfinished(self.folder, manifest, made_by)
        try:
            self.record = read_manifest(self.manifest, required)
        except UserError as error:
            self.confirm()
            raise UserError(f"{error}; run 'merlin-pipeline {made_by}' again") from None
        self.confirm()
        self.files: Sums | None = self.record.get(FILES)

    def check_sizes(self, names: Iterable[str] | None = None) -> None:
        """Checks that the files are there with the sizes that were written.

        Args:
            names: of some; None: all.
        """
        for name in self.files or () if names is None else names:
            self._check_size(name)

    def check(self, name: str) -> Path:
        """Reads a file once, against its size and sum, unless it was since; returns its path.

        Raises:
            Replaced: the folder was replaced in the meantime.
            UserError: the file is absent, a link, or not what was written.
        """
        path = self._check_size(name)
        if self.files is None:
            return path
        try:
            before = path.stat()
            state = before.st_ino, before.st_size, before.st_mtime_ns, before.st_ctime_ns
            if self._checked.get(name) == state:
                return path
            actual = sum_of(path)
        except FileNotFoundError:
            raise self._fault(path, "is not there") from None
        if actual != self.files[name]:
            raise self._fault(path, "altered since it was written (its checksum does not match)")
        self._checked[name] = state
        return path

    def check_all(self) -> None:
        """Checks every file that the manifest names."""
        for name in self.files or ():
            self.check(name)

    def confirm(self) -> None:
        """Checks that the folder is still the one that was read.

        Raises:
            Replaced: it is not.
        """
        if _identity(self.manifest, self._links) != self._identity:
            raise Replaced(
                f"{self.folder}: was replaced by another run while it was read; give the same "
                "command again"
            )

    @contextlib.contextmanager
    def watched(self) -> Iterator["Contents"]:
        """A block that reads the folder, whose Parquet files are checked as they are read.

        What goes wrong because the folder was replaced says so.

        Raises:
            Replaced: the folder is another one at the end of the block.
        """
        added = expect(self.folder, self.files or {})
        try:
            yield self
        except Exception:
            if not self._settled:
                self.confirm()
            raise
        finally:
            forget(added)
        if not self._settled:
            self.confirm()

    def settle(self) -> None:
        """Checks for the last time that the folder is still the one that was read: what is written
        from here on is of that one, whatever becomes of the folder.

        Raises:
            Replaced: it is not.
        """
        self.confirm()
        self._settled = True

    def _check_size(self, name: str) -> Path:
        path = self.folder / name
        if self.files is None:
            return path
        if name not in self.files:
            raise self._fault(path, f"is not among the files that {self.manifest.name} names")
        try:
            actual = path.stat() if self._links else _lstat(self.folder, name)
        except OSError:
            raise self._fault(path, "is not there") from None
        if not stat.S_ISREG(actual.st_mode):
            raise self._fault(path, "is a link or no plain file")
        expected = self.files[name]["bytes"]
        if actual.st_size != expected:
            what = f"has {actual.st_size:,} bytes, {expected:,} were written"
            raise self._fault(path, f"altered since it was written ({what})")
        return path

    def _fault(self, path: Path, what: str) -> UserError:
        """The error of a file, or of the folder where that is another one by now."""
        try:
            self.confirm()
        except Replaced as replaced:
            return replaced
        return UserError(f"{path}: {what}; run 'merlin-pipeline {self.made_by}' again")


def _lstat(folder: Path, name: str) -> os.stat_result:
    """Status of a file below ``folder``, of a link itself; one on the way counts as the file."""
    path = folder
    for part in PurePosixPath(name).parts:
        path = path / part
        actual = path.lstat()
        if stat.S_ISLNK(actual.st_mode):
            return actual
    return actual


def _unfinished(folder: Path, manifest: str, made_by: str) -> UserError:
    text = f"{folder}: no {manifest} there; this is not the output of a finished {made_by}. "
    writer = holder(folder)
    if writer:
        return UserError(text + f"It is being written: {writer}; wait until that ends")
    return UserError(text + f"Run 'merlin-pipeline {made_by}' first")


def _identity(manifest: Path, links: bool) -> bytes | None:
    """A hash of a manifest's bytes; None where there is none that can be read. Equal manifests name
    equal files."""
    try:
        status = manifest.stat() if links else manifest.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LONGEST_MANIFEST:
            return None
        return hashlib.sha256(manifest.read_bytes()).digest()
    except (FileNotFoundError, NotADirectoryError):
        return None


def reading(read: Callable[[], Result]) -> Result:
    """``read()``, again from the start where an input was replaced meanwhile.

    Raises:
        Replaced: it was, each time.
    """
    for attempt in range(ATTEMPTS):
        try:
            return read()
        except Replaced:
            time.sleep(WAIT_SECONDS * 2**attempt)
    return read()
