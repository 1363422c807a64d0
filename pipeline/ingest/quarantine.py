"""Bad lines: kept with file, line number, reason and text; too many of them fail the stage."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from core.artifacts import PARTIAL, atomic_path
from core.errors import UserError
from pipeline.ingest.source import SourceSettings

if TYPE_CHECKING:
    from pipeline.ingest.progress import FileReport

TEXT_BYTES = 4096
SCHEMA = pa.schema(
    [("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("text", pa.string())]
)
ROWS_PER_GROUP = 10_000
LINES_SHOWN = 3
REASONS_KEPT = 100
"""Different reasons, with the value that was bad, that are counted in each file."""
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
    """The bad lines of one input file, counted in its report and written as they come.

    At each :meth:`cut` (where a shard ends) they are closed into a file of their own, whose name
    the report takes up, so that a run that goes on has those of the finished shards.
    """

    def __init__(self, folder: Path, report: "FileReport") -> None:
        self.folder = folder
        self.report = report
        self._file = report.file.label
        self._pending: list[BadLine] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, bad: Iterable[BadLine]) -> None:
        for line in bad:
            self.report.rows_quarantined += 1
            self.report.kinds[line.kind] += 1
            reasons = self.report.reasons
            if line.reason in reasons or len(reasons) < REASONS_KEPT:
                reasons[line.reason] += 1
            self._pending.append(line)
            if len(self.report.first_bad) < LINES_SHOWN:
                self.report.first_bad.append(f"{self._file}:{line.line}: {line.reason}")
            if len(self._pending) >= ROWS_PER_GROUP:
                self._flush()

    def cut(self) -> None:
        """Closes the lines since the last cut into a file, if there are any."""
        self._flush()
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        name = f"bad-{len(self.report.quarantine):05d}.parquet"
        os.replace(self._open_path(), self.folder / name)
        self.report.quarantine.append(name)

    def _open_path(self) -> Path:
        return self.folder / f".bad{PARTIAL}"

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._open_path(), SCHEMA, compression="zstd")
        columns = {
            "file": [self._file] * len(self._pending),
            "line": [line.line for line in self._pending],
            "reason": [line.reason for line in self._pending],
            "text": [safe_text(line.text) for line in self._pending],
        }
        self._writer.write_table(pa.table(columns, schema=SCHEMA))
        self._pending = []


class TooManyBadLines(UserError):
    """More lines of a log are bad than the settings allow."""

    def __init__(self, shares: str, first: Sequence[str], remedy: str, all_bad: bool) -> None:
        """
        Args:
            shares: how many are bad, in words.
            first: some of them, as ``file:line: reason``.
            remedy: what to do.
            all_bad: whether no line is good.
        """
        shown = "\n  ".join(first)
        super().__init__(f"{shares}; the first bad ones:\n  {shown}\n{remedy}")
        self.shares, self.first, self.all_bad = shares, first, all_bad


def check_fraction(
    reports: Sequence["FileReport"], settings: SourceSettings, finished: bool
) -> None:
    """Fails if too many lines are bad: at the end of the input, or early when most of it is.

    Raises:
        TooManyBadLines: with the first bad lines as ``file:line: reason``, and what to do.
    """
    read = sum(report.rows_read for report in reports)
    bad = sum(report.rows_quarantined for report in reports)
    share = settings.max_bad_fraction
    if finished:
        allowed = max(1.0, share * read) if share else 0.0
    else:
        allowed = max(EARLY_LINES / 2, EARLY_FRACTION * read, share * read)
    none_good = finished and 0 < read == bad
    if bad <= allowed and not none_good:
        return
    if none_good:
        shares = f"not one of {read:,} lines is good"
    else:
        shares = f"{bad:,} of {read:,} lines {'' if finished else 'so far '}are bad"
        shares += f" ({bad / read:.1%}; max_bad_fraction allows {share:.1%})"
    first = [line for report in reports for line in report.first_bad][:LINES_SHOWN]
    remedy = "Mend the log or its settings"
    remedy += "." if read == bad else ", or raise max_bad_fraction to leave these lines out."
    remedy = settings.remedy(all_reasons(reports), bad) or remedy
    raise TooManyBadLines(shares, first, remedy, all_bad=read == bad)


def all_reasons(reports: Iterable["FileReport"]) -> Counter[str]:
    """Why lines of all files are bad, and how many are; rare reasons may be left out."""
    return sum((report.reasons for report in reports), Counter())


def merge_quarantines(parts: Sequence[Path], path: Path) -> None:
    """Joins quarantines, in order, into one; writes nothing if there are none."""
    if not parts:
        return
    with atomic_path(path) as whole, pq.ParquetWriter(whole, SCHEMA, compression="zstd") as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(ROWS_PER_GROUP):
                    writer.write_batch(batch)
