"""Plain or gzip text → blocks of whole lines, in bounded memory, with line numbers."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import UserError
from pipeline.ingest.quarantine import TEXT_BYTES, BadLine

GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
COMPRESSED_BYTES = 1 << 18


@dataclass(frozen=True)
class Block:
    """Whole lines of one file.

    ``data`` ends with a line end except perhaps at the end of the file; ``first_line`` is the
    1-based number of its first line. ``bad`` are lines before it that the reader itself refused.
    ``bytes_read`` counts bytes on disk since the block before.
    """

    data: bytes
    first_line: int
    lines: int
    bytes_read: int
    bad: tuple[BadLine, ...] = ()


def count_lines(data: bytes) -> int:
    """Lines in ``data``; a last one without a line end counts too."""
    return data.count(b"\n") + bool(data and not data.endswith(b"\n"))


class TextSource:
    """The bytes of a plain or gzip file (told by its first bytes), read piece by piece.

    After the last piece, ``fault`` says what was wrong with the compressed data, or is None:
    everything that could be decompressed before the fault has been given out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault: str | None = None
        self.bytes_read = 0
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 (closed by close)
        head = self._file.read(2)
        self._file.seek(0)
        self._gzip = zlib.decompressobj(31) if head == GZIP_MAGIC else None
        self._compressed = b""
        if self._gzip is None and path.suffix == ".gz" and head:
            self._file.close()
            raise UserError(f"{path}: named .gz, but this is not gzip data; rename or replace it")

    def close(self) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """About ``size`` bytes; fewer only at the end, where it gives ``b""``."""
        if self._gzip is None:
            return self._take(size)
        pieces = []
        while size > 0 and (piece := self._inflate(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _take(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        self.bytes_read += len(data)
        return data

    def _inflate(self, size: int) -> bytes:
        """The next decompressed bytes (at most ``size``); empty at the end or at a fault."""
        while not self.fault:
            if self._gzip.eof and not self._next_member():
                return b""
            if not self._compressed:
                self._compressed = self._take(COMPRESSED_BYTES)
            at_end = not self._compressed
            before = self._gzip.copy()
            try:
                data = self._gzip.decompress(self._compressed, size)
            except zlib.error as error:
                self.fault = f"gzip data is damaged ({error})"
                return _until_damage(before, self._compressed)
            self._compressed = self._gzip.unused_data or self._gzip.unconsumed_tail
            if data:
                return data
            if at_end and not self._gzip.eof:
                self.fault = "gzip data ends early (the file is cut off)"
        return b""

    def _next_member(self) -> bool:
        """Moves on to the next gzip member, if any; zero padding after a member is allowed."""
        while True:
            self._compressed = self._compressed.lstrip(b"\0")
            more = b"" if len(self._compressed) >= 2 else self._take(COMPRESSED_BYTES)
            self._compressed += more
            if self._compressed.strip(b"\0") or not more:
                break
        if not self._compressed:
            return False
        if not self._compressed.startswith(GZIP_MAGIC):
            self.fault = "gzip data is followed by other bytes, which were left out"
            return False
        self._gzip = zlib.decompressobj(31)
        return True


def _until_damage(gzip: Any, compressed: bytes) -> bytes:
    """What comes before the damage: zlib gives nothing of a piece that it cannot finish."""
    pieces = []
    try:
        for index in range(len(compressed)):
            pieces.append(gzip.decompress(compressed[index : index + 1]))
    except zlib.error:
        pass
    return b"".join(pieces)


def text_blocks(source: TextSource, block_bytes: int, max_line_bytes: int) -> Iterator[Block]:
    """Cuts the text into blocks of whole lines, about ``block_bytes`` each.

    A UTF-8 byte-order mark at the start is dropped. A line that does not fit the block and is
    longer than ``max_line_bytes`` is skipped without being held in memory. A last line that
    damaged or cut-off gzip data left unfinished becomes a bad line.

    Raises:
        UserError: UTF-16 text, or a file that cannot be read to its end.
    """
    carry, line, mark = b"", 1, 0
    skipped: bytes | None = None  # the beginning of an overlong line that is being skipped
    bad: list[BadLine] = []
    at_start = True
    while chunk := source.read(block_bytes):
        if at_start:
            chunk, at_start = _without_mark(source.path, chunk), False
        if skipped is not None:
            end = chunk.find(b"\n") + 1
            if not end:
                continue
            bad.append(_too_long(line, skipped, max_line_bytes))
            line, skipped, chunk = line + 1, None, chunk[end:]
        end = chunk.rfind(b"\n") + 1
        if end:
            data = b"".join((carry, memoryview(chunk)[:end]))
            lines = count_lines(data)
            yield Block(data, line, lines, source.bytes_read - mark, tuple(bad))
            line, mark, bad, carry = line + lines, source.bytes_read, [], b""
        carry += chunk[end:]
        if len(carry) > max_line_bytes:
            skipped, carry = carry[:TEXT_BYTES], b""
    if skipped is not None:
        bad.append(_too_long(line, skipped, max_line_bytes))
    elif carry and source.fault:
        bad.append(BadLine(line, "cut off", f"line cut off: {source.fault}", carry))
        carry = b""
    if carry or bad:
        yield Block(carry, line, int(bool(carry)), source.bytes_read - mark, tuple(bad))


def _without_mark(path: Path, chunk: bytes) -> bytes:
    if chunk.startswith(UTF16_BOMS):
        raise UserError(f"{path}: this is UTF-16 text; convert it to UTF-8 first (iconv does)")
    return chunk.removeprefix(UTF8_BOM)


def _too_long(line: int, text: bytes, max_line_bytes: int) -> BadLine:
    reason = f"line longer than {max_line_bytes:,} bytes (setting max_line_bytes)"
    return BadLine(line, "line too long", reason, text)
