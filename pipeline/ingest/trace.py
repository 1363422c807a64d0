"""What leads from a typed row back to the log: its line, and columns that are carried on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.ingest.columns import Column


@dataclass(frozen=True)
class Trace:
    """Columns that ingest adds to the typed rows.

    Attributes:
        line: name of the column with the line of each row in its file, from 1, as an editor
            counts; of Parquet the row.
        carried: columns of the log to carry on as they are, by their names among the typed rows.
    """

    line: str
    carried: Mapping[str, str] = field(default_factory=dict)

    def columns(self, option: str) -> list[Column]:
        """The carried columns as ingest reads them; ``option`` is what named them."""
        return [
            Column(name, source, "category", option, as_is=True)
            for name, source in self.carried.items()
        ]
