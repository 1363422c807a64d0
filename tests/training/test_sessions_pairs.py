"""Item-kNN, association and sequential rules against counting one pair at a time."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.tensors import read_tensors, write_tensors
from tests.training.counted import (
    CODES,
    counted,
    known,
    logs,
    popularity,
    prefixes,
    scores_after,
)
from tests.training.session_examples import session_schema

DISTANCE = {
    "same": lambda d: 1,
    "div": lambda d: 1 / d,
    "linear": lambda d: 1 - (d - 1) / 10,
    "quadratic": lambda d: 1 / (d * d),
    "log": lambda d: 1 / math.log10(d + 1.7),
}


def slow_scores(sessions, asked, strength, neighbours, decay):
    """Scores from ``strength(i, j)``, by dictionaries."""
    rows = []
    for prefix in asked:
        row = defaultdict(float)
        for back, item in enumerate(reversed(prefix)):
            partners = [(-strength(item, other), other) for other in range(3, CODES)]
            partners = sorted(pair for pair in partners if pair[0] < 0)[:neighbours]
            for value, other in partners:
                row[other] -= decay**back * value
        floor = popularity(sessions)
        rows.append([row[j] if row[j] > 0 else floor[j] for j in range(CODES)])
    return np.array(rows)


def pairs(sessions, i, j, weight=lambda d: 1, both=True, reach=99):
    """The weights of all places of i and of j in a session, by their distance."""
    return sum(
        weight(abs(b - a))
        for session in sessions
        for a, first in enumerate(session)
        for b, second in enumerate(session)
        if (first, second) == (i, j) and (b > a or (both and b < a)) and abs(b - a) <= reach
    )


def check(name, log, asked, strength, *, neighbours, decay, **more):
    model = counted(name, log[0], batches=3, neighbours=neighbours, decay=decay, **more)
    expected = slow_scores(known(log[0]), asked, strength, neighbours, decay)
    found = scores_after(model, asked)
    np.testing.assert_allclose(found[:, 3:], expected[:, 3:], rtol=2e-5, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    logs(),
    prefixes,
    st.sampled_from([0.0, 2.5, 20.0]),
    st.sampled_from([0.0, 0.5, 0.75, 1.0]),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from(sorted(DISTANCE)),
)
def test_item_knn_is_the_regularised_cosine(log, asked, regularisation, alpha, decay, weighting):
    sessions = known(log[0])

    def strength(i, j):
        if i == j:
            return 0
        events = [item for session in sessions for item in session]
        n_i, n_j = (events.count(item) + regularisation for item in (i, j))
        count = pairs(sessions, i, j, DISTANCE[weighting])
        return count / (n_i**alpha * n_j ** (1 - alpha)) if count else 0

    given = {"regularisation": regularisation, "alpha": alpha, "weighting": weighting}
    # All partners: where floats of equal pairs differ in their last bit, a cut would too.
    check("item_knn", log, asked, strength, neighbours=CODES, decay=decay, **given)


@settings(max_examples=25, deadline=None)
@given(logs(), prefixes, st.sampled_from([1, 3, 100]), st.sampled_from([0.0, 0.5]))
def test_association_rules_count_pairs_of_a_session(log, asked, neighbours, decay):
    sessions = known(log[0])
    events = [item for session in sessions for item in session]

    def strength(i, j):
        return pairs(sessions, i, j) / max(events.count(i), 1)

    check("association_rules", log, asked, strength, neighbours=neighbours, decay=decay)


@settings(max_examples=40, deadline=None)
@given(logs(), prefixes, st.sampled_from(sorted(DISTANCE)), st.integers(1, 4))
def test_sequential_rules_count_what_comes_later(log, asked, weighting, steps):
    sessions = known(log[0])
    events = [item for session in sessions for item in session]

    def strength(i, j):
        weighted = pairs(sessions, i, j, DISTANCE[weighting], both=False, reach=steps)
        return weighted / max(events.count(i), 1)

    given = {"weighting": weighting, "steps": steps}
    check("sequential_rules", log, asked, strength, neighbours=CODES, decay=0.5, **given)


def test_of_equally_strong_partners_the_more_frequent_code_is_kept():
    sessions = [[3, 7], [3, 5], [3, 9]]
    model = counted("association_rules", sessions, neighbours=2)
    assert model.partners[model.offsets[3] : model.offsets[4]].tolist() == [5, 7]


def test_a_model_without_any_pairs_is_saved(tmp_path):
    """NumPy gives such arrays a stride of 0."""
    model = counted("item_knn", [[3, 3], [3, 3, 3]], schema=session_schema(items=4))
    write_tensors(tmp_path / "x.safetensors", model.state_dict())
    found, _ = read_tensors(tmp_path / "x.safetensors")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in model.state_dict().items()
    }
    one = torch.full((1,), 7.0).as_strided((1,), (0,))
    write_tensors(tmp_path / "one.safetensors", {"one": one})
    assert read_tensors(tmp_path / "one.safetensors")[0]["one"].tolist() == [7]


@pytest.mark.parametrize("at_once", [1, 5])
def test_partners_are_the_same_however_many_items_are_looked_at_together(monkeypatch, at_once):
    from training.sessions import pairs as module

    sessions = [[3, 4, 5, 6, 3], [7, 8, 4], [11, 10, 3, 4]]
    whole = counted("item_knn", sessions)
    monkeypatch.setattr(module, "ITEMS_AT_ONCE", at_once)
    pieces = counted("item_knn", sessions)
    for name, tensor in whole.state_dict().items():
        assert tensor.tolist() == pieces.state_dict()[name].tolist()
