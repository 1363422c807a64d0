"""Splits: every row on one side, none that trains later than one that is held out."""

import itertools
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from pipeline.preprocess_interactions import in_time, left_out
from pipeline.sessionize import events_of
from pipeline.splits import DAY, EmptySplit, SplitSettings, row_ranges
from pipeline.time_cuts import time_bounds

KINDS = ("fraction", "days", "last_day_halves", "window")
times = st.lists(st.integers(1_600_000_000_000, 1_600_000_000_000 + 6 * DAY), min_size=20)


def settings_of(kind, **fields):
    return SplitSettings(kind=kind, test=0.25, valid=0.25, **fields)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), starts=times, train_days=st.sampled_from([None, 1, 2]))
def test_no_row_that_trains_is_later_than_one_held_out(kind, starts, train_days):
    split = settings_of(kind, train_days=train_days)
    try:
        bounds = time_bounds(split, np.array(starts))
    except UserError as error:
        if isinstance(error, EmptySplit):
            # One day only, or the time that cuts is the first one, which many have.
            one_day = min(starts) // DAY == max(starts) // DAY
            assert kind == "window" or one_day or starts.count(min(starts)) > 1
        else:
            assert kind == "window" and re.search("test_day|one day only", str(error))
        return
    frame = pl.DataFrame({"timestamp": starts}).cast(pl.Datetime("ms", "UTC"))
    found = {
        name: frame.filter(in_time(name, bounds))["timestamp"]
        for name in ("train", "valid", "test")
    }
    order = [part for part in found.values() if len(part)]
    for earlier, later in itertools.pairwise(order):
        assert earlier.max() < later.min()
    if kind != "window":
        assert sum(map(len, found.values())) == len(starts)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    units=st.lists(st.integers(5, 50), min_size=3, max_size=8),
    day=st.integers(-2, 2),
)
def test_row_ranges_follow_one_another(kind, units, day):
    split = settings_of(kind, test_day=day)
    try:
        ranges = row_ranges(split, np.array(units), 1)
    except UserError as error:
        assert kind == "window" and day == 0 and "test_day 0" in str(error)
        return
    assert ranges["train"][0] >= 0 and ranges["test"][1] <= sum(units)
    assert ranges["train"][1] == ranges["valid"][0] and ranges["valid"][1] == ranges["test"][0]


def test_a_window_trains_on_the_days_before_it():
    units = np.array([10, 20, 30, 40])
    windows = [SplitSettings(kind="window", test_day=day, valid=0.1) for day in (1, 2, 3)]
    found = [row_ranges(split, units, 1) for split in windows]
    assert [(r["train"][0], r["test"]) for r in found] == [
        (0, (10, 30)),
        (0, (30, 60)),
        (0, (60, 100)),
    ]
    short = SplitSettings(kind="window", test_day=2, train_days=1)
    assert row_ranges(short, units, 1)["train"][0] == 10
    with pytest.raises(UserError, match=r"test_day 4: the log has 4 day"):
        row_ranges(SplitSettings(kind="window", test_day=4), units, 1)


def test_a_window_needs_two_days():
    split = SplitSettings(kind="window")
    with pytest.raises(UserError, match="one day only, and a window needs a test day and"):
        time_bounds(split, np.arange(1_000_000, 1_000_020))


@pytest.mark.parametrize("kind", ["fraction", "days"])
def test_what_leaves_nothing_to_train_says_why(kind):
    split = settings_of(kind)
    with pytest.raises(EmptySplit, match=r"all 20 times .* are the same, so nothing is left to"):
        time_bounds(split, np.full(20, 1_600_000_000_000))
    # What trains already is enough.
    assert time_bounds(split, np.full(20, 1_600_000_000_000), settled=5)
    with pytest.raises(EmptySplit, match="leaves nothing to train before what is held out; hold"):
        time_bounds(split, np.array([1_600_000_000_000]))
    days = settings_of("window", train_days=1)
    with pytest.raises(EmptySplit, match=r"raise split\.train_days"):
        time_bounds(days, np.array([0, 1, 2, 3 * DAY]))


@pytest.mark.parametrize(
    ("kind", "setting"), [("days", "test_days"), ("window", "test_day"), ("files", "test_files")]
)
@pytest.mark.parametrize("test", [1, 7, 1.0, -1])
def test_a_number_of_days_where_a_share_belongs_names_the_setting_that_is_meant(
    kind, setting, test
):
    with pytest.raises(ValueError, match=rf"kind '{kind}' does not use one.*set {setting}"):
        SplitSettings(kind=kind, test=test)
    with pytest.raises(ValueError, match=r"less than 1|greater than or equal to 0"):
        SplitSettings(test=test)


def test_leave_one_out_is_not_for_click_logs():
    with pytest.raises(UserError, match=r"leave_one_out.*sessions and interactions"):
        row_ranges(SplitSettings(kind="leave_one_out"), np.array([9, 9]), 1)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=10))
def test_leave_one_out_by_user(lengths):
    users = [user for user, length in enumerate(lengths) for _ in range(length)]
    frame = pl.DataFrame({"user_id": users, "n": range(len(users)), "_before": 0})
    found = {name: frame.filter(left_out(name)) for name in ("train", "valid", "test")}
    assert sum(map(len, found.values())) == len(users)
    for user, length in enumerate(lengths):
        mine = {name: part.filter(pl.col("user_id") == user)["n"] for name, part in found.items()}
        if length < 3:
            assert len(mine["train"]) == length
        else:
            last = sum(lengths[: user + 1]) - 1
            assert mine["test"].to_list() == [last] and mine["valid"].to_list() == [last - 1]
            assert mine["train"].max() < last - 1


def test_leave_one_out_by_session_shows_each_split_what_came_before():
    events = pl.DataFrame(
        {
            "session_id": [1] * 5 + [2] * 2,
            "item_id": [7, 7, 8, 9, 10, 5, 6],
            "_start": 0,
            "_group": 0,
        }
    )
    bounds = {"leave_one_out": True, "drop_repeats": True}
    seen = {
        name: events_of(events, name, bounds)["item_id"].to_list()
        for name in ("train", "valid", "test")
    }
    assert seen == {"train": [7, 8, 5, 6], "valid": [7, 8, 9], "test": [7, 8, 9, 10]}
