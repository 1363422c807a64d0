"""Labels of click logs as their owners write them → 0 and 1."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from core.settings import Settings
from pipeline.ingest.arrays import cast_good, is_text
from pipeline.ingest.columns import Converted, decimal_points
from pipeline.ingest.times import NUMBER

WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y"), 1),
    **dict.fromkeys(("false", "f", "no", "n"), 0),
}
"""What is read as 1 and as 0 besides these numbers, in any case."""
Value = bool | int | float | str
NOT_A_LABEL = "not 0 or 1 (settings label_values, label_thresholds)"


class LabelValues(Settings):
    """Which values of a label column count as 1 and which as 0."""

    positive: list[Value] = Field(min_length=1)
    """Values that are 1: a click."""

    negative: list[Value] | None = None
    """Values that are 0; a row with any other is quarantined. null: all other values are 0."""

    @model_validator(mode="after")
    def _apart(self) -> "LabelValues":
        both = {*map(_key, self.positive)} & {*map(_key, self.negative or ())}
        if both:
            raise ValueError(f"{', '.join(sorted(both))}: both positive and negative")
        return self

    @property
    def all(self) -> list[Value]:
        """All values that are named."""
        return [*self.positive, *(self.negative or ())]

    def of(self, value: Any) -> int | None:
        """1, 0, or None where a value is neither."""
        key = _key(value)
        if key in {_key(positive) for positive in self.positive}:
            return 1
        if self.negative is None:
            return 0
        return 0 if key in {_key(negative) for negative in self.negative} else None


def _key(value: Any) -> str:
    """One text for all forms of a value: of 2, "2" and 2.0, of True and "yes"."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in WORDS:
            return str(WORDS[text.lower()])
        if not re.match(NUMBER, text):
            return text
        try:
            value = float(text)
        except ValueError:
            return text
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(float(value))


def plain_label(value: Any) -> int | None:
    """1 and 0 in any form of number, truth value or word of :data:`WORDS`; else None."""
    return {"0": 0, "1": 1}.get(_key(value))


def label_reader(
    values: LabelValues | None, threshold: float | None, decimal: str = ".", thousands: str = ""
) -> Callable[[pa.Array], Converted]:
    """What converts the values of a label column.

    Args:
        values: which are 1 and 0, if that is set.
        threshold: numbers from this one on are 1, those below 0, if that is set.
        decimal, thousands: how numbers in text are written.
    """
    read = _plain
    if threshold is not None:
        read = partial(_at_least, threshold=threshold)
    elif values is not None:
        read = partial(_mapped, of=values.of)
    if decimal == "." and not thousands:
        return read
    kept = {value for value in (values.all if values else ()) if isinstance(value, str)}
    return lambda array: read(_with_points(array, decimal, thousands, kept))


def _with_points(array: pa.Array, decimal: str, thousands: str, kept: set[str]) -> pa.Array:
    """Numbers in text with a decimal point; texts that the settings name stay as they are."""
    if not is_text(array):
        return array
    points = decimal_points(array, decimal, thousands, other=None)
    if not kept:
        return points
    named = pc.is_in(pc.utf8_trim_whitespace(array), pa.array(sorted(kept), array.type))
    return pc.if_else(named, array, points)


def _plain(array: pa.Array) -> Converted:
    """0 and 1 at once; what else there is, by its distinct values."""
    try:
        # Arrow would read hexadecimal as integers.
        whole = (array.cast(pa.float64()) if is_text(array) else array).cast(pa.int8())
        if pc.all(pc.is_in(whole, pa.array([0, 1, None], pa.int8()))).as_py():
            return whole, np.zeros(len(array), bool), NOT_A_LABEL
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    return _mapped(array, plain_label)


def _mapped(array: pa.Array, of: Callable[[Any], int | None]) -> Converted:
    if not is_text(array) and not _is_number(array):
        return pa.nulls(len(array), pa.int8()), np.asarray(array.is_valid()), NOT_A_LABEL
    coded = array.dictionary_encode()
    labels = [None if _is_nan(value) else of(value) for value in coded.dictionary.to_pylist()]
    values = pa.array(labels, pa.int8()).take(coded.indices)
    missing = pa.array(map(_is_nan, coded.dictionary.to_pylist()), pa.bool_()).take(coded.indices)
    bad = pc.and_(array.is_valid(), pc.and_(values.is_null(), pc.invert(missing)))
    return values, np.asarray(pc.fill_null(bad, False)), NOT_A_LABEL


def _at_least(array: pa.Array, threshold: float) -> Converted:
    numbers, bad = cast_good(array, pa.float64(), NUMBER)
    numbers = pc.if_else(pc.fill_null(pc.is_nan(numbers), False), None, numbers)
    values = pc.greater_equal(numbers, threshold).cast(pa.int8())
    return values, bad, "not a number (settings label_thresholds, decimal)"


def _is_number(array: pa.Array) -> bool:
    kinds = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean
    return any(is_kind(array.type) for is_kind in kinds)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
