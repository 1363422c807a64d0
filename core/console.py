"""What a person reads while a stage runs: progress, tables, plain lines, errors."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from core.streams import Lenient

SECONDS_BETWEEN_LINES = 5.0
SHARE_BETWEEN_LINES = 0.2
"""Where no bar can be drawn, a line comes after this many seconds and this share of the time so
far: a long run does not fill the log."""

_COMMANDS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

_stdout, _stderr = Lenient("stdout"), Lenient("stderr")
# A log file has no width of its own; 80 columns would break tables into pieces.
_WIDTH = None if _stdout.isatty() else 120

out = Console(file=_stdout, highlight=False, soft_wrap=True, width=_WIDTH)
err = Console(file=_stderr, stderr=True, highlight=False, soft_wrap=True)


def silence_other_ranks() -> None:
    """Silences all but the first of several processes that ``torchrun`` started."""
    if _number("RANK", 0):
        out.quiet = err.quiet = True
    if _number("WORLD_SIZE", 1) > 1:
        # Advice that torch's C++ gives in each of them; read when torch is first imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _number(variable: str, default: int) -> int:
    """The number in an environment variable; ``default`` where it is something else."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default


def say(text: str) -> None:
    """One plain line to the person at the terminal."""
    out.print(plain(text), markup=False)


def place(path: str | os.PathLike[str]) -> str:
    """A path as a person reads it best: relative where it is below the working folder."""
    try:
        here = os.path.relpath(path)
    except (OSError, ValueError):  # the working folder is gone, or on another drive
        return os.fspath(path)
    return os.fspath(path) if here.startswith(os.pardir) else here


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 session``, ``14,400 sessions``.

    Args:
        plural: of ``noun``, where it is not ``noun`` with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def fail(text: str) -> None:
    """One error message, to standard error."""
    err.print("[bold red]error:[/] ", end="")
    err.print(plain(text), markup=False)


def plain(text: str) -> str:
    """A text without what a terminal takes for a command, such as a column's name may hold."""
    return text.translate(_COMMANDS)


@contextlib.contextmanager
def progress(
    what: str, total: float | None = None, unit: str = ""
) -> Iterator[Callable[..., None]]:
    """Shows how far a long step has come; gives ``advance(amount=1, note="")``.

    On a terminal a bar; elsewhere (a log file, CI) a line now and then.
    """
    if out.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(show_speed=True),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=out, transient=True) as bar:
            task = bar.add_task(what, total=total, note="")

            def advance(amount: float = 1, note: str = "") -> None:
                bar.update(task, advance=amount, note=note)

            yield advance
        return

    start = last = time.monotonic()
    done = 0.0

    def advance(amount: float = 1, note: str = "") -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last < max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * (last - start)):
            return
        last = now
        share = f"{100 * done / total:3.0f}%" if total else f"{done:,.0f}"
        rate = done / (now - start)
        after = f", {note}" if note else ""
        say(f"  {what}: {share} after {now - start:.0f} s, {rate:,.3g} {unit}/s{after}")

    yield advance


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a small table; numbers are right-aligned."""
    grid = Table(title=title, title_justify="left", title_style="bold")
    for column, name in enumerate(header):
        cells = [row[column] for row in rows]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        grid.add_column(Text(plain(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(plain(_cell(value))) for value in row))
    out.print(grid)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
