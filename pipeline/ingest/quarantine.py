"""Bad lines: kept with file, line number, reason and text; too many of them fail the stage."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import UserError

TEXT_BYTES = 4096
SCHEMA = pa.schema(
    [("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("text", pa.string())]
)
ROWS_PER_GROUP = 10_000
LINES_SHOWN = 3
# A log is given up before its end only once half of this many lines, and of those read, are bad.
EARLY_LINES = 100_000
EARLY_FRACTION = 0.5


@dataclass(frozen=True)
class BadLine:
    """A line that could not be read. ``kind`` groups the reasons for counting."""

    line: int
    kind: str
    reason: str
    text: bytes


def safe_text(text: bytes) -> str:
    """At most ``TEXT_BYTES`` bytes as a string; bytes that are not UTF-8 appear as ``\\xNN``."""
    return text[:TEXT_BYTES].decode("utf-8", "backslashreplace")


class Quarantine:
    """The bad lines of one input file, written to ``path`` as they come (no file if none comes)."""

    def __init__(self, path: Path, file: str) -> None:
        self.path = path
        self.file = file
        self.rows = 0
        self.kinds: Counter[str] = Counter()
        self.first: list[str] = []
        self._pending: list[BadLine] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, bad: Iterable[BadLine]) -> None:
        for line in bad:
            self.rows += 1
            self.kinds[line.kind] += 1
            self._pending.append(line)
            if len(self.first) < LINES_SHOWN:
                self.first.append(f"{self.file}:{line.line}: {line.reason}")
            if len(self._pending) >= ROWS_PER_GROUP:
                self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, SCHEMA, compression="zstd")
        columns = {
            "file": [self.file] * len(self._pending),
            "line": [line.line for line in self._pending],
            "reason": [line.reason for line in self._pending],
            "text": [safe_text(line.text) for line in self._pending],
        }
        self._writer.write_table(pa.table(columns, schema=SCHEMA))
        self._pending = []


def check_fraction(
    rows_read: int, rows_bad: int, max_bad_fraction: float, first: list[str], finished: bool
) -> None:
    """Fails if too many lines are bad: at the end of the input, or early when most of it is.

    Raises:
        UserError: with the first bad lines as ``file:line: reason``.
    """
    if finished:
        allowed = max(1.0, max_bad_fraction * rows_read) if max_bad_fraction else 0.0
    else:
        allowed = max(EARLY_LINES / 2, EARLY_FRACTION * rows_read, max_bad_fraction * rows_read)
    none_good = finished and 0 < rows_read == rows_bad
    if rows_bad <= allowed and not none_good:
        return
    if none_good:
        share = f"not one of {rows_read:,} lines is good"
    else:
        share = f"{rows_bad:,} of {rows_read:,} lines {'' if finished else 'so far '}are bad"
        share += f" ({rows_bad / rows_read:.1%}; max_bad_fraction allows {max_bad_fraction:.1%})"
    shown = "\n  ".join(first)
    remedy = "Mend the log or its settings"
    remedy += "." if none_good else ", or raise max_bad_fraction to leave these lines out."
    raise UserError(f"{share}; the first bad ones:\n  {shown}\n{remedy}")


def merge_quarantines(parts: Iterable[Path], path: Path) -> None:
    """Joins the files' quarantines, in order, into one; writes nothing if there are none."""
    writer = None
    for part in parts:
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP):
                if writer is None:
                    writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
                writer.write_batch(batch)
        part.unlink()
    if writer is not None:
        writer.close()
