"""Known values → their positions, for operators that keep something for every value."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from workflows.ops.categorify import as_values
from workflows.ops.hash_index import HashIndex

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


def one_array(chunked: pa.ChunkedArray) -> pa.Array:
    """A column of a table in one piece."""
    return pa.concat_arrays(chunked.chunks) if chunked.num_chunks else pa.array([], chunked.type)


class ValueLookup:
    """Where each value of a column stands in ``values``.

    Args:
        values: distinct, int64 or strings; one of them may be null.
    """

    def __init__(self, values: pa.Array):
        self._values = values
        null = values.is_null().to_numpy(zero_copy_only=False)
        self._null = int(null.argmax()) if null.any() else ABSENT
        self._index = None
        if pa.types.is_integer(values.type):
            known = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
            self._known = np.append(known, ABSENT)  # what is absent, -1, stays so
            self._index = HashIndex(values.drop_null().to_numpy())

    def positions(self, column: pd.Series) -> np.ndarray:
        """Positions ``(rows,)``, -1 where a value is not known."""
        wanted = as_values(column)
        missing = wanted.is_null().to_numpy(zero_copy_only=False)
        if self._index is not None and pa.types.is_integer(wanted.type):
            positions = self._known[self._index.positions(wanted.fill_null(0).to_numpy())]
        else:
            found = pc.index_in(wanted.cast(self._values.type, safe=False), value_set=self._values)
            positions = pc.fill_null(found, ABSENT).to_numpy(zero_copy_only=False).copy()
        positions[missing] = self._null
        return positions
