"""Ctrl-C, SIGTERM and SIGHUP: the orderly end of a command.

A signal raises :class:`Interrupted` in the main thread, so that every ``with`` block is left as
after any error. A second one ends the process at once. Imports nothing but Python's own, so that
it is in place before the heavy imports begin.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_REQUEST_SECONDS = 0.3
"""Within this time the same signal counts once: a process may get it from the terminal and from
its parent, and ``timeout`` sends it to the process and to its group."""
POLL_SECONDS = 0.05
STARTING, RUNNING, DEFERRED, STOPPING, DONE = "starting", "running", "deferred", "stopping", "done"


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int = signal.SIGINT, message: str = "") -> None:
        super().__init__(*([message] if message else []))
        self.number = number


class _State:
    """What became of the signals of this process."""

    phase = DONE
    number: int | None = None
    at = 0.0
    polling = False


def status(number: int) -> int:
    """The exit status of a process that a signal ended, as shells count it."""
    return 128 + number


def received() -> int | None:
    """The signal that is ending this process; None if there was none."""
    return _State.number


def begin() -> None:
    """Ends the phase in which nothing has begun, and a signal ends the process at once."""
    if _State.phase == STARTING:
        _State.phase = RUNNING


def done() -> None:
    """Begins the phase in which nothing is left to do, and a signal ends the process silently."""
    _State.phase = DONE


@contextlib.contextmanager
def handled(last: bool = False) -> Iterator[None]:
    """Handles the signals as this module says, for the block; not outside the main thread.

    A signal that was ignored before, as by ``nohup``, stays so.

    Args:
        last: whether the process ends with the block. A signal after it ends that silently.
    """
    before: dict[int, Any] = {}
    hook = sys.unraisablehook
    _State.phase, _State.number, _State.polling = STARTING, None, False
    with contextlib.suppress(ValueError):  # not the main thread
        for number in NUMBERS:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:
                before[number] = handler
                signal.signal(number, _handle)
    sys.unraisablehook = lambda unraisable: _unraisable(unraisable, hook)
    if last:  # registered first, it is called last: only Python's own end comes after it
        atexit.register(_restore, dict.fromkeys(before, signal.SIG_DFL))
    try:
        yield
    finally:
        _State.phase = DONE
        if not last:
            _restore(before)
            sys.unraisablehook = hook


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler or signal.SIG_DFL)


def _handle(number: int, frame: FrameType | None) -> None:
    polled, _State.polling = _State.polling, False
    if _State.phase == DONE:
        os._exit(status(_State.number or number))
    if _State.phase == STARTING:
        _end(number, "interrupted; nothing was written")
    if _State.phase in (STOPPING, DEFERRED) and not polled:
        if number == _State.number and time.monotonic() - _State.at < SAME_REQUEST_SECONDS:
            return
        _end(_State.number or number, "interrupted")
    if not polled:
        _State.number, _State.at = number, time.monotonic()
    if _is_importing(frame):
        # A module that is half imported may turn the exception into any other, or die of it.
        _State.phase = DEFERRED
        _again(number)
        return
    _State.phase = STOPPING
    raise Interrupted(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _again(number: int) -> None:
    """Has the signal handled anew in a moment."""

    main = threading.main_thread().ident

    def poll() -> None:
        _State.polling = True
        signal.pthread_kill(main, number)

    timer = threading.Timer(POLL_SECONDS, poll)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:  # no thread can be started
        _end(number, "interrupted")


def _unraisable(unraisable: Any, hook: Any) -> None:
    """Python's hook for errors that nobody can catch, as in ``__del__``: an interruption that was
    raised there is raised again elsewhere; what else comes up on the way out is no news."""
    if _State.number is None:
        hook(unraisable)
    elif isinstance(unraisable.exc_value, Interrupted) and _State.phase == STOPPING:
        _State.phase = DEFERRED
        _again(unraisable.exc_value.number)


def _end(number: int, message: str) -> None:
    """Ends the process here and now, with one line."""
    if os.environ.get("RANK", "0") in ("", "0"):
        with contextlib.suppress(OSError):
            os.write(2, f"error: {message}\n".encode())
    os._exit(status(number))


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Processes and threads that are started in the block never get Ctrl-C or SIGHUP, which a
    terminal sends to all of its processes; this process gets them after the block.

    Processes that are started by such a thread do not get them either.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
