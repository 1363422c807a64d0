"""What the beginning of a log says of its columns: types of ids, and the form of times."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.arrays import EXACT, cast_good, family, is_text, to_integers, to_texts
from pipeline.ingest.columns import NULL_TEXTS
from pipeline.ingest.time_forms import compile_form, parse_form, parse_iso
from pipeline.ingest.times import FIRST_MS, LAST_MS, day_of, to_milliseconds

NUMBER = r"^\s*-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?\s*$"
# The median of unix times up to these: as a shorter unit, they would lie before 1974.
UNITS = {1e11: "unix_s", 1e14: "unix_ms", 1e17: "unix_us", np.inf: "unix_ns"}
# Numbers whose digits are a date and time: how many there are, and their form.
COMPACT = {
    8: "%Y%m%d",
    10: "%Y%m%d%H",
    12: "%Y%m%d%H%M",
    14: "%Y%m%d%H%M%S",
    17: "%Y%m%d%H%M%S%f",
}
# Further ones, which are named only: they read numbers that may be something else.
UNCOMMON = ("%y%m%d%H", "%y%m%d", "%y%m%d%H%M", "%y%m%d%H%M%S", "%d%m%Y", "%m%d%Y")
# Forms of well-known programs; where two read the same text, none of them is taken unasked.
WELL_KNOWN = (
    "%d/%b/%Y:%H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a %b %d %H:%M:%S %Y",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y-%m-%d %I:%M:%S %p",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d.%m.%Y",
    "%d-%b-%Y",
    "%Y/%m/%d",
)
MOST = 0.9
EARLY_MS = 662_688_000_000
"""1991-01-01: no log of the Web is older; one that seems to be has times in another unit."""


class Unclear(Exception):
    """Values that could be read in more than one way, or in none."""


@dataclass(frozen=True)
class Times:
    """The form of a column of times, and the time from which on they are good."""

    format: str
    first_ms: int


def looks_integer(array: pa.Array) -> bool:
    """Whether most values are integers; texts for a missing value left out.

    Args:
        array: values of a plain type (:mod:`pipeline.ingest.arrays`) without missing ones.
    """
    if is_text(array):
        array = array.filter(pc.invert(is_null_text(array)))
    if not len(array):
        return pa.types.is_integer(array.type)
    if family(array.type) == "float":
        return bool(pc.all(pc.equal(pc.floor(array), array)).as_py())
    return bool(to_integers(array)[1].mean() < 0.5)


def is_null_text(text: pa.Array) -> pa.Array:
    """Where a text is one by which some program writes a missing value."""
    return pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(text)), pa.array(NULL_TEXTS, text.type))


def rounded(array: pa.Array) -> bool:
    """Whether floats hold integers too large to be exact."""
    if family(array.type) != "float":
        return False
    return bool(pc.any(pc.greater(pc.abs(array), EXACT[array.type])).as_py())


def guess_times(array: pa.Array, format: str, zone: str | None) -> Times:
    """The form of times, if not set, and where they begin.

    Args:
        array: values of a plain type without missing ones.
        format: the setting; ``auto`` to tell it from the values.

    Raises:
        Unclear: the values fit no form, or only one that puts them before 1991.
    """
    given = format != "auto"
    if not given:
        format = _form(array)
    values, _, _ = to_milliseconds(array, format, zone)
    good = np.asarray(values.drop_null())
    good = good[(good >= FIRST_MS) & (good < LAST_MS)]
    median = float(np.median(good)) if len(good) else float(EARLY_MS)
    if median < EARLY_MS and not given and format.startswith("unix"):
        raise Unclear(
            f"{_first(array)} read as {format} would be in {day_of(int(median))[:4]}, like most; "
            f"set time_format to what it is{_proposed(array)} ({format} if it is so)"
        )
    return Times(format, EARLY_MS if median >= EARLY_MS else FIRST_MS)


def _proposed(array: pa.Array) -> str:
    """Forms in which numbers that are no unix times are times after 1991, for a message."""
    digits = pc.utf8_trim_whitespace(array) if is_text(array) else to_texts(array)[0]
    fitting = []
    for form in UNCOMMON:
        compiled = compile_form(form)
        values, good, _ = parse_form(pc.utf8_lpad(digits, compiled.digits, "0"), compiled)
        if (good & (values >= EARLY_MS) & (values < LAST_MS)).mean() >= MOST:
            fitting.append(f"'{form}'")
    if fitting:
        return f": perhaps {' or '.join(fitting)}"
    return "; day counts of a spreadsheet have to be converted first"


def _first(array: pa.Array) -> str:
    return repr(array[0].as_py()) if len(array) else ""


def _form(array: pa.Array) -> str:
    kind = family(array.type)
    if kind in ("timestamp", "date") or not len(array):
        return "iso"
    if kind == "text":
        numeric = pc.match_substring_regex(array, NUMBER)
        if _share(numeric) <= 0.5:
            return _text_form(array)
        numbers = array.filter(numeric)
        digits = pc.utf8_trim_whitespace(numbers)
        floats = np.asarray(cast_good(digits, pa.float64())[0].drop_null())
    else:
        floats = np.asarray(array.cast(pa.float64(), safe=False))
        whole, _ = to_integers(array)
        digits = whole.cast(pa.string())
    return _compact(digits) or next(
        unit for most, unit in UNITS.items() if float(np.median(floats)) <= most
    )


def _compact(digits: pa.Array) -> str | None:
    """The form of numbers that are dates written without marks between."""
    for length, form in COMPACT.items():
        fitting = pc.fill_null(pc.equal(pc.utf8_length(digits), length), False)
        if _share(fitting) < MOST:
            continue
        values, good, _ = parse_form(digits, compile_form(form))
        inside = good & (values >= FIRST_MS) & (values < LAST_MS)
        if inside.mean() >= MOST:
            return form
    return None


def _text_form(text: pa.Array) -> str:
    text = pc.utf8_trim_whitespace(text)
    if parse_iso(text)[1].mean() > 0.5:
        return "iso"
    fitting = [form for form in WELL_KNOWN if parse_form(text, compile_form(form))[1].mean() > MOST]
    forms = " or ".join(f"'{form}'" for form in fitting)
    hint = f"set time_format: {forms}" if fitting else "set time_format to their form"
    raise Unclear(f"{_first(text)} is neither a unix time nor ISO 8601; {hint}")


def _share(array: pa.Array) -> float:
    return (pc.sum(array).as_py() or 0) / len(array) if len(array) else 0.0
