"""Where the records of delimited text begin and end, and which of them are malformed.

The rules are RFC 4180's and those of pyarrow's CSV parser, which reads the good records afterwards:
a quote is special only at the start of a field, a doubled quote within quotes is one quote,
and a quoted field may hold line ends. One that does must end before a separator or a line end, and
within ``max_line`` bytes of its record's start: else the quote was a stray one. No line from there
on is then a record, up to the line where the next quote shows that the field cannot have begun
there, or where the limit is reached. Blanks around fields, outside quotes, are none of theirs.
"""

import numpy as np

from core.compiled import compiled

OK, BLANK, TOO_LONG, FIELD_COUNT, UNCLOSED, RETURN, CONTINUED = range(7)
CLOSED, CLOSED_LATER, BROKEN, OPEN = range(4)
_TAB, _NEWLINE, _RETURN, _SPACE = 9, 10, 13, 32


@compiled
def _blank(byte, separator):
    return byte in (_SPACE, _TAB) and byte != separator and separator != _SPACE


@compiled
def _quoted_end(text, position, start, separator, quote, max_line):
    """Where a quoted field ends, whose first byte after the quote is at ``position``.

    Returns:
        The position after its closing quote, and CLOSED (on its line) or CLOSED_LATER; or that of
        what shows that it has none, and BROKEN; or the end of the text, and OPEN.
    """
    lines = False
    while position < text.size:
        byte = text[position]
        if byte == _NEWLINE:
            lines = True
        if lines and position - start >= max_line:
            return position, BROKEN
        position += 1
        if byte != quote:
            continue
        if position < text.size and text[position] == quote:
            position += 1
            continue
        if not lines:
            return position, CLOSED
        after = position
        while after < text.size and _blank(text[after], separator):
            after += 1
        if after == text.size:
            return after, OPEN
        byte = text[after]
        if byte in (separator, _NEWLINE, _RETURN):
            return position, CLOSED_LATER
        return position - 1, BROKEN
    return position, OPEN


@compiled
def last_record_end(text, separator, quote, max_line):
    """Where the last record ends that is whole; ``text`` begins with one.

    Outside quotes it looks at quotes only, and at the bytes before them.
    """
    start = position = 0  # of the record, of the search
    while True:
        at = position
        while at < text.size and text[at] != quote:
            at += 1
        line_start = at  # where the last line before it starts
        while line_start > position and text[line_start - 1] != _NEWLINE:
            line_start -= 1
        if line_start > position:
            start = line_start
        if at == text.size:
            return start
        before = at - 1
        while before >= start and _blank(text[before], separator):
            before -= 1
        if before >= start and text[before] != separator:
            position = at + 1
            continue
        position, state = _quoted_end(text, at + 1, start, separator, quote, max_line)
        if state >= BROKEN:
            while position < text.size and text[position] != _NEWLINE:
                position += 1
            if position == text.size:
                return start
            position += 1
            start = position


@compiled
def _note(records, row, start, end, code, count, line):
    """Writes a row of ``records``, see :func:`scan_records`."""
    records[row, 0] = start
    records[row, 1] = end
    records[row, 2] = code
    records[row, 3] = count
    records[row, 4] = line


@compiled
def scan_records(text, separator, doubled, quote, fields, max_line, records):
    """Finds the records; ``text`` must end with a line end.

    Of a malformed record of several lines, each line is one.

    Args:
        text: uint8 ``(bytes,)``.
        separator: the byte between fields.
        doubled: whether it takes two of them; there are no quotes then.
        quote: the byte around quoted fields, or -1.
        fields: how many a record must have.
        max_line: longer records are bad.
        records: int64 ``(lines, 5)``, out: start, end (line end left out), code, number of fields
            (of a CONTINUED line: the line that it belongs to), line, counted from 0.

    Returns:
        How many records there are, whether there are blanks around fields, and whether there are
        line ends within them.
    """
    position = line = row = 0
    padded = several = False
    while position < text.size:
        start = position
        count, at_start, broken, returned, later = 1, True, False, False, False
        while text[position] != _NEWLINE:
            byte = text[position]
            position += 1
            if byte == separator and (not doubled or text[position] == separator):
                padded |= position - 2 >= start and _blank(text[position - 2], separator)
                position += doubled
                count += 1
                at_start = True
                continue
            if at_start and _blank(byte, separator):
                padded = True
                continue
            if byte == _RETURN and text[position] != _NEWLINE:
                returned = True
            if byte == quote and at_start:
                position, state = _quoted_end(text, position, start, separator, quote, max_line)
                later |= state != CLOSED
                if state >= BROKEN:
                    broken = True
                    position = min(position, text.size - 1)
                    while text[position] != _NEWLINE:
                        position += 1
                    break
            at_start = False
        end = position
        if end > start and text[end - 1] == _RETURN:
            end -= 1
        padded |= end > start and _blank(text[end - 1], separator)
        code = OK
        if end == start:
            code = BLANK
        elif broken:
            code = UNCLOSED
        elif end - start > max_line:
            code = TOO_LONG
        elif count != fields:
            code = FIELD_COUNT
        elif returned:
            code = RETURN
        several |= later
        if later and code != OK:
            row, line = _each_line(text, start, position, code, count, row, line, records)
        else:
            _note(records, row, start, end, code, count, line)
            row += 1
            line += 1
            if later:
                for at in range(start, position):
                    line += text[at] == _NEWLINE
        position += 1
    return row, padded, several


@compiled
def _each_line(text, start, end, code, count, row, line, records):
    """Notes the lines of a malformed record, one by one; ``end`` is that of its last line."""
    first = line
    for position in range(start, end + 1):
        if text[position] != _NEWLINE:
            continue
        stop = position
        if stop > start and text[stop - 1] == _RETURN:
            stop -= 1
        if line == first:
            _note(records, row, start, stop, code, count, line)
        else:
            _note(records, row, start, stop, CONTINUED, first, line)
        row += 1
        line += 1
        start = position + 1
    return row, line


@compiled
def _without_padding(text, records, separator, doubled, quote, out):
    size = 0
    for row in range(len(records)):
        position, end = records[row, 0], records[row, 1]
        at_start, floor = True, size
        while position < end:
            byte = text[position]
            position += 1
            if byte == separator and (not doubled or (position < end and text[position] == byte)):
                while size > floor and _blank(out[size - 1], separator):
                    size -= 1
                out[size] = byte
                size += 1
                if doubled:
                    out[size] = byte
                    size += 1
                    position += 1
                at_start, floor = True, size
                continue
            if at_start and _blank(byte, separator):
                continue
            out[size] = byte
            size += 1
            if at_start and byte == quote:
                while position < end:
                    byte = text[position]
                    out[size] = byte
                    size += 1
                    position += 1
                    if byte == quote:
                        if position == end or text[position] != quote:
                            break
                        out[size] = quote
                        size += 1
                        position += 1
                floor = size
            at_start = False
        while size > floor and _blank(out[size - 1], separator):
            size -= 1
        out[size] = _NEWLINE
        size += 1
    return size


def without_padding(
    text: bytes, records: np.ndarray, separator: int, doubled: bool, quote: int
) -> bytes:
    """The text of some good records without the blanks around their fields, outside quotes."""
    out = np.empty(len(text) + 1, np.uint8)
    data = np.frombuffer(text, np.uint8)
    return out[: _without_padding(data, records, separator, doubled, quote, out)].tobytes()


def keep(text: bytes, records: np.ndarray) -> bytes:
    """The text of some records, a line end after each."""
    return b"".join(text[start:end] + b"\n" for start, end, *_ in records.tolist())
