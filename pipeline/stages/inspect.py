"""Stage: raw Parquet, features and fitted state → a report of the data and a page of plots."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core import kinds
from core.artifacts import write_json
from core.console import counted, say, table
from core.metrics_output import claimed_metrics
from core.sums import reading
from pipeline.feature_folder import features_identity, open_features


def inspect(
    recipe: str,
    raw: str | Path | Iterable[str | Path],
    features: str | Path,
    output: str | Path,
    plots: str | Path,
) -> dict[str, Any]:
    """Describes the data of a recipe; see :func:`pipeline.data_report.data_report`.

    Args:
        raw: the folder that ``ingest`` wrote; of features that grew all of them, in that order.
        features: the folder that ``preprocess`` made of them.
        output: JSON file to write: what this returns.
        plots: folder to write: ``index.html``, and tables as DVC plots them.
    """
    from pipeline.data_report.page import page

    raw = [raw] if isinstance(raw, str | Path) else list(raw)
    inputs = [*raw, features]
    keys = ("recipe", "columns", "by_day")
    with claimed_metrics(output, plots, kinds.DATA_PLOTS, inputs, keys) as claim:
        report = reading(lambda: _reported(recipe, raw, features))

        def write_plots(folder: Path) -> None:
            (folder / "index.html").write_text(page(report), encoding="utf-8")
            for name, rows in points(report).items():
                write_json(folder / f"{name}.json", rows)

        claim.publish(report, write_plots)
    _show(report)
    say(f"inspect: {counted(report['rows'], 'row')} → {output}, {Path(plots) / 'index.html'}")
    return report


def _reported(recipe: str, raw: list[str | Path], features: str | Path) -> dict[str, Any]:
    """The report, of logs and features that stay as they are meanwhile."""
    from pipeline.data_report import data_report
    from pipeline.preprocess import open_raw

    with contextlib.ExitStack() as watched:
        for folder in raw:
            watched.enter_context(open_raw(Path(folder)).watched())
        watched.enter_context(open_features(features, recipe).watched())
        return {**data_report(recipe, raw, features), "of_features": features_identity(features)}


def points(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of each of DVC's plots by its name."""
    days = [entry["day"] for entry in report["by_day"]]
    drift = [
        {"day": day, "column": column["column"], "psi": psi}
        for column in report["columns"]
        for day, psi in zip(days, column["psi_by_day"], strict=True)
        if psi is not None
    ]
    unknown = [
        {"column": column["column"], "split": split, "unknown": share}
        for column in report["columns"]
        for split, share in column.get("unknown", {}).items()
    ]
    return {"days": report["by_day"], "drift": drift, "unknown": unknown}


def _show(report: dict[str, Any]) -> None:
    rows, days = [], [str(entry["day"]) for entry in report["by_day"]]
    tests = report["splits"].get("test")
    compared = any(psi is not None for column in report["columns"] for psi in column["psi_by_day"])
    for column in report["columns"]:
        row = {
            "column": column["column"],
            "missing": f"{column['missing']:.2%}",
            "distinct": f"{column['cardinality']:,}" if "cardinality" in column else "",
            "with a code": f"{column['kept']:,}" if "kept" in column else "",
        }
        if tests:
            unknown = column.get("unknown", {}).get("test")
            row["unknown in test"] = "" if unknown is None else f"{unknown:.2%}"
        if compared:
            row["largest PSI"] = _largest_psi(column, days)
        rows.append(row)
    if rows:
        table(f"{report['recipe']} data", [*rows[0]], [[*row.values()] for row in rows])
    say("with a code: distinct training values that models tell apart")
    if tests:
        say("unknown in test: values without a code (lower is better)")
    say(f"drift (PSI): {report['drift']}")
    if compared:
        say(
            "PSI: 0 where days have the same shares of values; below 0.1 stable, above 0.25 "
            "shifted; chance: no more than two draws of the same would differ"
        )


def _largest_psi(column: dict[str, Any], days: list[str]) -> str:
    from pipeline.data_report.figures import BY_CHANCE

    psis = zip(column["psi_by_day"], column["psi_by_chance"], days, strict=True)
    known = [one for one in psis if one[0] is not None]
    if not known:
        return "–"
    psi, chance, day = max(known)
    return f"{psi:.3f}, chance" if psi <= BY_CHANCE * chance else f"{psi:.3f}, {day}"
