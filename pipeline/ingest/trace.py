"""What leads from a typed row back to the log: its line, and columns that are carried on."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ingest.columns import Column
from pipeline.ingest.criteo import is_parquet
from pipeline.ingest.inputs import InputFile

INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
"""Types whose values are integers of 64 bits with a sign."""


@dataclass(frozen=True)
class Trace:
    """What ingest adds to the typed rows, or leaves as it is in the log.

    Attributes:
        line: name of a column to add, with the line of each row in its file, from 1, as an editor
            counts; of Parquet the row. None: no such column.
        carried: columns of the log to carry on as they are, by their names among the typed rows.
        as_is: columns that are read anyway whose values are to be kept as they are.
        option: what named the columns to carry on, for messages.
    """

    line: str | None = None
    carried: Mapping[str, str] = field(default_factory=dict)
    as_is: Collection[str] = ()
    option: str = ""

    def applied(self, columns: Iterable[Column], files: Sequence[InputFile]) -> list[Column]:
        """The columns to read, with those that are carried on."""
        carried = [
            Column(name, source, "category", self.option) for name, source in self.carried.items()
        ]
        kept = {*self.as_is, *self.carried}
        return [
            dataclasses.replace(column, type=_lossless(files, column))
            if column.name in kept
            else column
            for column in (*columns, *carried)
        ]


def _lossless(files: Sequence[InputFile], column: Column) -> pa.DataType:
    """The type that keeps a column's values as they are: integer where Parquet says so in every
    file, else text, of which nothing is lost."""
    for file in files:
        if not is_parquet(file.path):
            return pa.string()
        try:
            kind = pq.read_schema(file.path).field(column.source).type
        except (pa.ArrowException, OSError, KeyError):  # What reads the file says what is wrong.
            return pa.string()
        if getattr(kind, "value_type", kind) not in INTEGERS:
            return pa.string()
    return pa.int64()
