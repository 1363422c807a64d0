"""What a CSV text holds, read character by character: the rules that ingest is checked against.

A quote opens a field only at its start, blanks before it left out. A quoted field may hold line
ends if the quote that ends it is followed by a separator or a line end, and if that comes before
``limit`` bytes of the record. Else the record is malformed up to the line where that shows.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """A record: the numbers of its lines, and its fields, or None where it is malformed."""

    lines: tuple[int, ...]
    fields: tuple[str, ...] | None


def read(data: bytes, separator: str, width: int, limit: int, first_line: int) -> list[Record]:
    """The records of ``data``, which begins with line ``first_line``; each must be ``width``."""
    text = data.decode("latin-1")  # a character is a byte
    if text and not text.endswith("\n"):
        text += "\n"
    records = []
    at, line = 0, first_line
    while at < len(text):
        end, fields = _record(text, at, separator, limit)
        count = text.count("\n", at, end)
        lines = tuple(range(line, line + count))
        body = text[at : end - 1].removesuffix("\r")
        if not body or len(body) > limit or len(fields or ()) != width:
            fields = None
        if fields is None:
            records += [Record((one,), None) for one in lines]
        else:
            records.append(Record(lines, tuple(fields)))
        at, line = end, line + count
    return records


def _record(text: str, start: int, separator: str, limit: int) -> tuple[int, list[str] | None]:
    """Where the record from ``start`` ends, after its line end, and its fields."""
    fields: list[str] = []
    at = start
    blanks = " \t".replace(separator, "")
    while True:
        while text[at] in blanks:
            at += 1
        if text[at] == '"':
            value, at = _quoted(text, at + 1, start, separator, blanks, limit)
            if value is None:
                return text.index("\n", min(at, len(text) - 1)) + 1, None
        else:
            value = ""
        rest = at
        while text[at] not in (separator, "\n"):
            at += 1
        tail = text[rest:at]
        if text[at] == "\n":
            tail = tail.removesuffix("\r")
        if "\r" in tail:
            value = None
        fields.append(None if value is None else value + tail.rstrip(blanks))
        at += 1
        if text[at - 1] == "\n":
            return at, None if None in fields else fields


def _quoted(
    text: str, at: int, start: int, separator: str, blanks: str, limit: int
) -> tuple[str | None, int]:
    value = ""
    several = False
    while at < len(text):
        several |= text[at] == "\n"
        if several and at - start >= limit:
            return None, at
        if text[at] != '"':
            value += text[at]
            at += 1
        elif text[at + 1 : at + 2] == '"':
            value += '"'
            at += 2
        else:
            after = text[at + 1 :].lstrip(blanks)[:1]
            if several and after not in (separator, "\n", "\r"):
                return None, at
            return value, at + 1
    return None, at
