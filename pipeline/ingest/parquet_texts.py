"""Texts in Parquet that are not UTF-8: their rows are set aside, as lines of text files are."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.ingest.arrays import is_text
from pipeline.ingest.columns import row_text
from pipeline.ingest.quarantine import BadLine, safe_text
from pipeline.ingest.rows import Rows

FAULTS = (pa.ArrowException, UnicodeDecodeError, OSError)
"""What pyarrow raises where a file is damaged or cut off."""


def rows_of(batch: pa.RecordBatch, first_row: int, bytes_read: int) -> Rows:
    """The rows of a batch whose texts are UTF-8; ``first_row`` counts from 1."""
    broken = _broken(batch)
    lines = first_row + np.arange(batch.num_rows)
    bad: list[BadLine] = []
    if broken:
        wrong = np.logical_or.reduce(list(broken.values()))
        for row in np.flatnonzero(wrong).tolist():
            name = next(name for name, rows in broken.items() if rows[row])
            text = any_row_text(batch, row)
            bad.append(BadLine(int(lines[row]), "encoding", f"{name}: not UTF-8", text))
        batch, lines = batch.filter(pa.array(~wrong)), lines[~wrong]
    arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
    return Rows(arrays, lines, _text(batch), bad, bytes_read)


def any_row_text(rows: pa.RecordBatch, row: int) -> bytes:
    """One row as JSON, for the quarantine, though some texts are not UTF-8."""
    try:
        return row_text(rows, row)
    except UnicodeDecodeError:
        one = rows.slice(row, 1)
        columns = [array.cast(pa.binary()) if is_text(array) else array for array in one.columns]
        values = zip(one.schema.names, columns, strict=True)
        known = {name: _known(array) for name, array in values}
        return json.dumps(known, default=str).encode()


def _known(array: pa.Array) -> Any:
    """The only value of ``array``, as far as it can be read."""
    try:
        value = array[0].as_py()
    except UnicodeDecodeError:
        return None
    return safe_text(value) if isinstance(value, bytes) else value


def _text(batch: pa.RecordBatch) -> Callable[[int], bytes]:
    return lambda row: row_text(batch, row)


def _broken(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """The columns with texts that are not UTF-8, each with a mask of their rows."""
    broken = {}
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        wrong = np.zeros(len(array), bool)
        _mark(array, 0, wrong)
        if wrong.any():
            broken[name] = wrong
    return broken


def _mark(array: pa.Array, first: int, wrong: np.ndarray) -> None:
    """Marks the rows that pyarrow calls invalid, sought by halving."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        if len(array) == 1:
            wrong[first] = True
            return
        half = len(array) // 2
        _mark(array.slice(0, half), first, wrong)
        _mark(array.slice(half), first + half, wrong)
