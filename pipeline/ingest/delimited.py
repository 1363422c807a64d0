"""CSV, TSV and their kin → rows of text columns, read by pyarrow in blocks.

Records end where :mod:`pipeline.ingest.records` says; line numbers are those of any text editor.
"""

import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from core.errors import UserError
from pipeline.ingest.blocks import Block, continued, line_end, text_blocks
from pipeline.ingest.dialect import TWO_COLONS, Dialect, Layout, Opening
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.rows import Rows
from pipeline.ingest.text_source import TextSource


@dataclass(frozen=True)
class Piece:
    block: Block
    dialect: Dialect


def pieces(
    source: TextSource, layout: Layout, block_bytes: int, max_line_bytes: int
) -> Iterator[Piece]:
    """The records of one file in blocks, each with the file's dialect.

    Raises:
        UserError: the header row cannot be read.
    """
    opening = Opening(source.path, layout, source.encoding)
    left = 0  # of the opening, in the blocks to come

    def cut(data: bytes) -> int:
        nonlocal left
        begun = 0
        if opening.dialect is None:
            begun = opening.read(data)
            left += begun
        if opening.dialect is None:
            return begun
        quote = opening.dialect.quote.encode()
        if not quote or data.find(quote, begun) < 0:
            return max(begun, line_end(data))
        return begun + _last_record_end(data[begun:], opening.dialect, max_line_bytes)

    for block in text_blocks(source, block_bytes, max_line_bytes, cut):
        if block.bad and block.bad[0].line == 1 and layout.names is None:
            _check_header(source, block.bad[0], max_line_bytes)
        if opening.dialect is None and not left:
            left = opening.read(block.data, at_end=True)
        begun = min(left, len(block.data))
        if begun:
            left -= begun
            lines = block.data.count(b"\n", 0, begun)
            block = dataclasses.replace(
                block,
                data=block.data[begun:],
                first_line=block.first_line + lines,
                lines=block.lines - lines if begun < len(block.data) else 0,
            )
        yield Piece(block, opening.dialect or Dialect((), ",", layout.quote))


def _check_header(source: TextSource, bad: BadLine, max_line_bytes: int) -> None:
    if bad.kind == "line too long":
        raise UserError(
            f"{source.path}:1: the header row is longer than {max_line_bytes:,} bytes (setting "
            "max_line_bytes)"
        )


def _last_record_end(data: bytes, dialect: Dialect, max_line_bytes: int) -> int:
    from pipeline.ingest import records as rec  # numba takes a while to import

    quote, separator = ord(dialect.quote), ord(dialect.separator)
    return rec.last_record_end(np.frombuffer(data, np.uint8), separator, quote, max_line_bytes)


def read_rows(piece: Piece, wanted: list[str], max_line_bytes: int) -> Rows:
    """A piece → its good records, as string columns, and its malformed lines."""
    from pipeline.ingest import records as rec

    block, dialect = piece.block, piece.dialect
    text = block.data if block.data.endswith(b"\n") or not block.data else block.data + b"\n"
    records = np.empty((block.lines, 5), np.int64)
    separator, doubled = ord(dialect.separator[0]), dialect.separator == TWO_COLONS
    quote = ord(dialect.quote) if dialect.quote else -1
    data = np.frombuffer(text, np.uint8)
    count, padded, several = rec.scan_records(
        data, separator, doubled, quote, len(dialect.names), max_line_bytes, records
    )
    records = records[:count]
    lines = block.first_line + records[:, 4]
    reasons = _byte_faults(text, records, block.encoding)
    good = records[:, 2] == rec.OK
    good[list(reasons)] = False
    for index in np.flatnonzero(records[:, 2] != rec.OK).tolist():
        line = text[records[index, 0] : records[index, 1]]
        reason = _reason(records[index].tolist(), line, dialect, max_line_bytes, block.first_line)
        reasons.setdefault(index, reason)
    bad = [
        BadLine(int(lines[index]), *reasons[index], text[records[index, 0] : records[index, 1]])
        for index in sorted(reasons)
    ]
    kept = records[good]
    plain = text
    if padded:
        plain = rec.without_padding(text, kept, separator, doubled, quote)
    elif reasons:
        plain = rec.keep(text, kept)
    arrays = _parse(plain, len(kept), dialect, wanted, several)
    return Rows(
        arrays,
        lines[good],
        lambda row: text[kept[row, 0] : kept[row, 1]],
        [*block.bad, *bad],
        block.bytes_read,
    )


def _byte_faults(text: bytes, records: np.ndarray, encoding: str) -> dict[int, tuple[str, str]]:
    """Records with a NUL byte or bytes of another encoding, sought one by one if there are any."""
    faults: dict[int, tuple[str, str]] = {}
    whole = True
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            whole = False
    if whole and b"\0" not in text:
        return faults
    for index, (start, end) in enumerate(records[:, :2].tolist()):
        line = text[start:end]
        if b"\0" in line:
            faults[index] = ("NUL byte", "the line holds a NUL byte")
            continue
        try:
            line.decode()
        except UnicodeDecodeError:
            kind = "UTF-8" if encoding == "utf-8" else encoding
            faults[index] = ("encoding", f"the line is not {kind} (setting encoding)")
    return faults


def _reason(
    record: list[int], line: bytes, dialect: Dialect, max_line_bytes: int, first_line: int
) -> tuple[str, str]:
    from pipeline.ingest import records as rec

    _, _, code, fields, _ = record
    quote = dialect.quote.encode()
    advice = "setting quote: '' if quotes mean nothing"
    if quote and b"\\" + quote in line:
        advice = (
            f"a backslash before {dialect.quote} is not read as one within a value; write it "
            f"twice ({2 * dialect.quote}) instead"
        )
    expected = f"expected {len(dialect.names)} fields separated by {dialect.mark}, found {fields}"
    if quote and line.count(quote) > 2 * line.count(2 * quote) and b"\\" + quote in line:
        expected += f" ({advice})"
    return {
        rec.BLANK: ("blank line", "blank line"),
        rec.TOO_LONG: ("line too long", f"line longer than {max_line_bytes:,} bytes"),
        rec.FIELD_COUNT: ("field count", expected),
        rec.UNCLOSED: (
            "quote",
            "a quote that begins a field is not closed at the end of any field, on this line or "
            f"within max_line_bytes ({advice})",
        ),
        rec.RETURN: ("carriage return", "a carriage return within the line"),
        rec.CONTINUED: ("continued", continued(first_line + fields)),
    }[code]


def _parse(
    text: bytes, rows: int, dialect: Dialect, wanted: list[str], several: bool
) -> dict[str, pa.Array]:
    """Good records → the wanted columns that the file has, as strings.

    ``several``: some records are several lines.
    """
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
            newlines_in_values=several,
        ),
        pacsv.ConvertOptions(
            check_utf8=False,
            include_columns=list(positions.values()),
            column_types=dict.fromkeys(positions.values(), pa.string()),
            strings_can_be_null=False,
        ),
    )
    if table.num_rows != rows:
        raise AssertionError(f"{rows} records were counted but {table.num_rows} were parsed")
    return {name: table.column(at).combine_chunks() for name, at in positions.items()}
