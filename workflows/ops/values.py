"""The values of a column as Arrow's, and how often each stands in a column of a GPU."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from core import frames
from core.errors import UserError
from workflows.ops.hash_index import hashes

LARGEST_OF_FLOATS = 1 << 53
"""Beyond this a float is not the integer that was written."""


def as_values(column: Any, truncate: bool = False) -> pa.Array:
    """A column as Arrow int64 or strings in the host's memory, nulls as nulls (NaN too).

    Args:
        truncate: whether floats lose what is behind the point.

    Raises:
        UserError: floats that are not exactly integers: several values would become one.
    """
    if not frames.on_host(column):
        values = column.to_arrow()
    elif isinstance(column.dtype, pd.ArrowDtype):
        values = pa.array(column.array)
    elif isinstance(column.dtype, np.dtype) and column.dtype != object:
        values = pa.array(column.to_numpy(), from_pandas=True)
    else:
        values = pa.array(column, from_pandas=True)
    return _plain(one_array(values), getattr(column, "name", None), truncate)


def list_parts(column: Any) -> tuple[pa.Array, np.ndarray] | None:
    """The values of all lists of a column in the host's memory as :func:`as_values` gives them, one
    list after the other, and the length of each list, 0 where there is none, int64 ``(rows,)``.
    None: a column without lists."""
    kind = column.dtype
    if not isinstance(kind, pd.ArrowDtype) or not _is_list(kind.pyarrow_dtype):
        return None
    lists = one_array(pa.array(column.array))
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
    return _plain(pc.list_flatten(lists), column.name), lengths


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _plain(values: pa.Array, name: Any, truncate: bool = False) -> pa.Array:
    """Values as int64 or strings."""
    if pa.types.is_integer(values.type):
        return values.cast(pa.int64(), safe=False)
    if pa.types.is_floating(values.type):
        if truncate:
            return values.cast(pa.int64(), safe=False)
        return _whole_numbers(values, name)
    if pa.types.is_boolean(values.type):
        return values.cast(pa.int64())
    return values.cast(pa.string())


def _whole_numbers(values: pa.Array, name: Any) -> pa.Array:
    """Floats as int64: levels of counts, and integers with NaN, which pandas holds as floats."""
    try:
        whole = values.cast(pa.int64())
        furthest = pc.max(pc.abs(values)).as_py() or 0
    except pa.ArrowInvalid:
        furthest = None
    if furthest is None or furthest > LARGEST_OF_FLOATS:
        raise UserError(
            f"column {name}: category values are integers or texts; floats that are no integers, "
            "or above 2^53, cannot be distinguished. Give integers of 64 bits (with gaps: Arrow's, "
            "or pandas' Int64) or texts"
        )
    return whole


def cast_to(values: pa.Array, kind: pa.DataType, name: str = "") -> pa.Array:
    """Values as those that a state knows.

    Args:
        name: of their column, for messages.

    Raises:
        UserError: they are of a type that does not go over into the other.
    """
    try:
        return values.cast(kind, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"column {name}: the workflow was fitted on values of type {kind}, the log has "
            f"{values.type} ({' '.join(str(error).split())[:100]})"
        ) from None


def one_array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column of a table in one piece."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def counted_on_device(column: Any) -> tuple[pa.Array, np.ndarray]:
    """Distinct values of a GPU's column and how often each stands there, missing ones left out;
    they are counted on the GPU, and come to the host. Integers stand in the order of their hashes.
    """
    found = frames.integers(column)
    if found is None:
        positions, distinct = frames.distinct(column)
        return distinct, frames.counted(positions[positions >= 0], len(distinct))
    numbers, missing = found
    values, counts = frames.module_of(numbers).unique(numbers[~missing], return_counts=True)
    order = hashes(values).argsort()
    return pa.array(frames.on_the_host(values[order])), frames.on_the_host(counts[order])
