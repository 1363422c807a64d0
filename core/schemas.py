"""Schemas of columns as JSON, from a file that a stranger may have written."""

from pathlib import Path
from typing import Any

from core.errors import UserError
from core.merlin import Schema, schema_from_json
from core.strict import parse, printable, read_bytes

MOST_COLUMNS = 100_000
MOST_CODES = 1 << 40


def read_schema(path: str | Path) -> Schema:
    """The schema in a file; see :func:`checked_schema`."""
    return checked_schema(read_bytes(path), path)


def checked_schema(text: str | bytes, where: str | Path) -> Schema:
    """The inverse of :func:`core.merlin.schema_to_json`.

    Args:
        where: the file, and the key where the schema is a text within it, for messages.

    Raises:
        UserError: it is no schema, or has columns that no workflow makes: without a name, twice the
            same, of no type, or of an impossible number of codes.
    """
    value = parse(text, where)
    if not isinstance(value, dict) or not isinstance(value.get("feature", []), list):
        raise UserError(f"{where}: expected an object with a list 'feature'")
    if len(value.get("feature", [])) > MOST_COLUMNS:
        raise UserError(f"{where}: feature: more than {MOST_COLUMNS:,} columns")
    try:
        schema = schema_from_json(text.decode() if isinstance(text, bytes) else text)
        faults = [fault for column in schema if (fault := _fault(column))]
    except Exception as error:  # of the parser's many kinds none says where
        raise UserError(
            f"{where}: not a schema ({type(error).__name__}: {printable(error)})"
        ) from None
    names = schema.column_names
    if len(set(names)) < len(value.get("feature", [])):
        faults.append("a column is there twice")
    if faults:
        raise UserError(f"{where}: feature: {faults[0]}")
    return schema


def _fault(column: Any) -> str:
    """What is wrong with a column; empty if nothing."""
    name, domain = column.name, column.int_domain
    if not isinstance(name, str) or not name:
        return f"{name!r} is no name of a column"
    if domain is None:
        return ""
    ends = domain.min, domain.max
    if any(end is not None and not 0 <= end < MOST_CODES for end in ends):
        return f"{name!r}: its codes are from {domain.min} to {domain.max}"
    return ""
