"""What is wrong with the rows of a piece: bad lines, and values that contradict a guess."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.arrays import is_text, plain
from pipeline.ingest.columns import Column, convert, with_hint
from pipeline.ingest.guesses import is_null_text, rounded
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.rows import Rows

SHOWN = 80


class GuessContradicted(Exception):
    """Columns that the beginning of the log showed as integers hold other values as well.

    ``where``: by column, what the message says of the first such value.
    """

    def __init__(self, where: dict[str, str]) -> None:
        super().__init__(str(where))
        self.where = where


@dataclasses.dataclass(frozen=True)
class _Fault:
    column: Column
    rows: np.ndarray
    source: pa.Array | None = None
    """None: the value is missing."""
    reason: str = ""


class Faults:
    """The faults of a piece's rows, gathered column by column; a row's first one counts."""

    def __init__(self, file: InputFile, rows: Rows) -> None:
        self.file = file
        self.rows = rows
        self._faults: list[_Fault] = []

    def add(self, column: Column, source: pa.Array, wrong: np.ndarray, reason: str) -> None:
        """Takes up the rows whose value is wrong, if any."""
        if wrong.any():
            self._faults.append(_Fault(column, wrong, source, reason))

    def add_missing(self, column: Column, missing: np.ndarray) -> None:
        """Takes up the rows without a value that is needed, if any."""
        if missing.any():
            self._faults.append(_Fault(column, missing))

    def of_values(self) -> bool:
        """Whether any row has a value that is wrong, rather than missing."""
        return any(fault.source is not None for fault in self._faults)

    def good(self) -> np.ndarray:
        """The rows without a fault."""
        good = np.ones(len(self.rows.lines), bool)
        for fault in self._faults:
            good &= ~fault.rows
        return good

    def check_guesses(self, null_values: list[str]) -> None:
        """Checks that no column of guessed integers holds a text in an otherwise good row.

        Raises:
            GuessContradicted: one does.
        """
        others = np.zeros(len(self.rows.lines), bool)
        texts: list[tuple[_Fault, np.ndarray]] = []
        for fault in self._faults:
            unlike = _other_values(fault, null_values)
            texts.append((fault, unlike))
            others |= fault.rows & ~unlike
        where: dict[str, str] = {}
        for fault, unlike in texts:
            rows = np.flatnonzero(unlike & ~others)
            if len(rows) and fault.column.name not in where:
                line, value = self.rows.lines[rows[0]], fault.source[rows[0]].as_py()
                where[fault.column.name] = f"{self.file.path}:{line} holds {_shown(value)}"
        if where:
            raise GuessContradicted(where)

    def lines(self) -> list[BadLine]:
        """All bad lines of the piece, in order."""
        bad = list(self.rows.bad)
        free = np.ones(len(self.rows.lines), bool)
        for fault in self._faults:
            for row in np.flatnonzero(fault.rows & free).tolist():
                bad.append(self._line(fault, row))
            free &= ~fault.rows
        bad.sort(key=lambda line: line.line)
        return bad

    def _line(self, fault: _Fault, row: int) -> BadLine:
        column, line = fault.column, int(self.rows.lines[row])
        if fault.source is None:
            kind, text = f"{column.name} missing", f"{column.source}: missing"
        else:
            value = fault.source[row].as_py()
            kind = f"{column.name} wrong"
            # What reads values in a way of its own has a remedy of its own.
            reason = fault.reason if column.read else with_hint(fault.reason, value)
            text = f"{column.source}: {reason}: {_shown(value)}"
        return BadLine(line, kind, text, self.rows.text(row))


def _shown(value: object) -> str:
    return repr(str(value)[:SHOWN])


def _other_values(fault: _Fault, null_values: list[str]) -> np.ndarray:
    """Where a column of guessed integers holds what it could hold as text."""
    unlike = np.zeros(len(fault.rows), bool)
    if fault.source is None or not fault.column.guessed:
        return unlike
    rows = np.flatnonzero(fault.rows)
    values, _ = plain(fault.source.take(pa.array(rows)))
    column = dataclasses.replace(fault.column, type=pa.string())
    texts, bad, _ = convert(column, values, null_values)
    unlike[rows] = ~bad & np.asarray(texts.is_valid())
    if is_text(values):
        unlike[rows] &= ~np.asarray(pc.fill_null(is_null_text(values), False))
    elif rounded(values):
        unlike[rows] = False
    return unlike
