"""Value counts that do not fit in memory: dealt to buckets by a hash of the value, on disk.

While counts are added up over the parts of a log, what a column has beyond ``SPILL_ENTRIES`` goes
to a file with one row group a bucket. In the end each bucket is added up by itself and put in value
order, and the buckets are merged, a piece of each at a time: no task ever holds more than the
entries of one bucket, or ``PIECE`` of each bucket.
"""

import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.artifacts import atomic_path
from workflows.ops import hash_counts
from workflows.ops.hash_index import text_buckets
from workflows.ops.values import one_array

Counts = tuple[pa.Array, np.ndarray]
"""Distinct values, and how often each was seen."""

SPILL_ENTRIES = 1 << 18
"""Entries of one column that a task passes on in memory: 4 MiB of integers."""
WORTH_THE_WAY = 1 << 14
"""Entries that a GPU adds up sooner than they come to it and back."""
BUCKETS = 256
PIECE = 1 << 14
ROW_GROUP = 1 << 20
SCHEMA_NAMES = ("value", "count")


@dataclass(frozen=True)
class Tally:
    """The counts of some parts of a column: those in memory, and the files of the others."""

    values: pa.Array
    counts: np.ndarray
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class CountsFile:
    """Counts in value order in a Parquet file: ``value``, ``count``."""

    path: Path


def add_up(counted: list[Counts], on_device: bool = False) -> Counts:
    """The sum of counts. Integers stand in the order of their hashes, before and after; many of
    them are added up by the GPU where ``on_device``.

    Raises:
        ValueError: the values are of several types.
    """
    # A partition whose column is all null knows no type: the others say it.
    kept = [part for part in counted if len(part[0])] or counted[:1]
    types = {values.type for values, _ in kept}
    if len(types) > 1:
        raise ValueError(f"the values of one vocabulary are of several types: {types}")
    if len(kept) == 1:
        return kept[0]
    if pa.types.is_integer(kept[0][0].type):
        runs = [(values.to_numpy(), counts) for values, counts in kept]
        many = on_device and sum(len(values) for values, _ in runs) >= WORTH_THE_WAY
        add = hash_counts.sum_counts_on_device if many else hash_counts.sum_counts
        distinct, sums = add(runs)
        return pa.array(distinct), sums
    values = pa.concat_arrays([values for values, _ in kept])
    table = pa.table({"value": values, "count": np.concatenate([counts for _, counts in kept])})
    summed = table.group_by("value", use_threads=False).aggregate([("count", "sum")])
    return one_array(summed["value"]), one_array(summed["count_sum"]).to_numpy()


def merge(parts: list[Tally], folder: str | None, on_device: bool = False) -> Tally:
    """The tallies of several parts together; large ones go to ``folder``, if there is one."""
    files = tuple(file for part in parts for file in part.files)
    values, counts = add_up([(part.values, part.counts) for part in parts], on_device)
    tally = Tally(values, counts, files)
    return tally if folder is None or len(values) <= SPILL_ENTRIES else spilled(tally, folder)


def spilled(tally: Tally, folder: str) -> Tally:
    """The same counts, nothing of them in memory."""
    path = Path(folder) / f"{uuid.uuid4().hex}.parquet"
    write_buckets(path, tally.values, tally.counts)
    return Tally(tally.values[:0], tally.counts[:0], (*tally.files, str(path)))


def write_buckets(path: Path, values: pa.Array, counts: np.ndarray) -> None:
    """Writes one row group for each bucket."""
    if pa.types.is_integer(values.type):
        bounds = hash_counts.bucket_bounds(values.to_numpy(), BUCKETS)
    else:
        number = bucket_of_text(values, BUCKETS)
        order = np.argsort(number, kind="stable")
        values, counts = values.take(pa.array(order)), counts[order]
        bounds = np.searchsorted(number[order], np.arange(BUCKETS + 1))
    table = pa.table([values, pa.array(counts)], names=SCHEMA_NAMES)
    options = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        for bucket in range(BUCKETS):
            writer.write_table(table.slice(bounds[bucket], bounds[bucket + 1] - bounds[bucket]))


def bucket_of_text(values: pa.Array, buckets: int) -> np.ndarray:
    """A bucket from 0 for each string (no nulls), by a hash of its bytes."""
    values = pa.concat_arrays([values.cast(pa.large_string())])  # at offset 0
    _, offsets, data = values.buffers()
    starts = np.frombuffer(offsets, np.int64)[: len(values) + 1]
    return text_buckets(starts, np.frombuffer(data or b"", np.uint8), buckets)


def settle_bucket(item: tuple[str, int], tallies: dict[str, Tally], folder: str) -> str:
    """Adds up one bucket of a column's files; its file of counts in value order."""
    key, bucket = item
    total: Counts | None = None
    for path in tallies[key].files:
        group = pq.ParquetFile(path).read_row_group(bucket, use_threads=False)
        found = one_array(group["value"]), one_array(group["count"]).to_numpy()
        total = found if total is None else add_up([total, found])
    path = Path(folder) / f"bucket-{uuid.uuid4().hex}.parquet"
    values, counts = by_value(*total)
    table = pa.table([values, pa.array(counts)], names=SCHEMA_NAMES)
    pq.write_table(table, path, compression="lz4", use_dictionary=False, row_group_size=PIECE)
    return str(path)


def by_value(values: pa.Array, counts: np.ndarray) -> Counts:
    """Counts in the order of their values."""
    if pa.types.is_integer(values.type):
        found, counts = hash_counts.by_value(values.to_numpy(), counts)
        return pa.array(found), counts
    order = pc.sort_indices(values)
    return values.take(order), counts[order.to_numpy()]


def batches(counted: Counts | CountsFile) -> Iterator[Counts]:
    """Counts in value order, a piece that fits in memory at a time."""
    if not isinstance(counted, CountsFile):
        yield counted
        return
    with pq.ParquetFile(counted.path) as file:
        for batch in file.iter_batches(ROW_GROUP, use_threads=False):
            yield batch["value"], batch["count"].to_numpy()


class _Run:
    """One source of counts in value order, of which a piece is in memory."""

    def __init__(self, source: Iterator[Counts]):
        self.source = source
        self.piece: Counts | None = next(source, None)
        self.more = self.piece is not None

    def fill(self) -> None:
        """Reads on where little is left."""
        while self.more and len(self.piece[0]) < PIECE // 2:
            found = next(self.source, None)
            self.more = found is not None
            if found is not None:
                values = pa.concat_arrays([self.piece[0], found[0]])
                self.piece = values, np.concatenate([self.piece[1], found[1]])

    def take(self, fence: pa.Scalar | None) -> Counts:
        """What stands up to ``fence`` (None: everything), and lets go of it."""
        values, counts = self.piece
        end = len(values)
        if fence is not None:
            end = pc.sum(pc.less_equal(values, fence)).as_py() or 0
        self.piece = values[end:], counts[end:]
        return values[:end], counts[:end]


def _pieces(path: Path) -> Iterator[Counts]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(PIECE, use_threads=False):
            yield batch["value"], batch["count"].to_numpy()


def merged(sources: Iterable[Iterator[Counts]]) -> Iterator[Counts]:
    """Merges sources in value order into one, adding up the counts of equal values."""
    runs = [run for run in map(_Run, sources) if run.piece is not None]
    while runs:
        for run in runs:
            run.fill()
        runs = [run for run in runs if len(run.piece[0])]
        lasts = [run.piece[0][-1] for run in runs if run.more]
        fence = min(lasts, key=lambda value: _sort_key(value.as_py())) if lasts else None
        taken = [piece for piece in (run.take(fence) for run in runs) if len(piece[0])]
        if taken:
            values = pa.concat_arrays([values for values, _ in taken])
            yield _added(*by_value(values, np.concatenate([counts for _, counts in taken])))
        runs = [run for run in runs if run.more or len(run.piece[0])]


def _sort_key(value: int | str) -> int | bytes:
    return value.encode() if isinstance(value, str) else value


def _added(values: pa.Array, counts: np.ndarray) -> Counts:
    """Counts in value order with equal values as one."""
    new = pc.not_equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.concatenate([[True], new]))
    if len(starts) == len(values):
        return values, counts
    return values.take(pa.array(starts)), np.add.reduceat(counts, starts)


def write_counts(path: Path, counted: Iterable[Counts]) -> None:
    """Writes counts that come in value order: the same bytes however they are cut."""
    writer, waiting, rows = None, [], 0
    with atomic_path(path) as partial:
        try:
            for values, counts in counted:
                table = pa.table([values, pa.array(counts)], names=SCHEMA_NAMES)
                if writer is None:
                    options = {"compression": "zstd", "compression_level": 1}
                    writer = pq.ParquetWriter(
                        partial, table.schema, use_dictionary=False, **options
                    )
                waiting.append(table)
                rows += table.num_rows
                while rows >= ROW_GROUP:
                    table = pa.concat_tables(waiting).combine_chunks()
                    writer.write_table(table[:ROW_GROUP], row_group_size=ROW_GROUP)
                    waiting, rows = [table[ROW_GROUP:]], rows - ROW_GROUP
            if rows:
                table = pa.concat_tables(waiting).combine_chunks()
                writer.write_table(table, row_group_size=ROW_GROUP)
        finally:
            if writer is not None:
                writer.close()


def settle_column(paths: list[str], folder: str) -> CountsFile:
    """Merges a column's buckets into one file of counts in value order."""
    path = Path(folder) / f"counts-{uuid.uuid4().hex}.parquet"
    write_counts(path, merged(_pieces(Path(bucket)) for bucket in paths))
    return CountsFile(path)


def added(
    first: Counts | CountsFile, second: Counts | CountsFile, folder: str | None
) -> Counts | CountsFile:
    """Two counts in value order together; where one of them is on disk, in a file of ``folder``.

    Without a folder it is a temporary one, which the caller has to delete.
    """
    together = merged([batches(first), batches(second)])
    if isinstance(first, CountsFile) or isinstance(second, CountsFile):
        room = Path(folder or tempfile.mkdtemp(prefix="counts-"))
        path = room / f"counts-{uuid.uuid4().hex}.parquet"
        write_counts(path, together)
        return CountsFile(path)
    pieces = list(together)
    if not pieces:
        return first
    values = pa.concat_arrays([values for values, _ in pieces])
    return values, np.concatenate([counts for _, counts in pieces])
