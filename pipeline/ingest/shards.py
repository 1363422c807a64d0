"""Tables in a stream → shards of a set number of rows, written by a pool, in order."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from core.artifacts import encodings, write_parquet
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.time_span import Months

Item = TypeVar("Item")
Result = TypeVar("Result")
ROW_GROUP = 1 << 18


@dataclass(frozen=True)
class Parsed:
    """One parsed block: its good rows, its bad lines, and how many rows a filter left out."""

    table: pa.Table
    bad: list[BadLine]
    bytes_read: int
    rows_filtered: int = 0
    months: Months = field(default_factory=dict)
    """When its good rows are."""

    @property
    def rows_read(self) -> int:
        return self.table.num_rows + len(self.bad) + self.rows_filtered


class FileReader(Protocol):
    """How one kind of log is read: pieces of a file in order, and a piece → rows.

    Both depend on the file and the settings alone: a run that goes on meets the same pieces.
    """

    schema: pa.Schema

    def pieces(self, file: InputFile, faults: list[str]) -> Iterator[Any]:
        """The pieces of ``file``; a fault that ends it early is appended to ``faults``."""

    def parse(self, file: InputFile, piece: Any) -> Parsed:
        """One piece → typed rows. Called from several threads at once."""


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
    """Cuts a stream of tables into shards of ``rows_per_shard`` rows, written by ``pool``.

    Args:
        number: of the first shard to write; those before it are finished.
        finished: called with each finished shard (file, rows, sha256) and what the cut was given,
            in the order of the shards.
    """

    def __init__(
        self,
        folder: Path,
        rows_per_shard: int,
        pool: Executor,
        ahead: int,
        number: int,
        finished: Callable[[dict[str, Any], Any], None],
    ) -> None:
        self.folder = folder
        self.rows_per_shard = rows_per_shard
        self._pool = pool
        self._ahead = ahead
        self._number = number
        self._finished = finished
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._pending: deque[tuple[Future[dict[str, Any]], Any]] = deque()

    def add(self, table: pa.Table, at_cut: Callable[[int], Any]) -> None:
        """Takes rows in; ``at_cut(rows)`` is asked for what belongs to a cut after ``rows``."""
        taken = 0
        while self._rows + table.num_rows - taken >= self.rows_per_shard:
            room = self.rows_per_shard - self._rows
            self._tables.append(table.slice(taken, room))
            taken += room
            self._write(at_cut(taken))
        if taken < table.num_rows:
            self._tables.append(table.slice(taken))
            self._rows += table.num_rows - taken
        while self._pending and self._pending[0][0].done():
            self._collect()

    def close(self, cut: Any) -> None:
        """Writes what is left, and waits for all shards."""
        if self._tables:
            self._write(cut)
        while self._pending:
            self._collect()

    def _write(self, cut: Any) -> None:
        table = pa.concat_tables(self._tables)
        self._tables, self._rows = [], 0
        path = self.folder / f"part-{self._number:05d}.parquet"
        self._number += 1
        if len(self._pending) >= self._ahead:
            self._collect()
        self._pending.append((self._pool.submit(write_shard, path, table), cut))

    def _collect(self) -> None:
        future, cut = self._pending.popleft()
        self._finished(future.result(), cut)


def write_shard(path: Path, table: pa.Table) -> dict[str, Any]:
    """Writes one shard; a table in many chunks becomes row groups of the usual size.

    Returns:
        Its name, rows and the SHA-256 of its bytes.
    """
    # Read twice soon and then deleted or kept aside: quick to read and write goes before small.
    options = {"compression": "lz4", "compression_level": None, **encodings(table)}
    write_parquet(path, table, row_group_size=ROW_GROUP, **options)
    return describe_shard(path, table.num_rows)


def describe_shard(path: Path, rows: int) -> dict[str, Any]:
    """A shard's name, rows and hash: a later stage tells by the hash that it is another one."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "rows": rows, "sha256": digest}
