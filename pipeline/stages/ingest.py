"""Stage: raw logs → typed raw Parquet shards, with every input line accounted for."""

import errno
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.artifacts import atomic_folder, write_json
from core.console import say
from core.errors import UserError
from pipeline.ingest.clickstream import ClickstreamSourceSettings, event_columns
from pipeline.ingest.criteo import CriteoReader, CriteoSourceSettings
from pipeline.ingest.events import EventReader
from pipeline.ingest.inputs import InputFile, list_inputs
from pipeline.ingest.ratings import RatingsSourceSettings, rating_columns
from pipeline.ingest.shards import convert_files, manifest, number_shards
from pipeline.ingest.source import SourceSettings

RECIPES: dict[str, type[SourceSettings]] = {
    "ranking": CriteoSourceSettings,
    "sessions": ClickstreamSourceSettings,
    "interactions": RatingsSourceSettings,
}


def ingest(
    recipe: str,
    settings: SourceSettings,
    input: str | Path | Iterable[str | Path] | None,
    output: str | Path,
) -> dict[str, Any]:
    """Reads raw logs into ``output``: ``part-*.parquet``, ``manifest.json``, and
    ``quarantine.parquet`` if any line was bad. ``output`` is replaced whole or not at all.

    Args:
        recipe: ``ranking``, ``sessions`` or ``interactions``; it decides the settings' class.
        input: file, folder, glob or list of them; None takes ``settings.path``.

    Returns:
        The manifest: rows_read = rows_written + rows_quarantined + rows_filtered +
        rows_duplicate, and the same by input file.

    Raises:
        UserError: the input is missing, empty or laid out otherwise than the settings say, too many
            lines are bad, or the disk is full.
    """
    expected = RECIPES.get(recipe)
    if expected is None:
        raise UserError(f"recipe '{recipe}': unknown; known are {', '.join(RECIPES)}")
    if not isinstance(settings, expected):
        raise UserError(
            f"recipe '{recipe}' takes {expected.__name__}, not {type(settings).__name__}"
        )
    path = settings.path if input is None else input
    if path is None:
        raise UserError("path: no input is named; give a file, a folder, a glob or a list of them")
    files = list_inputs(path)
    start = time.monotonic()
    try:
        with atomic_folder(output) as folder:
            record = _convert(settings, files, folder)
            write_json(folder / "manifest.json", record)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{output}: no room left on this disk; free some and run again"
            ) from None
        raise
    _report(record, output, time.monotonic() - start)
    return record


def _convert(settings: SourceSettings, files: list[InputFile], folder: Path) -> dict[str, Any]:
    if isinstance(settings, CriteoSourceSettings):
        reader: Any = CriteoReader(settings)
        format = "criteo"
    elif isinstance(settings, ClickstreamSourceSettings):
        reader = EventReader(settings, event_columns(settings), files, settings.keep_event_types)
        format = "clickstream"
    elif isinstance(settings, RatingsSourceSettings):
        reader = EventReader(settings, rating_columns(settings), files)
        format = "ratings"
    reports = convert_files(reader, files, settings, folder)
    shards = number_shards(reports, folder)
    record = manifest(format, reader.schema, reports, shards)
    if isinstance(reader, EventReader):
        formats = {c.name: c.time_format for c in reader.columns if c.time_format}
        record["time_format"] = formats["timestamp"]
    if isinstance(settings, ClickstreamSourceSettings):
        from pipeline.ingest.sessionise import finish_events

        finish_events(settings, folder, record)
    return record


def _report(record: dict[str, Any], output: str | Path, seconds: float) -> None:
    parts = [f"{record['rows_written']:,} rows in {len(record['shards'])} shards"]
    for key in ("quarantined", "filtered", "duplicate"):
        if record.get(f"rows_{key}"):
            parts.append(f"{record[f'rows_{key}']:,} {key}")
    for entry in record["inputs"]:
        if "fault" in entry:
            say(f"warning: {entry['file']}: {entry['fault']}; {entry['rows']:,} lines were read")
    say(f"ingest: {record['rows_read']:,} lines → {', '.join(parts)}, {seconds:.1f} s → {output}")
