"""Parquet with a whole session in each row, its columns lists → one event a row."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import UserError
from core.hashing import mix
from pipeline.ingest.columns import row_text
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.rows import Rows

DAY = 86_400_000
SPREAD = 80_000_000
"""Milliseconds of the day over which sessions without times are spread."""
ROW_BITS = 40


class SessionRows:
    """Unfolds rows that hold a whole session.

    What the log does not have is made: a session id from the file and row, and times where
    ``made`` names the timestamp. Each folder of input files is then a day, from 1970-01-01 on, in
    the order of the files; within its day nothing is known of a session's time, so a hash of its
    row puts it there: what comes last in time is a fair sample, not the end of some sorted file.

    Args:
        item: name of the item column in the log; it holds a list in each row.
        made: columns (by their name in the output) that the log does not have.
    """

    def __init__(self, item: str, made: set[str], files: list[InputFile]) -> None:
        self.item = item
        self.made = made
        folders = list(dict.fromkeys(file.path.parent for file in files))
        self.days = {file.index: folders.index(file.path.parent) for file in files}

    def unfold(
        self, sessions: pa.RecordBatch, file: InputFile, first_row: int, bytes_read: int
    ) -> Rows:
        """The events of a batch of sessions, in order; ``first_row`` counts from 1.

        The line of an event is the row of its session. A session whose lists differ in length is a
        bad line.
        """
        whole, bad = self._whole(sessions, file.path, first_row)
        batch = sessions.filter(pa.array(whole))
        lists = batch.column(self.item)
        parents = np.asarray(pc.list_parent_indices(lists))
        arrays = {
            name: pc.list_flatten(values) if is_list(values) else values.take(pa.array(parents))
            for name, values in zip(batch.schema.names, batch.columns, strict=True)
        }
        rows = first_row + np.flatnonzero(whole)
        numbers = (file.index << ROW_BITS) + rows
        if "session_id" in self.made:
            arrays["session_id"] = pa.array(numbers[parents])
        if "timestamp" in self.made:
            lengths = np.asarray(pc.list_value_length(lists).fill_null(0))
            place = np.arange(len(parents)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            spread = (mix(numbers.astype(np.uint64)) % np.uint64(SPREAD)).astype(np.int64)
            at = self.days[file.index] * DAY + spread[parents] + place
            arrays["timestamp"] = pa.array(at).cast(pa.timestamp("ms", "UTC"))
        lines = rows[parents]

        def text(event: int) -> bytes:
            return row_text(sessions, int(lines[event]) - first_row)

        return Rows(arrays, lines, text, bad, bytes_read)

    def _whole(
        self, batch: pa.RecordBatch, path: Path, first_row: int
    ) -> tuple[np.ndarray, list[BadLine]]:
        if not is_list(batch.column(self.item)):
            raise UserError(
                f"{path}: column '{self.item}' (setting columns.item_id) is "
                f"{batch.column(self.item).type}, expected a list in each row, as the setting "
                "layout: sessions says; for one event a row set layout: events"
            )
        lengths = _lengths(batch.column(self.item))
        whole, bad = np.ones(len(lengths), bool), []
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            if not is_list(values):
                continue
            differs = _lengths(values) != lengths
            for row in np.flatnonzero(differs & whole).tolist():
                reason = f"{name}: {_lengths(values)[row]} values, {self.item}: {lengths[row]}"
                text = row_text(batch, row)
                bad.append(BadLine(first_row + row, "lists of unequal length", reason, text))
            whole &= ~differs
        return whole, bad


def is_list(array: pa.Array) -> bool:
    kind = array.type
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _lengths(lists: pa.Array) -> np.ndarray:
    return np.asarray(pc.list_value_length(lists).fill_null(0))
