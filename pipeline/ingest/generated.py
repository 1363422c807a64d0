"""Which generated log the input files are of: its true probabilities are used for no other file.

Files are known by their size and SHA-256, which the manifest of the generated log holds. So neither
their order nor which of them are read matters, and a truth that belongs to other files, such as one
of another seed in the same folder, is never taken.
"""

from collections.abc import Sequence
from typing import Any

from core.errors import UserError
from core.sums import CHECKSUM, FILES, read_manifest, sum_of
from pipeline.ingest.progress import FileReport
from pipeline.synthetic.bayes import TRUTH_FILE

GENERATED = "generated"
"""Key of a manifest: the generated log, as :func:`generated_log` describes it."""


def generated_log(reports: Sequence[FileReport], by_row: bool) -> dict[str, Any] | None:
    """The generated log whose files were read.

    Args:
        by_row: whether its truth has a row a row of the log, so that none may have been left out.

    Returns:
        None where no file is in the folder ``log`` of a generated log. Else ``folder`` and either
        ``checksum`` (of its manifest) and ``first_rows`` (of each input file, where its rows begin
        among those of all files of the generated log), or ``not_matched``: why its true
        probabilities cannot be said to be those of the rows.
    """
    folders = {report.file.path.parent.parent for report in reports if _in_generated(report)}
    if not folders:
        return None
    folder = folders.pop()
    about: dict[str, Any] = {"folder": str(folder)}
    if folders or not all(_in_generated(report) for report in reports):
        return {**about, "not_matched": "some of the files that were read are not of that log"}
    try:
        record = read_manifest(folder / "manifest.json")
        first_rows, sums = _first_rows(record), record.get(FILES) or {}
    except (UserError, OSError, KeyError, TypeError):
        return {**about, "not_matched": "its manifest.json is missing or altered"}
    for report in reports:
        name = f"log/{report.file.path.name}"
        fault = _difference(report, sums.get(name), first_rows.get(name), by_row)
        if fault:
            return {**about, "not_matched": f"{name} {fault}"}
    rows = [first_rows[f"log/{report.file.path.name}"][0] for report in reports]
    return {**about, "checksum": record[CHECKSUM], "first_rows": rows}


def _in_generated(report: FileReport) -> bool:
    folder = report.file.path.parent
    return folder.name == "log" and (folder.parent / TRUTH_FILE).is_file()


def _first_rows(record: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """First row, of all files' rows, and number of rows of each file of a generated log."""
    rows, at = {}, 0
    for entry in record.get("files") or ():
        rows[entry["file"]] = (at, entry["rows"])
        at += entry["rows"]
    return rows


def _difference(
    report: FileReport,
    expected: dict[str, Any] | None,
    rows: tuple[int, int] | None,
    by_row: bool,
) -> str:
    """How a file that was read differs from the generated one; empty where it does not."""
    if expected is None or rows is None:
        return "is no file of that log"
    if expected["bytes"] != report.file.size or sum_of(report.file.path) != expected:
        return "is not the file that was generated"
    if by_row and report.rows_written != rows[1]:
        return f"has {rows[1]:,} rows, of which {report.rows_written:,} were kept"
    return ""
