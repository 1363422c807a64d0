"""Parquet or JSON with a whole session in each row, its columns lists → one event a row."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import UserError
from core.hashing import mix
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

    def unfold(self, sessions: Rows, file: InputFile) -> Rows:
        """The events of sessions, in order.

        The line of an event is that of its session. A session without a list of items, or whose
        lists differ in length, is a bad line; one whose lists are empty has no events.
        """
        whole, bad = self._whole(sessions, file.path)
        picked = np.flatnonzero(whole)
        kept = {name: values.filter(pa.array(whole)) for name, values in sessions.arrays.items()}
        lists = _as_lists(kept[self.item])
        parents = np.asarray(pc.list_parent_indices(lists))
        arrays = {
            name: pc.list_flatten(values) if is_list(values) else values.take(pa.array(parents))
            for name, values in (kept | {self.item: lists}).items()
        }
        rows = sessions.lines[picked]
        numbers = (file.index << ROW_BITS) + rows
        if "session_id" in self.made:
            arrays["session_id"] = pa.array(numbers[parents])
        if "timestamp" in self.made:
            lengths = np.asarray(pc.list_value_length(lists).fill_null(0))
            place = np.arange(len(parents)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            spread = (mix(numbers.astype(np.uint64)) % np.uint64(SPREAD)).astype(np.int64)
            at = self.days[file.index] * DAY + spread[parents] + place
            arrays["timestamp"] = pa.array(at).cast(pa.timestamp("ms", "UTC"))

        def text(event: int) -> bytes:
            return sessions.text(int(picked[parents[event]]))

        bad = [*sessions.bad, *bad]
        return Rows(arrays, rows[parents], text, bad, sessions.bytes_read)

    def _whole(self, sessions: Rows, path: Path) -> tuple[np.ndarray, list[BadLine]]:
        items = _as_lists(sessions.arrays[self.item])
        if not is_list(items):
            raise UserError(
                f"{path}: column '{self.item}' (setting columns.item_id) is {items.type}, expected "
                "a list in each row, as the setting layout: sessions says; for one event a row set "
                "layout: events"
            )
        lengths = _lengths(items)
        whole = np.asarray(items.is_valid())
        bad = [
            BadLine(
                int(sessions.lines[row]),
                "items missing",
                f"{self.item}: missing",
                sessions.text(row),
            )
            for row in np.flatnonzero(~whole).tolist()
        ]
        for name, values in sessions.arrays.items():
            if not is_list(values):
                continue
            differs = _lengths(values) != lengths
            for row in np.flatnonzero(differs & whole).tolist():
                reason = f"{name}: {_lengths(values)[row]} values, {self.item}: {lengths[row]}"
                line = int(sessions.lines[row])
                bad.append(BadLine(line, "lists of unequal length", reason, sessions.text(row)))
            whole = whole & ~differs
        return whole, bad


def _as_lists(array: pa.Array) -> pa.Array:
    """``array``; where it has no value at all, as lists."""
    nothing = not is_list(array) and array.null_count == len(array)
    return pa.nulls(len(array), pa.list_(pa.string())) if nothing else array


def file_and_row(sessions: Any) -> tuple[Any, Any]:
    """The file, as inputs are numbered, and the row from 1 of sessions whose ids were made."""
    files = sessions // 2**ROW_BITS
    return files, sessions - files * 2**ROW_BITS


def is_list(array: pa.Array) -> bool:
    kind = array.type
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _lengths(lists: pa.Array) -> np.ndarray:
    return np.asarray(pc.list_value_length(lists).fill_null(0))
