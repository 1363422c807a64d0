"""What ``score`` and ``recommend`` write: a table, into a file that is claimed first."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from core.artifacts import atomic_path, write_parquet
from core.console import say
from core.errors import UserError
from core.outputs import claimed_file, scratch_beside
from pipeline.ingest.inputs import list_inputs, named_inputs
from pipeline.ingest.publish import QUARANTINE
from pipeline.ingest.quarantine import TooManyBadLines
from pipeline.ingest.trace import Trace
from pipeline.stages.ingest import ingest, why_quarantined

MOST_HEADER = 100_000
SETTING = re.compile(r" \(settings? [^)]*\)")
"""Advice to those who ingest a log: a bundle's settings are those that it was trained with."""

Names = Sequence[str]


def check_name(output: str | Path) -> None:
    """Before any work: the ending of the output's name must say how to write it."""
    if Path(output).suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: expected a name ending in .parquet or .csv")


def write_table(frame: pl.DataFrame, output: str | Path) -> None:
    """Writes ``.parquet`` or ``.csv``, by the name's ending, atomically."""
    if Path(output).suffix == ".parquet":
        write_parquet(output, frame.to_arrow())
        return
    with atomic_path(output) as partial:
        frame.write_csv(partial)


@contextlib.contextmanager
def claimed_table(
    output: str | Path, bundle: str | Path, input: str | Path, ours: Callable[[Names], bool]
) -> Iterator[tuple[Path, Path]]:
    """Claims the file to write; gives it, and where the typed log is to be, which goes afterwards.

    Args:
        ours: whether a table with these columns is an earlier output, which may be replaced.
    """
    inputs = [bundle, *named_inputs(input, list_inputs(input))]
    with (
        claimed_file(output, inputs, lambda path: ours(_columns(path))) as file,
        scratch_beside(file) as scratch,
    ):
        yield file, scratch / "raw"


def read_log(
    recipe: str, source: Any, input: str | Path, raw: Path, trace: Trace
) -> dict[str, Any]:
    """Reads the log to answer as the bundle says; gives the manifest of the typed log in ``raw``.

    Raises:
        UserError: as those of ``ingest``; what is said of bad lines names no setting of a bundle.
    """
    try:
        return ingest(recipe, source, input, raw, quiet=True, trace=trace)
    except TooManyBadLines as failure:
        shown = "\n  ".join(SETTING.sub("", line) for line in failure.first)
        mend = "Mend the log, which is read as the one that the bundle was made from"
        mend += "" if failure.all_bad else "; or raise --max-bad-fraction to leave these lines out"
        text = f"{failure.shares}; the first bad ones:\n  {shown}\n{mend}."
        raise UserError(text) from None


def _columns(path: Path) -> list[str]:
    """The columns of a table that was written; empty where it is none."""
    try:
        if path.suffix == ".parquet":
            return pq.read_schema(path).names
        with open(path, encoding="utf-8") as file:
            return file.readline(MOST_HEADER).rstrip("\n").split(",")
    except (OSError, ValueError, pa.ArrowException):
        return []


def free_name(name: str, taken: Iterable[str]) -> str:
    """``name``, with underscores after it where the log has a column of that name."""
    while name in taken:
        name += "_"
    return name


def plain_names(columns: Names) -> list[str]:
    """Names of columns without the underscores that :func:`free_name` may have put after them."""
    return [name.rstrip("_") for name in columns]


def check_finite(scores: np.ndarray, of: Callable[[int], str], bundle: str | Path) -> None:
    """Checks that scores are finite numbers.

    Args:
        of: what the first score that is none is of, by its number among the rows.

    Raises:
        UserError: they are not; nothing is written then.
    """
    wrong = ~np.isfinite(scores)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{bundle}: {int(wrong.sum()):,} of {len(scores):,} scores are no finite numbers, the "
            f"first that of {of(first)}; nothing was written. Check the values of that row in the "
            "log, and where the bundle is from"
        )


def name_bad_lines(raw: Path, manifest: dict[str, Any], command: str) -> None:
    """Says how many lines of the input could not be read, why, and which: the first few."""
    if manifest["rows_quarantined"]:
        why = SETTING.sub("", why_quarantined(manifest, raw / QUARANTINE))
        say(f"{command}: not read and left out: {why}")
