"""The metrics of an evaluation as a table, with what is compared with them and what they mean."""

from typing import Any

from core.console import counted, say, table
from pipeline.baselines import LABELS, others
from pipeline.metric_names import meaning, meanings, share_meanings, shown


def show_metrics(found: dict[str, Any]) -> None:
    """Prints a table of the metrics, of what is compared with them, and what they mean; and the
    remarks."""
    baselines = others(found["model"]["name"], found, found.get("baselines", {}))
    best, share = found.get("best_possible", {}), found.get("share_of_best", {})
    header = ["metric", "better", found["model"]["name"], *(LABELS[name] for name in baselines)]
    header += ["best possible", "share of best"] if best else []
    rows, names = [], [name for name in shown(found) if found[name] is not None]
    for name in names:
        row = [name, meaning(name)[0], number(found[name])]
        row += [number(theirs.get(name)) for theirs in baselines.values()]
        row += [number(best.get(name)), percent(share.get(name))] if best else []
        rows.append(row)
    if rows:
        table(f"On {judged_on(found)}", header, rows)
        for line in meanings(names):
            say(f"  {line}")
    if best and share:
        say(f"  {share_meanings(share)}")
    for remark in found["remarks"]:
        say(f"note: {remark}")


def judged_on(found: dict[str, Any]) -> str:
    """The split and what of it the metrics are over."""
    return f"the {found['split']} split: {tested(found)}"


def tested(found: dict[str, Any]) -> str:
    """What the metrics are over, counted."""
    if "predictions" in found:
        sessions = counted(found["sessions"], "session")
        return f"{counted(found['predictions'], 'next item')} of {sessions}"
    if "users" in found:
        return counted(found["users"], "user")
    return counted(found["rows"], "rating" if "ratings" in found else "row")


def number(value: float | None) -> str:
    """A metric as tables show it."""
    return "" if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    """A share as tables show it."""
    return "" if value is None else f"{value:.1%}"
