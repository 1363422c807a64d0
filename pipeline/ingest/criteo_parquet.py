"""Criteo logs that already lie in Parquet, with the 40 columns label, I1–I13, C1–C26."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import UserError
from pipeline.ingest.arrays import cast_good
from pipeline.ingest.criteo import CATEGORY_NAMES, INTEGER_NAMES, SCHEMA
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.parquet_texts import FAULTS, any_row_text
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.shards import Parsed

ROWS = 1 << 17
NAMES = ["label", *INTEGER_NAMES, *CATEGORY_NAMES]


@dataclass(frozen=True)
class Batch:
    """Some rows of a Parquet file; ``first_row`` counts from 1."""

    rows: pa.RecordBatch
    first_row: int
    bytes_read: int


def parquet_pieces(file: InputFile) -> Iterator[Batch]:
    """The rows of a Criteo Parquet file, in order.

    Raises:
        UserError: not a whole Parquet file, or a column is missing.
    """
    try:
        with pq.ParquetFile(file.path) as parquet:
            found = parquet.schema_arrow.names
            missing = [name for name in NAMES if name not in found]
            if missing:
                raise UserError(
                    f"{file.path}: no column '{missing[0]}'; a Criteo log in Parquet has"
                    f" label, I1–I13, C1–C26, this one has: {', '.join(found[:50])}"
                )
            row, total = 1, max(1, parquet.metadata.num_rows)
            for batch in parquet.iter_batches(ROWS, columns=NAMES):
                yield Batch(batch, row, file.size * batch.num_rows // total)
                row += batch.num_rows
    except FAULTS as error:
        raise UserError(f"{file.path}: not a whole Parquet file ({error})") from None


def parse_batch(file: InputFile, batch: Batch) -> Parsed:
    """Rows of Criteo Parquet → the columns of ``SCHEMA``; rows with a wrong value are bad."""
    rows = batch.rows.num_rows
    reasons: dict[int, tuple[str, str]] = {}
    columns = []
    for name in NAMES:
        values, bad = _convert(name, batch.rows.column(name))
        kind, expected = _expected(name)
        for row in np.flatnonzero(bad).tolist():
            reasons.setdefault(row, (kind, f"{name}: expected {expected}"))
        columns.append(values)
    columns.append(pa.array(np.full(rows, file.index, np.int16)))
    bad_lines = [
        BadLine(batch.first_row + row, *reasons[row], any_row_text(batch.rows, row))
        for row in sorted(reasons)
    ]
    good = np.ones(rows, bool)
    good[list(reasons)] = False
    table = pa.Table.from_batches([pa.RecordBatch.from_arrays(columns, names=SCHEMA.names)])
    table = table.filter(pa.array(good)) if bad_lines else table
    return Parsed(table.cast(SCHEMA), bad_lines, batch.bytes_read)


def _expected(name: str) -> tuple[str, str]:
    if name == "label":
        return "label", "0 or 1"
    return ("integer", "a 32-bit integer") if name[0] == "I" else ("hex", "up to 8 hex digits")


def _convert(name: str, column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """One column → its typed values and a mask of bad rows."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if name == "label":
        values, bad = cast_good(column, pa.int8())
        wrong = pc.invert(pc.is_in(values, pa.array([0, 1], pa.int8())))
        return pc.if_else(wrong, pa.scalar(0, pa.int8()), values), bad | np.asarray(wrong)
    if name[0] == "I":
        return cast_good(column, pa.int32())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values, bad = cast_good(column, pa.int64())
        beyond = pc.fill_null(pc.or_(pc.less(values, 0), pc.greater(values, 0xFFFFFFFF)), False)
        return values, bad | np.asarray(beyond)
    return _hex(column)


def _hex(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    from pipeline.ingest.criteo_parser import parse_hex

    # A copy at offset 0: the buffers of a slice would begin elsewhere.
    text = pa.concat_arrays([pc.fill_null(column.cast(pa.large_string()), "")])
    _, offsets, data = text.buffers()
    values = np.empty(len(text), np.int64)
    good = np.empty(len(text), bool)
    start = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    parse_hex(start, np.frombuffer(data or b"", np.uint8), values, good)
    blank = np.diff(start) == 0
    return pa.array(values, mask=blank), ~good
