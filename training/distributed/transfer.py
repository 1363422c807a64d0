"""Shards → the whole table that a checkpoint holds, and back, a few megabytes at a time.

The first process alone reads and writes files; whole tables are in no process's memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from core.tensors import CHUNK_BYTES, Pieces, TensorFile
from training.distributed import ranks


class Part(NamedTuple):
    """A rectangle of a whole tensor, and who has it."""

    owner: int
    row: int
    column: int
    rows: int
    columns: int
    values: torch.Tensor | None
    """``(rows, columns)``, or ``(rows,)`` of a tensor with a value a row; None elsewhere."""


@dataclass(frozen=True)
class Whole:
    """A float32 tensor that lies in parts over the processes; every process has the same list.

    Attributes:
        name: the same in every process, and of no other tensor.
        shape: ``(rows, dim)`` or ``(rows,)``.
    """

    name: str
    shape: tuple[int, ...]
    parts: list[Part]

    def pieces(self) -> Pieces:
        """The whole tensor for ``write_tensors``, within :func:`ranks.on_first`."""
        return Pieces(torch.float32, self.shape, self._collect)

    def send(self) -> None:
        """What the other processes do while the first one collects."""
        for low, high in self._chunks():
            for part, rows in self._within(low, high):
                if part.owner == ranks.rank():
                    values = part.values[rows].detach().cpu().contiguous()
                    dist.send(values, 0, group=ranks.control())

    def _collect(self) -> Iterator[torch.Tensor]:
        ranks.ask(self.name)
        for low, high in self._chunks():
            chunk = torch.empty(high - low, *self.shape[1:])
            for part, rows in self._within(low, high):
                place = self._place(chunk, part, rows, low)
                if part.owner == 0:
                    place.copy_(part.values[rows])
                    continue
                received = torch.empty(place.shape)
                dist.recv(received, part.owner, group=ranks.control())
                place.copy_(received)
            yield chunk

    @torch.no_grad()
    def fill(self, file: TensorFile | None, name: str) -> None:
        """Hands every process its part of the tensor ``name``; the first one has the file."""
        for low, high in self._chunks():
            chunk = file.rows(name, low, high) if file is not None else None
            for part, rows in self._within(low, high):
                if ranks.is_first():
                    values = self._place(chunk, part, rows, low)
                    if part.owner == 0:
                        part.values[rows].copy_(values)
                    else:
                        dist.send(values.contiguous(), part.owner, group=ranks.control())
                elif part.owner == ranks.rank():
                    received = torch.empty(part.values[rows].shape)
                    dist.recv(received, 0, group=ranks.control())
                    part.values[rows].copy_(received)

    def _chunks(self) -> Iterator[tuple[int, int]]:
        row_bytes = 4 * torch.Size(self.shape[1:]).numel()
        step = max(1, CHUNK_BYTES // row_bytes)
        for low in range(0, self.shape[0], step):
            yield low, min(low + step, self.shape[0])

    def _within(self, low: int, high: int) -> Iterator[tuple[Part, slice]]:
        """The parts that have some of the rows from ``low`` to ``high``, and which of theirs."""
        for part in self.parts:
            first, last = max(low, part.row), min(high, part.row + part.rows)
            if first < last:
                yield part, slice(first - part.row, last - part.row)

    def _place(self, chunk: torch.Tensor, part: Part, rows: slice, low: int) -> torch.Tensor:
        own = chunk[part.row + rows.start - low : part.row + rows.stop - low]
        return own if len(self.shape) == 1 else own[:, part.column : part.column + part.columns]
