"""Arrow arrays of any type → arrays of a few plain types, and casts that spare the good rows."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Family = Literal[
    "text", "bool", "integer", "float", "decimal", "timestamp", "date", "time", "list", "other"
]
# What a float holds exactly: all integers up to this; larger ones may have been rounded.
EXACT = {pa.float32(): 1 << 24, pa.float64(): 1 << 53}
VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


class Unreadable(Exception):
    """An array of a type that its column cannot hold."""


def family(type: pa.DataType) -> Family:
    """What values of a plain type are; ``other`` has no conversion."""
    tests: dict[Family, tuple[bool, ...]] = {
        "text": (pa.types.is_string(type), pa.types.is_null(type)),
        "bool": (pa.types.is_boolean(type),),
        "integer": (pa.types.is_integer(type),),
        "float": (pa.types.is_floating(type),),
        "decimal": (pa.types.is_decimal(type),),
        "timestamp": (pa.types.is_timestamp(type),),
        "date": (pa.types.is_date(type),),
        "time": (pa.types.is_time(type),),
        "list": (
            pa.types.is_list(type),
            pa.types.is_large_list(type),
            pa.types.is_fixed_size_list(type),
        ),
    }
    return next((name for name, holds in tests.items() if any(holds)), "other")


def plain(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The same values without an encoding or extension around them.

    Returns:
        The array: all texts and bytes are strings, a column without a type is one of missing
        strings, NaN is missing. And a mask of the rows whose bytes are no UTF-8.
    """
    array = _decoded(array)
    type, bad = array.type, np.zeros(len(array), bool)
    if pa.types.is_null(type) or pa.types.is_large_string(type) or type == pa.string_view():
        array = array.cast(pa.string())
    elif pa.types.is_fixed_size_binary(type) or pa.types.is_large_binary(type):
        array, bad = cast_good(array.cast(pa.binary()), pa.string())
    elif pa.types.is_binary(type) or type == pa.binary_view():
        array, bad = cast_good(array, pa.string())
    elif pa.types.is_float16(type):
        array = array.cast(pa.float32())
    return without_nan(array), bad


def _decoded(array: pa.Array) -> pa.Array:
    while True:
        type = array.type
        if isinstance(type, pa.UuidType):
            values = (None if value is None else str(value) for value in array.to_pylist())
            array = pa.array(list(values), pa.string())
        elif isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_dictionary(type):
            values = array.dictionary
            if values.type in VIEWS:  # which cannot be taken from
                values = values.cast(VIEWS[values.type])
            array = pa.DictionaryArray.from_arrays(array.indices, values).dictionary_decode()
        elif pa.types.is_run_end_encoded(type):
            array = pc.run_end_decode(array)
        else:
            return array


def without_nan(array: pa.Array) -> pa.Array:
    """``array`` with nulls for NaN, by which many writers mean a missing number."""
    if not pa.types.is_floating(array.type):
        return array
    nan = pc.is_nan(array)
    if not pc.any(nan).as_py():
        return array
    return pc.if_else(nan, pa.scalar(None, array.type), array)


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
        array = without(array, bad)
    _find_bad(array, 0, type, bad)
    return without(array, bad).cast(type), bad


def without(array: pa.Array, bad: np.ndarray) -> pa.Array:
    """``array`` with nulls at the bad rows."""
    return pc.if_else(pa.array(bad), pa.scalar(None, array.type), array)


def _find_bad(array: pa.Array, first: int, type: pa.DataType, bad: np.ndarray) -> None:
    """Marks the rows that cannot be cast, by halving."""
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


def to_integers(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """int64 and a mask of the values that are no 64-bit integer, or not surely the one written.

    Texts are integers as programs write them: 0, 117, -5; not 007, +5, -0 or 5.0, which other
    texts would be merged with. Whole floats are integers as far as a float holds them exactly.
    """
    kind = family(array.type)
    if kind == "text":
        values, bad = cast_good(array, pa.int64(), r"^-?[0-9]{1,19}$")
        # Arrow also reads 0117 and hexadecimal.
        back = np.asarray(pc.fill_null(pc.equal(values.cast(pa.string()), array), True))
        return (values, bad) if back.all() else (without(values, ~back), bad | ~back)
    if kind == "float":
        exact = pc.and_(
            pc.equal(pc.floor(array), array), pc.less_equal(pc.abs(array), EXACT[array.type])
        )
        bad = ~np.asarray(pc.fill_null(exact, True))
        return without(array, bad).cast(pa.int64()), bad
    if kind in ("integer", "decimal"):
        return cast_good(array, pa.int64())
    return pa.nulls(len(array), pa.int64()), np.asarray(array.is_valid())


def to_texts(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Strings and a mask of the values that have none: floats that may be rounded integers.

    Equal values have the same text whatever their type: 5, 5.0 and Decimal 5.00 are "5".
    """
    kind = family(array.type)
    if kind == "float":
        return _float_texts(array)
    if kind == "decimal":
        text = pc.replace_substring_regex(array.cast(pa.string()), r"(\.[0-9]*?)0+$", r"\1")
        return pc.replace_substring_regex(text, r"\.$", ""), np.zeros(len(array), bool)
    if kind == "timestamp" and array.type.tz is not None:
        instant = array.cast(pa.timestamp(array.type.unit)).cast(pa.string())
        return pc.binary_join_element_wise(instant, "Z", ""), np.zeros(len(array), bool)
    return cast_good(array, pa.string())


def _float_texts(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    whole = np.asarray(pc.fill_null(pc.equal(pc.floor(array), array), False))
    integers, bad = to_integers(without(array, ~whole))
    bad |= np.asarray(pc.fill_null(pc.is_inf(array), False))
    return pc.if_else(
        pa.array(whole), integers.cast(pa.string()), without(array, bad).cast(pa.string())
    ), bad
