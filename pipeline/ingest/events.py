"""Logs of events in CSV, TSV, JSON lines or Parquet → typed rows, by a mapping of columns.

Clickstreams and ratings are both read here; they differ in which columns they must have.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import UserError
from pipeline.ingest import delimited
from pipeline.ingest.arrays import Unreadable, is_text, plain
from pipeline.ingest.categories import elements
from pipeline.ingest.columns import CODED, Column, Converted, convert
from pipeline.ingest.faults import Faults, GuessContradicted
from pipeline.ingest.guesses import Unclear, guess_times, is_null_text, looks_integer
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.lists import SessionRows
from pipeline.ingest.rows import Rows
from pipeline.ingest.shards import Parsed
from pipeline.ingest.table_files import TableFiles
from pipeline.ingest.table_source import TableSourceSettings
from pipeline.ingest.time_span import months_of
from pipeline.ingest.times import day_of, to_unix
from pipeline.ingest.trace import Trace

LOOKED_AT = 64
"""Pieces that are looked at for a first time or vector."""


class EventSourceSettings(TableSourceSettings):
    """A log of events, one a line or row."""

    id_type: Literal["auto", "integer", "string"] = "auto"
    """Type of the ids. auto: integer (64 bits, signed) if the log holds nothing but integers, else
    string; for each id column apart. ``types`` goes over it."""


class EventReader:
    """Reads events by a list of columns; see :class:`pipeline.ingest.shards.FileReader`.

    Args:
        settings: those of events where ids or times are among the columns.
        keep: values of the ``event_type`` column that are kept; None keeps all.
        sessions: unfolds the rows of a log that holds a whole session in each.
        trace: what leads from a row back to the log.
        as_text: columns that are no integers, though the beginning of the log may say so.
    """

    def __init__(
        self,
        settings: TableSourceSettings,
        columns: Sequence[Column],
        files: Sequence[InputFile],
        keep: Sequence[Any] | None = None,
        sessions: SessionRows | None = None,
        trace: Trace | None = None,
        as_text: Collection[str] = (),
    ) -> None:
        self.settings = settings
        self.as_text = as_text
        self.keep = None if keep is None else pa.array([str(value) for value in keep])
        self.separator: str | None = None
        self.line = trace.line if trace else None
        columns = trace.applied(columns, files) if trace else columns
        self.columns = list(columns)
        self.tables = TableFiles(settings, self.columns, files, sessions)
        self.columns = self._look(files)
        fields = [pa.field(column.name, column.arrow_type) for column in self.columns]
        if self.line:
            fields.append(pa.field(self.line, pa.int64()))
        self.schema = pa.schema(fields)

    @property
    def resolved(self) -> dict[str, Any]:
        """The source settings that were guessed from the log, as they were used: put over the
        settings, they leave nothing to guess."""
        types = {
            column.name: "integer" if column.type == pa.int64() else "string"
            for column in self.columns
            if column.kind in CODED
        }
        widths = {c.name: c.width for c in self.columns if c.kind == "vector" and c.width}
        times = [column for column in self.columns if column.kind == "time"]
        first = (
            {"time_format": times[0].time_format, "first_time": day_of(times[0].first_ms)}
            if times
            else {}
        )
        return {
            "types": types,
            **({"widths": widths} if widths else {}),
            **first,
            **({"separator": self.separator} if self.separator else {}),
        }

    def pieces(self, file: InputFile, faults: list[str]) -> Iterator[Any]:
        return self.tables.pieces(file, faults)

    def parse(self, file: InputFile, piece: Any) -> Parsed:
        """One piece → typed rows; of event types that are not kept, nothing is looked at.

        Raises:
            GuessContradicted: a value that is no integer in a column that seemed to hold them.
            UserError: a column of a type without a conversion.
        """
        rows, filtered = self._filtered(self.tables.rows(file, piece))
        arrays, faults = self._converted(file, self.columns, rows)
        faults.check_guesses(self.settings.null_values)
        if self.line:
            arrays.append(pa.array(rows.lines, pa.int64()))
        table, lines = pa.Table.from_arrays(arrays, schema=self.schema), rows.lines
        good = faults.good()
        if not good.all():
            table, lines = table.filter(pa.array(good)), lines[good]
        times = [column.name for column in self.columns if column.kind == "time"]
        months = months_of(table[times[0]], lines) if times else {}
        return Parsed(table, faults.lines(), rows.bytes_read, filtered, months)

    def _converted(
        self, file: InputFile, columns: Sequence[Column], rows: Rows
    ) -> tuple[list[pa.Array], Faults]:
        faults, arrays = Faults(file, rows), []
        for column in columns:
            source = rows.arrays[column.source]
            values, wrong, reason = self._convert(file.path, column, source)
            arrays.append(values)
            faults.add(column, source, wrong, reason)
            if column.required:
                faults.add_missing(column, np.asarray(values.is_null()) & ~wrong)
        return arrays, faults

    def _convert(self, path: Path, column: Column, source: pa.Array) -> Converted:
        try:
            return convert(column, source, self.settings.null_values)
        except Unreadable as error:
            raise UserError(
                f"{path}: column '{column.source}' (setting {column.setting}) is {error}; "
                "convert it in the log, or name another column"
            ) from None

    def _filtered(self, rows: Rows) -> tuple[Rows, int]:
        """The rows of event types that are kept, whatever else they hold, and how many are not."""
        [column, *_] = [c for c in self.columns if c.name == "event_type"] or [None]
        if self.keep is None or column is None:
            return rows, 0
        as_text = dataclasses.replace(column, type=pa.string(), read=None)
        texts, _, _ = convert(as_text, rows.arrays[column.source], self.settings.null_values)
        kept = np.flatnonzero(np.asarray(pc.is_in(texts, self.keep)))
        if len(kept) == len(rows.lines):
            return rows, 0
        arrays = {name: array.take(pa.array(kept)) for name, array in rows.arrays.items()}
        some = dataclasses.replace(
            rows, arrays=arrays, lines=rows.lines[kept], text=lambda row: rows.text(int(kept[row]))
        )
        return some, len(rows.lines) - len(kept)

    def _look(self, files: Sequence[InputFile]) -> list[Column]:
        """The columns with the types and time format that the beginning of the log shows."""
        columns, pieces = self.columns, 0
        for file in files:
            for piece in self.pieces(file, []):
                if isinstance(piece, delimited.Piece) and not pieces:
                    self.separator = piece.dialect.separator
                rows, _ = self._filtered(self.tables.rows(file, piece))
                if not len(rows.lines):
                    continue
                columns = [
                    column if pieces and not _open(column) else self._resolved(file, column, rows)
                    for column in columns
                ]
                columns = self._unguessed(file, columns, rows) if not pieces else columns
                pieces += 1
                if pieces == LOOKED_AT or not any(map(_open, columns)):
                    return self._settled(columns)
        return self._settled(columns)

    def _unguessed(self, file: InputFile, columns: list[Column], rows: Rows) -> list[Column]:
        """The columns; those where a good row holds no integer are text."""
        guessed = [column for column in columns if column.guessed]
        if not self._converted(file, guessed, rows)[1].of_values():
            return columns
        try:
            self._converted(file, columns, rows)[1].check_guesses(self.settings.null_values)
        except GuessContradicted as contradicted:
            return [
                dataclasses.replace(column, type=pa.string(), guessed=False)
                if column.name in contradicted.where
                else column
                for column in columns
            ]
        return columns

    def _settled(self, columns: list[Column]) -> list[Column]:
        """The columns, of which nothing is open any more: a log without rows has plain types."""
        return [
            dataclasses.replace(
                column,
                type=column.type or (pa.string() if column.kind in CODED else None),
                time_format=column.time_format or ("iso" if column.kind == "time" else None),
            )
            for column in columns
        ]

    def _resolved(self, file: InputFile, column: Column, rows: Rows) -> Column:
        """``column`` as far as some rows say what it is."""
        settings = self.settings
        column = dataclasses.replace(column, decimal=settings.decimal, thousands=settings.thousands)
        array, _ = plain(rows.arrays[column.source])
        if is_text(array):
            array = array.filter(
                pc.invert(pc.is_in(array, pa.array(settings.null_values, array.type)))
            )
        array = array.drop_null()
        if column.kind == "time":
            return self._with_times(file, column, array)
        if column.kind == "vector":
            if column.name in settings.widths:
                return dataclasses.replace(column, width=settings.widths[column.name])
            lengths = pc.list_value_length(self._convert(file.path, column, array)[0])
            common = pc.mode(lengths.drop_null())
            return dataclasses.replace(column, width=common[0]["mode"].as_py() if common else None)
        if column.kind in CODED and column.type is None:
            if column.kind == "categories":
                self._convert(file.path, column, array)  # or it has no elements
                array = elements(array, column.separator, settings.null_values)[0].drop_null()
            id_type = getattr(settings, "id_type", "auto") if column.kind == "id" else "auto"
            chosen = settings.types.get(column.name, id_type)
            guessed = chosen == "auto"
            integer = looks_integer(array) if guessed else chosen == "integer"
            if guessed and column.name in self.as_text:
                integer = False
            type = pa.int64() if integer else pa.string()
            return dataclasses.replace(column, type=type, guessed=guessed and integer)
        return column

    def _with_times(self, file: InputFile, column: Column, array: pa.Array) -> Column:
        settings, zone = self.settings, self.settings.time_zone
        if is_text(array):
            array = array.filter(pc.invert(is_null_text(array)))
        first, last = settings.first_time, to_unix(settings.last_time)
        form = None
        if len(array):
            self._convert(file.path, column, array.slice(0, 0))
            try:
                times = guess_times(array, settings.time_format, zone)
            except Unclear as error:
                raise UserError(
                    f"{file.path}: column '{column.source}' (setting {column.setting}): {error}"
                ) from None
            form = times.format
            first_ms = times.first_ms if first == "auto" else to_unix(first)
            column = dataclasses.replace(column, first_ms=first_ms)
        return dataclasses.replace(column, time_format=form, time_zone=zone, last_ms=last)


def _open(column: Column) -> bool:
    """Whether the rows that were looked at do not say how a column is to be read."""
    if column.kind == "time":
        return column.time_format is None
    return column.kind == "vector" and column.width is None
