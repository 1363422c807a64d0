"""Texts of times → parts → milliseconds: ISO 8601, and forms of one's own like those of strptime.

The directives are those of Python's ``strptime``; names of months and days are English whatever the
locale, and a directive that touches another one needs all its digits.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
FULL_MONTHS = [
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
]
DAYS = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
ZONE = r"(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?[0-5]\d)?)"
# Digits of a directive, the most first; group names are those of the parts below.
DIGITS = {
    "Y": ("year", 4),
    "y": ("short_year", 2),
    "m": ("month", 2),
    "d": ("day", 2),
    "j": ("day_of_year", 3),
    "H": ("hour", 2),
    "I": ("half_hour", 2),
    "M": ("minute", 2),
    "S": ("second", 2),
}
TEXTS = {
    "f": r"(?P<fraction>\d{1,9})",
    "p": r"(?P<half>[AP]M)",
    "b": rf"(?P<month_name>{'|'.join(MONTHS)})",
    "B": rf"(?P<month_name>{'|'.join(FULL_MONTHS)})",
    "a": DAYS,
    "A": DAYS,
    "z": ZONE,
    "Z": r"(?P<zone>Z|UTC|GMT)",
    "%": "%",
}
SHORT = {"T": "%H:%M:%S", "R": "%H:%M", "F": "%Y-%m-%d", "D": "%m/%d/%y", "e": "%d"}
_CLOCK = r"(?P<hour>\d\d){0}(?P<minute>\d\d)(?:{0}(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
_ISO = r"^(?P<year>\d{{4}}){0}(?P<month>\d\d){0}(?P<day>\d\d)(?:{1}{2}\s*{3}?)?$"
ISO = "(?i)" + _ISO.format("-", r"(?:T|\s+)", _CLOCK.format(":"), ZONE)
ISO_BASIC = "(?i)" + _ISO.format("", r"(?:T|\s+)?", _CLOCK.format(""), ZONE)
DAY = 86_400_000
# What may be where in extended ISO 8601 of these lengths.
MARKS = {4: b"-", 7: b"-", 10: b"T t", 13: b":", 16: b":"}
ALIKE = {19: {}, 20: {19: b"Zz"}, 23: {19: b".,"}, 24: {19: b".,", 23: b"Zz"}}
PLACES = {
    **{"year": (0, 4), "month": (5, 7), "day": (8, 10)},
    **{"hour": (11, 13), "minute": (14, 16), "second": (17, 19), "fraction": (20, 23)},
}
Parsed = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Form:
    """A form of times: the pattern that its texts match, and their digits if they are all."""

    pattern: str
    digits: int | None = None


@cache
def compile_form(form: str) -> Form:
    """A form such as ``%d/%b/%Y:%H:%M:%S %z`` → its pattern.

    Raises:
        ValueError: an unknown directive, one that is there twice, or no whole date.
    """
    for short, long in SHORT.items():
        form = form.replace(f"%{short}", long)
    parts = re.findall(r"%(.?)|(\s+)|([^%\s]+)", form.strip(), re.DOTALL)
    pattern, digits = "(?i)^", 0
    for index, (directive, blank, literal) in enumerate(parts):
        if blank:
            pattern += r"\s+"
        elif literal:
            pattern += re.escape(literal)
        else:
            touches = any(
                parts[at][0] in [*DIGITS, "f"]
                for at in (index - 1, index + 1)
                if 0 <= at < len(parts)
            )
            pattern += _directive(directive, touches)
        digits = digits + DIGITS[directive][1] if directive in DIGITS and digits >= 0 else -1
    try:
        names = set(re.compile(pattern).groupindex)
    except re.error:
        raise ValueError(f"{form!r}: a directive is there twice") from None
    _check_whole(form, names)
    return Form(pattern + "$", digits if digits > 0 else None)


def _directive(name: str, touches: bool) -> str:
    if name in DIGITS:
        part, most = DIGITS[name]
        exact = touches or name in "Yy"
        return rf"(?P<{part}>\d{{{most}}})" if exact else rf"(?P<{part}>\d{{1,{most}}})"
    if name not in TEXTS:
        known = " ".join(f"%{known}" for known in [*DIGITS, *TEXTS, *SHORT])
        raise ValueError(f"%{name}: no such directive; known are {known}")
    return TEXTS[name]


def _check_whole(form: str, names: set[str]) -> None:
    year = names & {"year", "short_year"}
    day = "day_of_year" in names or ("day" in names and names & {"month", "month_name"})
    if not year or not day:
        raise ValueError(f"{form!r}: expected a whole date, as %Y-%m-%d")
    if ("half_hour" in names) != ("half" in names):
        raise ValueError(f"{form!r}: %I (hours to 12) and %p (AM, PM) belong together")


def parse_form(text: pa.Array, form: Form) -> Parsed:
    """Times by the clock of their zone → milliseconds, floored.

    Returns:
        ``(milliseconds, good, zoned)``: where a time was read, and where it had a zone, so that its
        milliseconds are UTC; those of the others are of a clock of no zone.
    """
    return _milliseconds(pc.extract_regex(text, form.pattern))


def parse_iso(text: pa.Array) -> Parsed:
    """Times in ISO 8601, extended or basic; see :func:`parse_form`. A date is its midnight."""
    alike = _parse_alike(text)
    if alike is not None:
        return alike
    matched = pc.extract_regex(text, ISO)
    if matched.null_count == len(text):
        return _milliseconds(pc.extract_regex(text, ISO_BASIC))
    values, good, zoned = _milliseconds(matched)
    rest = np.flatnonzero(np.asarray(pc.and_not(text.is_valid(), matched.is_valid())))
    if len(rest):
        basic = _milliseconds(pc.extract_regex(text.take(pa.array(rest)), ISO_BASIC))
        values[rest], good[rest], zoned[rest] = basic
    return values, good, zoned


def _parse_alike(text: pa.Array) -> Parsed | None:
    """Times that are all as 2019-10-01T13:05:09, with milliseconds or a Z or not, at once."""
    lengths = pc.min_max(pc.binary_length(text))
    length = lengths["min"].as_py()
    if text.null_count or length not in ALIKE or length != lengths["max"].as_py():
        return None
    _, offsets, data = text.buffers()
    first = int(np.frombuffer(offsets, np.int32)[text.offset])
    size = length * len(text)
    cells = np.frombuffer(data, np.uint8)[first : first + size].reshape(len(text), length)
    at = MARKS | ALIKE[length]
    if not all(_is_one_of(cells[:, place], marks) for place, marks in at.items()):
        return None
    part = {}
    for name, (start, end) in PLACES.items():
        if end <= length:
            digits = cells[:, start:end] - ord("0")  # wraps around below 0
            if (digits > 9).any():
                return None
            value = digits[:, 0].astype(np.int64)
            for place in range(1, end - start):
                value = 10 * value + digits[:, place]
            part[name] = value
    values, good = _total(part, np.ones(len(text), bool))
    return values, good, np.full(len(text), length in (20, 24))


def _is_one_of(cells: np.ndarray, marks: bytes) -> bool:
    return bool(np.logical_or.reduce([cells == mark for mark in marks]).all())


def _milliseconds(matched: pa.StructArray) -> Parsed:
    names = {field.name for field in matched.type}
    good = np.asarray(matched.is_valid())
    part = {name: _part(matched, name) for name in names - {"zone", "half", "month_name"}}
    if "month_name" in names:
        text = pc.utf8_slice_codeunits(pc.utf8_lower(pc.struct_field(matched, "month_name")), 0, 3)
        part["month"] = 1 + _filled(pc.index_in(text, pa.array(MONTHS)))
    if "half_hour" in names:
        after = _filled(pc.starts_with(pc.struct_field(matched, "half"), "p", ignore_case=True))
        hour = part["half_hour"]
        good &= (hour >= 1) & (hour <= 12)
        part["hour"] = hour % 12 + 12 * after
    values, good = _total(part, good)
    if "zone" not in names:
        return values, good, np.zeros(len(good), bool)
    offset, zoned, real = _offsets(pc.struct_field(matched, "zone"))
    return values - offset, good & real, zoned


def _total(part: dict[str, np.ndarray], good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    zero = np.zeros(len(good), np.int64)
    hour, minute, second = (part.get(name, zero) for name in ("hour", "minute", "second"))
    day, real = _days(part)
    values = day * DAY + hour * 3_600_000 + minute * 60_000 + second * 1000
    values += part.get("fraction", zero)
    return values, good & real & (hour < 24) & (minute < 60) & (second < 60)


def _filled(array: pa.Array) -> np.ndarray:
    return np.asarray(array.cast(pa.int64()).fill_null(0)).copy()


def _part(matched: pa.StructArray, name: str) -> np.ndarray:
    text = pc.struct_field(matched, name)
    if name == "fraction":
        text = pc.utf8_slice_codeunits(pc.utf8_rpad(text, 3, "0"), 0, 3)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    return _filled(text)


def _days(part: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Days since 1970, and where the date exists."""
    if "year" in part:
        year = part["year"]
    else:  # as POSIX has it: 69 is 1969, 68 is 2068
        year = part["short_year"] + np.where(part["short_year"] < 69, 2000, 1900)
    if "day_of_year" in part:
        first = (year - 1970).astype("datetime64[Y]").astype("datetime64[D]")
        date = first + (part["day_of_year"] - 1)
        return date.astype(np.int64), date.astype("datetime64[Y]") == first.astype("datetime64[Y]")
    month, day = part["month"], part["day"]
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    date = first.astype("datetime64[D]") + (day - 1)
    real = (month >= 1) & (month <= 12) & (day >= 1) & (date.astype("datetime64[M]") == first)
    return date.astype(np.int64), real


def _offsets(zone: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Milliseconds east of UTC, where there is a zone, and where it is one."""
    zone = pc.if_else(pc.equal(zone, ""), pa.scalar(None, pa.string()), zone)
    texts = zone.dictionary_encode()
    names = texts.dictionary.to_pylist()
    index = np.asarray(texts.indices.fill_null(len(names)))
    known = np.array([*(_offset(name) for name in names), 0], np.int64)
    offset = known[index]
    return offset, np.asarray(zone.is_valid()), np.abs(offset) < DAY


def _offset(name: str) -> int:
    digits = re.sub(r"\D", "", name)
    if not digits:
        return 0
    minutes = int(digits[:2]) * 60 + int(digits[2:4] or 0)
    return minutes * 60_000 * (-1 if name.startswith("-") else 1)
