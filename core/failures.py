"""One line for whatever ended a command: what happened, and what to do about it.

Imports nothing but Python's own at the top, so that it can speak of imports that fail.
"""

import contextlib
import errno
import os
import re
import resource
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from core import signals, streams
from core.errors import UserError

DEBUG = "MERLIN_PIPELINE_DEBUG"
"""Environment variable; where it is set, the details of a fault are printed, not written."""
INTERRUPTED = "interrupted"
NOTHING_WRITTEN = "interrupted; nothing was written"
RESUMES = "interrupted; the same command goes on from what is finished"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_TEXTS = re.compile(
    r"no space left|disk quota exceeded|file too large|os error (28|122|27)\b", re.IGNORECASE
)
MEMORY_TEXTS = re.compile(
    r"can(no|')t allocate memory|not enough memory|out of memory|failed to allocate|"
    r"can't start new thread|std::bad_alloc|failed to map segment|memory allocation|"
    r"realloc of size|malloc of size|unable to allocate|resource temporarily unavailable|"
    r"could not allocate|insufficient memory",
    re.IGNORECASE,
)
TEMPORARY = re.compile(r"\.([^/\s]+)\.[0-9a-f]{16}\.partial")
"""What a file is called while it is written: messages have the name that the user gave."""
NO_MEMORY = "not enough memory"
SHORTAGE = b"error: not enough memory, not even to say where; use a machine with more\n"
LONGEST = 500


@dataclass
class Command:
    """What the message depends on, as far as the command line was read.

    Attributes:
        name: of the subcommand.
        interrupted: what is true when it was interrupted.
        lower: settings that take less memory when lowered.
        last: whether the process ends with the command.
    """

    name: str = ""
    interrupted: str = NOTHING_WRITTEN
    lower: str = "close other programs, or use a machine with more"
    last: bool = False


def report(error: BaseException, command: Command) -> int:
    """Shows what ended a command, in one line (a :class:`UserError` may have several).

    Returns:
        The exit status.
    """
    number = signals.received()
    if number is None and isinstance(error, KeyboardInterrupt):
        number = getattr(error, "number", signals.signal.SIGINT)
    if number is not None:
        said = str(error) if isinstance(error, signals.Interrupted) else ""
        _fail(said or command.interrupted)
        return signals.status(number)
    text = describe(error, command)
    _fail(text)
    if command.last and NO_MEMORY in text:  # Python's own end would fail as well, and say so
        streams.finish()
        os._exit(1)
    return 1


def report_plainly() -> int:
    """Shows that there was not even enough memory to show the error.

    Returns:
        The exit status.
    """
    with contextlib.suppress(OSError):
        os.write(2, SHORTAGE)
    return 1


def describe(error: BaseException, command: Command | None = None) -> str:
    """What happened, as a person needs it; the details of an unknown fault are written to a file.

    Args:
        command: what was running.
    """
    command = command or Command()
    if isinstance(error, UserError):
        return str(error)
    debug = os.environ.get(DEBUG)
    for one in _chain(error):
        known = _known(one, command)
        if known:
            if debug:
                traceback.print_exception(error)
            return TEMPORARY.sub(r"\1", known)
    what = f"{type(error).__name__}: {_short(error)}".removesuffix(": ")
    where = f"set {DEBUG}=1 to see where"
    if debug:
        traceback.print_exception(error)
        where = "see above"
    else:
        with contextlib.suppress(OSError):
            where = f"details: {_write_details(error)}"
    return f"a fault of the program, not of your data or settings: {what} ({where})"


def _known(error: BaseException, command: Command) -> str | None:
    """The line for an error that the machine, not the program, is at fault for."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError):
        place = error.filename2 or error.filename
        where = f"{os.fsdecode(place)}: " if isinstance(place, str | bytes | os.PathLike) else ""
        if error.errno in FULL or FULL_TEXTS.search(text):
            return f"{where}{_no_room()}"
        if error.errno == errno.ENOMEM:
            return _no_memory(command)
        if error.errno == errno.EMFILE:
            return f"{where}too many open files; raise the limit (ulimit -n)"
        if error.errno is not None and not isinstance(error, ImportError):
            return f"{where}{error.strerror or error}"
    if FULL_TEXTS.search(text):
        return _no_room()
    lost = isinstance(error, SystemError) and "exception" in text and _is_limited()
    if lost or isinstance(error, MemoryError) or MEMORY_TEXTS.search(text):
        return _no_memory(command)
    if type(error).__name__ in ("KilledWorker", "NannyError"):
        return f"a Dask worker was killed, most often for want of memory; {command.lower}"
    return None


def _is_limited() -> bool:
    """Whether the memory of this process has a limit of its own: errors get lost at it."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _no_room() -> str:
    return "no room left on the disk; free some, then give the same command again"


def _no_memory(command: Command) -> str:
    doing = f"{command.name}: " if command.name else ""
    return f"{doing}{NO_MEMORY}; {command.lower}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and what was being handled when it came up."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _short(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:
        return ""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _write_details(error: BaseException) -> str:
    """Writes the traceback to a new file in the system's folder for temporary files."""
    number, path = tempfile.mkstemp(prefix="merlin-pipeline-", suffix=".txt")
    with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{' '.join(sys.argv)}\n\n")
        traceback.print_exception(error, file=file)
    return path


def _fail(text: str) -> None:
    try:
        from core import console

        console.fail(text)
    except Exception:  # for want of memory, say
        with contextlib.suppress(OSError):
            os.write(2, f"error: {text}\n".encode(errors="replace"))
