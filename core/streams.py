"""Standard output and standard error, written to without ever failing.

A character that the stream cannot show is replaced. A broken pipe, a closed stream or a full disk
behind it stops the printing, never the work. Imports nothing but Python's own, so that it can be
the first thing that a command loads.
"""

import codecs
import contextlib
import os
import sys
from collections.abc import Callable
from typing import TextIO

REPLACEMENTS = {"→": "->", "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "≥": ">=", "≤": "<="}
"""What is written in place of a character; ``?`` for any other."""
ERRORS = "merlin-pipeline-replace"
"""Name of the handler of encoding errors that replaces by these."""


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(REPLACEMENTS.get(character, "?") for character in text), error.end


codecs.register_error(ERRORS, _replaced)


class Lenient:
    """The standard stream of a name, ``stdout`` or ``stderr``, as ``sys`` has it at the moment."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _stream(self) -> TextIO | None:
        stream = getattr(sys, self._name)
        # What rich puts in the place of a stream while it draws a bar, which would write to us.
        return getattr(stream, "rich_proxied_file", stream)

    @property
    def encoding(self) -> str:
        """The stream's encoding; where there is no stream, any will do."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (ValueError, OSError):
            return False

    def fileno(self) -> int:
        """The stream's file descriptor.

        Raises:
            OSError: it has none.
        """
        if self._stream is None:
            raise OSError(f"no {self._name}")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Writes as much of the text as can be shown."""
        stream = self._stream
        if stream is not None:
            shown = text.encode(self.encoding, ERRORS).decode(self.encoding)
            _try(stream, lambda: stream.write(shown))
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered."""
        stream = self._stream
        if stream is not None:
            _try(stream, stream.flush)


def _try(stream: TextIO, write: Callable[[], object]) -> None:
    try:
        write()
    except (OSError, ValueError):
        _give_up(stream)


def _give_up(stream: TextIO) -> None:
    """Lets all that is written to a standard stream from now on, and what is still buffered there,
    go nowhere: Python would fail on it again when it ends."""
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        if number in (1, 2):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


def prepare() -> None:
    """Opens the standard streams that the process was started without, and lets the others replace
    what they cannot show.

    A file that is opened later would otherwise get the number of a closed stream, and what a
    library prints would be written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) == number:
                os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors=ERRORS)


def silence() -> None:
    """Lets all that this process prints from now on go nowhere."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            _give_up(stream)


def finish() -> None:
    """Writes what is buffered, before Python does so itself and complains."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            _try(stream, stream.flush)
