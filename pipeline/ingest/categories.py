"""Columns with several categories a row: lists, or texts with a mark between the parts."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.arrays import is_text, plain
from pipeline.ingest.lists import is_list


def as_lists(array: pa.Array, separator: str) -> pa.Array:
    """One list a row: lists as they are, the parts of a text without the blanks around them, a
    single number as a list of one; null where there is none.

    Args:
        array: of a plain type (:mod:`pipeline.ingest.arrays`).
        separator: between the parts of a text.
    """
    if is_list(array):
        return array
    if is_text(array):
        return split_texts(array, separator)
    offsets = np.arange(len(array) + 1, dtype=np.int32)
    mask = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), array, mask=mask)


def split_texts(texts: pa.Array, separator: str) -> pa.Array:
    """The parts of each text without the blanks around them; an empty part is null."""
    parts = pc.split_pattern(texts, separator)
    if len(parts) == 0 or parts.offset:
        parts = pa.concat_arrays([parts, pa.array([], parts.type)])
    values = pc.utf8_trim_whitespace(parts.values)
    empty = pc.fill_null(pc.equal(values, ""), False)
    values = pc.if_else(empty, pa.scalar(None, values.type), values)
    mask = parts.is_null() if parts.null_count else None
    return pa.ListArray.from_arrays(parts.offsets, values, mask=mask)


def elements(
    array: pa.Array, separator: str, null_values: list[str]
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """The values of all rows, one after the other.

    Returns:
        The values, of a plain type, missing ones as nulls; the row of each, ``(values,)``; and a
        mask of those that are bytes without a text.
    """
    lists = as_lists(array, separator)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    values, no_text = plain(pc.list_flatten(lists))
    if is_text(values):
        missing = pc.is_in(values, pa.array(null_values, values.type))
        if pc.any(missing).as_py():
            values = pc.if_else(missing, pa.scalar(None, values.type), values)
    return values, np.arange(len(lists)).repeat(lengths), no_text


def listed(values: pa.Array, owners: np.ndarray, kept: np.ndarray, rows: int) -> pa.Array:
    """The ``kept`` values as lists by their rows; null where a row has none."""
    counts = np.bincount(owners[kept], minlength=rows)
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    mask = pa.array(counts == 0) if not counts.all() else None
    return pa.ListArray.from_arrays(pa.array(offsets), values.filter(pa.array(kept)), mask=mask)
