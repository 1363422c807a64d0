"""Windows over ragged batches against plain Python lists."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from tests.training.session_examples import batch_of
from training.sessions.ragged import (
    drop_repeats,
    drop_unknown,
    every_step,
    last_steps,
    pad,
    sessions_from_inputs,
    windows_before,
    windows_through,
)

LISTS = st.lists(st.lists(st.integers(0, 6), max_size=7), min_size=1, max_size=6)


def sessions_of(lists):
    return sessions_from_inputs(batch_of(lists)[0], ["item_id", "category", "price"])


def lists_of(sessions):
    values = sessions.columns["item_id"].tolist()
    bounds = sessions.offsets.tolist()
    return [values[a:b] for a, b in pairwise(bounds)]


@settings(max_examples=50, deadline=None)
@given(LISTS, st.integers(2, 5))
def test_every_step_has_its_prefix(lists, longest):
    sessions = sessions_of(lists)
    steps = every_step(sessions)
    before = windows_before(sessions, steps, longest)
    through = windows_through(sessions, steps, longest)

    expected = [(s[max(0, t - longest) : t], s[t]) for s in lists for t in range(1, len(s))]
    dense = pad(sessions, before)["item_id"].tolist()
    assert [row[:n] for row, n in zip(dense, before.lengths, strict=True)] == [
        prefix for prefix, _ in expected
    ]
    assert all(not any(row[n:]) for row, n in zip(dense, before.lengths, strict=True))
    dense = pad(sessions, through)["item_id"].tolist()
    assert [row[:n] for row, n in zip(dense, through.lengths, strict=True)] == [
        [*prefix[-(longest - 1) :], target] for prefix, target in expected
    ]
    assert sessions.columns["item_id"][steps].tolist() == [target for _, target in expected]


@settings(max_examples=50, deadline=None)
@given(LISTS)
def test_filters_agree_with_lists(lists):
    known = drop_unknown(sessions_of(lists), "item_id")
    expected = [[item for item in session if item >= 3] for session in lists]
    assert lists_of(known) == expected

    single = drop_repeats(known, "item_id")
    expected = [
        [item for i, item in enumerate(session) if i == 0 or session[i - 1] != item]
        for session in expected
    ]
    assert lists_of(single) == expected
    last = single.columns["item_id"][last_steps(single)].tolist()
    assert last == [session[-1] for session in expected if len(session) > 1]


def test_side_columns_stay_with_their_events():
    sessions = sessions_of([[3, 2, 4], [5, 5, 6]])
    prices = sessions.columns["price"]
    kept = drop_repeats(drop_unknown(sessions, "item_id"), "item_id")
    assert torch.equal(kept.columns["price"], prices[[0, 2, 3, 5]])
    assert kept.offsets.tolist() == [0, 2, 4]


def test_a_missing_column_is_named():
    with pytest.raises(UserError, match="no list column 'brand'"):
        sessions_from_inputs(batch_of([[3, 4]])[0], ["item_id", "brand"])


def test_lists_of_unequal_length_are_refused():
    inputs, _ = batch_of([[3, 4]])
    inputs["price__values"] = torch.zeros(3)
    with pytest.raises(UserError, match="'price' and 'item_id' differ in length"):
        sessions_from_inputs(inputs, ["item_id", "price"])
