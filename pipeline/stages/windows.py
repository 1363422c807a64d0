"""Stage: a raw clickstream → models trained up to each day and judged on the next, and means."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from core import kinds
from core.artifacts import write_json, write_text
from core.console import counted, say, table
from core.errors import UserError
from core.metrics_output import claimed_metrics
from core.outputs import claimed
from core.settings import merge
from pipeline.compare.plan import Entry, entries, suitable
from pipeline.compare.settings import CompareSettings
from pipeline.evaluation.metric_names import headlines
from pipeline.params import Params
from pipeline.preprocess import open_raw
from pipeline.splits import EmptySplit
from pipeline.stages.train import rows_of
from pipeline.windows import days
from pipeline.windows.runs import Judged, Window, from_scratch, trained_further

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Point:
    """The metrics of one model on one day."""

    entry: str
    mode: str
    seed: int
    day: int
    metrics: Metrics
    tested: str


def windows(
    raw: str | Path,
    output: str | Path,
    metrics: str | Path,
    plots: str | Path,
    params: Params | None = None,
) -> dict[str, Any]:
    """Evaluates over daily windows: each day that tests comes after all that trains.

    Args:
        raw: a folder that ``ingest`` wrote for the recipe sessions.
        output: a folder for each window, with its features and models.
        metrics: JSON file to write: what this returns.
        plots: folder to write: ``by_day.json``, ``tables.md``.

    Returns:
        ``days``: sessions that start on each day that tested; ``tested``: what of them the metrics
            are over; ``entries``: by entry and mode the
        mean over days of each metric (``mean``, itself a mean over seeds, and ``std`` over seeds),
        and ``by_day``.

    Raises:
        UserError: before anything is trained, a log without two days, a model that does not fit
            the features; every day was passed over.
    """
    params = _with_an_entry(params or Params.read())
    settings = params.section("sessions.windows")
    if params.section("sessions.evaluate").protocol == "leave_one_out":
        raise UserError(
            "sessions.evaluate.protocol: leave_one_out cuts the end of each session, daily windows "
            "cut by day; set it to per_step or last_item"
        )
    raw = Path(raw)
    keys = ("days", "entries")
    with claimed(output, kinds.WINDOWS, [raw]) as claim:
        claim.add()
        inputs = [raw, claim.folder]
        with (
            claimed_metrics(metrics, plots, kinds.WINDOW_PLOTS, inputs, keys) as shown,
            open_raw(raw).watched() as log,
        ):
            counts = days.sessions_by_day(raw)
            train_days = params.section("sessions.preprocess").split.train_days
            candidates = days.test_days(counts, settings.first_test_day, train_days)
            points = list(_points(raw, claim.folder, params, candidates))
            if not points:
                raise UserError(
                    f"{raw}: no day leaves sessions to train on, to validate on and to test; look "
                    "at sessions.preprocess.sessions (min_length, drop_repeats, min_item_support)"
                )
            tested = dict.fromkeys(point.day for point in points)
            report = {
                "days": {str(day): counts[day] for day in tested},
                "tested": {str(point.day): point.tested for point in points},
                "entries": _means(points),
            }
            log.settle()
            shown.publish(report, lambda folder: _plot(points, report, folder))
    _show(points, report)
    say(f"windows: {counted(len(tested), 'window')} → {metrics}, {plots}")
    return report


def _with_an_entry(params: Params) -> Params:
    if params.section("sessions.compare").entries:
        return params
    model, _ = params.model("sessions")
    own = {"sessions": {"compare": {"entries": {model: {}}}}}
    return Params(merge(params.tree, own), params.origin)


def _points(raw: Path, output: Path, params: Params, tested: list[int]) -> Iterator[Point]:
    modes, compare = params.section("sessions.windows").modes, params.section("sessions.compare")
    before: dict[tuple[str, int], Judged] = {}
    for day in tested:
        window = Window(day, output / f"day-{day}" / "features", output / f"day-{day}")
        its_params = days.window_params(params, day)
        if not _made(raw, window, its_params):
            continue
        found = suitable("sessions", entries("sessions", its_params), window.features, compare)
        for entry, seed in product(found, compare.seeds):
            say(f"windows: day {day}, {entry.name}, seed {seed}")
            its_modes = modes if _learns_by_gradient(entry) else ("scratch",)
            yield from _of_window(window, entry, seed, its_modes, compare, before)


def _made(raw: Path, window: Window, params: Params) -> bool:
    """Makes the window's features; where they lack something, says so: the day is passed over."""
    lacking = ""
    try:
        days.window_features(raw, window.features, params)
        if not rows_of(window.features, "test"):
            lacking = "nothing to test, as the filters leave no session of the test split"
    except EmptySplit as empty:
        lacking = str(empty)
    if lacking:
        say(f"windows: day {window.day} passed over: {lacking}")
    return not lacking


def _of_window(
    window: Window,
    entry: Entry,
    seed: int,
    modes: tuple[str, ...],
    compare: CompareSettings,
    before: dict[tuple[str, int], Judged],
) -> Iterator[Point]:
    """``before``: of each entry and seed the model that is trained further, if there is one."""

    def point(mode: str, judged: Judged) -> Point:
        return Point(entry.name, mode, seed, window.day, judged.metrics, judged.tested)

    earlier = before.get((entry.name, seed))
    if earlier is None or "scratch" in modes:
        fresh = from_scratch(window, entry, seed, compare)
    if "scratch" in modes:
        yield point("scratch", fresh)
    if "incremental" in modes:
        found = trained_further(window, entry, seed, earlier) if earlier else fresh
        before[entry.name, seed] = found
        yield point("incremental", found)


def _learns_by_gradient(entry: Entry) -> bool:
    from training.sessions import model_class

    return model_class(entry.model).learns_by_gradient


def _means(points: list[Point]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, mode in dict.fromkeys((point.entry, point.mode) for point in points):
        mine = [point for point in points if (point.entry, point.mode) == (name, mode)]
        by_seed = {
            seed: [point for point in mine if point.seed == seed]
            for seed in dict.fromkeys(point.seed for point in mine)
        }
        by_day = {
            str(day): _mean([point.metrics for point in mine if point.day == day])
            for day in dict.fromkeys(point.day for point in mine)
        }
        over_days = [_mean([point.metrics for point in group]) for group in by_seed.values()]
        found.setdefault(name, {})[mode] = {
            "mean": _mean(over_days),
            "std": _deviation(over_days),
            "by_day": by_day,
        }
    return found


def _mean(metrics: list[Metrics]) -> Metrics:
    """Over those that have a value: a day on which nothing could be asked for has none."""
    found: Metrics = {}
    for name in dict.fromkeys(name for one in metrics for name in one):
        values = [one[name] for one in metrics if one.get(name) is not None]
        found[name] = statistics.fmean(values) if values else None
    return found


def _deviation(metrics: list[Metrics]) -> Metrics:
    found: Metrics = {}
    for name in metrics[0]:
        values = [one[name] for one in metrics if one.get(name) is not None]
        found[name] = statistics.stdev(values) if len(values) > 1 else None
    return found


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _plot(points: list[Point], report: dict[str, Any], folder: Path) -> None:
    """``by_day.json`` has a row an entry, mode and day, means over seeds."""
    by_day = [
        {"day": int(day), "entry": name, "mode": mode, "model": f"{name} {mode}", **metrics}
        for name, modes in report["entries"].items()
        for mode, found in modes.items()
        for day, metrics in found["by_day"].items()
    ]
    write_json(folder / "by_day.json", by_day)
    header, rows = _table(report)
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    lines += ["", *_counts(report)]
    write_text(folder / "tables.md", f"{_title(points)}\n\n" + "\n".join(lines) + "\n")


def _counts(report: dict[str, Any]) -> list[str]:
    """What the metrics of each day are over."""
    return [f"day {day}: {tested}" for day, tested in report["tested"].items()]


def _show(points: list[Point], report: dict[str, Any]) -> None:
    table(_title(points), *_table(report))
    for line in _counts(report):
        say(line)


def _table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the means."""
    measured = next(
        found["mean"] for modes in report["entries"].values() for found in modes.values()
    )
    names = headlines(measured) or [name for name in measured if "@" in name]
    rows = [
        [name, mode, *(_number(found["mean"][metric]) for metric in names)]
        for name, modes in report["entries"].items()
        for mode, found in modes.items()
    ]
    return ["entry", "mode", *names], rows


def _title(points: list[Point]) -> str:
    """Says over which days the means are: not those on which nothing could be asked for."""
    tested = dict.fromkeys(point.day for point in points)
    asked = {p.day for p in points if any(value is not None for value in p.metrics.values())}
    seeds = counted(len({point.seed for point in points}), "seed")
    title = f"Mean over {days.named_days(day for day in tested if day in asked)} and {seeds}"
    silent = [day for day in tested if day not in asked]
    if silent:
        title += (
            f"; nothing could be asked for on {days.named_days(silent)} (items unseen in training "
            "are left out)"
        )
    return title
