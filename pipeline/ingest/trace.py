"""What leads from a typed row back to the log: its line, and columns that are carried on."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.ingest.columns import Column


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

    def applied(self, columns: Iterable[Column]) -> list[Column]:
        """The columns to read, with those that are carried on."""
        read = [dataclasses.replace(c, as_is=True) if c.name in self.as_is else c for c in columns]
        return read + [
            Column(name, source, "category", self.option, as_is=True)
            for name, source in self.carried.items()
        ]
