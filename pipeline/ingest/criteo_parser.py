"""Criteo text → columns, one pass over the bytes, without the interpreter's lock.

A good line is: label (0 or 1), 13 signed integers, 26 values of 1 to 8 hex digits, with one
separator between them; an integer or a hex value may be blank. Anything else is a bad line: it
costs no more than a good one and never disturbs its neighbours.
"""

import numpy as np

from core.compiled import compiled

INTEGERS = 13
CATEGORIES = 26
FIELDS = 1 + INTEGERS + CATEGORIES

OK, TOO_LONG, NUL, FIELD_COUNT, ENCODING, LABEL, INTEGER, INT32, INT64, HEX = range(10)
_NEWLINE, _RETURN, _MINUS, _ZERO, _ONE = 10, 13, 45, 48, 49

_HEX = np.full(256, -1, np.int64)
for _digit in "0123456789abcdefABCDEF":
    _HEX[ord(_digit)] = int(_digit, 16)


@compiled
def _integer_code(text, first, end, negative):
    """OK, or which limit an integer of many digits is beyond."""
    while first < end and text[first] == _ZERO:
        first += 1
    digits = end - first
    if digits > 19:
        return INT64
    value = np.uint64(0)
    for position in range(first, end):
        value = value * np.uint64(10) + np.uint64(text[position] - _ZERO)
    sign = np.uint64(1) if negative else np.uint64(0)
    if value > np.uint64(9223372036854775807) + sign:
        return INT64
    return INT32 if value > np.uint64(2147483647) + sign else OK


@compiled
def _bad_code(text, start, end, separator, max_line, code):
    """The most telling reason for a bad line, and how many fields it has."""
    fields, nul, high = 1, False, False
    for position in range(start, end):
        byte = text[position]
        fields += byte == separator
        nul |= byte == 0
        high |= byte > 127
    if end - start > max_line or code == OK:
        return TOO_LONG, fields
    if nul:
        return NUL, fields
    if fields != FIELDS:
        return FIELD_COUNT, fields
    return (ENCODING if high else code), fields


@compiled
def _label(text, position, separator, row, labels):
    """Reads the label: the next position and a code."""
    byte = text[position]
    if (byte != _ZERO and byte != _ONE) or text[position + 1] != separator:
        return position, LABEL
    labels[row] = byte - _ZERO
    return position + 2, OK


@compiled
def _integer(text, position, separator):
    """Reads an integer and the separator after it: next position, value, digits and a code."""
    negative = text[position] == _MINUS
    if negative:
        position += 1
    first = position
    value = np.int64(0)
    digit = np.int64(text[position]) - _ZERO
    while 0 <= digit <= 9:
        value = value * 10 + digit
        position += 1
        digit = np.int64(text[position]) - _ZERO
    length = position - first
    if text[position] != separator or (negative and length == 0):
        return position, value, length, INTEGER
    code = _integer_code(text, first, position, negative) if length > 9 else OK
    return position + 1, -value if negative else value, length, code


@compiled
def _hex(text, position):
    """Reads hex digits: next position, value and digits."""
    first = position
    value = np.int64(0)
    digit = _HEX[text[position]]
    while digit >= 0:
        value = (value << 4) | digit
        position += 1
        digit = _HEX[text[position]]
    return position, value, position - first


@compiled
def _mark(valid, column, row, present):
    """Sets or clears a row's validity bit, whatever a bad line left there."""
    bit = np.uint8(1 << (row & 7))
    if present:
        valid[column, row >> 3] |= bit
    else:
        valid[column, row >> 3] &= ~bit


@compiled
def _line(text, position, separator, row, labels, integers, categories, valid):
    """Parses one line into ``row``: the position after it or of the fault, a code, the column."""
    position, code = _label(text, position, separator, row, labels)
    if code != OK:
        return position, code, 0
    for column in range(INTEGERS):
        position, value, length, code = _integer(text, position, separator)
        if code != OK:
            return position - 1, code, column
        integers[column, row] = value
        _mark(valid, column, row, length > 0)
    for column in range(CATEGORIES):
        position, value, length = _hex(text, position)
        if column == CATEGORIES - 1 and text[position] == _RETURN:
            position += text[position + 1] == _NEWLINE
        end = separator if column < CATEGORIES - 1 else _NEWLINE
        if length > 8 or text[position] != end:
            return position, HEX, column
        position += 1
        categories[column, row] = value
        _mark(valid, INTEGERS + column, row, length > 0)
    return position, OK, 0


@compiled
def parse_lines(text, separator, max_line, labels, integers, categories, valid, bad):
    """Parses whole lines; ``text`` must end with a line end.

    Args:
        text: uint8 ``(bytes,)``.
        separator: the byte between fields.
        max_line: longer lines are bad.
        labels, integers, categories: int8 ``(lines,)``, int32 ``(13, lines)``, int64
            ``(26, lines)``; the good rows are written to their beginning.
        valid: uint8 ``(39, (lines + 7) // 8)``, Arrow validity bits of integers and categories.
        bad: int64 ``(lines, 6)``: line index, start, end, reason code, column, fields found.

    Returns:
        The number of good rows and of bad lines.
    """
    position = row = line = bads = 0
    while position < text.size:
        start = position
        position, code, column = _line(
            text, position, separator, row, labels, integers, categories, valid
        )
        if code == OK and position - start <= max_line:
            row += 1
        else:
            position = max(start, position - 1)  # never beyond this line's own end
            while text[position] != _NEWLINE:
                position += 1
            end = position
            if end > start and text[end - 1] == _RETURN:
                end -= 1
            code, fields = _bad_code(text, start, end, separator, max_line, code)
            bad[bads, 0] = line
            bad[bads, 1] = start
            bad[bads, 2] = end
            bad[bads, 3] = code
            bad[bads, 4] = column
            bad[bads, 5] = fields
            bads += 1
            position += 1
        line += 1
    return row, bads


@compiled
def parse_hex(offsets, text, values, good):
    """Hex strings of an Arrow column (``offsets``, ``text``) → int64 ``values`` and ``good``.

    A blank string is good and 0; more than 8 digits or another character is not good.
    """
    for row in range(values.size):
        value = np.int64(0)
        fine = offsets[row + 1] - offsets[row] <= 8
        if fine:
            for position in range(offsets[row], offsets[row + 1]):
                digit = _HEX[text[position]]
                fine &= digit >= 0
                value = (value << 4) | (digit & 15)
        values[row] = value
        good[row] = fine
