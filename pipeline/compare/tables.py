"""A comparison's figures as tables: Markdown, CSV, and cells for the page and the terminal."""

import csv
import io
from typing import Any, NamedTuple

from core.console import counted
from pipeline.compare.summary import COSTS, Summary
from pipeline.evaluation.baselines import LABELS, Baselines, others
from pipeline.evaluation.metric_names import meanings, share_meanings

TIMED = ("seconds", "samples_per_second", "inference_microseconds")
"""Costs that differ from seed to seed."""


class Table(NamedTuple):
    """A table as text: the first column names entries."""

    title: str
    meaning: str
    header: list[str]
    rows: list[list[str]]


def tables(summary: Summary) -> list[Table]:
    """The tables that a person reads: held-out metrics, all splits beside each other, costs."""
    shown, headlines = summary["metrics"], summary["headlines"]
    cutoffs = dict.fromkeys(name.partition("@")[2] for name in shown)
    by_cutoff = [[name for name in shown if name.partition("@")[2] == cutoff] for cutoff in cutoffs]
    further = [_further(summary, names) for names in by_cutoff] if shown != headlines else []
    return [_held_out(summary), _by_split(summary), _costs(summary), *further]


def _further(summary: Summary, metrics: list[str]) -> Table:
    rows = []
    for name, entry in summary["entries"].items():
        held_out = entry["metrics"][summary["split"]]
        rows.append([name, *(_number(held_out[metric]["mean"], 4) for metric in metrics)])
    cutoff = metrics[0].partition("@")[2]
    title = f"All metrics at {cutoff}" if cutoff else "All metrics"
    meaning = f"Means over seeds, on the {summary['split']} split."
    return Table(title, meaning, ["entry", *metrics], rows)


def _held_out(summary: Summary) -> Table:
    shares = list(summary["best_possible"])[:1]
    rows = []
    for name, entry in summary["entries"].items():
        held_out = entry["metrics"][summary["split"]]
        row = [name, str(len(entry["seeds"]))]
        row += [_with_deviation(held_out[metric], 4) for metric in summary["headlines"]]
        rows.append(row + [_percent(entry["share_of_best"][share]) for share in shares])
    for key, theirs in _not_entries(summary).items():
        row = [f"({LABELS[key]})", ""]
        row += [_number(theirs.get(metric), 4) for metric in summary["headlines"]]
        rows.append(row + [""] * len(shares))
    header = [
        "entry",
        "seeds",
        *summary["headlines"],
        *(f"share of best {name}" for name in shares),
    ]
    meaning = (
        f"Mean and standard deviation over seeds, on the {summary['split']} split: "
        f"{summary['tested']}."
    )
    if _not_entries(summary):
        meaning += " In parentheses: baselines, which any model has to beat."
    if shares:
        meaning += (
            f" The log is generated. {share_meanings(shares)} Best possible: "
            + ", ".join(
                f"{name} {_number(value, 4)}" for name, value in summary["best_possible"].items()
            )
            + "."
        )
    best = summary["best_on_validation"]
    if best:
        meaning += f" Best on the validation split, by {best['metric']}: {best['entry']}"
        meaning += f"; {best['doubt']}." if best["doubt"] else "."
    return Table(f"On the {summary['split']} split", meaning, header, rows)


def _not_entries(summary: Summary) -> Baselines:
    """The baselines without those that an entry is, with the same settings."""
    baselines = summary["baselines"]
    for entry in summary["entries"].values():
        metrics = entry["metrics"][summary["split"]]
        means = {name: figure["mean"] for name, figure in metrics.items()}
        baselines = others(entry["model"], means, baselines)
    return baselines


def _by_split(summary: Summary) -> Table:
    first = next(iter(summary["entries"].values()))
    splits = list(first["metrics"])
    rows = [
        [
            name,
            *(
                " / ".join(_number(entry["metrics"][split][metric]["mean"], 4) for split in splits)
                for metric in summary["headlines"]
            ),
        ]
        for name, entry in summary["entries"].items()
    ]
    meaning = "Means over seeds; what was fitted, and what was not, beside each other."
    return Table(" / ".join(splits), meaning, ["entry", *summary["headlines"]], rows)


def _costs(summary: Summary) -> Table:
    on = summary["measured_on"]
    digits = {"megabytes": 2, "inference_microseconds": 1}
    rows = [
        [
            name,
            *(
                _with_deviation(entry["cost"][cost], digits.get(cost, 0))
                if cost in TIMED
                else _number(entry["cost"][cost]["mean"], digits.get(cost, 0))
                for cost in COSTS
            ),
        ]
        for name, entry in summary["entries"].items()
    ]
    unit = "row" if summary["recipe"] == "ranking" else "session, every step of it ranked"
    meaning = (
        f"On {on['device']}, {counted(on['threads'], 'thread')}. Inference: microseconds a {unit}, "
        f"in batches of {on['inference_batch_size']:,}, without reading the data. Training seconds "
        "are without validation; a run that was stopped counts at the speed of its last part."
    )
    return Table("Costs", meaning, ["entry", *COSTS.values()], rows)


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return (
        f"{value:,.{digits}f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:,.{digits}f}"
    )


def _with_deviation(figure: dict[str, float | None], digits: int) -> str:
    mean, std = figure["mean"], figure["std"]
    return _number(mean, digits) + (f" ± {_number(std, digits)}" if std is not None else "")


def _percent(figure: dict[str, float | None]) -> str:
    return "–" if figure["mean"] is None else f"{figure['mean']:.1%}"


def notes(summary: Summary, metrics: list[str] | None = None) -> list[str]:
    """What the tables' metrics are, a line for each kind, and the remarks.

    Args:
        metrics: those that are shown; None: all.
    """
    shown = summary["metrics"] if metrics is None else metrics
    return [*(f"note: {remark}" for remark in summary["remarks"]), *meanings(shown)]


def markdown(tables: list[Table], notes: list[str]) -> str:
    """Tables as a Markdown text, with lines that are below the first."""
    parts = []
    for table in tables:
        rule = ["---", *["---:"] * (len(table.header) - 1)]
        lines = [table.header, rule, *table.rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## {table.title}\n\n{table.meaning}\n\n{body}\n")
    parts[1:1] = ["\n".join(f"- {note}" for note in notes) + "\n"]
    return "\n".join(parts)


def flat(summary: Summary) -> str:
    """Every figure as CSV, a line an entry."""
    lines = []
    for name, entry in summary["entries"].items():
        figures = {
            **{
                f"{split}_{metric}": figure
                for split, metrics in entry["metrics"].items()
                for metric, figure in metrics.items()
            },
            **{f"share_of_best_{key}": figure for key, figure in entry["share_of_best"].items()},
            **entry["cost"],
        }
        line: dict[str, Any] = {
            "entry": name,
            "model": entry["model"],
            "seeds": len(entry["seeds"]),
        }
        for key, figure in figures.items():
            line[key], line[f"{key}_std"] = (_rounded(figure[part]) for part in ("mean", "std"))
        lines.append(line)
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"
