"""Parquet → tensors: the loader, its shuffling, its split over ranks, and its position.

A loader over merlin-dataloader. The stock ``Loader`` keeps its partitions in one order, has no
position, and converts every batch through pandas; here it keeps what it does well (reading ahead
in a background thread, the iteration protocol) and is fed by a reader of our own.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from core.artifacts import parquet_files
from core.compiled import compiled
from core.errors import UserError
from core.merlin import Schema, Tags, read_ahead_queue, torch_loader
from core.parquet import read_footer, read_row_groups, reading
from training import device_table, row_order
from training.device_table import DeviceTable
from training.row_order import RowGroup

CHUNK_ROWS = 262_144
"""Rows that are read, shuffled and held together; up to three chunks are in memory at a time."""

PUT_WAIT_SECONDS = 0.05

Inputs = dict[str, torch.Tensor]
Targets = torch.Tensor | dict[str, torch.Tensor] | None
Batch = tuple[Inputs, Targets]


class Batches:
    """Batches of tensors from a folder of feature Parquet.

    The rows of an epoch have one order, a function of their number, ``seed`` and the epoch alone:
    blocks of consecutive rows are permuted, joined into chunks, and each chunk's rows permuted.
    Where files and row groups begin and end does not matter, so that the same rows in other files
    train the same model. Batch ``b`` is rows ``b * batch_size`` to ``(b + 1) * batch_size`` of that
    order, whatever the number of ranks; rank ``r`` of ``w`` gets the ``r``-th of ``w`` even slices
    of every batch. So all ranks make the same number of batches, a position means the same on any
    number of ranks, and one process and several see the same batches. (Where the last batch of an
    epoch has fewer rows than there are ranks, some ranks' slices of it are empty; ``drop_last``
    avoids that.)

    Iterating goes from the position to the end of that epoch; the position moves with every batch
    handed out and ends at the start of the next epoch. It can be set to any batch without reading
    what comes before.

    Each item is ``(inputs, targets)``:

    * a scalar column ``name`` → ``inputs[name]``, shape ``(batch,)``;
    * a list column ``name`` → ``inputs[name + "__values"]``, shape ``(values,)``, and
      ``inputs[name + "__offsets"]``, shape ``(batch + 1,)``, int64, from 0 (row ``i`` is
      ``values[offsets[i]:offsets[i + 1]]``);
    * columns tagged ``TARGET`` → ``targets``: the tensor of the only one, or a dict where there
      are several, float32, shape ``(batch,)``; None where there is none.

    Integers are int32, or int64 where the file has 64 bits; floats are float32; times are int64,
    milliseconds since 1970 UTC.

    Args:
        folder: holds ``*.parquet`` with the schema's columns.
        schema: the columns to read, with their tags and, for categorical ones, their domains.
        batch_size: rows of a batch, all ranks together.
        columns: only these of the schema's columns; all by default. Targets are always read.
        shuffle: permute blocks and rows anew in every epoch; False keeps the file order.
        seed: of the order.
        drop_last: leave out the last batch of an epoch where it is not full.
        rank, world_size: this process's number and the number of processes.
        chunk_rows: about how many rows are shuffled together.

    Raises:
        UserError: an empty folder or split, a column that the files lack, a null, an id outside
            its column's domain, or a ``batch_size`` that does not divide by ``world_size``.

    Example:
        >>> train = Batches("data/ranking/features/train", schema, batch_size=256, seed=1)
        >>> for inputs, targets in train: ...
    """

    def __init__(
        self,
        folder: str | Path,
        schema: Schema,
        batch_size: int,
        columns: Sequence[str] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        self.folder = Path(folder)
        self.schema = _select(schema, columns, self.folder)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.chunk_rows = chunk_rows
        self.epoch = 0
        self.batch = 0
        self.device = torch.device("cpu")
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"batch_size {batch_size}: expected a positive multiple of the number of "
                f"processes, {world_size}"
            )
        self._footers = {file: _footer(file) for file in parquet_files(folder)}
        self.row_groups = row_order.row_groups(self._footers)
        self.rows = sum(group.rows for group in self.row_groups)
        self._check()

    def _check(self) -> None:
        """Faults that would otherwise show in the middle of an epoch."""
        if not len(self):
            what = "no rows" if not self.rows else f"{self.rows} rows, less than one full batch"
            raise UserError(f"{self.folder}: {what}; check the split's settings and its input")
        for file, footer in self._footers.items():
            present = set(footer.schema.to_arrow_schema().names)
            missing = [name for name in self.schema.column_names if name not in present]
            if missing:
                raise UserError(f"{file}: no column {', '.join(missing)}; run preprocess again")
            _check_types(file, footer, self.schema)
            _check_domains(file, footer, self.schema)

    def hand_out_on(self, device: torch.device) -> None:
        """Batches lie on ``device`` from here on (offsets of lists may stay on the host).

        A GPU reads and shuffles the rows itself where cuDF is installed; else they are read on the
        host and copied a chunk at a time, from pinned memory, while earlier batches are in use.
        """
        self.device = device

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        full, rest = divmod(self.rows, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the files' names and footers (columns, sizes, offsets, statistics)."""
        digest = hashlib.sha256()
        for file in self._footers:
            digest.update(file.name.encode())
            digest.update(_footer_bytes(file))
        return digest.hexdigest()

    def state(self) -> dict[str, int]:
        """The position: the epoch, and the batch of it that comes next."""
        return {"epoch": self.epoch, "batch": self.batch}

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """The next iteration starts at ``batch`` of ``epoch``, both from 0."""
        if not 0 <= batch < len(self):
            raise ValueError(f"batch {batch}: an epoch has {len(self)}")
        self.epoch, self.batch = epoch, batch

    def __iter__(self) -> Iterator[Batch]:
        loader = _ArrowLoader(_Order(self, self.epoch, self.batch))
        try:
            for batch in loader:
                self.batch += 1
                if self.batch == len(self):
                    self.epoch, self.batch = self.epoch + 1, 0
                yield batch
        finally:
            loader.stop()


class _Order:
    """One epoch's rows from a batch on, as chunks: what the Loader asks of a dataset."""

    npartitions = 1
    cpu = True

    def __init__(self, batches: Batches, epoch: int, first_batch: int) -> None:
        self.batches = batches
        self.schema = batches.schema
        self.batch_size = batches.batch_size
        self.epoch = epoch
        self.on_device = device_table.fits(batches.device, batches.world_size)
        self.first_row = first_batch * batches.batch_size
        self.end_row = min(batches.rows, len(batches) * batches.batch_size)

    def __len__(self) -> int:
        return self.end_row - self.first_row

    def to_iter(self, indices: Any, epochs: int, columns: Sequence[str]) -> "_Order":
        """Called by the Loader, whose own way to choose partitions and epochs is not used."""
        return self

    def __iter__(self) -> Iterator[pa.Table | DeviceTable]:
        """Tables of whole batches (the last may be short), this epoch's rows in their order."""
        spill: pa.Table | DeviceTable | None = None
        start = 0
        for number, blocks in enumerate(self._chunks()):
            rows = sum(map(len, blocks))
            low = max(self.first_row - start, 0)
            high = min(self.end_row - start, rows)
            start += rows
            if low >= rows or high <= 0:
                continue
            groups = row_order.groups_with(blocks, self.batches.row_groups)
            table = self._table(groups)
            if self.batches.shuffle:
                order = self._generator(1 + number).permutation(rows)[low:high]
                table = _shuffled(table, row_order.places(blocks, groups)[order])
            else:
                table = table.slice(low, high - low)
            if spill is not None:
                table = _joined(spill, table)
            whole = table.num_rows - table.num_rows % self.batch_size
            spill = table.slice(whole)
            if whole:
                yield table.slice(0, whole)
        if spill is not None and spill.num_rows:
            yield spill

    def _table(self, chunk: list[RowGroup]) -> pa.Table | DeviceTable:
        if self.on_device:
            return device_table.read(_by_file(chunk), self.schema)
        return _read(chunk, self.schema)

    def _chunks(self) -> list[list[range]]:
        batches = self.batches
        if not batches.shuffle:
            return row_order.chunks_in_order(batches.row_groups, batches.chunk_rows)
        return row_order.permuted_chunks(batches.rows, batches.chunk_rows, self._generator(0))

    def _generator(self, stream: int) -> np.random.Generator:
        # Stream 0 orders the blocks, stream 1 + n the rows of chunk n: each can be had alone.
        return np.random.default_rng((self.batches.seed, self.epoch, stream))


class _ArrowLoader(torch_loader().Loader):
    """merlin-dataloader's Loader, given Arrow tables where it expects data frames."""

    def __init__(self, order: _Order) -> None:
        self._queue: _ReadAhead | None = None
        self._order = order
        super().__init__(order, batch_size=order.batch_size, shuffle=False)

    @property
    def _buff(self) -> "_ReadAhead":
        if self._queue is None:
            self._queue = _ReadAhead(self, qsize=1, put_wait=PUT_WAIT_SECONDS)
        return self._queue

    def make_tensors(
        self, gdf: pa.Table | DeviceTable, use_row_lengths: bool = False
    ) -> Iterator[Batch]:
        """A table of whole batches → this rank's slice of each, as views of one tensor a column."""
        rank, world_size = self._order.batches.rank, self._order.batches.world_size
        cuts = [
            first + min(self.batch_size, gdf.num_rows - first) * r // world_size
            for first in range(0, gdf.num_rows, self.batch_size)
            for r in range(world_size)
        ]
        cuts.append(gdf.num_rows)
        # All slices of a column in one call: one by one, they take as long as small steps.
        slices: dict[str, Sequence[torch.Tensor]] = {}
        for name in gdf.column_names:
            column = _tensors(gdf.column(name))
            if not self._order.on_device:
                column = _moved(column, self._order.batches.device)
            if isinstance(column, tuple):
                values, offsets = column
                ends = offsets[cuts]
                slices[f"{name}__values"] = values[ends[0] : ends[-1]].split(ends.diff().tolist())
                slices[f"{name}__offsets"] = [
                    offsets[low : high + 1] - offsets[low] for low, high in pairwise(cuts)
                ]
            else:
                column = column.float() if name in self.label_names else column
                slices[name] = column.split([high - low for low, high in pairwise(cuts)])
        own = zip(*(pieces[rank::world_size] for pieces in slices.values()), strict=True)
        return (self._batch(dict(zip(slices, pieces, strict=True))) for pieces in own)

    def _batch(self, inputs: Inputs) -> Batch:
        targets = {name: inputs.pop(name) for name in self.label_names}
        if len(targets) > 1:
            return inputs, targets
        return inputs, next(iter(targets.values()), None)

    def convert_batch(self, batch: Batch) -> Batch:
        """The batches are tensors already."""
        return batch


class _ReadAhead(read_ahead_queue()):
    """The background thread's work: read and shuffle the next chunk while one is in use."""

    def chunk_logic(self, itr: Iterator[pa.Table]) -> None:
        for table in itr:
            if self.put(self.dataloader.make_tensors(table)):
                return
        # The stock queue has no end mark: a consumer that is quicker than this thread's last
        # lines waits for ever. The Loader raises what it finds in the queue.
        self.put(StopIteration())


def _select(schema: Schema, columns: Sequence[str] | None, folder: Path) -> Schema:
    targets = schema.select_by_tag(Tags.TARGET).column_names
    names = schema.column_names if columns is None else [*columns, *targets]
    unknown = [name for name in names if name not in schema.column_names]
    if unknown:
        raise UserError(f"{folder}: the schema has no column {', '.join(unknown)}")
    return schema.select_by_name(list(dict.fromkeys(names)))


def _footer(file: Path) -> pq.FileMetaData:
    return read_footer(file)


def _footer_bytes(file: Path) -> bytes:
    """A Parquet file ends with its footer, the footer's length (4 bytes) and a mark (4 bytes)."""
    with open(file, "rb") as stream:
        stream.seek(-8, 2)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, 2)
        return stream.read(length)


def _check_types(file: Path, footer: pq.FileMetaData, schema: Schema) -> None:
    arrow = footer.schema.to_arrow_schema()
    for name in schema.column_names:
        kind = arrow.field(name).type
        value = kind.value_type if pa.types.is_list(kind) else kind
        number = pa.types.is_integer(value) or pa.types.is_floating(value) or value == pa.bool_()
        if not number and not pa.types.is_timestamp(kind):
            raise UserError(
                f"{file}: column {name} is {kind}, expected numbers or lists of numbers; "
                "leave it out of the columns to read"
            )


def _check_domains(file: Path, footer: pq.FileMetaData, schema: Schema) -> None:
    """Ids beyond a column's domain would be read outside the embedding table."""
    last_id = {column.name: column.int_domain.max for column in schema if column.int_domain}
    names = footer.schema.to_arrow_schema().names
    for index in range(footer.num_row_groups):
        group = footer.row_group(index)
        for number in range(group.num_columns):
            column = group.column(number)
            name = names[number]  # a column of numbers, or of lists of them, is one of the file's
            last = last_id.get(name)
            found = column.statistics
            if last is None or found is None or not found.has_min_max:
                continue
            if found.min < 0 or found.max > last:
                raise UserError(
                    f"{file}: column {name} holds ids from {found.min} to {found.max}, "
                    f"its schema allows 0 to {last:.0f}; run preprocess again"
                )


def _by_file(groups: Sequence[RowGroup]) -> dict[Path, list[int]]:
    by_file: dict[Path, list[int]] = {}
    for group in groups:
        by_file.setdefault(group.file, []).append(group.index)
    return by_file


def _read(groups: Sequence[RowGroup], schema: Schema) -> pa.Table:
    """Row groups as one table, columns in the schema's order."""
    tables = []
    for file, indices in _by_file(groups).items():
        with reading(file):
            table = read_row_groups(file, indices, schema.column_names, memory_map=True)
            table = table.select(schema.column_names)
        for name in table.column_names:
            if table.column(name).null_count:
                raise UserError(f"{file}: column {name} holds nulls; features have none")
        tables.append(_times_as_numbers(table.replace_schema_metadata()))
    return pa.concat_tables(tables, promote_options="permissive")


def _times_as_numbers(table: pa.Table) -> pa.Table:
    """Timestamps as milliseconds since 1970 UTC."""
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            times = table.column(place).cast(pa.timestamp("ms", field.type.tz), safe=False)
            table = table.set_column(place, field.name, times.cast(pa.int64()))
    return table


def _joined(first: pa.Table | DeviceTable, second: pa.Table | DeviceTable) -> Any:
    """The rows of both tables."""
    if isinstance(first, DeviceTable):
        return first.followed_by(second)
    return pa.concat_tables([first, second]).combine_chunks()


def _shuffled(table: pa.Table | DeviceTable, order: np.ndarray) -> pa.Table | DeviceTable:
    """``table``'s rows ``order``, each at most once."""
    if isinstance(table, DeviceTable):
        return table.taken(order)
    place = np.full(table.num_rows, -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    columns = []
    for column in table.columns:
        if pa.types.is_nested(column.type):
            columns.append(pc.take(_contiguous(column), pa.array(order)))
            continue
        # From the pieces as they were read: to join them first would take as long as this.
        first = 0
        pieces = [chunk.to_numpy(zero_copy_only=False) for chunk in column.chunks]
        shuffled = np.empty(len(order), pieces[0].dtype)
        for piece in pieces:
            _put(piece, place[first : first + len(piece)], shuffled)
            first += len(piece)
        columns.append(pa.array(shuffled))
    return pa.table(columns, names=table.column_names)


@compiled
def _put(values, place, out):
    """``out[place[i]] = values[i]`` where a place is 0 or more."""
    for i in range(len(values)):
        if place[i] >= 0:
            out[place[i]] = values[i]


def _contiguous(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _moved(column: device_table.Column, device: torch.device) -> device_table.Column:
    """A column's tensors on ``device``; the copy goes on while later work is prepared."""
    if device.type == "cpu":
        return column
    if isinstance(column, tuple):
        values, offsets = column
        # Batches are cut at numbers that stand in the offsets: they stay within the host's reach.
        return _moved(values, device), offsets
    with torch.cuda.device(device):  # pinned for this GPU, in this thread too
        return column.pin_memory().to(device, non_blocking=True)


def _tensors(column: pa.ChunkedArray | device_table.Column) -> device_table.Column:
    """A column → its tensor ``(rows,)``, or ``(values, offsets)`` for a list column."""
    if isinstance(column, torch.Tensor | tuple):
        return column  # of a GPU's table
    array = _contiguous(column)
    if not pa.types.is_nested(array.type):
        return _tensor(array)
    offsets = torch.from_numpy(array.offsets.to_numpy().astype(np.int64))
    values = array.values
    if values.null_count:
        raise UserError("a list column holds nulls inside its lists; features have none")
    return _tensor(values), offsets


def _tensor(array: pa.Array) -> torch.Tensor:
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind in "fb":
        dtype = np.float32
    elif values.dtype.kind in "iu" and values.dtype.name not in ("int64", "uint64", "uint32"):
        dtype = np.int32
    else:
        dtype = np.int64
    # Always a copy: Arrow's memory is read-only, which torch has no notion of.
    return torch.from_numpy(values.astype(dtype))
