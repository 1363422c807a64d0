"""CSV, TSV and their kin → rows of text columns, read by pyarrow in blocks.

Every line is one record: a quoted field may hold separators and doubled quotes, but no line end,
so that a stray quote spoils one line only and line numbers are those of any text editor.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from core.errors import UserError
from pipeline.ingest.blocks import Block
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.rows import Rows

TWO_COLONS = "::"
"""What GroupLens puts between the fields of ratings.dat; quotes mean nothing there."""
SEPARATORS = {
    ",": "a comma",
    "\t": "a tab",
    ";": "a semicolon",
    "|": "a bar",
    TWO_COLONS: "two colons",
}
TYPE_SUFFIX = re.compile(r":(token|float)(_seq)?$")


@dataclass(frozen=True)
class Dialect:
    """How one file separates and quotes its fields, and the names of its columns."""

    names: tuple[str, ...]
    separator: str
    quote: str


@dataclass(frozen=True)
class Piece:
    block: Block
    dialect: Dialect


def pieces(
    path: Path,
    blocks: Iterator[Block],
    separator: str,
    quote: str,
    names: list[str] | None,
    wanted: list[str],
) -> Iterator[Piece]:
    """The blocks of one file without its header row, each with the file's dialect.

    Args:
        separator: one character, two colons, or ``auto`` to tell it from the first line.
        names: the columns' names where the file has no header row.
        wanted: names that the settings ask for; they help to tell the separator.
    """
    dialect = None
    for block in blocks:
        if dialect is None and block.lines:
            first, _, rest = block.data.partition(b"\n")
            dialect = read_dialect(path, first.rstrip(b"\r"), separator, quote, names, wanted)
            if names is None:
                number, lines = block.first_line + 1, block.lines - 1
                block = dataclasses.replace(block, data=rest, first_line=number, lines=lines)
        yield Piece(block, dialect or Dialect((), ",", quote))


def read_dialect(
    path: Path,
    line: bytes,
    separator: str,
    quote: str,
    names: list[str] | None,
    wanted: list[str],
) -> Dialect:
    """The dialect of a file whose first line is ``line``."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}:1: the header row is not UTF-8; convert the file first") from None
    if separator == "auto":
        separator = _sniff(text, quote, names, wanted)
    quote = "" if separator == TWO_COLONS else quote
    found = names if names is not None else split_line(text, separator, quote)
    return Dialect(tuple(plain_name(name, wanted) for name in found), separator, quote)


def plain_name(name: str, wanted: list[str]) -> str:
    """A column's name without the type that RecBole's files give it, if so it is wanted."""
    name = name.strip()
    plain = TYPE_SUFFIX.sub("", name)
    return plain if name not in wanted and plain in wanted else name


def split_line(text: str, separator: str, quote: str) -> list[str]:
    """The fields of one line (the whole line, if its quotes make no sense)."""
    if separator == TWO_COLONS:
        return text.split(TWO_COLONS)
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    options = {"quotechar": quote} if quote else {}
    try:
        reader = csv.reader([text], delimiter=separator, quoting=quoting, **options)
        return next(reader, []) or [""]
    except csv.Error:
        return [text]


def _sniff(text: str, quote: str, names: list[str] | None, wanted: list[str]) -> str:
    """The separator that finds most of the wanted names, or else most fields."""

    def score(separator: str) -> tuple[int, int]:
        fields = [plain_name(field, wanted) for field in split_line(text, separator, quote)]
        if names is not None:
            return int(len(fields) == len(names)), len(fields)
        return len(set(wanted) & set(fields)), len(fields)

    return max(SEPARATORS, key=score)


def read_rows(piece: Piece, wanted: list[str], max_line_bytes: int) -> Rows:
    """A piece → its good records, as string columns, and its malformed lines."""
    from pipeline.ingest import records as rec  # numba takes a while to import

    block, dialect = piece.block, piece.dialect
    text = block.data if block.data.endswith(b"\n") or not block.data else block.data + b"\n"
    found = np.empty((block.lines, 4), np.int64)
    rec.scan_records(
        np.frombuffer(text, np.uint8),
        ord(dialect.separator[0]),
        dialect.separator == TWO_COLONS,
        ord(dialect.quote) if dialect.quote else -1,
        len(dialect.names),
        max_line_bytes,
        found,
    )
    reasons = _byte_faults(text, found)
    good = found[:, 2] == rec.OK
    good[list(reasons)] = False
    for index in np.flatnonzero(found[:, 2] != rec.OK).tolist():
        reasons.setdefault(index, _reason(found[index].tolist(), dialect, max_line_bytes))
    bad = [
        BadLine(block.first_line + index, *reasons[index], text[found[index, 0] : found[index, 1]])
        for index in sorted(reasons)
    ]
    kept = found[good]
    arrays = _parse(rec.keep(text, kept) if reasons else text, len(kept), dialect, wanted)
    return Rows(
        arrays,
        block.first_line + np.flatnonzero(good),
        lambda row: text[kept[row, 0] : kept[row, 1]],
        [*block.bad, *bad],
        block.bytes_read,
    )


def _byte_faults(text: bytes, found: np.ndarray) -> dict[int, tuple[str, str]]:
    """Lines that hold a NUL byte or are not UTF-8, looked for one by one only if there are any."""
    faults: dict[int, tuple[str, str]] = {}
    whole = True
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            whole = False
    if whole and b"\0" not in text:
        return faults
    for index, (start, end) in enumerate(found[:, :2].tolist()):
        line = text[start:end]
        if b"\0" in line:
            faults[index] = ("NUL byte", "the line holds a NUL byte")
            continue
        try:
            line.decode()
        except UnicodeDecodeError:
            faults[index] = ("encoding", "the line is not UTF-8")
    return faults


def _reason(record: list[int], dialect: Dialect, max_line_bytes: int) -> tuple[str, str]:
    from pipeline.ingest import records as rec

    _, _, code, fields = record
    mark = SEPARATORS.get(dialect.separator, repr(dialect.separator))
    expected = f"expected {len(dialect.names)} fields separated by {mark}, found {fields}"
    return {
        rec.BLANK: ("blank line", "blank line"),
        rec.TOO_LONG: ("line too long", f"line longer than {max_line_bytes:,} bytes"),
        rec.FIELD_COUNT: ("field count", expected),
        rec.UNCLOSED: (
            "quote",
            "a quote is not closed on its line (setting quote: '' ignores them)",
        ),
        rec.RETURN: ("carriage return", "a carriage return within the line"),
    }[code]


def _parse(text: bytes, rows: int, dialect: Dialect, wanted: list[str]) -> dict[str, pa.Array]:
    """Good records → the wanted columns as strings."""
    # Positions stand in for names, so that an unused column may be unnamed or named twice.
    positions = {name: str(dialect.names.index(name)) for name in wanted if name in dialect.names}
    if not rows:
        return {name: pa.array([], pa.string()) for name in positions}
    if dialect.separator == TWO_COLONS:  # pyarrow's parser knows separators of one byte
        lines = text.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
        fields = pc.split_pattern(pa.array(lines), TWO_COLONS)
        return {name: pc.list_element(fields, int(at)) for name, at in positions.items()}
    table = pacsv.read_csv(
        io.BytesIO(text),
        pacsv.ReadOptions(
            use_threads=False,
            block_size=len(text) + 1,
            column_names=[str(position) for position in range(len(dialect.names))],
        ),
        pacsv.ParseOptions(
            delimiter=dialect.separator,
            quote_char=dialect.quote or False,
            ignore_empty_lines=False,
        ),
        pacsv.ConvertOptions(
            check_utf8=False,
            include_columns=list(positions.values()),
            column_types=dict.fromkeys(positions.values(), pa.string()),
            strings_can_be_null=False,
        ),
    )
    if table.num_rows != rows:
        raise AssertionError(f"{rows} records were found but {table.num_rows} were parsed")
    return {name: table.column(at).combine_chunks() for name, at in positions.items()}
