"""Input files → shards: parsed by all cores, written in input order, whatever the workers.

Each input file is a unit of its own, with its own folder of shards and its own quarantine, and
nothing in a unit depends on another unit. After each shard the unit notes how far it has come.
"""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from core.console import progress
from core.errors import UserError
from pipeline.ingest.inputs import CHECK_PATH, InputFile
from pipeline.ingest.progress import FileReport, load_report
from pipeline.ingest.quarantine import Quarantine, check_fraction
from pipeline.ingest.shards import FileReader, Parsed, ShardWriter, ordered_map
from pipeline.ingest.source import SourceSettings
from pipeline.ingest.time_span import add_months
from pipeline.ingest.workspace import Workspace


class _Stopped(Exception):
    """Another file failed; this one's work is dropped."""


class _Unit:
    """One input file on its way: its report, and where rows and bad lines go."""

    def __init__(self, run: "_Run", file: InputFile) -> None:
        self.folder = run.workspace.unit(file)
        self.folder.mkdir(exist_ok=True)
        self.report = load_report(file, self.folder)
        self.saved = self.report.shards
        self.quarantine = Quarantine(self.folder, self.report)
        self.skip_rows = self.report.rows_of_next
        limit = run.settings.rows_per_shard
        number = len(self.saved)
        self.writer = ShardWriter(
            self.folder, limit, run.pool, run.share, number, self._shard_finished
        )

    def _cut(self, rows: int) -> FileReport:
        """The state to go on from after a shard that ends ``rows`` rows into this piece."""
        self.quarantine.cut()
        return self.report.at_cut(rows)

    def _shard_finished(self, shard: dict[str, Any], state: FileReport) -> None:
        self.saved.append(shard)
        state.shards = self.saved
        state.save(self.folder)

    def take(self, parsed: Parsed) -> None:
        """Takes a piece in: its rows, then what is counted of it."""
        skip, self.skip_rows = self.skip_rows, 0
        self.writer.add(parsed.table.slice(skip), lambda rows: self._cut(skip + rows))
        self.report.pieces += 1
        self.report.rows_of_next = 0
        self.report.bytes_read += parsed.bytes_read
        self.report.rows_read += parsed.rows_read
        self.report.rows_filtered += parsed.rows_filtered
        add_months(self.report.months, parsed.months)
        self.quarantine.add(parsed.bad)

    def finish(self, faults: list[str]) -> None:
        self.writer.close(self._cut(0))
        self.quarantine.cut()
        self.report.faults, self.report.finished = faults, True
        self.report.save(self.folder)


class _Run:
    """The files of one source on their way to shards."""

    def __init__(
        self,
        reader: FileReader,
        settings: SourceSettings,
        workspace: Workspace,
        at_once: int,
        workers: int,
    ) -> None:
        self.reader = reader
        self.settings = settings
        self.workspace = workspace
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
        unit = _Unit(self, file)
        report = unit.report
        if not report.finished:
            self._read(file, unit, advance)
        with self.lock:
            advance(max(0, file.size - report.bytes_read))
        return report

    def _read(self, file: InputFile, unit: _Unit, advance: Callable[..., None]) -> None:
        faults: list[str] = []
        report = unit.report
        # What finished shards hold is read again, which costs little, but not parsed again.
        pieces = itertools.islice(self.reader.pieces(file, faults), report.pieces, None)
        with self.lock:
            advance(report.bytes_read)
        for parsed in ordered_map(
            self.pool, lambda piece: self.reader.parse(file, piece), pieces, self.share + 1
        ):
            if self.stop.is_set():
                raise _Stopped
            unit.take(parsed)
            check_fraction([report], self.settings, finished=False)
            with self.lock:
                advance(parsed.bytes_read, note=file.path.name)
        file.check_unchanged()
        unit.finish(faults)


def convert_files(
    reader: FileReader, files: list[InputFile], settings: SourceSettings, workspace: Workspace
) -> list[FileReport]:
    """Converts every file into shards in the workspace; the reports come in input order.

    Raises:
        UserError: from the first file that failed, or because no line was found, or too many bad.
    """
    workers = settings.workers or len(os.sched_getaffinity(0))
    # Several files at a time, because only one thread can decompress a file.
    at_once = min(len(files), workers)
    run = _Run(reader, settings, workspace, at_once, workers)
    size = sum(file.size for file in files)
    try:
        with progress("ingest", total=max(1, size), unit="B") as advance:
            futures = [run.files.submit(run.convert, file, advance) for file in files]
            reports = _results(futures)
    finally:
        run.stop.set()
        run.files.shutdown(cancel_futures=True)
        run.pool.shutdown(cancel_futures=True)
    for file in files:
        file.check_unchanged()
    rows = sum(report.rows_read for report in reports)
    if not rows:
        faults = [f"{report.file.path}: {fault}" for report in reports for fault in report.faults]
        names = ", ".join(str(file.path) for file in files[:3])
        fault = faults[0] if faults else f"{names}: empty, or nothing but a header row"
        raise UserError(f"{fault}; no line could be read; {CHECK_PATH}")
    check_fraction(reports, settings, finished=True)
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
