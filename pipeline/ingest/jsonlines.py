"""JSON lines → rows, read by pyarrow in blocks; only what it refuses is looked at line by line.

Types are those of the lines at hand: a key may come late in the log, and its values may change
from numbers to texts. The columns of one block have one type each; what differs is read as text.
"""

import io
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson

from pipeline.ingest.blocks import Block
from pipeline.ingest.categories import as_lists, split_texts
from pipeline.ingest.json_paths import (
    LARGEST_EXACT,
    Tree,
    arrow_type,
    column_at,
    has_path,
    inexact,
    paths_of,
    tree_of,
    value_at,
)
from pipeline.ingest.lists import is_list
from pipeline.ingest.quarantine import BadLine
from pipeline.ingest.rows import Rows

VECTOR = pa.list_(pa.float32())
LINES_LOOKED_AT = 1000
LINES_FOR_TYPES = 64
LINES_BY_ONE = 16


@dataclass(frozen=True)
class Keys:
    """What is read of each object.

    Attributes:
        paths: keys, or paths to keys of objects within it.
        vectors: those of them that are lists of numbers.
        several: those of them with several categories, as lists or as texts with a separator
            between them, by which they are split.
        sessions: the path of the items where an object is a whole session; lists stay lists then.
    """

    paths: list[str]
    vectors: Collection[str] = ()
    sessions: str | None = None
    max_line_bytes: int = 1 << 20
    several: Mapping[str, str] = field(default_factory=dict)

    def tree(self) -> Tree | None:
        return tree_of(self.paths)


@dataclass
class _Lines:
    """Lines of a block, read part by part."""

    keys: Keys
    tree: Tree | None
    block: Block
    parts: list[dict[str, pa.Array]] = field(default_factory=list)
    good: list[int] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)

    def read(self, lines: list[bytes], first: int) -> None:
        """Reads lines at once, or where pyarrow refuses, by halves, down to single lines."""
        part = self._whole(lines)
        if part is not None:
            self.parts.append(part)
            self.good.extend(range(first, first + len(lines)))
        elif len(lines) > LINES_BY_ONE:
            half = len(lines) // 2
            self.read(lines[:half], first)
            self.read(lines[half:], first + half)
        else:
            self._one_by_one(lines, first)

    def _one_by_one(self, lines: list[bytes], first: int) -> None:
        rows: list[dict[str, Any]] = []
        for index, line in enumerate(lines, first):
            values, reason = self._values(line)
            if values is None:
                self.bad.append(BadLine(self.block.first_line + index, *reason, line))
            else:
                rows.append(values)
                self.good.append(index)
        self.parts.append(
            {path: self._as_text(path, [row[path] for row in rows]) for path in self.keys.paths}
        )

    def _values(self, line: bytes) -> tuple[dict[str, Any] | None, tuple[str, str]]:
        """The values of a line by path, or None and what is wrong with it."""
        record, reason = read_object(line, self.keys.max_line_bytes, self.block.encoding)
        if record is None:
            return None, reason
        try:
            values = {path: value_at(record, path) for path in self.keys.paths}
        except RecursionError:
            return None, ("JSON", "lists within lists, too many to follow")
        items = self.keys.sessions
        if items is not None and not isinstance(values[items], list | None):
            return None, ("no list", f"{items}: not a list (setting layout)")
        return values, reason

    def _as_text(self, path: str, values: list[Any]) -> pa.Array:
        """Values as texts, of a session's lists and of several categories each one."""
        if path in self.keys.several:
            separator = self.keys.several[path]
            lists = [self._texts(value, separator) for value in values]
            return pa.array(lists, pa.list_(pa.string()))
        if self.keys.sessions is not None and any(isinstance(value, list) for value in values):
            texts = [
                [_text(one) for one in (value if isinstance(value, list) else [value])]
                if value is not None
                else None
                for value in values
            ]
            return pa.array(texts, pa.list_(pa.string()))
        return pa.array([_text(value) for value in values], pa.string())

    @staticmethod
    def _texts(value: Any, separator: str) -> list[str | None] | None:
        """The texts of several categories."""
        if isinstance(value, str):
            return split_texts(pa.array([_text(value)]), separator)[0].as_py()
        if value is None:
            return None
        return [_text(one) for one in (value if isinstance(value, list) else [value])]

    def _whole(self, lines: list[bytes]) -> dict[str, pa.Array] | None:
        limit = self.keys.max_line_bytes
        if any(not line or line.isspace() or len(line) > limit for line in lines):
            return None
        text = b"\n".join(lines)
        schema = None if b"\0" in text else self._schema(lines)
        if schema is None:
            return None
        try:
            if not text.isascii():
                text.decode()
            table = pajson.read_json(
                io.BytesIO(text),
                pajson.ReadOptions(use_threads=False, block_size=len(text) + 1),
                pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
        except (pa.ArrowInvalid, UnicodeDecodeError):
            return None
        if table.num_rows != len(lines):
            return None
        for name in schema.names:
            if name not in table.column_names:
                nulls = pa.nulls(len(lines), schema.field(name).type)
                table = table.append_column(name, nulls)
        columns = {path: column_at(table, path) for path in self.keys.paths}
        if any(column is None or self._differs(path, column) for path, column in columns.items()):
            return None
        return None if self._no_list(columns) else columns

    def _differs(self, path: str, column: pa.Array) -> bool:
        """Whether a column may hold something else than was written."""
        if path in self.keys.several and is_list(column):
            column = column.flatten()  # of which lists and objects are read as texts
        return inexact(column) or (path in self.keys.several and pa.types.is_nested(column.type))

    def _no_list(self, columns: dict[str, pa.Array]) -> bool:
        """Whether there are items that are no lists, where each object is a session."""
        items = None if self.keys.sessions is None else columns[self.keys.sessions]
        return items is not None and not is_list(items) and items.null_count < len(items)

    def _schema(self, lines: list[bytes]) -> pa.Schema | None:
        """The types of some of the lines; None: they differ, or some lines are bad."""
        if self.tree is None:
            return None
        step = max(1, len(lines) // LINES_FOR_TYPES)
        records = [read_object(line)[0] for line in lines[::step]]
        if None in records:
            return None
        keep = self.keys.sessions is not None
        tops = {path.partition(".")[0] for path in self.keys.several} | {*self.keys.several}
        try:
            types = {
                name: VECTOR
                if name in self.keys.vectors and not keep
                else arrow_type(
                    [record.get(name) for record in records], below, keep or name in tops
                )
                for name, below in self.tree.items()
            }
        except RecursionError:  # lists within lists: the line is sought one by one
            return None
        return None if None in types.values() else pa.schema(list(types.items()))


def read_rows(block: Block, keys: Keys) -> Rows:
    """A block → the wanted keys of its good lines; a missing key is null."""
    lines = block.data.split(b"\n")[: block.lines]
    parsed = _Lines(keys, keys.tree(), block)
    if lines:
        parsed.read(lines, 0)
    arrays = {
        path: _joined([part[path] for part in parsed.parts], keys.several.get(path))
        for path in keys.paths
    }
    return Rows(
        arrays,
        block.first_line + np.array(parsed.good, np.int64),
        lambda row: lines[parsed.good[row]],
        [*block.bad, *parsed.bad],
        block.bytes_read,
    )


def first_keys(block: Block) -> list[str]:
    """The keys in a block's first lines and the paths to those within, in order of appearance."""
    keys: dict[str, None] = {}
    for line in islice(block.data.splitlines(), LINES_LOOKED_AT):
        record = read_object(line)[0] or {}
        keys.update(dict.fromkeys(paths_of(record)))
        keys.update(dict.fromkeys(record))
    return list(keys)


def absent_keys(blocks: Iterable[Block], paths: Collection[str]) -> set[str]:
    """Those of ``paths`` that no line has; it reads on until all of them were met."""
    absent = set(paths)
    for block in blocks:
        for path in sorted(absent):
            last = path.rpartition(".")[2]
            needles = {json.dumps(last).encode(), json.dumps(last, ensure_ascii=False).encode()}
            if not any(needle in block.data for needle in needles):
                continue
            for line in block.data.splitlines():
                if any(needle in line for needle in needles):
                    record, _ = read_object(line)
                    if record and has_path(record, path):
                        absent.discard(path)
                        break
        if not absent:
            break
    return absent


def read_object(
    line: bytes, max_line_bytes: int | None = None, encoding: str = "utf-8"
) -> tuple[dict[str, Any] | None, tuple[str, str]]:
    """One line → its object, or None and what is wrong with it."""
    if max_line_bytes is not None and len(line) > max_line_bytes:
        return None, ("line too long", f"line longer than {max_line_bytes:,} bytes")
    if not line.strip():
        return None, ("blank line", "blank line")
    if b"\0" in line:
        return None, ("NUL byte", "the line holds a NUL byte")
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        kind = "UTF-8" if encoding == "utf-8" else encoding
        return None, ("encoding", f"the line is not {kind} (setting encoding)")
    except (ValueError, RecursionError) as error:
        return None, ("JSON", f"not valid JSON ({error})")
    if not isinstance(record, dict):
        return None, ("JSON", "not a JSON object")
    return record, ("", "")


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        # A lone surrogate, which JSON can spell, has no UTF-8.
        return value and value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT:
        return str(int(value))  # one value is one text
    return json.dumps(value)


def _joined(columns: list[pa.Array], separator: str | None = None) -> pa.Array:
    """Parts of a column as one array; as text if their types differ.

    ``separator``: of a column with several categories, by which texts are split then.
    """
    chunks = [chunk for chunk in columns if len(chunk)]
    if separator is not None and len({chunk.type for chunk in chunks}) > 1:
        chunks = [as_lists(chunk, separator) for chunk in chunks]
    valued = [chunk for chunk in chunks if chunk.null_count < len(chunk)]
    types = {chunk.type for chunk in valued}
    if len(types) > 1:
        lists = all(pa.types.is_list(kind) for kind in types)
        chunks = [_to_text(chunk, lists and is_list(chunk)) for chunk in chunks]
    elif types:
        kind = types.pop()
        chunks = [chunk if chunk.type == kind else pa.nulls(len(chunk), kind) for chunk in chunks]
    chunks = chunks or columns[:1]
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())


def _to_text(chunk: pa.Array, lists: bool) -> pa.Array:
    """``chunk`` as texts; ``lists``: as lists of them."""
    if lists and not pa.types.is_list(chunk.type.value_type):
        mask = chunk.is_null() if chunk.null_count else None
        return pa.ListArray.from_arrays(chunk.offsets, _to_text(chunk.values, False), mask=mask)
    if pa.types.is_list(chunk.type):
        texts = [None if value is None else json.dumps(value) for value in chunk.to_pylist()]
        return pa.array(texts, pa.string())
    if pa.types.is_floating(chunk.type):
        return pa.array([_text(value) for value in chunk.to_pylist()], pa.string())
    return chunk.cast(pa.string())
