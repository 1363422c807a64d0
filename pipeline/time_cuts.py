"""Where time cuts the splits of a log, in milliseconds since 1970 UTC."""

import numpy as np

from pipeline.splits import (
    DAY,
    SPLITS,
    EmptySplit,
    SplitSettings,
    window_days,
    without_empty,
)


def start_bounds(settings: SplitSettings, starts: np.ndarray, settled: int = 0) -> tuple[int, int]:
    """Times that cut sessions: before the first train, before the second valid, then test.

    Sessions of one start time stay on one side, so the cut does not depend on any order among
    them.

    Args:
        starts: start of every session, milliseconds since 1970 UTC, shape ``(sessions,)``.
        settled: further sessions, all earlier, that train already and stay there.
    """
    starts = in_order(starts)
    day = DAY
    end = int(starts[-1]) + 1
    if settings.kind == "fraction":
        cut = max(0, round((settled + len(starts)) * (1 - settings.test)) - settled)
        test_start = int(starts[cut]) if cut < len(starts) else end
    elif settings.kind == "days":
        test_start = (int(starts[-1]) // day - settings.test_days + 1) * day
    elif settings.kind == "last_day_halves":
        first = int(starts[-1]) // day * day
        last_day = between(starts, first, end)
        return first, int(last_day[len(last_day) // 2])
    else:
        raise ValueError(f"kind '{settings.kind}' has no two bounds in time")
    before = starts[: np.searchsorted(starts, test_start)]
    return valid_bound(settings, before, settled), test_start


def in_order(times: np.ndarray) -> np.ndarray:
    """``times`` sorted; the very array where it is in order, which may be larger than memory."""
    return times if (times[1:] >= times[:-1]).all() else np.sort(times)


def between(times: np.ndarray, first: int, end: int) -> np.ndarray:
    """The part of sorted ``times`` from ``first`` on and before ``end``."""
    return times[slice(*np.searchsorted(times, [first, end]))]


def time_bounds(settings: SplitSettings, starts: np.ndarray, settled: int = 0) -> dict[str, int]:
    """``valid_start`` and ``test_start`` as of :func:`start_bounds`; for kind: window also
    ``start`` and ``end``, outside of which nothing is used. Milliseconds since 1970 UTC; days
    begin at midnight UTC, and days without any start count.

    Raises:
        EmptySplit: nothing would train.
        UserError: for kind: window, the log has no such day.
    """
    starts = in_order(starts)
    bounds = _time_bounds(settings, starts, settled)
    trains = between(starts, bounds.get("start", 0), bounds["valid_start"])
    if not settled and not len(trains):
        raise EmptySplit(_why_nothing_trains(settings, starts))
    return bounds


def time_ranges(
    bounds: dict[str, int], times: np.ndarray, settings: SplitSettings, settled: int = 0
) -> dict[str, tuple[int, int]]:
    """First and last-plus-one row of each split, of rows with these times in order.

    Args:
        settled: further rows that train already.

    Raises:
        UserError: a split would be empty.
    """
    edges = [bounds.get("start", int(times[0])), bounds["valid_start"], bounds["test_start"]]
    edges.append(bounds.get("end", int(times[-1]) + 1))
    at = [int(row) for row in np.searchsorted(times, edges)]
    ranges = {split: (at[number], at[number + 1]) for number, split in enumerate(SPLITS)}
    return ranges if settled else without_empty(ranges, settings)


def _why_nothing_trains(settings: SplitSettings, starts: np.ndarray) -> str:
    if len(starts) > 1 and starts[0] == starts[-1]:
        return (
            f"split.kind '{settings.kind}' cuts by time, and all {len(starts):,} times (of "
            "sessions: their starts) are the same, so nothing is left to train; name another "
            "column in source.columns.timestamp, or set split.kind to leave_one_out"
        )
    short = settings.kind == "window" and settings.train_days is not None
    return (
        f"split.kind '{settings.kind}' leaves nothing to train before what is held out; "
        f"{'raise split.train_days' if short else 'hold out less'}, or add more to the log"
    )


def _time_bounds(settings: SplitSettings, starts: np.ndarray, settled: int) -> dict[str, int]:
    if settings.kind != "window":
        valid_start, test_start = start_bounds(settings, starts, settled)
        return {"valid_start": valid_start, "test_start": test_start}
    first = int(starts[0]) // DAY
    opening, day = window_days(settings, int(starts[-1]) // DAY - first + 1)
    start, test_start = (first + opening) * DAY, (first + day) * DAY
    before = between(starts, start, test_start)
    bounds = {"start": start, "test_start": test_start, "end": test_start + DAY}
    # With nothing that validates, sessions train up to the day that tests.
    valid_start = valid_bound(settings, before) if settings.valid else test_start
    return {**bounds, "valid_start": valid_start}


def valid_bound(settings: SplitSettings, starts: np.ndarray, settled: int = 0) -> int:
    """The time from which the sessions before the test part validate; ``starts``: theirs."""
    if len(starts) == 0:
        return 0
    starts = in_order(starts)
    if settings.valid == 0:
        return int(starts[-1]) + 1
    cut = round((settled + len(starts)) * (1 - settings.valid)) - settled
    return int(starts[min(len(starts) - 1, max(0, cut))])


def not_before(bounds: dict[str, int], settled: dict[str, int] | None) -> dict[str, int]:
    """``bounds`` moved on to where those of the features that grow are: what trains already
    cannot be held out, and what is held out must be later than it."""
    if settled is None:
        return bounds
    least = settled["valid_start"]
    moved = {name: max(least, bounds[name]) for name in ("valid_start", "test_start")}
    return {**bounds, **moved}
