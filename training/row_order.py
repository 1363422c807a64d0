"""The order of the rows of an epoch, and which row groups of which files hold them.

Rows are numbered over all files of a split. The order comes from these numbers alone, so that it is
the same however the rows are cut into files and row groups.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

BLOCKS_A_CHUNK = 5
"""Blocks of consecutive rows that are read and shuffled together. With five, rows in the order of
time are mixed as well as by a permutation of row groups of 65,536 rows in parts of 250,000. A block
whose ends are inside of row groups decodes one row group more than it has rows for, so they are not
smaller."""


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file: the smallest piece that is read. It holds rows ``first`` to
    ``end`` of the split."""

    file: Path
    index: int
    first: int
    end: int

    @property
    def rows(self) -> int:
        return self.end - self.first


def row_groups(footers: Mapping[Path, pq.FileMetaData]) -> list[RowGroup]:
    """The row groups of a split's files, without those that are empty."""
    groups, first = [], 0
    for file, footer in footers.items():
        for index in range(footer.num_row_groups):
            end = first + footer.row_group(index).num_rows
            if end > first:
                groups.append(RowGroup(file, index, first, end))
            first = end
    return groups


def permuted_chunks(rows: int, chunk_rows: int, random: np.random.Generator) -> list[list[range]]:
    """Chunks of ``chunk_rows`` rows, each of blocks from all over the split in rising order."""
    size = max(1, chunk_rows // BLOCKS_A_CHUNK)
    blocks = [range(first, min(first + size, rows)) for first in range(0, rows, size)]
    order = random.permutation(len(blocks))
    return [
        [blocks[number] for number in sorted(order[first : first + BLOCKS_A_CHUNK])]
        for first in range(0, len(blocks), BLOCKS_A_CHUNK)
    ]


def chunks_in_order(groups: Sequence[RowGroup], chunk_rows: int) -> list[list[range]]:
    """All rows as they come, in chunks of whole row groups: none of these is read twice."""
    chunks: list[list[range]] = []
    for group in groups:
        if chunks and len(chunks[-1][0]) < chunk_rows:
            chunks[-1] = [range(chunks[-1][0].start, group.end)]
        else:
            chunks.append([range(group.first, group.end)])
    return chunks


def groups_with(blocks: Sequence[range], groups: Sequence[RowGroup]) -> list[RowGroup]:
    """The row groups that hold any of the blocks' rows, in rising order as the blocks are."""
    ends = [group.end for group in groups]
    chosen: dict[int, RowGroup] = {}
    for block in blocks:
        number = bisect_right(ends, block.start)
        while number < len(groups) and groups[number].first < block.stop:
            chosen[number] = groups[number]
            number += 1
    return list(chosen.values())


def places(blocks: Sequence[range], groups: Sequence[RowGroup]) -> np.ndarray:
    """Where the blocks' rows come in a table of the row groups ``groups_with`` gives."""
    pieces, before = [], 0
    for group in groups:
        for block in blocks:
            first, end = max(block.start, group.first), min(block.stop, group.end)
            pieces.append(np.arange(first, end) + (before - group.first))
        before += group.rows
    return np.concatenate(pieces)
