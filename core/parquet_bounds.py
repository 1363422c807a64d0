"""Parquet files whose memory is bounded before anything of them is decoded.

A few kilobytes of Parquet can stand for terabytes: by compression, by run lengths, by references to
a dictionary, by sizes in headers that are not true. Here the footer and the header of every page
are read first, which takes memory for one header at a time.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import UserError
from core.strict import printable

EXPANSION = 256
"""Bytes in memory for each byte of the file. Of distinct values, which is what fitted states hold,
zstd makes 60 times less at most."""
ALWAYS_ALLOWED = 64 << 20
LONGEST_HEADER = 1 << 20
PIECE = 1 << 12
PLAIN_ENCODINGS = {0, 2, 3, 4, 8, 9}
"""PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, RLE_DICTIONARY, BYTE_STREAM_SPLIT: no encoding whose
values are put together of each other."""
DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = range(4)
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
"""Bytes of a value in memory, by its physical type; of a string that of its offset."""

Kinds = dict[str, tuple[pa.DataType, ...]]
"""The types that each column may have."""


def read_bounded(path: str | Path, columns: Kinds) -> pa.Table:
    """A file of flat ``columns``, in this order, as a table in memory.

    Raises:
        UserError: it is absent, no whole Parquet file, has other columns or types, or takes more
            memory than a file of its size may.
    """
    with _reading(path):
        limit, texts = _bounds(Path(path), columns)
        table = pq.read_table(path, columns=list(columns), read_dictionary=texts)
        return _without_dictionaries(Path(path), table, columns, limit)


def check_bounds(path: str | Path, columns: Kinds) -> None:
    """Checks the columns, types and sizes of a file without reading its values.

    Raises:
        UserError: see :func:`read_bounded`.
    """
    with _reading(path):
        _bounds(Path(path), columns)


def rows_in(path: str | Path) -> int:
    """The number of rows that a Parquet file says it has.

    Raises:
        UserError: it is absent or no Parquet file.
    """
    with _reading(path):
        return pq.read_metadata(path).num_rows


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException, ValueError, ArithmeticError, LookupError) as error:
        raise UserError(f"{path}: not a whole Parquet file ({printable(error)})") from None


def _bounds(path: Path, columns: Kinds) -> tuple[int, list[str]]:
    """The bytes that a file may take in memory, and its columns of texts."""
    with pq.ParquetFile(path, memory_map=False) as file:
        limit = _check(path, file, columns)
        return limit, [field.name for field in file.schema_arrow if _is_text(field.type)]


def _check(path: Path, file: pq.ParquetFile, columns: Kinds) -> int:
    """Checks types and sizes; the bytes that the file may take in memory."""
    with open(path, "rb") as raw:
        raw.seek(-8, 2)
        size = raw.tell() + 8
        types = {field.name: field.type for field in file.schema_arrow}
        if list(types) != list(columns) or len(file.schema_arrow) != len(columns):
            names = ", ".join(map(repr, file.schema_arrow.names[:9]))
            raise UserError(f"{path}: expected the columns {', '.join(columns)}, it has {names}")
        for name, kinds in columns.items():
            if types[name] not in kinds:
                expected = " or ".join(map(str, kinds))
                raise UserError(f"{path}: {name}: expected {expected}, it is {types[name]}")
        limit = EXPANSION * size + ALWAYS_ALLOWED
        needed = sum(_bytes_of_chunk(path, raw, chunk, size) for chunk in _chunks(file.metadata))
    if needed > limit:
        raise _too_large(path, needed, size)
    return limit


def _too_large(path: Path, needed: int, size: int) -> UserError:
    return UserError(
        f"{path}: its {size:,} bytes stand for {needed:,} bytes in memory, more than a file of "
        "this size may"
    )


def _chunks(metadata: pq.FileMetaData) -> Iterator[Any]:
    """The column chunks of all row groups, which have as many values as there are rows."""
    rows = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows += group.num_rows
        for column in range(group.num_columns):
            chunk = group.column(column)
            if group.num_rows < 0 or chunk.num_values != group.num_rows:
                raise ValueError(f"{chunk.path_in_schema}: its values are not as many as the rows")
            yield chunk
    if rows != metadata.num_rows:
        raise ValueError(f"{metadata.num_rows:,} rows, its row groups have {rows:,}")


def _bytes_of_chunk(path: Path, raw: BinaryIO, chunk: Any, size: int) -> int:
    """Bytes that a column chunk takes in memory: its pages, and its values."""
    if chunk.physical_type not in WIDTHS:
        raise ValueError(f"{chunk.path_in_schema}: of type {chunk.physical_type}")
    if not chunk.num_values:
        return 0  # Arrow reads none of its pages.
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < at:
        at = chunk.dictionary_page_offset
    end = at + chunk.total_compressed_size
    if not 4 <= at <= end <= size:
        raise ValueError(f"{chunk.path_in_schema}: it is not within the file")
    values = pages = 0
    while values < chunk.num_values:
        page, at = _page(raw, at, end)
        pages += page["bytes"]
        values += page["values"]
    if values != chunk.num_values:
        raise ValueError(f"{chunk.path_in_schema}: its pages hold {values:,} values")
    return pages + values * WIDTHS[chunk.physical_type]


def _page(raw: BinaryIO, at: int, end: int) -> tuple[dict[str, int], int]:
    """Size and number of values of the page at ``at``, and where the next one begins."""
    header: dict[int, Any] | None = None
    length = PIECE
    while header is None:
        raw.seek(at)
        text = raw.read(min(length, end - at))
        try:
            header, used = _Compact(text).whole()
        except IndexError:
            if length >= LONGEST_HEADER or len(text) < length:
                raise ValueError("a page's header is cut off") from None
            length *= 16
    kind, unpacked, packed = (_whole(header.get(field)) for field in (1, 2, 3))
    about = header.get({DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}.get(kind, 0))
    if not isinstance(about, dict):
        raise ValueError("a page's header is damaged")
    encoding, values = _whole(about.get(4 if kind == DATA_PAGE_V2 else 2)), _whole(about.get(1))
    if encoding not in PLAIN_ENCODINGS or min(values, unpacked) < 0:
        raise ValueError("a page's header is damaged")
    then = at + used + packed
    if packed < 0 or then > end or (kind != DICTIONARY_PAGE and not values):
        raise ValueError("a page is not within its column")
    return {"bytes": unpacked, "values": 0 if kind == DICTIONARY_PAGE else values}, then


def _whole(value: Any) -> int:
    """A field of a header that has to be an integer."""
    if type(value) is not int:
        raise ValueError("a page's header is damaged")
    return value


class _Compact:
    """Reader of one struct in Thrift's compact protocol, in which page headers are written."""

    DEEPEST, MOST = 8, 1 << 16

    def __init__(self, text: bytes) -> None:
        self.text, self.at, self.read = text, 0, 0

    def whole(self) -> tuple[dict[int, Any], int]:
        """The struct's fields by number, and the bytes that it takes.

        Raises:
            IndexError: it goes on beyond the text.
            ValueError: it is none.
        """
        return self._struct(0), self.at

    def _struct(self, depth: int) -> dict[int, Any]:
        if depth > self.DEEPEST:
            raise ValueError("a page's header is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while True:
            head = self._byte()
            if not head:
                return fields
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 15, depth)

    def _value(self, kind: int, depth: int) -> Any:
        self.read += 1
        if self.read > self.MOST:
            raise ValueError("a page's header has too many fields")
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind in (7, 8):
            return self._skip(8 if kind == 7 else self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._item(head & 15, depth) for _ in range(min(count, self.MOST + 1))]
        if kind == 12:
            return self._struct(depth + 1)
        raise ValueError("a page's header is damaged")

    def _item(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return self._byte()
        return self._value(kind, depth + 1)

    def _byte(self) -> int:
        self.at += 1
        return self.text[self.at - 1]

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.text):
            raise IndexError

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a page's header is damaged")

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _without_dictionaries(path: Path, table: pa.Table, columns: Kinds, limit: int) -> pa.Table:
    """The table with its texts spelled out, where the file is not too small for that."""
    needed, plain = table.nbytes, {}
    for name, kinds in columns.items():
        column = table[name]
        if pa.types.is_dictionary(column.type):
            for chunk in column.chunks:
                lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
                needed += pc.sum(lengths).as_py() or 0
            if needed > limit:
                raise _too_large(path, needed, path.stat().st_size)
            text = next(kind for kind in kinds if kind == column.type.value_type)
            column = column.cast(text)
            for chunk in column.chunks:
                chunk.validate(full=True)  # as UTF-8 too
        plain[name] = column
    return pa.table(plain)
