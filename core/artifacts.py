"""Safe forms on disk: Parquet and JSON, each written whole or not at all; tensors: core.tensors.

Nothing here can execute what it reads: no pickle in any form.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import UserError

PARTIAL = ".partial"
MARKER = ".merlin-pipeline"
"""File in every output folder that lists what was written there (:mod:`core.outputs`)."""
LONGEST_JSON = 1 << 28
SAMPLE_ROWS, DICTIONARY_VALUES = 2048, 128


_TEMPORARY = re.compile(rf"\.(.+)\.[0-9a-f]{{16}}{re.escape(PARTIAL)}", re.DOTALL)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; what was written there takes its place at the end.

    If the block raises or the process dies, ``path`` is as it was before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name keeps two workers that write the same shard from sharing a temporary file.
    partial = temporary_path(path)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A new name beside ``path`` for what is going to be ``path``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def temporary_of(name: str) -> str | None:
    """The name of the file that :func:`atomic_path` was writing under ``name``; None: of none."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


def remove_partials(folder: str | Path) -> None:
    """Deletes what killed processes were writing in or below ``folder`` (:func:`atomic_path`)."""
    for file in Path(folder).rglob(f".*{PARTIAL}"):
        if temporary_of(file.name) and file.is_file() and not file.is_symlink():
            file.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically. NaN and infinity are refused."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """``value`` as indented JSON; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        text = json.dumps(value, indent=2, allow_nan=False)  # A file's name that is no UTF-8.
    return text + "\n"


def write_text(path: str | Path, text: str) -> None:
    """Writes a text as UTF-8, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file; a missing, broken, oversized or too deep one is a UserError that names it.

    NaN and infinity, which are no JSON, are refused as :func:`write_json` does.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            text = file.read(LONGEST_JSON + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path}: expected a JSON file") from None
    if len(text) > LONGEST_JSON:
        raise UserError(f"{path}: more than {LONGEST_JSON:,} bytes of JSON")
    try:
        return json.loads(text.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise UserError(f"{path}: not valid JSON (nested too deeply)") from None
    except ValueError as error:  # bad syntax, no UTF-8, an integer of thousands of digits
        raise UserError(f"{path}: not valid JSON ({error})") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def write_parquet(path: str | Path, table: pa.Table, **options: Any) -> None:
    """Writes one Parquet file atomically (zstd level 1 unless told otherwise)."""
    options = {"compression": "zstd", "compression_level": 1, **options}
    with atomic_path(path) as partial:
        pq.write_table(table, partial, **options)


def encodings(table: pa.Table) -> dict[str, Any]:
    """Options of :func:`write_parquet` for a table of numbers, told by a sample of its rows.

    A column of few distinct values is written by a dictionary. For others its hash table is the
    dearest part of writing and saves little: their values' first bytes, second bytes and so on
    stand together instead, so that what is alike in them is pressed at little cost. A table with
    lists is left to the defaults.
    """
    if any(pa.types.is_nested(field.type) for field in table.schema):
        return {}
    rows = pa.array(np.arange(0, table.num_rows, max(1, table.num_rows // SAMPLE_ROWS)))
    split = {}
    for name in table.column_names:
        kind = table[name].type
        wide = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if not wide or kind.bit_width < 32:
            continue
        if pc.count_distinct(table[name].take(rows)).as_py() > DICTIONARY_VALUES:
            split[name] = "BYTE_STREAM_SPLIT"
    others = [name for name in table.column_names if name not in split]
    return {"use_dictionary": others or False, "column_encoding": split or None}


def parquet_files(folder: str | Path) -> list[Path]:
    """The ``*.parquet`` files of a folder in name order; an absent or empty one is a UserError."""
    folder = Path(folder)
    files = sorted(folder.glob("*.parquet"))
    if not files:
        what = "holds no *.parquet file" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {what}; run the stage that makes it first")
    return files


def digest(*paths: str | Path) -> str:
    """SHA-256 over the names and contents of files, and of the ``*.py`` files under folders."""
    found = hashlib.sha256()
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()
