"""The comparison as one HTML page that needs nothing beside it: tables, and figures as SVG."""

import html
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pipeline.compare.summary import TITLES, Result, Summary
from pipeline.compare.tables import Table, notes
from pipeline.data_report.figures import BLUE, GREY, GRID, MUTED, ROW, STYLE, WIDTH
from pipeline.data_report.page import document, section

COLOURS = [
    "#3b6fb6", "#d9822b", "#4c9a5b", "#b5465a", "#7c5fb0", "#8c6d46", "#5aa7b5", "#c07fb5",
    "#8a8f3c", "#555b66",
]  # fmt: skip
DASHES = ["-", "--", ":", "-."]
CURVES = 4
"""Validation metrics, at most, whose curves are drawn."""


def page(summary: Summary, tables: list[Table], results: list[Result]) -> str:
    """The whole page."""
    title = TITLES[summary["recipe"]]
    parts = [f"<h1>{title}</h1>"]
    for at, table in enumerate(tables):
        parts += _table(table)
        if at == 0:
            lines = (f"<li>{html.escape(note)}</li>" for note in notes(summary))
            parts.append(f"<ul>{''.join(lines)}</ul>")
    fitted = any("train" in entry["metrics"] for entry in summary["entries"].values())
    for metric in summary["headlines"]:
        meaning = f"On the {summary['split']} split, mean and standard deviation over seeds" + (
            "; a grey mark: on the training split." if fitted else "."
        )
        parts += section(metric, meaning, dots(summary, metric))
    for name in ["train_loss", *(f"valid_{metric}" for metric in summary["headlines"][:CURVES])]:
        if any(row.get(name) is not None for result in results for row in result["curve"]):
            meaning = "By samples seen: the mean over seeds, and the range between them."
            parts += section(name.replace("valid_", "validation "), meaning, curve(results, name))
    return document(title, parts)


def _table(table: Table) -> list[str]:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    rows = "".join(
        f"<tr><td>{html.escape(row[0])}</td>"
        + "".join(f"<td class='n'>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    about = f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.meaning)}</p>"
    return [about, f"<table><tr>{head}</tr>{rows}</table>"]


def dots(summary: Summary, metric: str) -> Figure:
    """A line an entry: a metric's mean and standard deviation on the split of the tables."""
    entries = summary["entries"]

    def draw(axes: Any) -> None:
        for at, entry in enumerate(entries.values()):
            trained = entry["metrics"].get("train", {}).get(metric, {}).get("mean")
            if trained is not None:
                axes.plot(trained, at, "|", color=GREY, markersize=11, markeredgewidth=2)
            held_out = entry["metrics"][summary["split"]][metric]
            if held_out["mean"] is not None:
                deviation = held_out["std"] or 0
                axes.errorbar(
                    held_out["mean"],
                    at,
                    xerr=deviation,
                    fmt="o",
                    color=BLUE,
                    markersize=5,
                    capsize=2,
                )
                told = f"  {held_out['mean']:.4f}"
                axes.annotate(told, (held_out["mean"], at), (4, 5), textcoords="offset points",
                              fontsize=8, color=MUTED)  # fmt: skip
        best = summary["best_possible"].get(metric)
        if best is not None:
            axes.axvline(best, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(entries)), list(entries))
        axes.set_ylim(len(entries) - 0.4, -0.6)
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.12)

    return _figure(0.9 + 1.1 * ROW * max(2, len(entries)), draw)


def curve(results: list[Result], name: str) -> Figure:
    """A line an entry: what the history calls ``name``, by samples seen."""
    entries = list(dict.fromkeys(result["entry"] for result in results))

    def draw(axes: Any) -> None:
        for number, entry in enumerate(entries):
            seeds = [result["curve"] for result in results if result["entry"] == entry]
            samples, values = _common(seeds, name)
            if not len(samples):
                continue
            colour = COLOURS[number % len(COLOURS)]
            dash = DASHES[number // len(COLOURS) % len(DASHES)]
            marker = "o" if len(samples) == 1 else ""
            style = {"color": colour, "linewidth": 1.4, "marker": marker, "label": entry}
            axes.plot(samples, values.mean(0), dash, **style)
            axes.fill_between(samples, values.min(0), values.max(0), color=colour, alpha=0.15)
        axes.set_xlabel("samples seen")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(color=GRID, linewidth=0.6)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    return _figure(4.2, draw)


def _common(seeds: list[list[dict[str, Any]]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """``samples`` ``(points,)`` that every seed has a value at, and values ``(seeds, points)``."""
    values = [
        {point["samples"]: point[name] for point in points if point.get(name) is not None}
        for points in seeds
    ]
    shared = sorted(set.intersection(*map(set, values)))
    return np.array(shared), np.array([[value_at[at] for at in shared] for value_at in values])


def _figure(height: float, draw: Callable[[Any], None]) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        return figure
