"""The metrics of an evaluation as a table, with what is compared with them and what they mean."""

from typing import Any

from core.console import counted, say, table
from pipeline.evaluation.baselines import LABELS, others
from pipeline.evaluation.metric_names import meaning, meanings, share_meanings, shown


def show_metrics(metrics: dict[str, Any]) -> None:
    """Prints a table of the metrics, of what is compared with them, and what they mean; and the
    remarks."""
    baselines = others(metrics["model"]["name"], metrics, metrics.get("baselines", {}))
    best, share = metrics.get("best_possible", {}), metrics.get("share_of_best", {})
    header = [
        "metric",
        "better",
        metrics["model"]["name"],
        *(f"baseline:\n{LABELS[name]}" for name in baselines),
    ]
    header += ["best possible", "share of best"] if best else []
    rows, names = [], [name for name in shown(metrics) if metrics[name] is not None]
    for name in names:
        row = [name, meaning(name)[0], number(metrics[name])]
        row += [number(theirs.get(name)) for theirs in baselines.values()]
        row += [number(best.get(name)), percent(share.get(name))] if best else []
        rows.append(row)
    if rows:
        table(f"On {judged_on(metrics)}", header, rows)
        for line in meanings(names):
            say(f"  {line}")
    if best and share:
        say(f"  {share_meanings(share)}")
    for remark in metrics["remarks"]:
        say(f"note: {remark}")


def judged_on(metrics: dict[str, Any]) -> str:
    """The split and what of it the metrics are over."""
    return f"the {metrics['split']} split: {tested(metrics)}"


def tested(metrics: dict[str, Any]) -> str:
    """What the metrics are over, counted."""
    if "predictions" in metrics:
        sessions = counted(metrics["sessions"], "session")
        return f"{counted(metrics['predictions'], 'next item')} of {sessions}"
    if "users" in metrics:
        return counted(metrics["users"], "user")
    return counted(metrics["rows"], "rating" if "ratings" in metrics else "row")


def number(value: float | None) -> str:
    """A metric as tables show it."""
    return "" if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    """A share as tables show it."""
    return "" if value is None else f"{value:.1%}"
