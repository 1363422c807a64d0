"""JSON from a folder that a stranger may have made: bounded, plain, of the shape a schema says.

What fails is one UserError that names the file and the key.
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import UserError
from core.settings import Settings, validate

LONGEST, MOST_VALUES = 1 << 24, 300_000
"""Bytes of a JSON text that is read, and values in it."""
LONGEST_MANIFEST = 1 << 28
"""The same for a manifest, which may name millions of files."""
DEEPEST = 64
"""Levels of objects and arrays within each other."""
LARGEST = 1 << 64
MOST_SETTINGS = 50_000
"""Values in a block of settings."""
SCALARS = str | int | float | None
SHOWN, LONGEST_MESSAGE = 60, 200
"""Characters of a wrong value, and of a library's message, that a message shows."""

RecordType = TypeVar("RecordType", bound="Record")
SettingsType = TypeVar("SettingsType", bound=Settings)


class Record(BaseModel):
    """Base of what is read from JSON: types are not converted, further keys are passed over."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class ClosedRecord(Record):
    """The same for JSON in which a further key is an error."""

    model_config = ConfigDict(extra="forbid")


def read_bytes(path: str | Path, longest: int = LONGEST) -> bytes:
    """The content of a file of at most ``longest`` bytes.

    Raises:
        UserError: it is absent, no plain file, or longer.
    """
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # where reading would wait
            raise UserError(f"{path}: is no plain file")
        with open(path, "rb") as file:
            text = file.read(longest + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(text) > longest:
        raise UserError(f"{path}: has more than {longest:,} bytes")
    return text


def read_plain(path: str | Path, longest: int = LONGEST) -> Any:
    """The JSON value in a file; see :func:`parse`."""
    most = MOST_VALUES if longest <= LONGEST else longest
    return parse(read_bytes(path, longest), path, most)


def parse(text: str | bytes, where: str | Path, most: int = MOST_VALUES) -> Any:
    """The value of a JSON text.

    Args:
        where: the file, and the key where the text is a string within it, for messages.
        most: values that it may hold.

    Raises:
        UserError: it is no JSON, nested too deeply, of too many values, or holds numbers or texts
            that JSON of ours never does: infinity, more than 64 bits, half of a surrogate pair.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        # Each value but the first comes after one of these.
        if text.count(",") + text.count("[") + text.count("{") > most:
            raise UserError(f"{where}: not valid JSON here (more than {most:,} values)")
        value = json.loads(text)
    except RecursionError:
        raise UserError(f"{where}: not valid JSON (nested too deeply)") from None
    except ValueError as error:  # bad syntax, no UTF-8, an integer of thousands of digits
        raise UserError(f"{where}: not valid JSON ({error})") from None
    fault = _fault(value)
    if fault:
        raise UserError(f"{where}: not valid JSON ({fault})")
    return value


def _fault(value: Any) -> str:
    """What a parsed value holds that is refused; empty if nothing."""
    level = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.keys()
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str):
                if not _is_text(one):
                    return "a text with half of a surrogate pair"
            elif isinstance(one, float):
                if not math.isfinite(one):
                    return f"{one} is no finite number"
            elif isinstance(one, int) and not -LARGEST < one < LARGEST:
                return "an integer of more than 64 bits"
        if not below:
            return ""
        level = below
    return "nested too deeply"


def _is_text(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def checked(kind: type[RecordType], value: Any, where: str | Path) -> RecordType:
    """``value`` as a record of this kind.

    Raises:
        UserError: it does not fit, naming ``where`` and the key.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"]) or "(top level)"
        message = fault["msg"].removeprefix("Value error, ")
        message = f"{message[0].lower()}{message[1:]}"
        if fault["type"] != "missing":
            message += f", got {_shown(fault['input'])}"
        raise UserError(f"{where}: {key}: {message}") from None


def printable(text: object) -> str:
    """A message of a library on one line, whatever a stranger put into it."""
    line = " ".join(str(text).split())[:LONGEST_MESSAGE]
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def settings(kind: type[SettingsType], tree: Mapping[str, Any], where: str | Path) -> SettingsType:
    """Settings that were written to a file, validated.

    Raises:
        UserError: one is wrong, naming ``where`` and the setting.
    """
    values, level = 0, [tree]
    while level and values <= MOST_SETTINGS:
        below = [one.values() if isinstance(one, Mapping) else one for one in level]
        level = [value for one in below if not isinstance(one, SCALARS) for value in one]
        values += len(level)
    if values > MOST_SETTINGS:
        raise UserError(f"{where}: more than {MOST_SETTINGS:,} values")
    try:
        return validate(kind, tree, str(where))
    except UserError as error:  # of a validator, which does not know the file
        text = str(error)
        raise UserError(text if text.startswith(str(where)) else f"{where}: {text}") from None
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise UserError(f"{where}: {type(error).__name__}: {error}") from None
