"""Where the records of delimited text begin and end, and which of them are malformed.

The rules are those of pyarrow's CSV parser, which reads the good records afterwards: a quote is
special only at the start of a field, and a doubled quote within quotes stands for one.
"""

import numpy as np

from core.compiled import compiled

OK, BLANK, TOO_LONG, FIELD_COUNT, UNCLOSED, RETURN = range(6)
_NEWLINE, _RETURN = 10, 13


@compiled
def scan_records(text, separator, doubled, quote, fields, max_line, records):
    """Finds the records, one a line; ``text`` must end with a line end.

    Args:
        text: uint8 ``(bytes,)``.
        separator: the byte between fields.
        doubled: whether it takes two of them.
        quote: the byte around quoted fields, or -1.
        fields: how many a record must have.
        max_line: longer lines are bad.
        records: int64 ``(lines, 4)``, out: start, end (line end left out), code, fields found.

    Returns:
        How many records are bad.
    """
    position = line = bad = 0
    while position < text.size:
        start = position
        found, at_start, unclosed, returned = 1, True, False, False
        while text[position] != _NEWLINE:
            byte = text[position]
            position += 1
            if byte == separator and (not doubled or text[position] == separator):
                position += doubled
                found += 1
                at_start = True
                continue
            if byte == _RETURN and text[position] != _NEWLINE:
                returned = True
            if byte == quote and at_start:
                unclosed = True
                while text[position] != _NEWLINE:
                    position += 1
                    if text[position - 1] == quote:
                        if text[position] != quote:
                            unclosed = False
                            break
                        position += 1
            at_start = False
        end = position
        if end > start and text[end - 1] == _RETURN:
            end -= 1
        code = OK
        if end == start:
            code = BLANK
        elif end - start > max_line:
            code = TOO_LONG
        elif unclosed:
            code = UNCLOSED
        elif found != fields:
            code = FIELD_COUNT
        elif returned:
            code = RETURN
        records[line, 0] = start
        records[line, 1] = end
        records[line, 2] = code
        records[line, 3] = found
        bad += code != OK
        line += 1
        position += 1
    return bad


def keep(text: bytes, records: np.ndarray) -> bytes:
    """The text of some records, a line each."""
    return b"".join(text[start:end] + b"\n" for start, end, *_ in records.tolist())
