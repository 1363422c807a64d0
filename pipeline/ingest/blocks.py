"""Text → blocks of whole records, in bounded memory, with line numbers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.ingest.quarantine import TEXT_BYTES, BadLine
from pipeline.ingest.text_source import TextSource


@dataclass(frozen=True)
class Block:
    """Whole lines of one file.

    ``data`` ends with a line end except perhaps at the end of the file; ``first_line`` is the
    1-based number of its first line. ``bad`` are lines before it that the reader itself refused.
    ``bytes_read`` counts bytes on disk since the block before. ``encoding`` is what the text was in
    before it was made UTF-8.
    """

    data: bytes
    first_line: int
    lines: int
    bytes_read: int
    bad: tuple[BadLine, ...] = ()
    encoding: str = "utf-8"


def count_lines(data: bytes) -> int:
    """Lines in ``data``; a last one without a line end counts too."""
    return data.count(b"\n") + bool(data and not data.endswith(b"\n"))


def line_end(data: bytes) -> int:
    """Where the last whole line of ``data`` ends; 0 if none does."""
    return data.rfind(b"\n") + 1


def text_blocks(
    source: TextSource,
    block_bytes: int,
    max_line_bytes: int,
    cut: Callable[[bytes], int] = line_end,
) -> Iterator[Block]:
    """Cuts the text into blocks of whole records, about ``block_bytes`` each.

    A line that does not fit the block and is longer than ``max_line_bytes`` is skipped without
    being held in memory. A last line that damaged or cut-off data left unfinished becomes a bad
    line.

    Args:
        cut: gives the end of the last whole record in a text that begins with one. Lines that
            make no whole record within ``max_line_bytes`` are a block all the same.

    Raises:
        UserError: a file that cannot be read to its end.
    """
    carry, line, mark = b"", 1, 0
    skipped: bytes | None = None  # the beginning of an overlong line that is being skipped
    opened = 0  # the line where the record of that line begins
    bad: list[BadLine] = []

    def block(data: bytes) -> Block:
        nonlocal line, mark, bad
        read = source.bytes_read - mark
        made = Block(data, line, count_lines(data), read, tuple(bad), source.encoding)
        line, mark, bad = line + made.lines, source.bytes_read, []
        return made

    while chunk := source.read(block_bytes):
        if skipped is not None:
            end = chunk.find(b"\n") + 1
            if not end:
                continue
            bad.append(_too_long(line, skipped, max_line_bytes, opened))
            line, skipped, chunk = line + 1, None, chunk[end:]
        data = carry + chunk if carry else chunk
        end = cut(data)
        if end:
            yield block(data[:end])
        carry = data[end:]
        if len(carry) - carry.endswith(b"\r") > max_line_bytes:  # it may be of the line end
            opened, end = line, line_end(carry)
            if end:
                yield block(carry[:end])
            skipped, carry = carry[end:][:TEXT_BYTES] or None, b""
    if skipped is not None:
        bad.append(_too_long(line, skipped, max_line_bytes, opened))
    elif carry and source.fault:
        end = line_end(carry)
        if end:
            yield block(carry[:end])
        bad.append(BadLine(line, "cut off", f"line cut off: {source.fault}", carry[end:]))
        carry = b""
    if carry or bad:
        yield block(carry)


def _too_long(line: int, text: bytes, max_line_bytes: int, opened: int) -> BadLine:
    if opened < line:
        return BadLine(line, "continued", continued(opened), text)
    reason = f"line longer than {max_line_bytes:,} bytes (setting max_line_bytes)"
    return BadLine(line, "line too long", reason, text)


def continued(opened: int) -> str:
    """What is wrong with a line within a malformed record."""
    return f"part of the malformed record of line {opened}, whose quoted field goes on here"
