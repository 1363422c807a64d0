"""Compressed files, recognised by their first bytes → their content, piece by piece.

All of them end in the same way: what could be decompressed before damage or a cut is given out,
and the fault is named.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

XZ_MEMORY = 256 << 20
"""Bytes that unpacking may take; the largest preset, ``xz -9``, takes 65 MiB."""
Take = Callable[[int], bytes]
"""Gives the next bytes of the file, at most so many; empty at its end."""


class Stream(Protocol):
    """Decompressed content; once it has ended, ``fault`` says what was wrong, or is None."""

    fault: str | None

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; empty only at the end or at a fault."""


class Damaged(Exception):
    """Compressed data that makes no sense; ``before`` is what it gave before that."""

    def __init__(self, reason: Exception | str, before: bytes = b"") -> None:
        super().__init__(str(reason))
        self.before = before


class _Member:
    """One gzip member, bzip2 or xz stream: bytes in, bytes out."""

    step = 1 << 10
    """Compressed bytes given at a time: what one call made of them is lost where it fails."""

    def __init__(self, decompressor: Any, errors: tuple[type[Exception], ...]) -> None:
        self._decompressor = decompressor
        self._errors = errors

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    @property
    def needs_input(self) -> bool:
        return self._decompressor.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data

    def decompress(self, data: bytes, size: int) -> bytes:
        try:
            return self._decompressor.decompress(data, size)
        except self._errors as error:
            raise Damaged(error) from None


class _GzipMember(_Member):
    """zlib keeps no input of its own, but can be copied: nothing before the damage is lost."""

    step = 1 << 18

    def __init__(self) -> None:
        super().__init__(zlib.decompressobj(31), (zlib.error,))
        self._tail = b""

    @property
    def needs_input(self) -> bool:
        return not self._tail

    def decompress(self, data: bytes, size: int) -> bytes:
        data = self._tail + data
        before = self._decompressor.copy()
        try:
            out = self._decompressor.decompress(data, size)
        except zlib.error as error:
            raise Damaged(error, _until_damage(before, data)) from None
        self._tail = self._decompressor.unconsumed_tail
        return out


def _until_damage(gzip: Any, compressed: bytes) -> bytes:
    """What comes before the damage: zlib gives nothing of a piece that it cannot finish."""
    pieces = []
    try:
        for index in range(len(compressed)):
            pieces.append(gzip.decompress(compressed[index : index + 1]))
    except zlib.error:
        pass
    return b"".join(pieces)


class _XzMember(_Member):
    """One xz stream, whose header says how much memory it takes: up to 4 GiB."""

    def __init__(self) -> None:
        super().__init__(lzma.LZMADecompressor(memlimit=XZ_MEMORY), (lzma.LZMAError,))

    def decompress(self, data: bytes, size: int) -> bytes:
        try:
            return super().decompress(data, size)
        except Damaged as damage:
            if "Memory usage limit" not in str(damage):
                raise
            limit = f"more than {XZ_MEMORY >> 20:,} MiB of memory to be unpacked"
            raise Damaged(f"or takes {limit}; pack it with a smaller dictionary") from None


class MemberStream:
    """The members of a file one after the other, as one content."""

    def __init__(self, take: Take, name: str, magic: bytes, member: Callable[[], _Member]) -> None:
        self.fault: str | None = None
        self._take = take
        self._name = name
        self._magic = magic
        self._new = member
        self._member = member()
        self._compressed = b""
        self._given = 0  # of the compressed bytes at hand

    def read(self, size: int) -> bytes:
        while not self.fault:
            if self._member.eof and not self._next_member():
                return b""
            data = b""
            if self._member.needs_input:
                data = self._next_input()
                if not data:
                    self.fault = f"{self._name} data ends early (the file is cut off)"
                    return b""
            try:
                out = self._member.decompress(data, size)
            except Damaged as damage:
                self.fault = f"{self._name} data is damaged ({damage})"
                return damage.before
            if out:
                return out
        return b""

    def _next_input(self) -> bytes:
        if self._given >= len(self._compressed):
            self._compressed, self._given = self._take(_GzipMember.step), 0
        data = self._compressed[self._given : self._given + self._member.step]
        self._given += len(data)
        return data

    def _next_member(self) -> bool:
        """Moves on to the next member, if any; zero padding after a member is allowed."""
        rest = self._member.unused_data + self._compressed[self._given :]
        self._compressed, self._given = b"", 0
        while True:
            rest = rest.lstrip(b"\0")
            more = b"" if len(rest) >= len(self._magic) else self._take(_GzipMember.step)
            if not more:
                break
            rest += more
        if not rest:
            return False
        if not rest.startswith(self._magic):
            self.fault = f"{self._name} data is followed by other bytes, which were left out"
            return False
        self._member, self._compressed = self._new(), rest
        return True


class _Pipe:
    """The file object that pyarrow reads compressed bytes from."""

    closed = False

    def __init__(self, take: Take) -> None:
        self.read = take

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        pass


class ZstdStream:
    """zstd frames, by pyarrow: Python's own library has none."""

    step = 1 << 12
    """Bytes asked for at a time: what one call made is lost where it fails."""

    def __init__(self, take: Take) -> None:
        self.fault: str | None = None
        self._stream = pa.CompressedInputStream(pa.PythonFile(_Pipe(take), mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        while size > 0 and not self.fault:
            try:
                piece = self._stream.read(min(size, self.step))
            except OSError as error:
                cut = "Truncated" in str(error)
                what = "ends early (the file is cut off)" if cut else f"is damaged ({error})"
                self.fault = f"zstd data {what}"
                break
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


@dataclass(frozen=True)
class Compression:
    """One kind of compression: how it is recognised, and what reads it."""

    name: str
    suffix: str
    magics: tuple[bytes, ...]
    open: Callable[[Take], Stream]


GZIP, BZIP2, XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
COMPRESSIONS = (
    Compression("gzip", ".gz", (GZIP,), lambda take: MemberStream(take, "gzip", GZIP, _GzipMember)),
    Compression(
        "bzip2",
        ".bz2",
        # A block follows, or the end of nothing: a text may begin with BZh too.
        tuple(b"BZh%d" % n + mark for n in range(1, 10) for mark in (b"1AY&SY", b"\x17rE8P\x90")),
        lambda take: MemberStream(
            take, "bzip2", BZIP2, lambda: _Member(bz2.BZ2Decompressor(), (OSError, ValueError))
        ),
    ),
    Compression("xz", ".xz", (XZ,), lambda take: MemberStream(take, "xz", XZ, _XzMember)),
    # The second is of a frame to skip, with which parallel zstd begins.
    Compression("zstd", ".zst", (b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"), ZstdStream),
)
SUFFIXES = tuple(compression.suffix for compression in COMPRESSIONS)


def compression_of(head: bytes) -> Compression | None:
    """The compression of a file that begins with ``head``."""
    for compression in COMPRESSIONS:
        if head.startswith(compression.magics):
            return compression
    return None


def without_suffix(name: str) -> str:
    """A file's name without the suffix of its compression."""
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name
