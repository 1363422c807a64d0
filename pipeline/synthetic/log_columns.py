"""The columns of a generated clickstream, which need not be named in the settings."""

from collections.abc import Iterable
from pathlib import Path

from core.artifacts import read_json
from core.errors import UserError

OPTIONAL = ("user_id", "category", "brand", "price")
"""Columns besides session, item and time; each is called as the recipe calls it."""


def columns_of_generated(input: str | Path | Iterable[str | Path]) -> dict[str, str]:
    """``sessions.source.columns`` of a log that :mod:`pipeline.synthetic.sessions` wrote; empty for
    every other log."""
    paths = [Path(p) for p in ([input] if isinstance(input, str | Path) else input)]
    folders = {folder for path in paths for folder in (path.parent, path.parent.parent)}
    return {name: name for name in OPTIONAL} if any(map(_is_generated, folders)) else {}


def _is_generated(folder: Path) -> bool:
    try:
        record = read_json(folder / "manifest.json")
    except (UserError, OSError):
        return False
    return isinstance(record, dict) and {"format", "truth", "sessions"} <= record.keys()
