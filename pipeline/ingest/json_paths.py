"""Paths into JSON objects (``event.item.id``): what they mean in a record and in Arrow."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.arrays import EXACT

LARGEST_EXACT = EXACT[pa.float64()]
"""Beyond it floats leave integers out."""
DEEPEST = 64
"""Levels of objects whose paths are listed for messages."""
Tree = dict[str, "Tree"]


def value_at(record: dict[str, Any], path: str) -> Any:
    """The value that ``path`` names; of a list on the way, that of each of its objects. A key that
    is spelled like the path goes before."""
    value = record.get(path)
    return _walk(record, path.split(".")) if value is None and "." in path else value


def _walk(value: Any, parts: list[str]) -> Any:
    for at, part in enumerate(parts):
        if isinstance(value, list):
            return [_walk(entry, parts[at:]) for entry in value]
        value = value.get(part) if isinstance(value, dict) else None
    return value


def has_path(record: dict[str, Any], path: str) -> bool:
    """Whether a record has the key, with a value or null."""
    if path in record:
        return True
    first, _, rest = path.partition(".")
    value = record.get(first)
    entries = value if isinstance(value, list) else [value]
    return bool(rest) and any(has_path(one, rest) for one in entries if isinstance(one, dict))


def paths_of(record: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths to all values of a record that are no objects."""
    for key, value in record.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and inner and prefix.count(".") < DEEPEST:
            yield from paths_of(inner, f"{prefix}{key}.")
        else:
            yield prefix + key


def tree_of(paths: Iterable[str]) -> Tree | None:
    """Paths as nested keys, those with a dot also as keys of their own; None: one begins another,
    and is then read as the text of an object."""
    tree: Tree = {}
    for path in sorted(paths, key=lambda path: path.count(".")):
        tree.setdefault(path, {})
        if "." not in path:
            continue
        parts = path.split(".")
        if any(".".join(parts[:end]) in paths for end in range(1, len(parts))):
            return None
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
    return tree


def arrow_type(values: list[Any], node: Tree, lists: bool) -> pa.DataType | None:
    """What holds all of ``values`` and, below them, what ``node`` names; None: no one type does.

    Args:
        lists: whether lists are kept as lists, and paths go through them; else they are texts.
    """
    values = [value for value in values if value is not None]
    if lists and values and all(isinstance(value, list) for value in values):
        inner = arrow_type(list(chain.from_iterable(values)), node, lists)
        return inner and pa.list_(inner)
    if node:
        if not all(isinstance(value, dict) for value in values):
            return None
        fields = {
            key: arrow_type([value.get(key) for value in values], below, lists)
            for key, below in node.items()
        }
        return None if None in fields.values() else pa.struct(list(fields.items()))
    return _plain_type(values)


def _plain_type(values: list[Any]) -> pa.DataType | None:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        inside = all(-(1 << 63) <= value < 1 << 63 for value in values)
        return pa.int64() if inside else None
    if kinds in ({float}, {int, float}):
        exact = all(type(value) is float or abs(value) <= LARGEST_EXACT for value in values)
        return pa.float64() if exact else None
    return pa.string() if kinds <= {str} else None


def column_at(table: pa.Table, path: str) -> pa.Array | None:
    """The column that ``path`` names in a table read by the types of :func:`arrow_type`.

    None: some rows have it as a key of its own, some within objects, and the types differ.
    """
    own = table.column(path).combine_chunks()
    if "." not in path:
        return own
    first, *rest = path.split(".")
    inner = nested(table.column(first).combine_chunks(), rest)
    if own.null_count == len(own):
        return inner
    if inner.null_count == len(inner):
        return own
    return pc.coalesce(own, inner) if own.type == inner.type else None


def inexact(array: pa.Array) -> bool:
    """Whether floats may stand for other integers than were written."""
    if not pa.types.is_floating(array.type):
        return False
    return bool(pc.any(pc.greater(pc.abs(array), LARGEST_EXACT)).as_py())


def nested(array: pa.Array, parts: list[str]) -> pa.Array:
    """What is below the values of ``array``, through structs and lists of them."""
    if not parts:
        return array
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        array = pa.concat_arrays([array]) if array.offset else array
        inner = nested(array.values, parts)
        kind = pa.ListArray if pa.types.is_list(array.type) else pa.LargeListArray
        mask = array.is_null() if array.null_count else None
        return kind.from_arrays(array.offsets, inner, mask=mask)
    return nested(pc.struct_field(array, parts[0]), parts[1:])


def has_field(schema: pa.Schema, path: str) -> bool:
    """Whether an Arrow schema has the column, or the path into one."""
    if path in schema.names:
        return True
    first, *rest = path.split(".")
    if not rest or schema.names.count(first) != 1:
        return False
    kind = schema.field(first).type
    for part in rest:
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return False
        kind = kind.field(part).type
    return True
