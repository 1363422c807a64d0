"""The data report of one recipe: every column of the raw log, its features and its fitted state."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from core.artifacts import read_json
from core.cluster import cores
from core.console import progress
from core.errors import UserError
from pipeline.data_report.columns import describe_column
from pipeline.data_report.logs import raw_logs, read_log
from pipeline.data_report.settings import DataReportSettings
from pipeline.data_report.shards import RawLog
from pipeline.data_report.vocabulary import read_vocabulary
from pipeline.preprocess import MANIFEST, PLAN, STATE

AT_ONCE = 4
"""Columns described at a time, at most: memory is that of as many vocabularies and shards."""
NOT_DESCRIBED = {"day", "session_id", "user_id", "timestamp"}
"""What a row is of rather than what it says; counting sessions' ids would take their memory.
A user that has codes is described."""


def data_report(
    recipe: str,
    raw: str | Path | Iterable[str | Path],
    features: str | Path,
    settings: DataReportSettings | None = None,
) -> dict[str, Any]:
    """What the raw log in ``raw`` and the features made of it hold.

    Args:
        recipe: ``ranking``, ``sessions`` or ``interactions``.
        raw: the folder that ingest wrote; of features that grew all of them, in that order.
        features: the folder that preprocess made of them.

    Returns:
        Plain JSON. Shares are of rows, unless said otherwise, between 0 and 1:

        - ``rows``, ``quarantined``, ``days``, ``splits``, and the worst columns by headline;
        - ``by_day``: name, rows, and in a click log the share of clicks;
        - ``drift``: what it is measured between, in words;
        - ``columns``: for each ``missing`` (also by split and day), ``psi_by_day`` against the
          training rows (None: not compared) and ``psi_by_chance``, what it would be on average if
          nothing drifted; of categorical ones ``cardinality`` (distinct training values),
          ``kept`` and ``dropped`` (with and without a code), ``dropped_share`` (of the training
          rows), ``unseen`` (rows of a split, those not missing, whose value no training row has),
          ``unknown`` (values of a split without a code of their own, as the features hold them)
          and ``top``; of the others mean, std, min and max.

        The rows of a split are those before any filter: in a clickstream the events of its
        sessions, or with leave_one_out those that it was cut for.

    Raises:
        UserError: a folder is not the output of its stage, or they do not belong together.
    """
    settings = settings or DataReportSettings()
    features = Path(features)
    if not (features / MANIFEST).is_file():
        raise UserError(f"{features}: no {MANIFEST} there; run 'merlin-pipeline preprocess' first")
    made = read_json(features / MANIFEST)
    raw = [raw] if isinstance(raw, str | Path) else list(raw)
    logs = raw_logs([Path(folder) for folder in raw], features)
    log = read_log(recipe, logs, features, made)
    workflow = read_json(features / PLAN)["settings"]["workflow"]
    labels = workflow.get("labels", ["label"]) if recipe == "ranking" else []
    raw_columns = logs[0].manifest["columns"]
    read = {name: type for name, type in raw_columns.items() if name not in labels}
    kinds = column_kinds(read, made["cardinality"])
    with progress("inspect", total=len(kinds), unit="columns") as advance:

        def describe(column: tuple[str, str]) -> dict[str, Any]:
            name, kind = column
            coded = kind == "categorical" and name in made["cardinality"]
            vocabulary = read_vocabulary(features / STATE, name) if coded else None
            return describe_column(log, name, kind, vocabulary, settings)

        with ThreadPoolExecutor(min(cores(), AT_ONCE)) as pool:
            columns = []
            for entry in pool.map(describe, kinds.items()):
                entry |= _unknown(entry["column"], made)
                columns.append(as_in_log(logs[0].manifest.get("format"), entry))
                advance()
    quarantined = sum(one.manifest.get("rows_quarantined", 0) for one in logs)
    days = _by_day(log, labels[0] if labels else None)
    report = _report(recipe, log, quarantined, made, columns, days)
    return {**report, "drift": _compared(columns, days, settings.psi_least_rows)}


def _compared(columns: list[dict[str, Any]], days: list[dict[str, Any]], least: int) -> str:
    """What drift is measured between, in words."""
    compared = {
        day for column in columns for day, psi in enumerate(column["psi_by_day"]) if psi is not None
    }
    if not compared:
        return (
            f"nothing to compare: it takes {least:,} training rows and two days of {least:,} rows"
        )
    few = [day["day"] for day in days if 0 < day["rows"] < least]
    more = f" and {len(few) - 3:,} more" if len(few) > 3 else ""
    left = f"; days of fewer than {least:,} rows are left out: {', '.join(few[:3])}{more}"
    return f"each day against the training rows{left if few else ''}"


def column_kinds(columns: Mapping[str, str], coded: Mapping[str, int]) -> dict[str, str]:
    """``categorical`` or ``continuous`` for each column of the raw log that the report describes.

    Ids and categories (64-bit integers and texts) are categorical, other numbers continuous;
    vectors are left out. Of lists of categories each value is a row.
    """
    kinds = {}
    for name, type in columns.items():
        lists = type.startswith(("list", "large_list", "fixed_size_list"))
        if (lists or name in NOT_DESCRIBED) and name not in coded:
            continue
        categorical = name in coded or type in ("int64", "string", "large_string")
        kinds[name] = "categorical" if categorical else "continuous"
    return kinds


def _unknown(name: str, made: dict[str, Any]) -> dict[str, Any]:
    rates = {
        split: found["oov_rate"][name]
        for split, found in made["splits"].items()
        if name in found.get("oov_rate", {})
    }
    return {"unknown": rates} if rates else {}


def as_in_log(format: str | None, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its top values as the log spells them: Criteo's categories in hex."""
    if format == "criteo":
        for value in entry.get("top", ()):
            if isinstance(value["value"], int):
                value["value"] = f"{value['value']:08x}"
    return entry


def _report(
    recipe: str,
    log: RawLog,
    quarantined: int,
    made: dict[str, Any],
    columns: list[dict[str, Any]],
    days: list[dict[str, Any]],
) -> dict[str, Any]:
    unit = made["unit"]
    return {
        "recipe": recipe,
        "rows": sum(shard.rows for shard in log.shards),
        "quarantined": quarantined,
        "days": len(log.days),
        "unit": unit,
        "splits": {split: found[unit] for split, found in made["splits"].items()},
        **_headline(columns),
        "by_day": days,
        "columns": columns,
    }


def _headline(columns: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of each kind, as single numbers: what ``dvc metrics`` shows and compares."""
    headline: dict[str, Any] = {}
    coded = [column for column in columns if "unknown" in column]
    compared = [c for c in columns if any(psi is not None for psi in c["psi_by_day"])]
    drifted = [(max(filter(None, c["psi_by_day"]), default=0.0), c["column"]) for c in compared]
    for name, values in (
        ("missing", [(c["missing"], c["column"]) for c in columns]),
        ("unknown_test", [(c["unknown"].get("test", 0.0), c["column"]) for c in coded]),
        ("psi", drifted),
    ):
        if values:
            worst = max(values)
            headline[f"most_{name}"] = {"value": worst[0], "column": worst[1]}
    kept = [column["kept"] for column in columns if "kept" in column]
    if kept:
        headline["values_kept"] = sum(kept)
        headline["values_dropped"] = sum(column.get("dropped", 0) for column in columns)
    return headline


def _by_day(log: RawLog, label: str | None) -> list[dict[str, Any]]:
    days = len(log.days)
    rows, clicks = np.zeros(days, int), np.zeros(days, int)
    for chunk in log.chunks(label or ("timestamp" if log.by_date else "item_id")):
        rows += np.bincount(chunk.days, minlength=days)
        if label:
            clicks += np.bincount(chunk.days[chunk.values.to_numpy() == 1], minlength=days)
    found = []
    for name, count, clicked in zip(log.days, rows.tolist(), clicks.tolist(), strict=True):
        entry: dict[str, Any] = {"day": name, "rows": count}
        if label:
            entry["click_rate"] = round(clicked / count, 6) if count else None
        found.append(entry)
    return found
