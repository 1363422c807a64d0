"""Files that are something else than a log: recognised by their first bytes, with a remedy."""

import re
from pathlib import Path

from core.errors import UserError

HEAD_BYTES = 1 << 16
"""How much of a file's beginning is looked at."""
_PARQUET = "write it as Parquet first"
_UNPACK = "unpack it first"
MAGICS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it, or use gzip, bzip2, xz or zstd"),
    (0, b"\x1f\x9d", "compressed with compress (.Z)", "unpack it, or use gzip"),
    (0, b"LZIP", "compressed with lzip", "unpack it, or use xz"),
    (0, b"\xff\x06\x00\x00sNaPpY", "compressed with Snappy", "unpack it, or use zstd"),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"PAR1", "a Parquet file", "set format: parquet or auto, and unpack it if it is packed"),
    (0, b"ARROW1\0\0", "an Arrow file (Feather)", _PARQUET),
    (0, b"FEA1", "a Feather file", _PARQUET),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", _PARQUET),
    (0, b"Obj\x01", "an Avro file", _PARQUET),
    (0, b"SQLite format 3\0", "an SQLite database", "export its table as CSV or Parquet"),
    (0, b"\x93NUMPY", "a NumPy array", "write it as CSV or Parquet first"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _PARQUET),
    (0, b"%PDF-", "a PDF document", "export its table as CSV"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook", "save its sheet as CSV"),
    (0, b"PARE", "encrypted Parquet", "write it without encryption"),
    (
        0,
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS, not the data",
        "'git lfs pull' gets it",
    ),
)
_HTML = re.compile(rb"\s*<(!doctype html|html|head)\b", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml\b")
_ARRAY = re.compile(rb"\s*\[\s*([\[{]|$)")
_OPEN_OBJECT = re.compile(rb"\s*\{[ \t]*\r?\n")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def kind_of(head: bytes) -> tuple[str, str] | None:
    """What a file that begins with ``head`` is, and what to do; None: it may be a log."""
    for offset, magic, what, remedy in MAGICS:
        if head.startswith(magic, offset):
            return what, remedy
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        if b"xl/" in head[:4096] or b"[Content_Types].xml" in head[:4096]:
            return "an Excel workbook", "save its sheet as CSV"
        if b"opendocument" in head[:256]:
            return "a spreadsheet of OpenDocument", "save its sheet as CSV"
        return "a zip archive", f"{_UNPACK}, or use gzip, bzip2, xz or zstd"
    if head.startswith(b"ORC") and _BINARY.search(head[:64]):
        return "an ORC file", _PARQUET
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle", f"{_PARQUET}; a pickle can run code, so none is ever read"
    if _HTML.match(head):
        return "an HTML page", "it may be the page of a download that failed"
    if _XML.match(head):
        return "an XML document", "convert it to CSV, JSON lines or Parquet"
    return None


def refuse_foreign(path: Path, head: bytes, inside: str = "") -> None:
    """Checks that a file may be a log.

    Args:
        head: its first bytes, or those of what was compressed with ``inside``.

    Raises:
        UserError: it is something else.
    """
    kind = kind_of(head)
    if kind:
        what, remedy = kind
        where = f" compressed with {inside}" if inside else ""
        raise UserError(f"{path}: this is {what}{where}; {remedy}")


def refuse_returns(path: Path, head: bytes) -> None:
    """Checks that lines end with a line feed.

    Raises:
        UserError: they end with a carriage return only.
    """
    if b"\n" not in head and b"\r" in head.rstrip(b"\r"):
        raise UserError(
            f"{path}: its lines end with a carriage return only, as on old Macs; convert them "
            r"first (tr '\r' '\n' does)"
        )


def utf16_without_mark(head: bytes) -> str | None:
    """The encoding of UTF-16 text without a byte-order mark; None: it is none."""
    pairs = len(head) // 2
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = (head[start : 2 * pairs : 2].count(0) for start in (first, 1 - first))
        if pairs >= 8 and zeros > 0.6 * pairs and not others:
            return name
    return None


def refuse_other_json(path: Path, head: bytes) -> None:
    """Checks that JSON text has one object a line.

    Raises:
        UserError: it is one array, or an object over several lines.
    """
    if _ARRAY.match(head):
        what = "this is one JSON array"
    elif _OPEN_OBJECT.match(head):
        what = "this is JSON over several lines"
    else:
        return
    raise UserError(f"{path}: {what}; one object a line is needed (jq -c '.[]' makes them of it)")
