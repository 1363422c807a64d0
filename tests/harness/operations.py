"""Commands in forked processes whose file operations are counted, stopped or made to fail.

A small library (``interpose.c``), compiled when it is needed, is loaded into a server that has
everything imported. Each command runs in a process forked from it. At its N-th file operation below
a folder it may be killed, fail as on a full disk, or wait for the driver.
"""

import ctypes
import hashlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("interpose.c")
NOTHING, KILL, FULL_ONCE, FULL, PAUSE = range(5)
"""What is done at an operation; FULL: it fails as on a full disk, and so do all later ones."""
CHANGE, CONTENT, READ = 1, 2, 4
"""Classes of operations: names and sizes; writes and syncs; files and folders opened to be read."""
MODULES = [
    "pipeline.command_line",
    "pipeline.preprocess_ranking",
    "pipeline.preprocess_sessions",
    *(
        f"pipeline.stages.{stage}"
        for stage in ("generate", "ingest", "preprocess", "inspect", "train", "profile")
    ),
    *(f"pipeline.stages.{stage}" for stage in ("evaluate", "export", "compare", "windows")),
    "pipeline.scoring",
    "pipeline.grow",
    "pipeline.data_report",
    "pipeline.data_report.page",
    "pipeline.compare.page",
    "pipeline.compare.summary",
    "pipeline.ingest.criteo_parser",
    "pipeline.ingest.records",
    "pipeline.ingest.gaps",
    "training.engine",
    "training.profiling",
    "training.ranking.dlrm",
    "training.ranking.click_model",
    "training.ranking.logistic_regression",
    "training.ranking.objectives",
    "training.sessions.popular",
    "training.sessions.sasrec",
    "training.sessions.fitting",
    "training.sessions.evaluation",
    "training.metrics.binary",
    "merlin.models.torch",
    "transformers4rec.torch",
    "distributed",
    "torch.profiler",
]
"""Imported once, in the server that the runs are forked from."""
PRELOAD = ("tests.harness.warm",)
ROOM = 2 << 30
LONGEST_RUN = 120.0
"""Seconds after which a run counts as hanging, and is killed."""


def compiler() -> str | None:
    """The system's C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@dataclass
class Operation:
    """One file operation: what, and on which paths."""

    name: str
    paths: tuple[str, ...]

    def told(self, root: Path) -> str:
        """The operation for a message, its paths relative to ``root``."""
        shown = [os.path.relpath(path, root) if path else "?" for path in self.paths]
        return f"{self.name} {' → '.join(shown)}"


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        status: exit status; None: killed.
        output: what it printed, both streams together.
        operations: in order, up to the one that it was stopped at.
        hung: whether it was killed as it did not end.
    """

    status: int | None
    output: str
    operations: list[Operation] = field(default_factory=list)
    hung: bool = False

    @property
    def errors(self) -> list[str]:
        """The lines that say what went wrong."""
        return [line for line in self.output.splitlines() if line.startswith("error:")]


class Running:
    """A command that runs."""

    def __init__(self, process, folder: Path, driver: socket.socket | None) -> None:
        self._process, self._folder, self._driver = process, folder, driver
        self._released = driver is None

    def wait_for_pause(self, seconds: float = LONGEST_RUN) -> bool:
        """Waits until the run has come to the operation where it pauses; False: it ended before."""
        assert self._driver is not None
        self._driver.settimeout(seconds)
        try:
            return self._driver.recv(1) == b"p"
        except TimeoutError:
            return False

    def go_on(self) -> None:
        """Lets it go on."""
        if not self._released and self._driver is not None:
            self._released = True
            self._driver.close()

    def is_alive(self) -> bool:
        return self._process.exitcode is None

    def kill(self) -> None:
        """Kills the process group."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()

    def wait(self, seconds: float = LONGEST_RUN) -> Ended:
        """Waits for the end."""
        self.go_on()
        self._process.join(seconds)
        hung = self._process.exitcode is None
        if hung:
            self.kill()
            self._process.join()
        code = self._process.exitcode
        with open(self._folder / "output", encoding="utf-8", errors="replace") as file:
            output = file.read()
        ended = Ended(None if code < 0 else code, output, self._operations(), hung)
        shutil.rmtree(self._folder)
        self._process.close()
        return ended

    def _operations(self) -> list[Operation]:
        file = self._folder / "operations"
        if not file.exists():
            return []
        found = []
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in sorted(lines, key=lambda line: int(line.partition("\t")[0])):
            _, name, *paths = line.split("\t")
            found.append(Operation(name, tuple(paths)))
        return found


@dataclass(frozen=True)
class Order:
    """What a forked process does: a command, and what happens at one of its file operations.

    Attributes:
        roots: folders whose operations count.
        classes: of operations that count.
        number: operation, from 1; 0: none.
    """

    arguments: tuple[str, ...]
    cwd: str
    tmpdir: str
    said: str
    roots: tuple[str, ...] = ()
    classes: int = CHANGE
    number: int = 0
    action: int = NOTHING


def obey(order: Order, driver: socket.socket | None) -> None:
    """In the forked process: runs the command."""
    import tempfile

    os.setsid()
    said = os.open(f"{order.said}/output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(order.cwd)
    os.environ["TMPDIR"] = order.tmpdir
    os.environ["COLUMNS"] = "400"
    tempfile.tempdir = None
    if order.roots:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        record = os.open(f"{order.said}/operations", flags, 0o600)
        library = ctypes.CDLL(None)
        library.interpose_arm(
            "\n".join(order.roots).encode(),
            ctypes.c_uint(order.classes),
            ctypes.c_long(order.number),
            order.action,
            driver.fileno() if driver else -1,
            record,
        )
    sys.argv = ["merlin-pipeline", *order.arguments]
    from pipeline.__main__ import main

    sys.exit(main())


class Server:
    """Starts commands in processes forked from a server that has everything imported.

    Args:
        folder: for the library and for what the runs print.
    """

    def __init__(self, folder: Path, preload: Sequence[str] = PRELOAD) -> None:
        self.folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._start(compiled(folder))
        self._runs = 0

    def _start(self, library: Path) -> None:
        from multiprocessing import forkserver, resource_tracker

        resource_tracker.ensure_running()
        before = os.environ.get("LD_PRELOAD")
        os.environ["LD_PRELOAD"] = f"{library}:{before}" if before else str(library)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("POLARS_MAX_THREADS", "2")
        try:
            forkserver._forkserver._stop()
            forkserver.ensure_running()
        finally:
            if before is None:
                del os.environ["LD_PRELOAD"]
            else:
                os.environ["LD_PRELOAD"] = before

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path,
        tmpdir: Path,
        roots: Iterable[Path] = (),
        classes: int = CHANGE,
        number: int = 0,
        action: int = NOTHING,
    ) -> Running:
        """Starts a command; see :class:`Order`."""
        self._runs += 1
        said = self.folder / f"run-{self._runs}"
        said.mkdir()
        ours = theirs = None
        if action == PAUSE:
            ours, theirs = socket.socketpair()
        order = Order(
            tuple(map(str, arguments)),
            str(cwd),
            str(tmpdir),
            str(said),
            tuple(map(str, roots)),
            classes,
            number,
            action,
        )
        process = self._context.Process(target=obey, args=(order, theirs))
        process.start()
        if theirs is not None:
            theirs.close()
        return Running(process, said, ours)

    def run(self, *args, **more) -> Ended:
        """Runs a command to its end."""
        return self.start(*args, **more).wait()


def compiled(folder: Path) -> Path:
    """The library, compiled into ``folder``.

    Raises:
        RuntimeError: it cannot be.
    """
    program = compiler()
    if program is None:
        raise RuntimeError("no C compiler (cc, gcc, clang) for tests/harness/interpose.c")
    library = folder / "interpose.so"
    command = [program, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tests/harness/interpose.c cannot be compiled: {done.stderr[-500:]}")
    return library


def why_not() -> str | None:
    """Why operations cannot be interposed here; None: they can."""
    if not sys.platform.startswith("linux"):
        return f"LD_PRELOAD is for Linux, this is {sys.platform}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            compiled(Path(folder))
        except RuntimeError as error:
            return str(error)
    return None


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder for a harness, in memory where there is room: a disk makes every sync wait."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK)
    roomy = roomy and shutil.disk_usage(memory).free > ROOM
    with tempfile.TemporaryDirectory(prefix=prefix, dir=memory if roomy else None) as folder:
        yield Path(folder)


# trees

_sums: dict[str, tuple[tuple[int, ...], str]] = {}
"""SHA-256 of files by path, with what tells whether a file is still the same."""


def tree(folder: Path, skip: Callable[[str], bool] = lambda name: False) -> dict[str, str]:
    """What a folder holds: of every file the SHA-256, of a link its target, of a folder ``/``."""
    found: dict[str, str] = {}
    start = len(str(folder)) + 1
    for entry in _entries(folder):
        name = entry.path[start:]
        if skip(name):
            continue
        if entry.is_symlink():
            found[name] = f"→ {os.readlink(entry.path)}"
        elif entry.is_dir():
            found[name] = "/"
        else:
            found[name] = _sum(entry)
    return found


def _sum(entry: os.DirEntry) -> str:
    status = os.stat(entry.path)
    known = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    before = _sums.get(entry.path)
    if before is not None and before[0] == known:
        return before[1]
    with open(entry.path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _sums[entry.path] = known, digest
    return digest


def _entries(folder: str | Path) -> Iterator[os.DirEntry]:
    if not os.path.isdir(folder):
        return
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path)


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """How a tree differs from what was expected."""
    told = []
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            told.append(f"{name} is missing")
        elif name not in expected:
            told.append(f"{name} should not be there")
        elif expected[name] != found[name]:
            told.append(f"{name} differs")
    return told


def copied(source: Path, target: Path) -> None:
    """Copies a tree with its links, times and hard links."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
