"""Files of a log with named columns → pieces, and these → rows; whatever the format.

Each file has columns of its own, in an order of its own. One without an optional column that
other files of the log have is read: its values are missing.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from core.console import say
from core.errors import UserError
from pipeline.ingest import delimited, jsonlines
from pipeline.ingest.blocks import Block, text_blocks
from pipeline.ingest.columns import Column
from pipeline.ingest.compression import without_suffix
from pipeline.ingest.criteo import is_parquet
from pipeline.ingest.dialect import Layout
from pipeline.ingest.foreign import HEAD_BYTES, refuse_foreign, refuse_other_json
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.json_paths import has_field, nested
from pipeline.ingest.lists import SessionRows
from pipeline.ingest.parquet_texts import FAULTS, rows_of
from pipeline.ingest.rows import Rows
from pipeline.ingest.table_source import TableSourceSettings
from pipeline.ingest.text_source import TextSource

Format = Literal["csv", "jsonl", "parquet"]
PARQUET_ROWS = 1 << 17


@dataclass(frozen=True)
class Batch:
    """Some rows of a Parquet file, by the wanted names; ``first_row`` counts from 1."""

    rows: pa.RecordBatch
    first_row: int
    bytes_read: int


class TableFiles:
    """Reads the wanted columns of a log's files as they come; see :class:`Rows`.

    Args:
        columns: what is read of each file.
        files: all files of the log.
        sessions: unfolds the rows of a log that holds a whole session in each.
    """

    def __init__(
        self,
        settings: TableSourceSettings,
        columns: Sequence[Column],
        files: Sequence[InputFile],
        sessions: SessionRows | None = None,
    ) -> None:
        self.settings = settings
        self.files = files
        self.sessions = sessions
        made = sessions.made if sessions else set()
        self.columns = [column for column in columns if column.name not in made]
        # One column of the log may be read as two things, as a time and as a category.
        self.wanted = list(dict.fromkeys(column.source for column in self.columns))
        self.layout = Layout(settings.separator, settings.quote, settings.column_names, self.wanted)
        vectors = {column.source for column in columns if column.kind == "vector"}
        item = sessions.item if sessions else None
        several = {c.source: c.separator for c in columns if c.kind == "categories"}
        self.keys = jsonlines.Keys(self.wanted, vectors, item, settings.max_line_bytes, several)
        self.seen: dict[str, None] = {}
        """Columns of the log so far, also those that are not read."""
        self._known: set[str] = set()  # optional columns that some file has
        self._keys_known = False
        self._lock = threading.Lock()

    def pieces(self, file: InputFile, faults: list[str]) -> Iterator[Any]:
        """See :class:`pipeline.ingest.shards.FileReader`."""
        kind = file_format(file.path, self.settings)
        if kind == "parquet":
            yield from self._parquet_pieces(file)
            return
        if kind == "csv" and self.sessions:
            raise UserError(
                f"{file.path}: csv; the setting layout: sessions reads Parquet and JSON lines only"
            )
        source = self._source(file)
        try:
            yield from (
                self._json_blocks(file, source)
                if kind == "jsonl"
                else self._delimited(file, source)
            )
            if source.fault:
                faults.append(source.fault)
        finally:
            source.close()

    def _source(self, file: InputFile) -> TextSource:
        return TextSource(file.path, self.settings.encoding)

    def _delimited(self, file: InputFile, source: TextSource) -> Iterator[delimited.Piece]:
        checked = False
        settings = self.settings
        limits = settings.block_bytes, settings.max_line_bytes
        for piece in delimited.pieces(source, self.layout, *limits):
            if not checked and piece.dialect.names:
                how = f"separated by {piece.dialect.mark}"
                self._check_columns(file, list(piece.dialect.names), how)
                checked = True
            yield piece

    def _json_blocks(self, file: InputFile, source: TextSource) -> Iterator[Block]:
        settings = self.settings
        first = True
        for block in text_blocks(source, settings.block_bytes, settings.max_line_bytes):
            if first and block.data:
                refuse_other_json(file.path, block.data)
                self._check_keys(file, block)
                first = False
            yield block

    def _parquet_pieces(self, file: InputFile) -> Iterator[Batch]:
        head = _head(file.path)
        if not head.startswith(b"PAR1"):
            refuse_foreign(file.path, head)
        try:
            with pq.ParquetFile(file.path) as parquet:
                schema = parquet.schema_arrow
                present = [name for name in self.wanted if has_field(schema, name)]
                paths = [name for name in present if name not in schema.names]
                self._check_columns(file, [*schema.names, *paths], "in Parquet")
                tops = [name if name in schema.names else name.split(".")[0] for name in present]
                row, total = 1, max(1, parquet.metadata.num_rows)
                for batch in parquet.iter_batches(PARQUET_ROWS, columns=[*dict.fromkeys(tops)]):
                    arrays = {
                        name: batch.column(top) if name == top else _inner(batch.column(top), name)
                        for name, top in zip(present, tops, strict=True)
                    }
                    rows = pa.RecordBatch.from_pydict(arrays)
                    yield Batch(rows, row, file.size * batch.num_rows // total)
                    row += batch.num_rows
        except FAULTS as error:
            raise UserError(f"{file.path}: not a whole Parquet file ({error})") from None

    def rows(self, file: InputFile, piece: Any) -> Rows:
        """The rows of a piece, with all wanted columns."""
        if isinstance(piece, Batch):
            rows = rows_of(piece.rows, piece.first_row, piece.bytes_read)
        elif isinstance(piece, Block):
            rows = jsonlines.read_rows(piece, self.keys)
        else:
            rows = delimited.read_rows(piece, self.wanted, self.settings.max_line_bytes)
        for name in self.wanted:
            array = rows.arrays.get(name)
            if array is None or (name in file.keys and array.null_count == len(array)):
                value = pa.scalar(file.keys.get(name), pa.string())
                rows.arrays[name] = pa.repeat(value, len(rows.lines))
        return self.sessions.unfold(rows, file) if self.sessions else rows

    def _check_columns(self, file: InputFile, names: list[str], how: str) -> None:
        self.seen |= dict.fromkeys(names)
        for column in self.columns:
            source = column.source
            if names.count(source) == 1 or (source in file.keys and source not in names):
                continue
            if source in names:
                fault = "more than one column"
            elif not column.required and self._elsewhere(source, file):
                continue
            else:
                fault = "no column"
            remedy = (
                "or separator or format if this is not how the file is laid out, or give "
                "column_names if it has no header row"
                if how.startswith("separated")
                else "or format if this is not how the file is laid out"
            )
            if column.nullable and fault == "no column":
                remedy = f"or set it to null if the log has none, {remedy}"
            raise UserError(
                f"{file.path}: {fault} '{source}' (setting {column.setting}). Found {how}: "
                f"{', '.join(dict.fromkeys(names[:50])) or 'nothing'}. Correct {column.setting}, "
                f"{remedy}."
            )

    def _elsewhere(self, name: str, file: InputFile) -> bool:
        """Whether another file has the column; said once."""
        with self._lock:
            if name in self._known:
                return True
            if not any(name in self._names(other) for other in self.files if other != file):
                return False
            self._known.add(name)
        say(f"warning: {file.path}: no column '{name}'; where a file has none, it is missing")
        return True

    def _names(self, file: InputFile) -> set[str]:
        """Those of the wanted columns that a file has, and its other ones."""
        kind = file_format(file.path, self.settings)
        if kind == "parquet":
            try:
                schema = pq.read_schema(file.path)
            except FAULTS:
                return set()  # the fault is named when it is read
            return {name for name in self.wanted if has_field(schema, name)} | set(file.keys)
        source = self._source(file)
        try:
            limit = self.settings.max_line_bytes
            if kind == "jsonl":
                blocks = text_blocks(source, self.settings.block_bytes, limit)
                return set(self.wanted) - jsonlines.absent_keys(blocks, self.wanted)
            for piece in delimited.pieces(source, self.layout, HEAD_BYTES, limit):
                if piece.dialect.names:
                    return set(piece.dialect.names) | set(file.keys)
            return set(file.keys)
        finally:
            source.close()

    def _check_keys(self, file: InputFile, block: Block) -> None:
        """Looks for all keys once, beyond the beginning of the log where they are not there."""
        if self._keys_known:
            return
        keys = jsonlines.first_keys(block)
        absent = [name for name in self.wanted if name not in keys and name not in file.keys]
        if not keys:
            return
        self._keys_known = True
        self.seen |= dict.fromkeys(keys)
        if absent:
            late = set(absent) - self._absent_everywhere(absent)
            self._check_columns(file, [*keys, *late], "as keys of JSON lines")
            for name in sorted(late):
                say(f"warning: {file.path}: no key '{name}' in its first lines; it comes later")

    def _absent_everywhere(self, names: list[str]) -> set[str]:
        absent = set(names)
        for file in self.files:
            if absent and file_format(file.path, self.settings) == "jsonl":
                source = self._source(file)
                try:
                    limits = self.settings.block_bytes, self.settings.max_line_bytes
                    absent = jsonlines.absent_keys(text_blocks(source, *limits), absent)
                finally:
                    source.close()
        return absent


def _inner(array: pa.Array, path: str) -> pa.Array:
    return nested(array, path.split(".")[1:])


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


def file_format(path: Path, settings: TableSourceSettings) -> Format:
    """The kind of a file: as set, else by its extension, else by its first bytes.

    Raises:
        UserError: it is something else than a log.
    """
    if settings.format != "auto":
        return settings.format
    if is_parquet(path):
        return "parquet"
    suffix = Path(without_suffix(path.name)).suffix.lower()
    if suffix == ".parquet" and path.stat().st_size:
        refuse_foreign(path, _head(path))
        raise UserError(f"{path}: named .parquet, but this is not Parquet data (setting format)")
    if suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    if suffix in (".csv", ".tsv", ".txt", ".inter", ".dat"):
        return "csv"
    source = TextSource(path, settings.encoding)
    try:
        head = source.read(HEAD_BYTES)
    finally:
        source.close()
    refuse_other_json(path, head)
    return "jsonl" if head.lstrip().startswith(b"{") else "csv"
