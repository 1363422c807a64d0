"""Times in any form → milliseconds since 1970 in UTC, rounded down."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.arrays import cast_good, family, to_integers, to_texts, without
from pipeline.ingest.time_forms import DAY, Form, compile_form, parse_form, parse_iso

UNIX = {"unix_s": 1e3, "unix_ms": 1.0, "unix_us": 1e-3, "unix_ns": 1e-6}
"""Milliseconds in one unit of each."""
NAMED = ("auto", *UNIX, "iso")
# Beyond these a time is taken for a wrong unit or a wrong column: 1970-01-01 to 2100-01-01.
FIRST_MS, LAST_MS = 0, 4_102_444_800_000
NUMBER = r"^[ ]*[+-]?[0-9.]+([eE][+-]?[0-9]+)?[ ]*$"
PER_MILLISECOND = {"s": 1 / 1000, "ms": 1, "us": 1_000, "ns": 1_000_000}
# Further than any date that is kept, and far enough from where 64 bits end.
FAR = 1 << 53


def check_format(value: str) -> str:
    """A time format by name, or one of one's own.

    Raises:
        ValueError: it is neither.
    """
    if value not in NAMED:
        if "%" not in value:
            raise ValueError(
                f"expected {', '.join(NAMED)} or a form as of strptime, such as %d/%m/%Y %H:%M:%S"
            )
        compile_form(value)
    return value


def check_zone(value: str) -> str:
    """A time zone by its name in the IANA database.

    Raises:
        ValueError: there is none of that name.
    """
    import polars as pl

    try:
        pl.Series([datetime(2000, 1, 1)]).dt.replace_time_zone(value)
    except pl.exceptions.PolarsError:
        raise ValueError(f"{value!r}: no such zone; expected one as Europe/Berlin") from None
    return value


def day_of(milliseconds: int) -> str:
    """A time in ISO 8601, as :func:`to_unix` takes it; the day alone where it is midnight."""
    time = np.datetime64(milliseconds, "ms")
    return str(time.astype("datetime64[D]") if milliseconds % DAY == 0 else time)


def to_unix(text: str) -> int:
    """A date or time in ISO 8601 → milliseconds since 1970; UTC without a zone.

    Raises:
        ValueError: it is none.
    """
    time = datetime.fromisoformat(text)
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return int(time.timestamp() * 1000)


def to_milliseconds(
    array: pa.Array, format: str | None, zone: str | None
) -> tuple[pa.Array, np.ndarray, str]:
    """Times → int64 milliseconds.

    Args:
        array: of a plain type that can hold times (:mod:`pipeline.ingest.arrays`).
        format: of texts and numbers.
        zone: of what has none; None is UTC.

    Returns:
        The milliseconds, a mask of the bad rows, and what they are not.
    """
    kind = family(array.type)
    bad = np.zeros(len(array), bool)
    if kind in ("timestamp", "date"):
        values, zoned = _from_arrow(array), getattr(array.type, "tz", None) is not None
        if zone and not zoned:
            values, bad = _localised(values, np.ones(len(bad), bool), zone)
        return values, bad, f"not a time of {zone}"
    if format in UNIX:
        values, bad = _from_unix(array, format)
        return values, bad, f"not a {format} time (setting time_format)"
    form = None if format in (None, "iso") else compile_form(format)
    values, bad = _from_text(_as_text(array, form), form, zone)
    what = "not an ISO 8601 time" if form is None else f"not a time as {format}"
    return values, bad, f"{what} (setting time_format)"


def _from_arrow(array: pa.Array) -> pa.Array:
    """Milliseconds of timestamps and dates: an instant needs no clock of its zone."""
    if pa.types.is_date32(array.type):
        return pc.multiply(array.cast(pa.int32()).cast(pa.int64()), DAY)
    unit = "ms" if pa.types.is_date64(array.type) else array.type.unit
    values = array.cast(pa.int64())
    if unit == "ms":
        return values
    whole = np.asarray(values.fill_null(0))
    if unit == "s":
        whole = np.clip(whole, -FAR // 1000, FAR // 1000) * 1000
    else:
        whole = whole // PER_MILLISECOND[unit]
    return pa.array(whole, mask=np.asarray(values.is_null()))


def _from_unix(array: pa.Array, format: str) -> tuple[pa.Array, np.ndarray]:
    """Whole numbers exactly and rounded down, others to the nearest millisecond."""
    kind = family(array.type)
    if kind == "float" or (kind == "text" and format in ("unix_s", "unix_ms")):
        return _from_floats(array, format)
    whole, odd = to_integers(array)
    values = _from_arrow(whole.cast(pa.timestamp(format.removeprefix("unix_"))))
    if not odd.any():
        return values, odd
    rest, bad = _from_floats(without(array, ~odd), format)
    return pc.if_else(pa.array(odd), rest, values), bad


def _from_floats(array: pa.Array, format: str) -> tuple[pa.Array, np.ndarray]:
    values, bad = cast_good(array, pa.float64(), NUMBER)
    milliseconds = np.rint(np.asarray(values.fill_null(np.nan)) * UNIX[format])
    inside = np.abs(milliseconds) < FAR  # false for NaN
    whole = np.where(inside, milliseconds, -1).astype(np.int64)
    return pa.array(whole, mask=np.asarray(values.is_null())), bad


def _as_text(array: pa.Array, form: Form | None) -> pa.Array:
    """Texts to read; a number whose digits are a date has its leading zeros again."""
    if family(array.type) == "text":
        return pc.utf8_trim_whitespace(array)
    text, bad = to_texts(array)
    text = without(text, bad)
    return text if form is None or form.digits is None else pc.utf8_lpad(text, form.digits, "0")


def _from_text(text: pa.Array, form: Form | None, zone: str | None) -> tuple[pa.Array, np.ndarray]:
    values, good, zoned = parse_iso(text) if form is None else parse_form(text, form)
    given = np.asarray(text.is_valid())
    times = pa.array(values, mask=~good)
    if zone is None:
        return times, given & ~good
    times, unreal = _localised(times, good & ~zoned, zone)
    return times, (given & ~good) | unreal


def _localised(times: pa.Array, local: np.ndarray, zone: str) -> tuple[pa.Array, np.ndarray]:
    """Milliseconds of a zone's clock → UTC, where ``local``, and a mask of what it never shows.

    An hour that comes twice is taken for the first of the two.
    """
    import polars as pl

    values = np.asarray(times.fill_null(0))
    near = local & np.asarray(times.is_valid()) & (np.abs(values) < 2 * LAST_MS)
    clock = pl.Series(values[near]).cast(pl.Datetime("ms"))
    instants = clock.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    real = instants.is_not_null().to_numpy()
    values = values.copy()
    values[near] = instants.cast(pl.Int64).fill_null(0).to_numpy()
    bad = np.zeros(len(values), bool)
    bad[np.flatnonzero(near)[~real]] = True
    return pa.array(values, mask=np.asarray(times.is_null()) | bad), bad
