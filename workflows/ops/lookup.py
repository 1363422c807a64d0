"""Known values → their positions, for operators that keep something for every value."""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core import frames
from workflows.ops.hash_index import HashIndex
from workflows.ops.sorted_index import SortedIndex
from workflows.ops.values import as_values, cast_to

ABSENT = -1


def one_type(arrays: list[pa.Array]) -> pa.ChunkedArray:
    """Arrays of several partitions as one; one that is all null knows no type and takes theirs."""
    known = {array.type for array in arrays if array.null_count < len(array)}
    kind = known.pop() if known else arrays[0].type
    if known:
        raise ValueError(f"partitions disagree on the type of a column: {kind}, {known}")
    all_null = (pa.nulls(len(array), kind) for array in arrays)
    chunks = [
        array if array.type == kind else null for array, null in zip(arrays, all_null, strict=True)
    ]
    return pa.chunked_array(chunks, kind)


class ValueLookup:
    """Where each value of a column stands in ``values``.

    Args:
        values: distinct, int64 or strings; one of them may be null.
        name: of the column, for messages.
    """

    def __init__(self, values: pa.Array, name: str = ""):
        self._values, self._name = values, name
        null = values.is_null().to_numpy(zero_copy_only=False)
        self._null = int(null.argmax()) if null.any() else ABSENT
        self._integers = pa.types.is_integer(values.type)
        known = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        self._known = np.append(known, ABSENT)  # what is absent, -1, stays so
        self._on_device: tuple[SortedIndex, frames.Array] | None = None

    @cached_property
    def _index(self) -> HashIndex:
        return HashIndex(self._values.drop_null().to_numpy())

    def positions(self, column: Any) -> frames.Array:
        """Positions ``(rows,)``, -1 where a value is not known; they lie where ``column`` does."""
        if frames.on_host(column):
            return self.positions_of(as_values(column))
        found = frames.integers(column) if self._integers else None
        if found is None:
            rows, distinct = frames.distinct(column)
            # The entry past the end is what position -1, a missing value, finds.
            positions = np.append(self.positions_of(distinct), self._null)
            return frames.beside(column, positions)[rows]
        wanted, missing = found
        if self._on_device is None:
            values = frames.beside(column, self._values.drop_null().to_numpy())
            self._on_device = SortedIndex(values), frames.beside(column, self._known)
        index, known = self._on_device
        positions = known[index.positions(wanted)]
        positions[missing] = self._null
        return positions

    def positions_of(self, wanted: pa.Array) -> np.ndarray:
        """The same for int64 values or strings in the host's memory."""
        missing = wanted.is_null().to_numpy(zero_copy_only=False)
        if self._integers and pa.types.is_integer(wanted.type):
            positions = self._known[self._index.positions(wanted.fill_null(0).to_numpy())]
        else:
            found = pc.index_in(
                cast_to(wanted, self._values.type, self._name), value_set=self._values
            )
            positions = pc.fill_null(found, ABSENT).to_numpy(zero_copy_only=False).copy()
        positions[missing] = self._null
        return positions
