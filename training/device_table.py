"""Rows of feature Parquet on a GPU: read, shuffled and cut there, handed to torch without a copy.

What :mod:`training.batches` does with Arrow tables, where cuDF is installed: a column that cuDF
read becomes a tensor of the same memory by DLPack. The rows and their order are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core import frames, gpu
from core.errors import UserError
from core.merlin import Schema

Column = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""``(rows,)``; of a list column its values and offsets, ``(values,)`` and ``(rows + 1,)``."""


def fits(device: torch.device, world_size: int) -> bool:
    """Whether batches for ``device`` can be read there: cuDF is installed, and no other process
    has a GPU of its own (cuDF would take the first one for each)."""
    return device.type == "cuda" and world_size == 1 and gpu.takes_frames()


@dataclass(frozen=True)
class DeviceTable:
    """Columns of tensors by name."""

    columns: dict[str, Column]

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    @property
    def num_rows(self) -> int:
        first = next(iter(self.columns.values()))
        return len(first[1]) - 1 if isinstance(first, tuple) else len(first)

    def column(self, name: str) -> Column:
        return self.columns[name]

    def slice(self, start: int, rows: int | None = None) -> "DeviceTable":
        """``rows`` rows from ``start``, or all that follow; the same memory."""
        end = self.num_rows if rows is None else start + rows
        return self._each(lambda column: _slice(column, start, end))

    def taken(self, order: np.ndarray) -> "DeviceTable":
        """The rows ``order``, in that order."""
        first = next(iter(self.columns.values()))
        device = (first[0] if isinstance(first, tuple) else first).device
        rows = torch.from_numpy(order).to(device)
        return self._each(lambda column: _take(column, rows))

    def followed_by(self, later: "DeviceTable") -> "DeviceTable":
        """The rows of both."""
        pairs = zip(self.columns, self.columns.values(), later.columns.values(), strict=True)
        return DeviceTable({name: _join(mine, theirs) for name, mine, theirs in pairs})

    def _each(self, change: Any) -> "DeviceTable":
        return DeviceTable({name: change(column) for name, column in self.columns.items()})


def read(by_file: dict[Path, list[int]], schema: Schema) -> DeviceTable:
    """The row groups of each file, columns in the schema's order.

    Raises:
        UserError: a column holds nulls.
    """
    frames.use_the_drivers_pool()
    tables = []
    for file, groups in by_file.items():
        frame = frames.read_parquet(file, schema.column_names, groups)
        columns = {}
        for name in schema.column_names:
            if frame[name].null_count:
                raise UserError(f"{file}: column {name} holds nulls; features have none")
            columns[name] = _column(frame[name])
        tables.append(DeviceTable(columns))
    whole = tables[0]
    for table in tables[1:]:
        whole = whole.followed_by(table)
    return whole


def _column(series: Any) -> Column:
    """A GPU's column as tensors, of the types that :class:`training.batches.Batches` gives."""
    kind = series.dtype
    if getattr(kind, "kind", "O") == "M":
        return _tensor(frames.milliseconds(series))
    if getattr(kind, "kind", "O") in "iufb":
        return _tensor(series.values)
    lengths = _tensor(frames.lengths(series))
    return _tensor(frames.leaves(series)), _offsets(lengths)


def _tensor(values: frames.Array) -> torch.Tensor:
    tensor = torch.from_dlpack(values)
    if tensor.dtype.is_floating_point or tensor.dtype == torch.bool:
        return tensor.float()
    wide = tensor.dtype in (torch.int64, torch.uint64, torch.uint32)
    return tensor.to(torch.int64 if wide else torch.int32)


def _offsets(lengths: torch.Tensor) -> torch.Tensor:
    offsets = lengths.new_zeros(len(lengths) + 1)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def _slice(column: Column, start: int, end: int) -> Column:
    if not isinstance(column, tuple):
        return column[start:end]
    values, offsets = column
    # The offsets stay those of the whole; whoever reads them starts at the first one.
    return values, offsets[start : end + 1]


def _take(column: Column, rows: torch.Tensor) -> Column:
    if not isinstance(column, tuple):
        return column[rows]
    values, offsets = column
    starts, lengths = offsets[rows], offsets.diff()[rows]
    taken = _offsets(lengths)
    # Where each value stands: the start of its list, and its place within the list.
    within = torch.arange(int(taken[-1]), device=values.device)
    within += (starts - taken[:-1]).repeat_interleave(lengths)
    return values[within], taken


def _join(first: Column, second: Column) -> Column:
    if not isinstance(first, tuple):
        return torch.cat([first, second])
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]] = [
        (values[offsets[0] : offsets[-1]], offsets - offsets[0])
        for values, offsets in (first, second)
    ]
    (mine, starts), (theirs, more) = parts
    return torch.cat([mine, theirs]), torch.cat([starts, more[1:] + starts[-1]])
