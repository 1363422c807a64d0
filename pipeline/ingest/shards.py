"""Input files → shards: parsed by all cores, written in input order, whatever the workers.

Each input file is a unit of its own, with its own folder of shards and its own quarantine; only at
the end are the shards numbered through. Nothing in a unit depends on another unit.
"""

import itertools
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from core.artifacts import write_parquet
from core.console import progress
from core.errors import UserError
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.quarantine import BadLine, Quarantine, check_fraction, merge_quarantines
from pipeline.ingest.source import SourceSettings

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Parsed:
    """One parsed block: its good rows, its bad lines, and how many rows a filter left out."""

    table: pa.Table
    bad: list[BadLine]
    bytes_read: int
    rows_filtered: int = 0

    @property
    def rows_read(self) -> int:
        return self.table.num_rows + len(self.bad) + self.rows_filtered


class FileReader(Protocol):
    """How one kind of log is read: pieces of a file in order, and a piece → rows."""

    schema: pa.Schema

    def pieces(self, file: InputFile, faults: list[str]) -> Iterator[Any]:
        """The pieces of ``file``; a fault that ends it early is appended to ``faults``."""

    def parse(self, file: InputFile, piece: Any) -> Parsed:
        """One piece → typed rows. Called from several threads at once."""


@dataclass
class FileReport:
    """What became of one input file."""

    file: InputFile
    rows_read: int = 0
    rows_written: int = 0
    rows_filtered: int = 0
    rows_quarantined: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    first_bad: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    shards: list[tuple[Path, int]] = field(default_factory=list)
    quarantine: Path | None = None


def ordered_map(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """``map`` over a pool, in order, at most ``ahead`` items begun before they are asked for."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class ShardWriter:
    """Cuts a stream of tables into shards of ``rows_per_shard`` rows, written by ``pool``."""

    def __init__(self, folder: Path, rows_per_shard: int, pool: Executor, ahead: int) -> None:
        self.folder = folder
        self.rows_per_shard = rows_per_shard
        self.shards: list[tuple[Path, int]] = []
        self._pool = pool
        self._ahead = ahead
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._pending: deque[Future[None]] = deque()

    def add(self, table: pa.Table) -> None:
        while self._rows + table.num_rows >= self.rows_per_shard:
            room = self.rows_per_shard - self._rows
            self._tables.append(table.slice(0, room))
            table = table.slice(room)
            self._write()
        if table.num_rows:
            self._tables.append(table)
            self._rows += table.num_rows

    def close(self) -> None:
        if self._tables:
            self._write()
        while self._pending:
            self._pending.popleft().result()

    def _write(self) -> None:
        table = pa.concat_tables(self._tables)
        self._tables, self._rows = [], 0
        path = self.folder / f"part-{len(self.shards):05d}.parquet"
        self.shards.append((path, table.num_rows))
        if len(self._pending) >= self._ahead:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(write_shard, path, table))


def write_shard(path: Path, table: pa.Table) -> None:
    """Writes one shard; a table in many chunks becomes row groups of the usual size."""
    write_parquet(path, table, row_group_size=1 << 18)


class _Stopped(Exception):
    """Another file failed; this one's work is dropped."""


class _Run:
    """The files of one source on their way to shards."""

    def __init__(
        self, reader: FileReader, settings: SourceSettings, folder: Path, at_once: int, workers: int
    ) -> None:
        self.reader = reader
        self.settings = settings
        self.folder = folder
        self.share = max(1, workers // at_once)
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="ingest")
        self.files = ThreadPoolExecutor(at_once, thread_name_prefix="ingest-file")
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def convert(self, file: InputFile, advance: Callable[..., None]) -> FileReport:
        """One input file → its own folder of shards and its own quarantine."""
        try:
            return self._convert(file, advance)
        except BaseException:
            self.stop.set()
            raise

    def _convert(self, file: InputFile, advance: Callable[..., None]) -> FileReport:
        unit = self.folder / f"file-{file.index:05d}"
        unit.mkdir()
        report = FileReport(file)
        quarantine = Quarantine(unit / "quarantine.parquet", str(file.path))
        writer = ShardWriter(unit, self.settings.rows_per_shard, self.pool, self.share)
        pieces = self.reader.pieces(file, report.faults)
        done = 0
        for parsed in ordered_map(
            self.pool, lambda piece: self.reader.parse(file, piece), pieces, self.share + 1
        ):
            if self.stop.is_set():
                raise _Stopped
            report.rows_read += parsed.rows_read
            report.rows_written += parsed.table.num_rows
            report.rows_filtered += parsed.rows_filtered
            quarantine.add(parsed.bad)
            check_fraction(
                report.rows_read,
                quarantine.rows,
                self.settings.max_bad_fraction,
                quarantine.first,
                finished=False,
            )
            writer.add(parsed.table)
            done += parsed.bytes_read
            with self.lock:
                advance(parsed.bytes_read, note=file.path.name)
        writer.close()
        quarantine.close()
        with self.lock:
            advance(max(0, file.size - done))
        report.shards, report.kinds = writer.shards, quarantine.kinds
        report.rows_quarantined, report.first_bad = quarantine.rows, quarantine.first
        report.quarantine = quarantine.path if quarantine.rows else None
        return report


def convert_files(
    reader: FileReader, files: list[InputFile], settings: SourceSettings, folder: Path
) -> list[FileReport]:
    """Converts every file into shards below ``folder``; the reports come in input order.

    Raises:
        UserError: from the first file that failed, or because no line was found, or too many bad.
    """
    workers = settings.workers or len(os.sched_getaffinity(0))
    # Several files at a time, because only one thread can decompress a file.
    at_once = min(len(files), workers)
    run = _Run(reader, settings, folder, at_once, workers)
    size = sum(file.size for file in files)
    try:
        with progress("ingest", total=max(1, size), unit="B") as advance:
            futures = [run.files.submit(run.convert, file, advance) for file in files]
            reports = _results(futures)
    finally:
        run.stop.set()
        run.files.shutdown(cancel_futures=True)
        run.pool.shutdown(cancel_futures=True)
    rows = sum(report.rows_read for report in reports)
    if not rows:
        faults = [f"{report.file.path}: {fault}" for report in reports for fault in report.faults]
        names = ", ".join(str(file.path) for file in files[:3])
        fault = faults[0] if faults else f"{names}: empty, or nothing but a header row"
        raise UserError(f"{fault}; no line could be read; check the setting 'path'")
    check_fraction(
        rows,
        sum(report.rows_quarantined for report in reports),
        settings.max_bad_fraction,
        list(itertools.islice((line for report in reports for line in report.first_bad), 3)),
        finished=True,
    )
    return reports


def _results(futures: list[Future[FileReport]]) -> list[FileReport]:
    stopped = False
    reports = []
    for future in futures:
        try:
            reports.append(future.result())
        except _Stopped:
            stopped = True
    if stopped:
        raise UserError("ingest was stopped")
    return reports


def number_shards(reports: list[FileReport], folder: Path) -> list[dict[str, Any]]:
    """Moves the shards of all files to ``folder/part-00000.parquet …`` and joins the quarantines.

    Returns:
        One entry a shard for the manifest: file, rows, source and day (the input's index).
    """
    shards: list[dict[str, Any]] = []
    for report in reports:
        for path, rows in report.shards:
            name = f"part-{len(shards):05d}.parquet"
            os.replace(path, folder / name)
            shards.append(
                {
                    "file": name,
                    "rows": rows,
                    "source": str(report.file.path),
                    "source_index": report.file.index,
                }
            )
    quarantines = [report.quarantine for report in reports if report.quarantine]
    merge_quarantines(quarantines, folder / "quarantine.parquet")
    for report in reports:
        (folder / f"file-{report.file.index:05d}").rmdir()
    return shards


def manifest(
    format: str, schema: pa.Schema, reports: list[FileReport], shards: list[dict[str, Any]]
) -> dict[str, Any]:
    """The record of an ingest: what was read, written and set aside, by file and by shard."""
    kinds: Counter[str] = Counter()
    for report in reports:
        kinds.update(report.kinds)
    inputs = []
    for report in reports:
        entry: dict[str, Any] = {
            "file": str(report.file.path),
            "bytes": report.file.size,
            "rows": report.rows_read,
            "rows_written": report.rows_written,
            "rows_quarantined": report.rows_quarantined,
        }
        if report.rows_filtered:
            entry["rows_filtered"] = report.rows_filtered
        if report.faults:
            entry["fault"] = "; ".join(report.faults)
        inputs.append(entry)
    return {
        "format": format,
        "columns": {name.name: str(name.type) for name in schema},
        "rows_read": sum(report.rows_read for report in reports),
        "rows_written": sum(shard["rows"] for shard in shards),
        "rows_quarantined": sum(report.rows_quarantined for report in reports),
        "rows_filtered": sum(report.rows_filtered for report in reports),
        "quarantined_by_reason": dict(sorted(kinds.items())),
        "inputs": inputs,
        "shards": shards,
    }
