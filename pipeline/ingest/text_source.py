"""One text file → its bytes as UTF-8, whatever it is compressed with and encoded in."""

import codecs
from pathlib import Path
from typing import BinaryIO

from core.errors import UserError
from pipeline.ingest.compression import COMPRESSIONS, SUFFIXES, Stream, compression_of
from pipeline.ingest.foreign import (
    HEAD_BYTES,
    refuse_foreign,
    refuse_returns,
    utf16_without_mark,
)

UTF8 = "utf-8"
MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
UNREADABLE = b"\xff"
"""Written for what has no meaning in an encoding: its line is then no UTF-8 and set aside."""
_HANDLER = "ingest_unreadable"
_NO_TEXT = ("unicode_escape", "raw_unicode_escape", "punycode", "idna", "undefined")


def encoding_name(name: str) -> str:
    """The name by which Python knows an encoding.

    Raises:
        ValueError: it knows none of that name.
    """
    try:
        codec = codecs.lookup(name).name
        known = "a,1\n".encode(codec).decode(codec) == "a,1\n"
    except (LookupError, TypeError, UnicodeError, AttributeError):
        known = False
    if not known or codec.replace("-", "_") in _NO_TEXT:
        raise ValueError(f"{name!r} is no encoding; utf-8, cp1252, latin-1, utf-16 are some")
    return UTF8 if codec == "utf-8-sig" else codec


class TextSource:
    """The bytes of a text file, plain or compressed, piece by piece; its first bytes say which.

    After the last piece, ``fault`` says what was wrong with the compressed data, or is None:
    everything that could be decompressed before the fault has been given out. A byte-order mark is
    left out.

    Args:
        encoding: what the text is in, as :func:`encoding_name` gives it; it is given out as
            UTF-8. None: UTF-8, and no setting names another one.

    Raises:
        UserError: the file is something else than text, or in another encoding.
    """

    def __init__(self, path: Path, encoding: str | None = UTF8) -> None:
        self.path = path
        self.bytes_read = 0
        self._setting = encoding is not None
        self.encoding = encoding or UTF8
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 (closed by close)
        self._stream: Stream | None = None
        self._start: bytes | None = None
        decoder = None if self.encoding == UTF8 else codecs.getincrementaldecoder(self.encoding)
        self._decoder = decoder and decoder(_HANDLER)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        head = self._file.read(HEAD_BYTES)
        self._file.seek(0)
        compression = compression_of(head)
        inside = ""
        if compression:
            self._stream = compression.open(self._take)
            inside = compression.name
        else:
            refuse_foreign(self.path, head)
            if head and self.path.suffix in SUFFIXES:
                kind = next(one.name for one in COMPRESSIONS if one.suffix == self.path.suffix)
                raise UserError(
                    f"{self.path}: named {self.path.suffix}, but this is not {kind} data; rename "
                    "or replace it"
                )
        start = self._unpacked(HEAD_BYTES)
        refuse_foreign(self.path, start, inside)
        self._check_encoding(start)
        self._start = self._decoded(start)
        refuse_returns(self.path, self._start)

    def _check_encoding(self, start: bytes) -> None:
        marked = next((name for mark, name in MARKS if start.startswith(mark)), None)
        if self.encoding == UTF8:
            marked = marked or utf16_without_mark(start)
            if marked:
                setting = f"set encoding: {marked}, or " if self._setting else ""
                raise UserError(
                    f"{self.path}: this is {marked[:6].upper()} text; {setting}convert it to UTF-8 "
                    "first (iconv does)"
                )
        elif start.startswith(codecs.BOM_UTF8):
            raise UserError(
                f"{self.path}: this is UTF-8 text (by its mark), not {self.encoding} (setting "
                "encoding)"
            )

    @property
    def fault(self) -> str | None:
        return self._stream.fault if self._stream else None

    def close(self) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """About ``size`` bytes; ``b""`` only at the end."""
        start = self._start or b""
        if len(start) >= size:
            data, self._start = start[:size], start[size:]
            return data
        self._start = b""
        return start + self._decoded(self._unpacked(size - len(start)), size)

    def _decoded(self, data: bytes, size: int = HEAD_BYTES) -> bytes:
        """Text as UTF-8; a character that is not whole waits for the next bytes."""
        if self._decoder is None:
            return data.removeprefix(codecs.BOM_UTF8) if self._start is None else data
        while True:
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeError:  # what has no meaning goes to the handler: this has no mark
                raise UserError(
                    f"{self.path}: {self.encoding} without a byte-order mark; set encoding: "
                    f"{self.encoding}-le or {self.encoding}-be"
                ) from None
            if self._start is None:
                text = text.removeprefix("\ufeff")
            if text or not data:
                return text.encode(UTF8, _HANDLER)
            data = self._unpacked(size)

    def _unpacked(self, size: int) -> bytes:
        if self._stream is None:
            return self._take(size)
        pieces = []
        while size > 0 and (piece := self._stream.read(size)):
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


def _unreadable(error: UnicodeError) -> tuple[str | bytes, int]:
    """The replacement of text that cannot be decoded or encoded, and where to go on."""
    assert isinstance(error, UnicodeDecodeError | UnicodeEncodeError)
    if isinstance(error, UnicodeEncodeError):
        return UNREADABLE * (error.end - error.start), error.end
    return "\udcff", error.end


codecs.register_error(_HANDLER, _unreadable)
