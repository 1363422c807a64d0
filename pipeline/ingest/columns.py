"""Columns as they come (text, numbers, times) → typed columns and a mask of the bad rows."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.arrays import (
    Unreadable,
    cast_good,
    family,
    is_text,
    plain,
    to_integers,
    to_texts,
)
from pipeline.ingest.categories import elements, listed
from pipeline.ingest.times import FIRST_MS, LAST_MS, NUMBER, day_of, to_milliseconds

Kind = Literal["id", "category", "categories", "number", "time", "vector", "label", "order"]
CODED: tuple[Kind, ...] = ("id", "category", "categories")
"""Kinds whose values are integers or texts, whichever the log holds."""

TIMESTAMP = pa.timestamp("ms", "UTC")
_NUMBERS = {"text", "bool", "integer", "float", "decimal"}
_VALUES = _NUMBERS | {"timestamp", "date", "time"}
# The families of types that a column can be made of, and what to call them.
READABLE: dict[Kind, tuple[set[str], str]] = {
    "id": (_VALUES, "one text or number a row"),
    "category": (_VALUES, "one text or number a row"),
    "categories": (_VALUES | {"list"}, "a list of texts or numbers a row, or a text"),
    "number": (_NUMBERS, "one number a row"),
    "label": (_NUMBERS, "0 or 1 a row"),
    "order": (_NUMBERS, "one integer a row"),
    "time": (_NUMBERS - {"bool"} | {"timestamp", "date"}, "one time a row"),
    "vector": ({"text", "list"}, "a list of numbers a row"),
}
# Texts by which some program writes a missing value.
NULL_TEXTS = [
    "null",
    "na",
    "n/a",
    "#n/a",
    "<na>",
    "\\n",
    "none",
    "nil",
    "nan",
    "nat",
    "-",
    "--",
    "?",
    "(null)",
    "undefined",
]


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
    nullable: bool = False
    """Whether ``setting`` may be null, for a log without the column."""
    type: pa.DataType | None = None
    """Integer or string, for ids and categories; known once the log was looked at."""
    guessed: bool = False
    """Whether the beginning of the log alone speaks for ``type``."""
    time_format: str | None = None
    time_zone: str | None = None
    first_ms: int = FIRST_MS
    last_ms: int = LAST_MS
    """Times from ``first_ms`` up to this, left out, are good."""
    decimal: str = "."
    thousands: str = ""
    width: int | None = None
    """Length of a vector; known once the log was looked at."""
    separator: str = "|"
    """Between several categories in a text."""
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
        if self.kind == "categories":
            return pa.list_(self.type or pa.string())
        return self.type or pa.string()


def convert(column: Column, array: pa.Array, null_values: list[str]) -> Converted:
    """Values of one column as its type.

    Returns:
        The typed array (null where missing or bad), a mask of the bad rows, and the reason for them
        (to be followed by the value). A missing required value is not in the mask: it is null.

    Raises:
        Unreadable: an array of a type that the column cannot hold.
    """
    array, no_text = plain(array)
    if is_text(array):
        missing = pc.is_in(array, pa.array(null_values, array.type))
        if pc.any(missing).as_py():
            array = pc.if_else(missing, pa.scalar(None, array.type), array)
    families, expected = READABLE[column.kind]
    if family(array.type) not in families:
        raise Unreadable(f"{array.type}, expected {expected}")
    if column.kind == "categories":
        values, bad, reason = _categories(column, array, null_values)
    else:
        values, bad, reason = column.read(array) if column.read else _converted(column, array)
    if no_text.any():
        return values, bad | no_text, "bytes that are not UTF-8"
    return values, bad, reason


def _converted(column: Column, array: pa.Array) -> Converted:
    if column.kind == "time":
        return _times(column, array)
    if column.kind == "number":
        return _numbers(column, array)
    if column.kind == "vector":
        return _vectors(column, array)
    if column.kind == "order":
        return _integers(array, f"setting {column.setting}")
    if column.type == pa.int64():
        return _integers(array, f"setting types.{column.name}: string would keep it as text")
    values, bad = to_texts(array)
    return values, bad, ROUNDED


def _categories(column: Column, array: pa.Array, null_values: list[str]) -> Converted:
    """Lists of values; a row with a bad one is bad. Missing ones are left out, and a row without
    any other is missing."""
    flat, owners, no_text = elements(array, column.separator, null_values)
    if family(flat.type) not in READABLE["category"][0]:
        raise Unreadable(f"{array.type}, expected {READABLE['categories'][1]}")
    values, wrong, reason = _converted(column, flat)
    if no_text.any():
        wrong, reason = wrong | no_text, "bytes that are not UTF-8"
    kept = np.asarray(values.is_valid()) & ~wrong
    bad = np.zeros(len(array), bool)
    bad[owners[wrong]] = True
    return listed(values, owners, kept, len(array)), bad, reason


ROUNDED = (
    "not exact as a floating-point number, which holds integers up to 2^53 (float32: 2^24); write "
    "the column as integers or text"
)


def _integers(array: pa.Array, remedy: str) -> Converted:
    values, bad = to_integers(array)
    if family(array.type) == "float":
        whole = np.asarray(pc.fill_null(pc.equal(pc.floor(array), array), False))
        if (whole & bad).any():
            return values, bad, ROUNDED
    return values, bad, f"not a 64-bit integer ({remedy})"


def _numbers(column: Column, array: pa.Array) -> Converted:
    reason = "not a finite number"
    if is_text(array) and (column.decimal != "." or column.thousands):
        array = decimal_points(array, column.decimal, column.thousands)
        reason = f"not a number with '{column.decimal}' (settings decimal, thousands)"
    if pa.types.is_integer(array.type):  # of which a float holds the nearest
        array = array.cast(pa.float64(), safe=False)
    values, bad = cast_good(array, pa.float64(), NUMBER)
    values = values.cast(pa.float32(), safe=False)
    bad = bad | np.asarray(pc.fill_null(pc.invert(pc.is_finite(values)), False))
    if bad.any() and is_text(array) and pc.any(pc.match_substring(array, ",")).as_py():
        reason = "not a finite number (commas: settings decimal, thousands)"
    return values, bad, reason


def decimal_points(
    text: pa.Array, decimal: str, thousands: str, other: str | None = "no number"
) -> pa.Array:
    """Numbers in text with a point before their decimals, as Arrow reads them.

    Args:
        decimal, thousands: how the log writes numbers.
        other: in the place of a text that does not follow these; None: the text as it is.
    """
    mark, point = re.escape(thousands), re.escape(decimal)
    whole = rf"(?:[0-9]{{1,3}}(?:{mark}[0-9]{{3}})+|[0-9]*)" if thousands else "[0-9]*"
    form = rf"^\s*[+-]?{whole}(?:{point}[0-9]*)?(?:[eE][+-]?[0-9]+)?\s*$"
    good = pc.match_substring_regex(text, form)
    points = pc.replace_substring(text, thousands, "") if thousands else text
    points = pc.replace_substring(points, decimal, ".")
    if other is None:
        return pc.if_else(good, points, text)
    return pc.if_else(good, points, pc.if_else(text.is_valid(), other, None))


def _vectors(column: Column, array: pa.Array) -> Converted:
    if is_text(array):
        plain_text = pc.utf8_trim_whitespace(pc.replace_substring_regex(array, r"[\[\],;]", " "))
        array = pc.utf8_split_whitespace(plain_text)
    try:
        values, bad = cast_good(array, pa.list_(pa.float32()))
    except pa.ArrowException:
        raise Unreadable(f"{array.type}, expected {READABLE['vector'][1]}") from None
    lengths = pc.list_value_length(values)
    wrong = np.asarray(pc.fill_null(pc.not_equal(lengths, column.width or 0), False))
    flat = np.asarray(pc.list_flatten(values).fill_null(np.nan))
    if not np.isfinite(flat).all():
        parents = np.asarray(pc.list_parent_indices(values))
        bad = bad.copy()
        bad[parents[~np.isfinite(flat)]] = True
        # A vector of nothing but NaN is a missing one.
        known = np.bincount(parents[~np.isnan(flat)], minlength=len(values)) > 0
        missing = ~known & ~wrong & (np.asarray(lengths.fill_null(0)) > 0)
        values = pc.if_else(pa.array(missing), pa.scalar(None, values.type), values)
        bad &= ~missing
    return values, bad | wrong, f"not a vector of {column.width} finite numbers"


def _times(column: Column, array: pa.Array) -> Converted:
    milliseconds, bad, reason = to_milliseconds(array, column.time_format, column.time_zone)
    outside = pc.or_(
        pc.less(milliseconds, column.first_ms), pc.greater_equal(milliseconds, column.last_ms)
    )
    outside = np.asarray(pc.fill_null(outside, False))
    if outside.any() and not bad.any():
        first, last = day_of(column.first_ms), day_of(column.last_ms)
        reason = f"time before {first} or from {last} on (settings time_format, first_time)"
    return milliseconds.cast(TIMESTAMP), bad | outside, reason


def with_hint(reason: str, value: object) -> str:
    """The reason why a value is bad; where it may stand for a missing one, with that remedy."""
    if isinstance(value, str) and value.strip().lower() in NULL_TEXTS:
        return f"{reason.partition(' (')[0]} (if it means a missing value: setting null_values)"
    return reason


def row_text(rows: pa.RecordBatch, row: int) -> bytes:
    """One row of typed data as JSON, for the quarantine."""
    return json.dumps(rows.slice(row, 1).to_pylist()[0], default=str).encode()
