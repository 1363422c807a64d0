"""A lock for each output: one run at a time writes it, and a second one says who that is.

The lock of ``data/raw`` is the file ``data/.raw.merlin-pipeline.lock``, held by ``flock``: the
system lets it go when its process ends, however that ends. The file names the holder and is
deleted at the end. On a network file system, where the lock may hold on one machine only, a record
of another machine counts as well. Where there are no such locks, the record alone decides.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core import signals
from core.errors import UserError

SUFFIX = ".merlin-pipeline.lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "fuse",
    "lustre",
    "gpfs",
    "ceph",
    "9p",
    "afs",
    "glusterfs",
    "beegfs",
)
"""Beginnings of the names of file systems that several machines may share."""
COMMAND_LENGTH, RECORD_BYTES = 200, 1 << 16
ATTEMPTS = 100
READ_ATTEMPTS, READ_WAIT_SECONDS = 5, 0.02


class Busy(UserError):
    """Another run writes the same output."""


def lock_file(path: Path) -> Path:
    """The lock of an output: beside it, or in a folder beside which nothing can be written."""
    if path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK)):
        return path / SUFFIX
    return path.with_name(f".{path.name}{SUFFIX}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of the output ``path``, whose parent exists, for the block.

    Raises:
        Busy: another run holds it, at once.
    """
    file = lock_file(path)
    signals.begin()
    descriptor = _acquire(path, file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_same(descriptor, file):
                file.unlink()
        os.close(descriptor)


def holder(path: str | Path) -> str:
    """Who holds the lock of an output, as words; empty where nobody does."""
    path = Path(os.path.realpath(path))
    try:
        descriptor = os.open(lock_file(path), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if _try_lock(descriptor) is not False:
            return ""
        record = _read(descriptor)
        return _described(record) if record else "another run"
    finally:
        os.close(descriptor)


def _acquire(path: Path, file: Path) -> int:
    """An open, locked lock file that holds our record."""
    for _ in range(ATTEMPTS):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            locks = _try_lock(descriptor)
            if locks is False:
                time.sleep(READ_WAIT_SECONDS)  # A reader that asks for the holder has it for less.
                locks = _try_lock(descriptor)
            if locks is False:
                raise _busy(path, file, _read_again(file))
            # The holder before may have deleted the file between our two calls.
            if not _is_same(descriptor, file):
                os.close(descriptor)
                continue
            record = _read(descriptor)
            if record is not None and _may_live(record, locks, _on_network(file)):
                raise _busy(path, file, record)
            try:
                _write(descriptor)
            except OSError:
                file.unlink()
                raise
            return descriptor
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
    raise _busy(path, file, None)


def _try_lock(descriptor: int) -> bool | None:
    """Whether the lock was free; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _is_same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(file))
    except FileNotFoundError:
        return False


def _may_live(record: dict[str, Any], locks: bool | None, network: bool) -> bool:
    """Whether the run that a record names may still be at work, though its lock was free."""
    here = record.get("boot") == _boot() or (
        not record.get("boot") and record.get("machine") == socket.gethostname()
    )
    if here:
        return locks is None and _is_alive(record)
    # A machine that was started anew has another boot, and runs nothing of before.
    return (network or locks is None) and record.get("machine") != socket.gethostname()


def _is_alive(record: dict[str, Any]) -> bool:
    process = record.get("process")
    if not isinstance(process, int) or process == os.getpid():
        return isinstance(process, int)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return record.get("began") == _began(process)


def _busy(path: Path, file: Path, record: dict[str, Any] | None) -> Busy:
    if record is None:
        return Busy(f"{path}: another run is writing it; wait until that ends, or name another")
    text = f"{path}: another run is writing it: {_described(record)}. "
    text += "Wait until that ends, or name another output"
    if record.get("machine") != socket.gethostname():
        text += f"; if that run is no longer there, delete {file}"
    return Busy(text)


def _described(record: dict[str, Any]) -> str:
    machine, since = record.get("machine"), record.get("since")
    return f"process {record.get('process')} on {machine} since {since} ({record.get('command')})"


def _read_again(file: Path) -> dict[str, Any] | None:
    """The holder's record; it may be writing it right now."""
    for _ in range(READ_ATTEMPTS):
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                record = _read(descriptor)
            finally:
                os.close(descriptor)
            if record is not None:
                return record
        time.sleep(READ_WAIT_SECONDS)
    return None


def _read(descriptor: int) -> dict[str, Any] | None:
    text = os.pread(descriptor, RECORD_BYTES, 0)
    with contextlib.suppress(ValueError):
        record = json.loads(text)
        return record if isinstance(record, dict) else None
    return None


def _write(descriptor: int) -> None:
    program = Path(sys.argv[0] or "python")
    module = program.name == "__main__.py"
    start = ["python", "-m", program.parent.name] if module else [program.name]
    command = shlex.join([*start, *sys.argv[1:]])
    if len(command) > COMMAND_LENGTH:
        command = command[:COMMAND_LENGTH] + " …"
    record = {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command,
        "boot": _boot(),
        "began": _began(os.getpid()),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)


def _boot() -> str | None:
    """What tells this start of this machine from all others; None where the system has no such."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _began(process: int) -> str | None:
    """When a process began, which tells it from a later one of the same number."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _on_network(file: Path) -> bool:
    """Whether a file may be on a file system that other machines share."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    best, kind = b"", ""
    folder = os.fsencode(file.parent) + b"/"
    for line in mounts:
        left, _, right = line.partition(b" - ")
        # Blanks and line ends are written as three octal digits.
        point = re.sub(rb"\\([0-7]{3})", lambda digits: bytes([int(digits[1], 8)]), left.split()[4])
        point = point.rstrip(b"/") + b"/"
        if folder.startswith(point) and len(point) >= len(best):
            best, kind = point, right.split()[0].decode()
    return kind.startswith(NETWORK)
