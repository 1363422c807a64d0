"""Finished runs → mean and standard deviation over seeds, and curves."""

import statistics
from collections.abc import Iterable
from typing import Any

from core.errors import UserError
from pipeline.compare.plan import Entry
from pipeline.compare.settings import CompareSettings
from pipeline.evaluation.baselines import Baselines, below
from pipeline.evaluation.metric_names import BETTER_LOW, headlines, once

Figure = dict[str, Any]
"""``mean`` and ``std`` over seeds."""
Result = dict[str, Any]
Summary = dict[str, Any]
COSTS = {
    "parameters": "parameters",
    "megabytes": "MB on disk",
    "samples": "samples seen",
    "seconds": "training s",
    "samples_per_second": "samples/s",
    "inference_microseconds": "inference µs",
}
"""Costs by their name in the JSON and in the table."""
TITLES = {"ranking": "Click models compared", "sessions": "Session models compared"}


def summarise(
    recipe: str,
    entries: list[Entry],
    results: list[Result],
    splits: tuple[str, ...],
    settings: CompareSettings,
    baselines: Baselines | None = None,
) -> Summary:
    """All figures of the finished runs.

    Args:
        baselines: what any model has to beat, on the split that tables are of.

    Returns:
        ``entries``: of each its ``model``, the ``seeds`` that are finished, and ``mean`` and
        ``std`` (of the sample, None of one seed) of every metric by split, of every cost, and of
        the share of the best possible; ``metrics``: those that tables show, ``headlines``: those
        that matter most; ``split``: the one that tables are of, ``tested``: what of it is counted;
        ``best_on_validation``: the entry that validation would choose, by which metric, and the
        ``doubt``, if its lead may be chance;
        ``baselines``, and ``remarks``: what a reader has to know, in sentences.

    Raises:
        UserError: a run lacks a metric that ``compare.metrics`` names.
    """
    by_entry = {
        entry.name: [result for result in results if result["entry"] == entry.name]
        for entry in entries
    }
    by_entry = {name: found for name, found in by_entry.items() if found}
    split = splits[-1]
    shown = list(settings.metrics) or _shown(recipe, results[0]["metrics"][split])
    for result in results:
        absent = [name for name in shown if name not in result["metrics"][split]]
        if absent:
            raise UserError(
                f"{recipe}.compare.metrics: {result['entry']}, seed {result['seed']}, has "
                f"no {', '.join(absent)}; it has {', '.join(result['metrics'][split])}"
            )
    costs = results[0]["cost"]
    summary = {
        "recipe": recipe,
        "metrics": shown,
        "headlines": _headlines(recipe, shown, bool(settings.metrics)),
        "split": split,
        "tested": results[0]["tested"][split],
        "measured_on": {
            name: costs[name] for name in ("device", "threads", "inference_batch_size")
        },
        "best_possible": results[0]["best_possible"][split],
        "entries": {name: _entry(found, splits) for name, found in by_entry.items()},
    }
    summary["best_on_validation"] = _best_on_validation(summary)
    summary["baselines"] = baselines or {}
    summary["remarks"] = _remarks(summary, by_entry)
    return summary


def _remarks(summary: Summary, by_entry: dict[str, list[Result]]) -> list[str]:
    """Which entries are below a baseline or were still improving, and what is odd of the split."""
    remarks: list[str] = []
    for name, results in by_entry.items():
        metrics = summary["entries"][name]["metrics"][summary["split"]]
        means = {metric: figure["mean"] for metric, figure in metrics.items()}
        remarks += below(name, means, summary["baselines"])
        unfinished = [r["seed"] for r in results if r["learned"].get("still_improving")]
        if unfinished:
            seeds = f"seed{'s' * (len(unfinished) > 1)} {', '.join(map(str, unfinished))}"
            remarks.append(
                f"{name} was still improving at its last step ({seeds}): it has not shown "
                "what it can, and more epochs may help"
            )
    # A remark on every run is one on the split.
    of_runs = [r["remarks"][summary["split"]] for results in by_entry.values() for r in results]
    common = [one for one in of_runs[0] if all(one in others for others in of_runs)]
    return [*remarks, *(one for one in common if not one.startswith("training "))]


def _shown(recipe: str, metrics: dict[str, Any]) -> list[str]:
    """Each number once."""
    names = list(metrics)
    return once([name for name in names if "@" in name]) if recipe == "sessions" else names


def _headlines(recipe: str, shown: list[str], chosen: bool) -> list[str]:
    if recipe == "ranking" or chosen:
        return shown
    return headlines(shown) or shown[:3]


def _entry(results: list[Result], splits: tuple[str, ...]) -> dict[str, Any]:
    first = results[0]
    return {
        "model": first["model"],
        "seeds": [result["seed"] for result in results],
        "metrics": {
            split: {
                name: _over_seeds(result["metrics"][split][name] for result in results)
                for name in first["metrics"][split]
            }
            for split in splits
        },
        "share_of_best": {
            name: _over_seeds(result["share_of_best"][splits[-1]][name] for result in results)
            for name in first["share_of_best"][splits[-1]]
        },
        "cost": {name: _over_seeds(result["cost"][name] for result in results) for name in COSTS},
    }


def _over_seeds(values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean and standard deviation; both None where a run has no value."""
    found = list(values)
    if any(value is None for value in found):
        return {"mean": None, "std": None}
    return {
        "mean": statistics.fmean(found),
        "std": statistics.stdev(found) if len(found) > 1 else None,
    }


def _monitored(recipe: str, names: Iterable[str]) -> str:
    """The metric by which training keeps its best weights, of those there are."""
    first = headlines(names)
    wanted = "logloss" if recipe == "ranking" else "ndcg"
    return next((name for name in first if name.startswith(wanted)), first[0] if first else "")


def _best_on_validation(summary: Summary) -> dict[str, Any] | None:
    validated = next(iter(summary["entries"].values()))["metrics"].get("valid", {})
    metric = _monitored(summary["recipe"], validated)
    if all(
        metric not in entry["metrics"].get("valid", {}) for entry in summary["entries"].values()
    ):
        metric = summary["headlines"][0]
    figures = {
        name: entry["metrics"]["valid"][metric]
        for name, entry in summary["entries"].items()
        if metric in entry["metrics"].get("valid", {})
    }
    figures = {name: figure for name, figure in figures.items() if figure["mean"] is not None}
    if not figures:
        return None
    lowest = metric in BETTER_LOW
    best = (min if lowest else max)(figures, key=lambda name: figures[name]["mean"])
    doubt = _doubt(best, figures)
    return {"entry": best, "metric": metric, "mean": figures[best]["mean"], "doubt": doubt}


def _doubt(best: str, figures: dict[str, Figure]) -> str | None:
    """Why the lead of the best entry may be chance, in words; None where the seeds agree on it."""
    others = [name for name in figures if name != best]
    single = [name for name in figures if figures[name]["std"] is None]
    if others and single:
        return f"one seed only of {', '.join(single)}: whether its lead is chance is not known"
    near = [
        name
        for name in others
        if abs(figures[best]["mean"] - figures[name]["mean"])
        <= max(figures[best]["std"], figures[name]["std"])
    ]
    if not near:
        return None
    return f"its lead over {', '.join(near)} is within the standard deviation of seeds"


def curves(results: list[Result]) -> list[dict[str, Any]]:
    """Means over seeds by samples seen: a row an entry and a validation that all its seeds had."""
    rows = []
    for entry in dict.fromkeys(result["entry"] for result in results):
        found = [result["curve"] for result in results if result["entry"] == entry]
        for points in zip(*found, strict=False):
            if len({point["samples"] for point in points}) > 1:
                break
            names = [name for name in points[0] if name != "samples"]
            rows.append(
                {
                    "entry": entry,
                    "samples": points[0]["samples"],
                    **{
                        name: _over_seeds(point[name] for point in points)["mean"] for name in names
                    },
                }
            )
    return rows
