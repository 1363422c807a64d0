"""Criteo click logs (Kaggle's or the terabyte's) → typed raw shards.

Text is tab-separated without a header: label, I1–I13, C1–C26 (hex), blank = missing; or Parquet
with these 40 columns. Source of the format: Criteo's Display Advertising Challenge read-me.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import field_validator

from pipeline.ingest.blocks import Block, text_blocks
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.shards import Parsed
from pipeline.ingest.source import SourceSettings
from pipeline.ingest.text_source import TextSource

INTEGER_NAMES = [f"I{number}" for number in range(1, 14)]
CATEGORY_NAMES = [f"C{number}" for number in range(1, 27)]
SCHEMA = pa.schema(
    [pa.field("label", pa.int8(), nullable=False)]
    + [pa.field(name, pa.int32()) for name in INTEGER_NAMES]
    + [pa.field(name, pa.int64()) for name in CATEGORY_NAMES]
    + [pa.field("day", pa.int16(), nullable=False)]
)
SEPARATORS = {",": "a comma", ";": "a semicolon", "|": "a bar", " ": "a space", "\t": "a tab"}


OTHER_LAYOUT = ("expected 40 ", "this looks like a header row")
"""How the reasons begin that say of a log that it is not laid out as Criteo's."""


class CriteoSourceSettings(SourceSettings):
    """A Criteo log: text (plain or compressed) or Parquet; the index of a file is its ``day``."""

    separator: str = "\t"
    """The character between fields."""

    def remedy(self, reasons: Mapping[str, int], bad: int) -> str | None:
        laid_out = (count for reason, count in reasons.items() if reason.startswith(OTHER_LAYOUT))
        if 2 * sum(laid_out) < bad:
            return super().remedy(reasons, bad)
        return (
            "A log in Criteo's format has 40 columns and no header row; name the columns of "
            "another click log in ranking.source.columns."
        )

    @field_validator("separator")
    @classmethod
    def _one_character(cls, separator: str) -> str:
        return check_separator(separator)


def check_separator(separator: str) -> str:
    """``separator``, unless it may stand within a value."""
    if len(separator.encode()) != 1 or separator.isalnum() or separator in "-\r\n":
        raise ValueError("separator must be one ASCII character that no value contains")
    return separator


class CriteoReader:
    """Reads Criteo text; see :class:`pipeline.ingest.shards.FileReader`."""

    schema = SCHEMA

    def __init__(self, settings: CriteoSourceSettings, line: str | None = None) -> None:
        """``line``: name of a column to add, with the line of each row in its file, from 1."""
        self.settings, self.line = settings, line
        if line:
            self.schema = SCHEMA.append(pa.field(line, pa.int64()))

    def pieces(self, file: InputFile, faults: list[str]) -> Iterator[Any]:
        if is_parquet(file.path):
            from pipeline.ingest.criteo_parquet import parquet_pieces

            yield from parquet_pieces(file)
            return
        source = TextSource(file.path, encoding=None)
        try:
            yield from text_blocks(source, self.settings.block_bytes, self.settings.max_line_bytes)
            if source.fault:
                faults.append(source.fault)
        finally:
            source.close()

    def parse(self, file: InputFile, piece: Any) -> Parsed:
        if not isinstance(piece, Block):
            from pipeline.ingest.criteo_parquet import parse_batch

            parsed, first, rows = parse_batch(file, piece), piece.first_row, piece.rows.num_rows
        else:
            parsed = parse_block(piece, file.index, self.settings)
            first, rows = piece.first_line, piece.lines
        return self._with_lines(parsed, first, rows) if self.line else parsed

    def _with_lines(self, parsed: Parsed, first: int, rows: int) -> Parsed:
        """The rows with their lines, which are all that are not bad."""
        lines = np.arange(first, first + rows)
        lines = lines[~np.isin(lines, [bad.line for bad in parsed.bad])]
        table = parsed.table.append_column(self.schema.field(self.line), pa.array(lines))
        return dataclasses.replace(parsed, table=table)


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its first bytes."""
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def parse_block(block: Block, day: int, settings: CriteoSourceSettings) -> Parsed:
    """A block of Criteo text → rows with the columns of ``SCHEMA``, and its bad lines."""
    from pipeline.ingest import criteo_parser as parser

    text = block.data if block.data.endswith(b"\n") or not block.data else block.data + b"\n"
    labels = np.empty(block.lines, np.int8)
    integers = np.empty((parser.INTEGERS, block.lines), np.int32)
    categories = np.empty((parser.CATEGORIES, block.lines), np.int64)
    valid = np.zeros((parser.FIELDS - 1, (block.lines + 7) // 8), np.uint8)
    found = np.empty((block.lines, 6), np.int64)
    rows, bads = parser.parse_lines(
        np.frombuffer(text, np.uint8),
        ord(settings.separator),
        settings.max_line_bytes,
        labels,
        integers,
        categories,
        valid,
        found,
    )
    columns = [_array(pa.int8(), rows, None, labels)]
    columns += [_array(pa.int32(), rows, valid[i], values) for i, values in enumerate(integers)]
    columns += [
        _array(pa.int64(), rows, valid[parser.INTEGERS + i], values)
        for i, values in enumerate(categories)
    ]
    columns.append(pa.array(np.full(rows, day, np.int16)))
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    bad = [_bad_line(block, text, entry, settings) for entry in found[:bads].tolist()]
    return Parsed(table, [*block.bad, *bad], block.bytes_read)


def _array(type: pa.DataType, rows: int, valid: np.ndarray | None, values: np.ndarray) -> pa.Array:
    bits = None if valid is None else pa.py_buffer(valid)
    return pa.Array.from_buffers(type, rows, [bits, pa.py_buffer(values)])


def _bad_line(
    block: Block, text: bytes, entry: list[int], settings: CriteoSourceSettings
) -> BadLine:
    from pipeline.ingest import criteo_parser as parser

    index, start, end, code, field, fields = entry
    line = text[start:end]
    number = block.first_line + index
    integer, category = INTEGER_NAMES[min(field, 12)], CATEGORY_NAMES[field]
    if number == 1 and code in (parser.LABEL, parser.FIELD_COUNT) and line[:1].isalpha():
        reason = "this looks like a header row; a Criteo log has none"
        return BadLine(number, "header", reason, line)
    kinds = {
        parser.TOO_LONG: ("line too long", f"line longer than {settings.max_line_bytes:,} bytes"),
        parser.NUL: ("NUL byte", "the line holds a NUL byte"),
        parser.FIELD_COUNT: ("field count", _field_count_reason(line, fields, settings.separator)),
        parser.ENCODING: ("encoding", "the line holds bytes that are not ASCII"),
        parser.LABEL: ("label", "label: expected 0 or 1"),
        parser.INTEGER: ("integer", f"{integer}: not an integer"),
        parser.INT32: ("integer range", f"{integer}: integer beyond 32 bits"),
        parser.INT64: ("integer range", f"{integer}: integer beyond 64 bits"),
        parser.HEX: ("hex", f"{category}: expected up to 8 hex digits"),
    }
    kind, reason = kinds[code]
    return BadLine(number, kind, reason, line)


def _field_count_reason(line: bytes, fields: int, separator: str) -> str:
    reason = f"expected 40 {SEPARATORS.get(separator, repr(separator))[2:]}-separated fields, found"
    if fields > 1:
        return f"{reason} {fields}"
    likely = [mark for mark in SEPARATORS if line.count(mark.encode()) == 39 and mark != separator]
    hint = f" (setting separator: it seems to be {SEPARATORS[likely[0]]})" if likely else ""
    return f"{reason} 1; is the separator {SEPARATORS.get(separator, repr(separator))}?{hint}"
