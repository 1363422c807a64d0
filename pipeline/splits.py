"""Which rows train, which validate and which test, declared by name."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from core.console import counted
from core.errors import UserError
from core.settings import Settings

SPLITS = ("train", "valid", "test")
DAY = 86_400_000
"""Milliseconds."""
VALIDATE_ALWAYS = ("last_day_halves", "leave_one_out")
"""Kinds whose validation part is not a share."""
TESTED_BY = {"days": "test_days", "window": "test_day", "files": "test_files"}
"""Kinds whose test part is not a share, and the setting that chooses it."""

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

    @field_validator("test", mode="before")
    @classmethod
    def _is_share(cls, test: Any, info: ValidationInfo) -> Any:
        setting = TESTED_BY.get(info.data.get("kind", ""))
        if setting and isinstance(test, int | float) and not 0 <= test < 1:
            raise ValueError(
                f"{test} is no share from 0 to 1, and kind '{info.data['kind']}' does not use one: "
                f"leave test out, and set {setting}"
            )
        return test

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
        return without_empty(ranges, settings)
    else:
        test_start = total - int(units[max(0, len(units) - testing) :].sum())
    valid_start = first + round((test_start - first) * (1 - settings.valid))
    ranges = {
        "train": (first, valid_start),
        "valid": (valid_start, test_start),
        "test": (test_start, total),
    }
    return without_empty(ranges, settings)


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
            "split.kind 'window': the log has one day only, and a window needs a test day and at "
            "least one earlier day to train on; add a day to the log, or set split.kind to fraction"
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


def without_empty(
    ranges: dict[str, tuple[int, int]], settings: SplitSettings
) -> dict[str, tuple[int, int]]:
    """``ranges``, where none that the settings ask for is empty.

    Raises:
        UserError: one is.
    """
    asked = {"valid": settings.valid, "test": settings.test or settings.kind != "fraction"}
    needed = [name for name in SPLITS if asked.get(name, True)]
    empty = [name for name in needed if ranges[name][0] >= ranges[name][1]]
    if empty:
        counts = ", ".join(f"{name} {end - start:,}" for name, (start, end) in ranges.items())
        share = "" if settings.kind == "fraction" else "; split.kind fraction needs no days"
        raise UserError(
            f"split.kind '{settings.kind}' leaves no rows to {' and '.join(empty)} ({counts}); the "
            f"log may have one day or file only, or too few rows{share}"
        )
    return ranges


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
