"""Stage: raw logs → typed raw Parquet shards, with every input line accounted for."""

import errno
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from core import kinds
from core.artifacts import read_json
from core.console import counted, say
from core.errors import UserError
from core.outputs import claimed
from core.parquet import read_frame
from core.sums import sums_of, write_manifest
from pipeline.ingest.clicks import (
    ClickSourceSettings,
    click_columns,
    source_settings,
)
from pipeline.ingest.clickstream import (
    ClickstreamSourceSettings,
    event_columns,
    made_columns,
)
from pipeline.ingest.convert import convert_files
from pipeline.ingest.criteo import CriteoReader, CriteoSourceSettings
from pipeline.ingest.events import EventReader
from pipeline.ingest.faults import GuessContradicted
from pipeline.ingest.generated import GENERATED, generated_log
from pipeline.ingest.inputs import InputFile, list_inputs, named_inputs
from pipeline.ingest.label_advice import check_classes
from pipeline.ingest.lists import SessionRows
from pipeline.ingest.progress import FileReport
from pipeline.ingest.publish import (
    QUARANTINE,
    join_quarantines,
    manifest,
    move_shards,
    number_shards,
)
from pipeline.ingest.quarantine import LINES_SHOWN, all_reasons
from pipeline.ingest.ratings import RatingsSourceSettings, rating_columns
from pipeline.ingest.row_order import IN_ORDER, ROW_ORDER, doubt
from pipeline.ingest.source import SourceSettings
from pipeline.ingest.time_span import times_apart
from pipeline.ingest.trace import Trace
from pipeline.ingest.user_sessions import UserSessionReader
from pipeline.ingest.workspace import MANIFEST, NOT_SHAPING, Workspace, plan_of

RECIPES: dict[str, type[SourceSettings]] = {
    "ranking": ClickSourceSettings,
    "sessions": ClickstreamSourceSettings,
    "interactions": RatingsSourceSettings,
}
REASONS_SHOWN = 5
SET_ASIDE = {
    "quarantined": "quarantined",
    "filtered": "filtered by keep_event_types",
    "duplicate": "left out as duplicates",
}
"""What is said of lines that did not become rows."""
CRITEO = "ranking"
"""The recipe that also takes the settings of Criteo's format themselves."""


def ingest(
    recipe: str,
    settings: SourceSettings,
    input: str | Path | Iterable[str | Path] | None,
    output: str | Path,
    quiet: bool = False,
    trace: Trace | None = None,
) -> dict[str, Any]:
    """Reads raw logs into ``output``: ``part-*.parquet``, ``manifest.json``, and
    ``quarantine.parquet`` if any line was bad. ``output`` is replaced whole or not at all. A run
    that was stopped, even killed, leaves its finished shards next to it for the next one.

    Args:
        recipe: ``ranking``, ``sessions`` or ``interactions``; it decides the settings' class.
        input: file, folder, glob or list of them; None takes ``settings.path``.
        quiet: says nothing of rows and output, but still what is wrong with an input file.
        trace: what leads from a row back to the log, for answers that are joined to it.

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
    plain = recipe == CRITEO and isinstance(settings, CriteoSourceSettings)
    if not plain and not isinstance(settings, expected):
        raise UserError(
            f"recipe '{recipe}' takes {expected.__name__}, not {type(settings).__name__}"
        )
    settings = source_settings(settings)
    path = settings.path if input is None else input
    if path is None:
        raise UserError("path: no input is named; give a file, a folder, a glob or a list of them")
    files = list_inputs(path)
    start = time.monotonic()
    try:
        with claimed(output, kinds.RAW, named_inputs(path, files), resumable=True) as claim:
            record = _ingest(recipe, settings, files, Workspace(claim), trace)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"{output}: no room left on this disk; free some and run again: "
                "the finished shards are kept"
            ) from None
        raise
    warn(record)
    if not quiet:
        _report(record, output, time.monotonic() - start)
    return record


def _ingest(
    recipe: str,
    settings: SourceSettings,
    files: list[InputFile],
    workspace: Workspace,
    trace: Trace | None,
) -> dict[str, Any]:
    as_text: set[str] = set()
    try:
        while True:
            reader, format = _reader(settings, files, as_text, trace)
            plan = plan_of(recipe, settings, files, reader.schema)
            read_before = workspace.columns_as_text(plan)
            if read_before:
                as_text |= read_before
                continue
            try:
                if workspace.begin(plan):
                    workspace.clean()
                else:
                    _convert(reader, format, settings, files, workspace)
                    workspace.finish()
                return read_json(workspace.output / MANIFEST)
            except GuessContradicted as contradicted:
                as_text |= set(contradicted.where)
                _say_text(contradicted)
    except UserError:
        workspace.give_up()
        raise


def _say_text(contradicted: GuessContradicted) -> None:
    for name, where in contradicted.where.items():
        say(
            f"ingest: {name} is read as text, not as integers: {where}; the log is read again "
            f"from its beginning (types.{name}: integer would set such lines aside)"
        )


def _reader(
    settings: SourceSettings,
    files: list[InputFile],
    as_text: Collection[str] = (),
    trace: Trace | None = None,
) -> tuple[Any, str]:
    """What reads this kind of log, and the name of the kind."""
    if isinstance(settings, CriteoSourceSettings):
        return CriteoReader(settings, trace.line if trace else None), "criteo"
    if isinstance(settings, ClickSourceSettings):
        columns = click_columns(settings)
        return EventReader(settings, columns, files, trace=trace, as_text=as_text), "clicks"
    if isinstance(settings, ClickstreamSourceSettings):
        columns = event_columns(settings)
        unfold = None
        if settings.layout == "sessions":
            unfold = SessionRows(settings.columns.item_id, made_columns(settings), files)
        keep = settings.keep_event_types
        kind = UserSessionReader if settings.session_per_user else EventReader
        return kind(settings, columns, files, keep, unfold, trace, as_text), "clickstream"
    assert isinstance(settings, RatingsSourceSettings)
    return EventReader(settings, rating_columns(settings), files, as_text=as_text), "ratings"


def _convert(
    reader: Any,
    format: str,
    settings: SourceSettings,
    files: list[InputFile],
    workspace: Workspace,
) -> None:
    """Fills ``workspace.out``; its manifest comes last."""
    if (workspace.out / MANIFEST).is_file():
        return
    reports = convert_files(reader, files, settings, workspace)
    _check_kept(settings, reports)
    shards = number_shards(reports, workspace)
    record = manifest(format, reader.schema, reports, shards)
    if isinstance(settings, ClickSourceSettings) and settings.columns is not None:
        places = [(Path(shard["held"]), workspace.out / shard["file"]) for shard in shards]
        written = [held if held.exists() else moved for held, moved in places]
        check_classes(settings.columns.labels, written, all_reasons(reports))
        if settings.columns.labels and settings.columns.timestamp is None:
            codes = [column.name for column in reader.columns if column.kind == "category"]
            record[ROW_ORDER] = doubt(codes, reader.tables.seen, written)
    if isinstance(reader, EventReader):
        formats = {c.name: c.time_format for c in reader.columns if c.time_format}
        record["time_format"] = formats.get("timestamp")
        record["resolved"] = reader.resolved
        apart = times_apart(reports)
        if apart:
            record["times_apart"] = apart
    if isinstance(settings, ClickstreamSourceSettings):
        from pipeline.ingest.gaps import finish_events

        finish_events(settings, workspace, record)
    truth = generated_log(reports, by_row=not isinstance(settings, ClickstreamSourceSettings))
    if truth:
        record[GENERATED] = truth
    record["source"] = settings.model_dump(mode="json", exclude=NOT_SHAPING)
    move_shards(shards, workspace)
    join_quarantines(reports, workspace)
    sums = {
        shard["file"]: {
            "bytes": (workspace.out / shard["file"]).stat().st_size,
            "sha256": shard["sha256"],
        }
        for shard in shards
    }
    bad = [QUARANTINE] if (workspace.out / QUARANTINE).is_file() else []
    write_manifest(workspace.out / MANIFEST, record, sums | sums_of(workspace.out, bad))


def _check_kept(settings: SourceSettings, reports: list[FileReport]) -> None:
    filtered = sum(report.rows_filtered for report in reports)
    if filtered and not any(report.rows_written for report in reports):
        kept = ", ".join(map(str, getattr(settings, "keep_event_types", None) or []))
        raise UserError(
            f"no event of the log is of a type that keep_event_types keeps ({kept}): all "
            f"{filtered:,} are of others; name those of the column columns.event_type"
        )


def warn(record: dict[str, Any]) -> None:
    """Says what is wrong with an input file, or looks so."""
    for entry in record["inputs"]:
        if "fault" in entry:
            say(f"warning: {entry['file']}: {entry['fault']}; {entry['rows']:,} lines were read")
    apart = record.get("times_apart")
    if apart:
        first = "; ".join(
            f"{one['file']}:{one['line']} is of {one['month']}"
            + (f" (with {one['rows'] - 1:,} more)" if one["rows"] > 1 else "")
            for one in apart["first"]
        )
        say(
            f"warning: times more than a year from all others ({apart['rows']:,}), which are of "
            f"{' to '.join(apart['bulk'])}: {first}; settings first_time and last_time set such "
            "lines aside"
        )


def set_aside(record: dict[str, Any]) -> list[str]:
    """How many lines did not become rows, and why."""
    counts = {what: record.get(f"rows_{kind}") for kind, what in SET_ASIDE.items()}
    return [f"{count:,} {what}" for what, count in counts.items() if count]


def why_quarantined(record: dict[str, Any], file: Path) -> str:
    """How many lines could not be read, how many for each reason, and the first few of them.

    Args:
        file: the quarantine.
    """
    reasons = sorted(record["quarantined_by_reason"].items(), key=lambda entry: -entry[1])
    shown = ", ".join(f"{reason} ({count:,})" for reason, count in reasons[:REASONS_SHOWN])
    if len(reasons) > REASONS_SHOWN:
        shown += f" and {counted(len(reasons) - REASONS_SHOWN, 'other reason')}"
    count = record["rows_quarantined"]
    bad = read_frame(file, ["file", "line", "reason"], n_rows=LINES_SHOWN)
    first = "; ".join(f"{name}:{line}: {reason}" for name, line, reason in bad.iter_rows())
    if count == 1:
        return f"1 line: {first}"
    return f"{counted(count, 'line')}: {shown}; the first: {first}"


def _report(record: dict[str, Any], output: str | Path, seconds: float) -> None:
    shards = counted(len(record["shards"]), "shard")
    parts = [f"{counted(record['rows_written'], 'row')} in {shards}", *set_aside(record)]
    if record.get("rows_quarantined"):
        file = Path(output) / QUARANTINE
        say(f"quarantined: {why_quarantined(record, file)}; all are in {file}")
    if ROW_ORDER in record:
        doubtful = record[ROW_ORDER]
        say(f"warning: {doubtful}" if doubtful else IN_ORDER)
    lines = counted(record["rows_read"], "line")
    say(f"ingest: {lines} → {', '.join(parts)}, {seconds:.1f} s → {output}")
