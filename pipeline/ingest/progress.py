"""How far one input file has come: what the next run needs to go on after the last whole shard."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.artifacts import read_json, write_json
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.time_span import Months
from pipeline.ingest.workspace import PROGRESS


@dataclass
class FileReport:
    """What has become of one input file so far.

    ``pieces`` have been taken in whole, with all that is counted here, and of the next piece the
    first ``rows_of_next`` rows are in the shards too.
    """

    file: InputFile
    pieces: int = 0
    rows_of_next: int = 0
    bytes_read: int = 0
    rows_read: int = 0
    rows_filtered: int = 0
    rows_quarantined: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Of bad lines, the first different ones of a file."""
    first_bad: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    months: Months = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)
    """``file``, ``rows`` and ``sha256`` of each finished shard."""
    quarantine: list[str] = field(default_factory=list)
    """The files that hold the bad lines, in order."""
    finished: bool = False

    @property
    def rows_written(self) -> int:
        return sum(shard["rows"] for shard in self.shards)

    def at_cut(self, rows_of_next: int) -> "FileReport":
        """A copy as it is where a shard ends ``rows_of_next`` rows into the next piece."""
        kinds, first, quarantine = Counter(self.kinds), list(self.first_bad), list(self.quarantine)
        copied: dict[str, Any] = {"kinds": kinds, "first_bad": first, "quarantine": quarantine}
        copied["reasons"] = Counter(self.reasons)
        copied["months"] = dict(self.months)
        return dataclasses.replace(self, rows_of_next=rows_of_next, shards=[], **copied)

    def save(self, unit: Path) -> None:
        """Writes ``progress.json``; the shards that it names must be whole."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["file"]
        write_json(unit / PROGRESS, values)


def load_report(file: InputFile, unit: Path) -> FileReport:
    """The report that a stopped run left in ``unit``, or a new one."""
    if not (unit / PROGRESS).is_file():
        return FileReport(file)
    values = read_json(unit / PROGRESS)
    counted = {name: Counter(values[name]) for name in ("kinds", "reasons")}
    return FileReport(file, **{**values, **counted})
