"""JSON lines → rows, read by pyarrow in blocks; only what it refuses is looked at line by line."""

import io
import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson

from pipeline.ingest.blocks import Block
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.rows import Rows

VECTOR = pa.list_(pa.float32())
LINES_LOOKED_AT = 1000
LINES_BY_ONE = 16


def guess_schema(block: Block, wanted: Iterable[str], vectors: set[str]) -> pa.Schema:
    """Types of the wanted keys, told from the first lines: integer, number or string."""
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    for line in islice(block.data.splitlines(), LINES_LOOKED_AT):
        record, _ = _record(line)
        for name in values if record else ():
            if record.get(name) is not None:
                values[name].append(record[name])
    return pa.schema(
        [(name, VECTOR if name in vectors else _type(found)) for name, found in values.items()]
    )


def keys(block: Block) -> list[str]:
    """The keys in a block's first lines, in order of appearance."""
    found: dict[str, None] = {}
    for line in islice(block.data.splitlines(), LINES_LOOKED_AT):
        found.update(dict.fromkeys(_record(line)[0] or {}))
    return list(found)


def _type(values: list[Any]) -> pa.DataType:
    if values and all(type(value) is int for value in values):
        return pa.int64()
    if values and all(type(value) in (int, float) for value in values):
        return pa.float64()
    return pa.string()


def read_rows(block: Block, schema: pa.Schema, max_line_bytes: int) -> Rows:
    """A block → the wanted keys of its good lines; a missing key is null."""
    lines = block.data.split(b"\n")[: block.lines]
    parts: list[pa.Table] = []
    good: list[int] = []
    bad: list[BadLine] = []
    _read(lines, 0, schema, max_line_bytes, parts, good, bad, block.first_line)
    arrays = {name: _joined([part.column(name) for part in parts]) for name in schema.names}
    return Rows(
        arrays,
        block.first_line + np.array(good, np.int64),
        lambda row: lines[good[row]],
        [*block.bad, *bad],
        block.bytes_read,
    )


def _read(
    lines: list[bytes],
    first: int,
    schema: pa.Schema,
    max_line_bytes: int,
    parts: list[pa.Table],
    good: list[int],
    bad: list[BadLine],
    first_line: int,
) -> None:
    """Reads lines at once, or where pyarrow refuses, by halves, down to single lines."""
    table = _read_whole(lines, schema, max_line_bytes)
    if table is not None:
        parts.append(table)
        good.extend(range(first, first + len(lines)))
    elif len(lines) > LINES_BY_ONE:
        half = len(lines) // 2
        rest = (schema, max_line_bytes, parts, good, bad, first_line)
        _read(lines[:half], first, *rest)
        _read(lines[half:], first + half, *rest)
    else:
        rows: list[dict[str, Any]] = []
        for index, line in enumerate(lines, first):
            record, reason = _record(line, max_line_bytes)
            if record is None:
                bad.append(BadLine(first_line + index, *reason, line))
            else:
                rows.append(record)
                good.append(index)
        parts.append(_as_text(rows, schema))


def _read_whole(lines: list[bytes], schema: pa.Schema, max_line_bytes: int) -> pa.Table | None:
    if any(not line or line.isspace() or len(line) > max_line_bytes for line in lines):
        return None
    text = b"\n".join(lines)
    if b"\0" in text:
        return None
    try:
        if not text.isascii():
            text.decode()
        table = pajson.read_json(
            io.BytesIO(text),
            pajson.ReadOptions(use_threads=False, block_size=len(text) + 1),
            pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    if table.num_rows != len(lines):
        return None
    missing = [name for name in schema.names if name not in table.column_names]
    for name in missing:
        table = table.append_column(name, pa.nulls(len(lines), schema.field(name).type))
    return table.select(schema.names)


def _record(
    line: bytes, max_line_bytes: int | None = None
) -> tuple[dict[str, Any] | None, tuple[str, str]]:
    """One line → its object, or None and what is wrong with it."""
    if max_line_bytes is not None and len(line) > max_line_bytes:
        return None, ("line too long", f"line longer than {max_line_bytes:,} bytes")
    if not line.strip():
        return None, ("blank line", "blank line")
    if b"\0" in line:
        return None, ("NUL byte", "the line holds a NUL byte")
    try:
        record = json.loads(line)
    except UnicodeDecodeError:
        return None, ("encoding", "the line is not UTF-8")
    except (ValueError, RecursionError) as error:
        return None, ("JSON", f"not valid JSON ({error})")
    if not isinstance(record, dict):
        return None, ("JSON", "not a JSON object")
    return record, ("", "")


def _as_text(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Parsed objects → string columns, for values whose type differs from the log's usual one."""
    return pa.table(
        {
            name: pa.array([_text(row.get(name)) for row in rows], pa.string())
            for name in schema.names
        }
    )


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        # A lone surrogate, which JSON can spell, has no UTF-8.
        return value and value.encode("utf-8", "backslashreplace").decode()
    return json.dumps(value)


def _joined(columns: list[pa.ChunkedArray]) -> pa.Array:
    """Parts of a column as one array; as text if their types differ."""
    chunks = [chunk for column in columns for chunk in column.chunks]
    types = {chunk.type for chunk in chunks if len(chunk)}
    if len(types) > 1:
        chunks = [_to_text(chunk) for chunk in chunks]
    chunks = [chunk for chunk in chunks if len(chunk)] or chunks[:1]
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())


def _to_text(chunk: pa.Array) -> pa.Array:
    if pa.types.is_list(chunk.type):
        texts = [None if value is None else json.dumps(value) for value in chunk.to_pylist()]
        return pa.array(texts, pa.string())
    return chunk.cast(pa.string())
