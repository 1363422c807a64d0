"""The report as one HTML page that needs nothing beside it: figures are SVG within it."""

import html
from typing import Any

from pipeline.data_report import figures

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p { margin: .2rem 0 .8rem; color: #555; max-width: 48rem; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13px; }
td, th { padding: .15rem .7rem .15rem 0; text-align: left; vertical-align: top; }
th { color: #555; font-weight: 600; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
tr + tr td { border-top: 1px solid #eee; }
.tops { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
.tops h3 { margin: .3rem 0; font-size: 13px; } .tops table { width: 100%; }
.tops td:first-child { overflow-wrap: anywhere; }
"""
LISTED = 5


def page(report: dict[str, Any]) -> str:
    """The whole page."""
    title = f"Data of the {report['recipe']} recipe"
    parts = [f"<h1>{title}</h1>", _headline(report)]
    parts += section("Days", "Rows of the raw log by day.", figures.days(report))
    parts += section(
        "Missing",
        "Rows whose value is missing; ticks: in train (grey), valid (blue) and test (orange).",
        figures.missing(report),
    )
    if any("cardinality" in column for column in report["columns"]):
        parts += section(
            "Vocabularies",
            "Distinct values in training (log scale): blue have a code of their own, grey share the"
            " unknown code.",
            figures.vocabulary(report),
        )
    if any("unknown" in column for column in report["columns"]):
        parts += section(
            "Unknown values",
            "Values that are coded as unknown: too rare in training, or never seen there.",
            figures.unseen(report),
        )
    parts += section(
        "Drift",
        f"Population stability index (PSI), {report['drift']}. 0: the same shares of values; below "
        "0.1 stable, above 0.25 shifted, by the usual rule of thumb. Grey: no more than twice what "
        "chance gives.",
        figures.drift(report),
    )
    parts += [_top_values(report)]
    return document(title, parts)


def document(title: str, parts: list[str]) -> str:
    """A page of these pieces of HTML."""
    head = f"<meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    return (
        f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"
    )


def section(title: str, meaning: str, figure: Any) -> list[str]:
    """A figure under its title, and what it shows."""
    return [f"<h2>{title}</h2><p>{html.escape(meaning)}</p>", figures.svg(figure)]


def _headline(report: dict[str, Any]) -> str:
    splits = ", ".join(f"{name} {count:,}" for name, count in report["splits"].items())
    rows = [
        ("rows", f"{report['rows']:,} in {report['days']} days"),
        ("quarantined lines", f"{report['quarantined']:,}"),
        (f"{report['unit']} by split", splits),
    ]
    if "values_kept" in report:
        kept, dropped = report["values_kept"], report["values_dropped"]
        rows.append(("values with a code", f"{kept:,}; {dropped:,} are too rare for one"))
    for name, told in (
        ("most_missing", "most often missing"),
        ("most_unknown_test", "most unknown values in test"),
        ("most_psi", "largest drift"),
    ):
        if name in report:
            value, column = report[name]["value"], report[name]["column"]
            number = f"PSI {value:.3f}" if name == "most_psi" else f"{value:.2%}"
            rows.append((told, f"{html.escape(column)}: {number}"))
    cells = "".join(f"<tr><th>{told}</th><td>{value}</td></tr>" for told, value in rows)
    return f"<table>{cells}</table>"


def _top_values(report: dict[str, Any]) -> str:
    tables = []
    for column in report["columns"]:
        if not column.get("top"):
            continue
        rows = "".join(
            f"<tr><td>{html.escape(str(entry['value']))}</td>"
            f"<td class='n'>{entry['count']:,}</td><td class='n'>{entry['share']:.1%}</td></tr>"
            for entry in column["top"][:LISTED]
        )
        name = html.escape(column["column"])
        tables.append(f"<div><h3>{name}</h3><table>{rows}</table></div>")
    if not tables:
        return ""
    meaning = "Most frequent training values as the log spells them, with their rows and share."
    return f"<h2>Top values</h2><p>{meaning}</p><div class='tops'>{''.join(tables)}</div>"
