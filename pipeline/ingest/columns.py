"""Columns as they come (text, numbers, times) → typed columns and a mask of the bad rows."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["id", "category", "number", "time", "vector", "label", "order"]
TimeFormat = Literal["unix_s", "unix_ms", "iso"]

TIMESTAMP = pa.timestamp("ms", "UTC")
# Beyond these a time is taken for a wrong unit or a wrong column: 1970-01-01 to 2100-01-01.
FIRST_MS, LAST_MS = 0, 4_102_444_800_000
# Unix times above this are milliseconds: as seconds they would lie beyond the year 5000.
MILLISECONDS_FROM = 1e11
INTEGER = r"^-?[0-9]{1,19}$"
NUMBER = r"^[ ]*[+-]?[0-9.]+([eE][+-]?[0-9]+)?[ ]*$"
ISO = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d"
ZONE = r"(Z|[+-]\d\d(:?\d\d)?)$"


Converted = tuple[pa.Array, np.ndarray, str]
"""Typed values, a mask of the bad rows, and the reason for them."""


@dataclass(frozen=True)
class Column:
    """One column to read: its name in the output, its name in the log, and what it must hold."""

    name: str
    source: str
    kind: Kind
    setting: str
    required: bool = False
    type: pa.DataType | None = None
    """Integer or string, for ids and categories; known once the log was looked at."""
    time_format: TimeFormat | None = None
    width: int | None = None
    """Length of a vector; known once the log was looked at."""
    as_is: bool = False
    """Whether values are kept as the log has them: an integer of Parquet, of text any text."""
    read: Callable[[pa.Array], Converted] | None = None
    """Converts the values in the place of what is usual for the kind; the result has
    ``arrow_type``."""

    @property
    def arrow_type(self) -> pa.DataType:
        if self.kind == "time":
            return TIMESTAMP
        if self.kind == "number":
            return pa.float32()
        if self.kind == "vector":
            return pa.list_(pa.float32())
        if self.kind == "label":
            return pa.int8()
        if self.kind == "order":
            return pa.int64()
        return self.type or pa.string()


def cast_good(
    array: pa.Array, type: pa.DataType, pattern: str | None = None
) -> tuple[pa.Array, np.ndarray]:
    """``array.cast(type)`` where it succeeds, null elsewhere, and a mask of where it does not.

    Args:
        pattern: what texts must look like to be worth a try; it spares a long search.
    """
    bad = np.zeros(len(array), bool)
    try:
        return array.cast(type), bad
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    if pattern is not None and is_text(array):
        bad |= ~np.asarray(pc.fill_null(pc.match_substring_regex(array, pattern), True))
        array = _without(array, bad)
    _find_bad(array, 0, type, bad)
    return _without(array, bad).cast(type), bad


def _without(array: pa.Array, bad: np.ndarray) -> pa.Array:
    """``array`` with nulls at the bad rows."""
    return pc.if_else(pa.array(bad), pa.scalar(None, array.type), array)


def _find_bad(array: pa.Array, first: int, type: pa.DataType, bad: np.ndarray) -> None:
    """Marks the rows that cannot be cast, found by halving."""
    try:
        array.cast(type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(array) == 1:
            bad[first] = True
            return
        half = len(array) // 2
        _find_bad(array.slice(0, half), first, type, bad)
        _find_bad(array.slice(half), first + half, type, bad)


def is_text(array: pa.Array) -> bool:
    """Whether an Arrow array holds strings."""
    return pa.types.is_string(array.type) or pa.types.is_large_string(array.type)


def convert(column: Column, array: pa.Array, null_values: list[str]) -> Converted:
    """Values of one column as its type.

    Returns:
        The typed array (null where missing or bad), a mask of the bad rows, and the reason for them
        (to be followed by the value). A missing required value is not in the mask: it is null.
    """
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    if is_text(array):
        missing = pc.is_in(array, pa.array(null_values, array.type))
        if pc.any(missing).as_py():
            array = pc.if_else(missing, pa.scalar(None, array.type), array)
    if column.read is not None:
        return column.read(array)
    if column.kind == "time":
        return _times(column, array)
    if column.kind == "number":
        return _numbers(array)
    if column.kind == "vector":
        return _vectors(column, array)
    if column.kind == "order":
        return _integers(array, f"not a 64-bit integer (setting {column.setting})")
    if column.type == pa.int64():
        keep = f"setting types.{column.name}: string would keep it as text"
        return _integers(array, f"not a 64-bit integer ({keep})")
    values, bad = cast_good(array, pa.string())
    return values, bad, "not a text"


def _integers(array: pa.Array, reason: str) -> Converted:
    if pa.types.is_boolean(array.type):
        return pa.nulls(len(array), pa.int64()), np.asarray(array.is_valid()), reason
    # Arrow would also read hexadecimal.
    odd = pc.match_substring(array, "x", ignore_case=True) if is_text(array) else None
    values, bad = cast_good(array, pa.int64(), INTEGER)
    if odd is not None:
        bad = bad | np.asarray(pc.fill_null(odd, False))
    return values, bad, reason


def _numbers(array: pa.Array) -> tuple[pa.Array, np.ndarray, str]:
    values, bad = cast_good(array, pa.float64(), NUMBER)
    values = values.cast(pa.float32(), safe=False)
    infinite = np.asarray(pc.fill_null(pc.invert(pc.is_finite(values)), False))
    return values, bad | infinite, "not a finite number"


def _vectors(column: Column, array: pa.Array) -> tuple[pa.Array, np.ndarray, str]:
    if is_text(array):
        plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(array, r"[\[\],;]", " "))
        array = pc.utf8_split_whitespace(plain)
    values, bad = cast_good(array, pa.list_(pa.float32()))
    lengths = pc.list_value_length(values)
    wrong = pc.fill_null(pc.not_equal(lengths, column.width or 0), False)
    flat = np.asarray(pc.list_flatten(values).fill_null(np.nan))
    if not np.isfinite(flat).all():
        parents = np.asarray(pc.list_parent_indices(values))
        bad = bad.copy()
        bad[parents[~np.isfinite(flat)]] = True
    return values, bad | np.asarray(wrong), f"not a vector of {column.width} finite numbers"


def _times(column: Column, array: pa.Array) -> tuple[pa.Array, np.ndarray, str]:
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        if pa.types.is_timestamp(array.type):
            array = pc.floor_temporal(array, unit="millisecond")
        values, bad = cast_good(array, pa.timestamp("ms", getattr(array.type, "tz", None)))
        milliseconds, reason = values.cast(pa.int64()), "not a time in milliseconds"
    elif column.time_format == "iso":
        milliseconds, bad = _iso(array)
        reason = "not an ISO 8601 time (setting time_format)"
    else:
        values, bad = cast_good(array, pa.float64(), NUMBER)
        scale = 1000.0 if column.time_format == "unix_s" else 1.0
        unix = np.rint(np.asarray(values.fill_null(np.nan)) * scale)
        inside = (unix >= FIRST_MS) & (unix < LAST_MS)  # false for NaN
        whole = np.where(inside, unix, -1).astype(np.int64)
        milliseconds = pa.array(whole, mask=np.asarray(values.is_null()))
        reason = f"not a {column.time_format} time (setting time_format)"
    outside = pc.or_(pc.less(milliseconds, FIRST_MS), pc.greater_equal(milliseconds, LAST_MS))
    outside = np.asarray(pc.fill_null(outside, False))
    if outside.any() and not bad.any():
        reason = (
            "time before 1970 or after 2099 (settings columns.timestamp, time_format; times in "
            "microseconds or nanoseconds have to be divided to milliseconds)"
        )
    return milliseconds.cast(TIMESTAMP), bad | outside, reason


def _iso(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """ISO 8601 times → milliseconds; a time without a zone is UTC, a date is its midnight."""
    text, bad = cast_good(array, pa.string())
    text = pc.replace_substring_regex(text, r"^\s+|\s+$", "")
    text = pc.replace_substring_regex(text, r"\s*(UTC|GMT|z)$", "Z")
    text = pc.replace_substring_regex(text, r"^(\d{4}-\d\d-\d\d)$", r"\1T00:00:00")
    with_zone = pc.match_substring_regex(text, r"\d\d:\d\d.*" + ZONE)
    text = pc.if_else(with_zone, text, pc.binary_join_element_wise(text, "Z", ""))
    times, wrong = cast_good(text, pa.timestamp("ns", "UTC"), ISO)
    # Rounded down, as clocks do.
    milliseconds = pc.floor_temporal(times, unit="millisecond").cast(TIMESTAMP).cast(pa.int64())
    return milliseconds, bad | wrong


def row_text(rows: pa.RecordBatch, row: int) -> bytes:
    """One row of typed data as JSON, for the quarantine."""
    return json.dumps(rows.slice(row, 1).to_pylist()[0], default=str).encode()
