"""Logs of events in CSV, TSV, JSON lines or Parquet → typed rows, by a mapping of columns.

Clickstreams and ratings are both read here; they differ in which columns they must have.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from core.errors import UserError
from pipeline.ingest import delimited
from pipeline.ingest.columns import (
    MILLISECONDS_FROM,
    Column,
    TimeFormat,
    convert,
    is_text,
)
from pipeline.ingest.dialect import TWO_COLONS
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.lists import SessionRows
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.rows import Rows
from pipeline.ingest.shards import Parsed
from pipeline.ingest.source import SourceSettings
from pipeline.ingest.table_files import Batch, TableFiles
from pipeline.ingest.text_source import UTF8, encoding_name
from pipeline.ingest.trace import Trace

# An integer as programs write it; "007" is a name, not a number.
INTEGER = r"^-?(0|[1-9][0-9]*)$"
INTEGER_SHARE = 0.95
SEPARATOR_NAMES = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}


class TableSourceSettings(SourceSettings):
    """A log with named columns, one row a line."""

    format: Literal["auto", "csv", "jsonl", "parquet"] = "auto"
    """Kind of file. auto: by extension (.csv .tsv .txt .jsonl .ndjson .parquet; of text also with
    .gz .bz2 .xz .zst), else by its first bytes. csv stands for any text with a separator."""

    encoding: str = UTF8
    """What the text is in: utf-8, cp1252, latin-1, utf-16 and all others that Python knows. A
    byte-order mark at the start of a file is left out."""

    separator: str = "auto"
    """Between the fields of text: one character, or comma, tab, semicolon, bar, or two colons (::).
    auto: told from the first line; without a header row, from the first lines."""

    quote: str = '"'
    """The character around fields that hold separators or line ends; twice within such a field, it
    stands for itself. '' if quotes mean nothing."""

    column_names: list[str] | None = None
    """Names of the columns, in order, for text files without a header row."""

    types: dict[str, Literal["integer", "string"]] = Field(default_factory=dict)
    """Type of single id or categorical columns, by their name in the output. Of the others:
    integer (64 bits, signed) if the beginning of the log shows integers only, else string."""

    widths: dict[str, int] = Field(default_factory=dict)
    """Lengths of single vectors, by their name. Of the others: that of the first vector."""

    null_values: list[str] = Field(default=[""])
    """Texts that stand for a missing value."""

    time_format: Literal["auto", "unix_s", "unix_ms", "iso"] = "auto"
    """Unix seconds (fractions allowed), unix milliseconds, or ISO 8601 (without a zone: UTC).
    auto: told from the beginning of the log and named in the manifest."""

    def remedy(self, reasons: Mapping[str, int], bad: int) -> str | None:
        reason, count = max(reasons.items(), key=lambda entry: entry[1], default=("", 0))
        value = re.search(r": '(.+)'$", reason)
        if value is None or 2 * count < bad or count < 3:
            return None
        return (
            f"Of these, {count:,} have {value[1]!r} there. If that stands for a missing value, add "
            f"it to null_values (now {self.null_values}); else mend the log or its settings, or "
            "raise max_bad_fraction to leave these lines out."
        )

    @field_validator("separator")
    @classmethod
    def _separator(cls, value: str) -> str:
        value = SEPARATOR_NAMES.get(value, value)
        if value in ("auto", TWO_COLONS):
            return value
        if len(value.encode()) != 1 or value in "\r\n":
            raise ValueError(
                "separator must be one ASCII character, a name such as tab, two colons or auto"
            )
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, value: str) -> str:
        return encoding_name(value)

    @field_validator("quote")
    @classmethod
    def _quote(cls, value: str) -> str:
        if len(value.encode()) > 1 or value in ("\r", "\n"):
            raise ValueError("quote must be one ASCII character, or '' for none")
        return value


class EventSourceSettings(TableSourceSettings):
    """A log of events, one a line or row."""

    id_type: Literal["auto", "integer", "string"] = "auto"
    """Type of the ids. auto: integer (64 bits, signed) if the beginning of the log shows integers
    only, else string; told for each id column apart. ``types`` goes over it."""


class EventReader:
    """Reads events by a list of columns; see :class:`pipeline.ingest.shards.FileReader`.

    Args:
        settings: those of events where ids or times are among the columns.
        keep: values of the ``event_type`` column that are kept; None keeps all.
        sessions: unfolds the rows of a log that holds a whole session in each.
        trace: what leads from a row back to the log.
    """

    def __init__(
        self,
        settings: TableSourceSettings,
        columns: Sequence[Column],
        files: Sequence[InputFile],
        keep: Sequence[Any] | None = None,
        sessions: SessionRows | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.settings = settings
        self.separator: str | None = None
        self.line = trace.line if trace else None
        columns = trace.applied(columns) if trace else columns
        self.columns = list(columns)
        self.tables = TableFiles(settings, self.columns, files, sessions)
        self.columns = self._look(files)
        fields = [pa.field(column.name, column.arrow_type) for column in self.columns]
        if self.line:
            fields.append(pa.field(self.line, pa.int64()))
        self.schema = pa.schema(fields)
        self.keep = None if keep is None else self._kept(keep)

    @property
    def resolved(self) -> dict[str, Any]:
        """The source settings that were told from the log, as they were used: put over the
        settings, they leave nothing to be told anew."""
        types = {
            column.name: "integer" if column.type == pa.int64() else "string"
            for column in self.columns
            if column.kind in ("id", "category")
        }
        widths = {c.name: c.width for c in self.columns if c.kind == "vector" and c.width}
        formats = [column.time_format for column in self.columns if column.kind == "time"]
        return {
            "types": types,
            **({"widths": widths} if widths else {}),
            **({"time_format": formats[0]} if formats else {}),
            **({"separator": self.separator} if self.separator else {}),
        }

    def pieces(self, file: InputFile, faults: list[str]) -> Iterator[Any]:
        return self.tables.pieces(file, faults)

    def parse(self, file: InputFile, piece: Any) -> Parsed:
        rows = self.tables.rows(file, piece)
        count = len(rows.lines)
        good = np.ones(count, bool)
        bad = list(rows.bad)
        arrays = []
        for column in self.columns:
            source = rows.arrays[column.source]
            values, wrong, reason = convert(column, source, self.settings.null_values)
            arrays.append(values)
            for row in np.flatnonzero(wrong & good).tolist():
                value = str(source[row].as_py())[:80]
                text = f"{column.source}: {reason}: {value!r}"
                bad.append(
                    BadLine(int(rows.lines[row]), f"{column.name} wrong", text, rows.text(row))
                )
            good &= ~wrong
            if column.required:
                absent = np.asarray(values.is_null()) & good
                for row in np.flatnonzero(absent).tolist():
                    text = f"{column.source}: missing"
                    kind = f"{column.name} missing"
                    bad.append(BadLine(int(rows.lines[row]), kind, text, rows.text(row)))
                good &= ~absent
        if self.line:
            arrays.append(pa.array(rows.lines, pa.int64()))
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        if not good.all():
            table = table.filter(pa.array(good))
        before = table.num_rows
        if self.keep is not None:
            table = table.filter(pc.is_in(table["event_type"], self.keep))
        bad.sort(key=lambda line: line.line)
        return Parsed(table, bad, rows.bytes_read, before - table.num_rows)

    def _look(self, files: Sequence[InputFile]) -> list[Column]:
        """The columns with the types and time format that the beginning of the log shows."""
        for file in files:
            for piece in self.pieces(file, []):
                if isinstance(piece, delimited.Piece):
                    self.separator = piece.dialect.separator
                rows = self.tables.rows(file, piece)
                if len(rows.lines):
                    typed = isinstance(piece, Batch)
                    return [self._resolved(column, rows, typed) for column in self.columns]
        return [self._resolved(column, None) for column in self.columns]

    def _resolved(self, column: Column, rows: Rows | None, typed: bool = False) -> Column:
        array = pa.nulls(0, pa.string()) if rows is None else rows.arrays[column.source]
        if isinstance(array, pa.DictionaryArray):
            array = array.dictionary_decode()
        if is_text(array):
            array = array.filter(
                pc.invert(pc.is_in(array, pa.array(self.settings.null_values, array.type)))
            )
        array = array.drop_null()
        if column.as_is:
            # What typed data calls an integer is one; of a text nothing is lost as a text.
            whole = typed and pa.types.is_integer(array.type) and array.type != pa.uint64()
            return dataclasses.replace(column, type=pa.int64() if whole else pa.string())
        if column.kind == "time":
            chosen = self.settings.time_format
            chosen = guess_time_format(array) if chosen == "auto" else chosen
            return dataclasses.replace(column, time_format=chosen)
        if column.kind == "vector":
            if column.name in self.settings.widths:
                return dataclasses.replace(column, width=self.settings.widths[column.name])
            lengths = pc.list_value_length(convert(column, array, [])[0]).drop_null()
            return dataclasses.replace(column, width=lengths[0].as_py() if len(lengths) else 0)
        if column.kind in ("id", "category"):
            chosen = self.settings.id_type if column.kind == "id" else "auto"
            chosen = self.settings.types.get(column.name, chosen)
            integer = looks_integer(array) if chosen == "auto" else chosen == "integer"
            return dataclasses.replace(column, type=pa.int64() if integer else pa.string())
        return column

    def _kept(self, keep: Sequence[Any]) -> pa.Array:
        type = self.schema.field("event_type").type
        try:
            return pa.array([str(value) for value in keep]).cast(type)
        except pa.ArrowInvalid:
            raise UserError(
                f"keep_event_types: event_type holds integers in this log, got {list(keep)}"
            ) from None


def looks_integer(array: pa.Array) -> bool:
    """Whether nearly all values are integers (of any size; a cell may be bad)."""
    if not is_text(array):
        if pa.types.is_floating(array.type):
            return bool(len(array)) and bool(pc.all(pc.equal(pc.floor(array), array)).as_py())
        return pa.types.is_integer(array.type)
    return _share(array, INTEGER) >= INTEGER_SHARE


def guess_time_format(array: pa.Array) -> TimeFormat:
    """unix_s, unix_ms or iso, by what most of the values look like."""
    if is_text(array):
        if _share(array, r"^\s*-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?\s*$") <= 0.5:
            return "iso"
        numbers = [float(text) for text in array.to_pylist() if re.match(r"\s*-?[0-9.]+$", text)]
    elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        numbers = array.to_pylist()
    else:
        return "iso"
    return "unix_ms" if numbers and float(np.median(numbers)) > MILLISECONDS_FROM else "unix_s"


def _share(array: pa.Array, pattern: str) -> float:
    if not len(array):
        return 0.0
    return pc.sum(pc.match_substring_regex(array, pattern)).as_py() / len(array)
