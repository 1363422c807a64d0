"""Which rows train, which validate and which test, declared by name."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from core.console import counted
from core.errors import UserError
from core.settings import Settings

SPLITS = ("train", "valid", "test")
DAY = 86_400_000
"""Milliseconds."""
VALIDATE_ALWAYS = ("last_day_halves", "leave_one_out")
"""Kinds whose validation part is not a share."""


NOT_RANDOM = (
    "split.kind 'random' is for the recipe interactions, for logs without times; choose one by time"
)


class EmptySplit(UserError):
    """A log or window that leaves a split without anything."""


class SplitSettings(Settings):
    """How a log is cut into train, valid and test, earlier rows first."""

    kind: Literal[
        "fraction", "days", "last_day_halves", "files", "window", "leave_one_out", "random"
    ] = "fraction"
    """fraction: by share of the rows (sessions: of the sessions, by start); days: the last whole
    days; last_day_halves: the last day's first half validates and its second half tests (Criteo
    1TB); files: the input files that ``test_files`` names test (a log with its own test file);
    window: the day ``test_day`` tests and the days before it train, later ones are not used;
    leave_one_out: of each session (interactions: of each user) with three events or more the last
    one tests and the one before it validates; random: rows drawn by a hash of their place in the
    log (interactions only, for a log without times)."""
    test: float = Field(0.2, ge=0, lt=1)
    """Share that tests, for the kinds fraction and random."""
    valid: float = Field(0.1, ge=0, lt=1)
    """Share of what is left before the test part that validates: the latest of it, unless kind is
    random. 0: all of it trains, and nothing says when to stop but ``train.epochs`` and
    ``train.max_steps``."""
    test_days: int = Field(1, ge=1)
    """Days that test, for kind: days; validation is the share ``valid`` of what is left."""
    test_day: int = -1
    """The day that tests, for kind: window; the log's first day is 0, its last one -1. Validation
    is the share ``valid`` of the days before it."""
    train_days: int | None = Field(None, ge=1)
    """How many days before ``test_day`` are used, for kind: window; null: all."""
    test_files: str = "*test*"
    """Names of the input files that test, with * and ?, for kind: files; validation is the share
    ``valid`` of the others."""

    @model_validator(mode="after")
    def _something_trains(self) -> "SplitSettings":
        if (1 - self.test) * (1 - self.valid) < 0.01:
            raise ValueError("test and valid together leave less than 1% to train")
        if self.valid == 0 and self.kind in VALIDATE_ALWAYS:
            raise ValueError(
                f"valid 0 is not for kind '{self.kind}', which sets aside what validates whatever "
                "valid says; leave valid out, or choose another kind"
            )
        return self


def test_file_indexes(settings: SplitSettings, files: list[str]) -> set[int]:
    """Which of the input files test, for kind: files.

    Raises:
        UserError: none of them does, or all.
    """
    names = [Path(file).name for file in files]
    found = {i for i, name in enumerate(names) if fnmatch(name, settings.test_files)}
    if not found or len(found) == len(files):
        which = "every" if found else "no"
        raise UserError(
            f"split.test_files {settings.test_files!r} matches {which} input file; the files are "
            f"{', '.join(names)}"
        )
    return found


def row_ranges(
    settings: SplitSettings, units: np.ndarray, testing: int
) -> dict[str, tuple[int, int]]:
    """First and last-plus-one row of each split, for rows that stand in time order.

    Args:
        units: rows of each day or input file in order, shape ``(units,)``.
        testing: how many of the last units test, for the kinds days and files.

    Raises:
        UserError: a split would be empty.
    """
    total = int(units.sum())
    first = 0
    check_rows(settings)
    if settings.kind == "window":
        opening, day = window_days(settings, len(units))
        first, test_start = int(units[:opening].sum()), int(units[:day].sum())
        total = test_start + int(units[day])
    elif settings.kind == "fraction":
        test_start = round(total * (1 - settings.test))
    elif settings.kind == "last_day_halves":
        last_day = total - int(units[-1])
        ranges = {
            "train": (0, last_day),
            "valid": (last_day, last_day + int(units[-1]) // 2),
            "test": (last_day + int(units[-1]) // 2, total),
        }
        return _checked(ranges, settings)
    else:
        test_start = total - int(units[max(0, len(units) - testing) :].sum())
    valid_start = first + round((test_start - first) * (1 - settings.valid))
    ranges = {
        "train": (first, valid_start),
        "valid": (valid_start, test_start),
        "test": (test_start, total),
    }
    return _checked(ranges, settings)


def check_rows(settings: SplitSettings) -> None:
    """Checks that rows of a click log can be split so.

    Raises:
        UserError: the kind is for other recipes.
    """
    if settings.kind == "random":
        raise UserError(NOT_RANDOM)
    if settings.kind == "leave_one_out":
        raise UserError(
            "split.kind 'leave_one_out' is for the recipes sessions and interactions: rows of a "
            "click log belong to no user"
        )


def window_days(settings: SplitSettings, days: int) -> tuple[int, int]:
    """The first day that is used and the day that tests, of ``days`` days, for kind: window.

    Raises:
        UserError: the log has no such day, or none before it.
    """
    if days < 2:
        raise UserError(
            "split.kind 'window': the log has one day only, and a window needs a day that tests "
            "and one before it that trains; add a day to the log, or set split.kind to fraction"
        )
    day = settings.test_day if settings.test_day >= 0 else days + settings.test_day
    if not 1 <= day < days:
        raise UserError(
            f"split.test_day {settings.test_day}: the log has {counted(days, 'day')}; choose one "
            f"from 1 to {days - 1} (or from {1 - days} to -1), so that a day before it trains"
        )
    return max(0, day - (settings.train_days or day)), day


HELD_BACK = {"train": 2, "valid": 1, "test": 0}
"""Last events of a sequence that a split does not see, for kind: leave_one_out."""
LEAVE_OUT_FROM = 3
"""Shorter sequences train as a whole: nothing would be left of them."""


def _checked(
    ranges: dict[str, tuple[int, int]], settings: SplitSettings
) -> dict[str, tuple[int, int]]:
    asked = {"valid": settings.valid, "test": settings.test or settings.kind != "fraction"}
    needed = [name for name in SPLITS if asked.get(name, True)]
    empty = [name for name in needed if ranges[name][0] >= ranges[name][1]]
    if empty:
        raise UserError(
            f"split.kind '{settings.kind}' leaves no rows to {' and '.join(empty)} "
            f"(ranges: {ranges}); the log may have one day or file only, or too few rows"
        )
    return ranges


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
    return ranges if settled else _checked(ranges, settings)


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
    """``bounds`` moved on to where those of the features that grow stand: what trains already
    cannot be held out, and what is held out must be later than it."""
    if settled is None:
        return bounds
    least = settled["valid_start"]
    moved = {name: max(least, bounds[name]) for name in ("valid_start", "test_start")}
    return {**bounds, **moved}


def ranges_after(
    ranges: dict[str, tuple[int, int]], settled: int, settings: SplitSettings
) -> dict[str, tuple[int, int]]:
    """``ranges`` of a log of which the first ``settled`` rows train already.

    Raises:
        UserError: nothing would be left that validates or, without validation, what tests trains.
    """
    valid, test = max(settled, ranges["valid"][0]), ranges["test"][0]
    if test < valid or (test == valid and settings.valid > 0):
        told = "of the rows that would validate, all" if settings.valid else "rows that would test"
        raise UserError(
            f"split.kind '{settings.kind}': {told} train already "
            f"({settled:,} do); hold out no more than before, or add more rows"
        )
    return {"train": (settled, valid), "valid": (valid, test), "test": ranges["test"]}
