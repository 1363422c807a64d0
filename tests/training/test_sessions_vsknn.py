"""V-SkNN against a second implementation over dictionaries, its settings and its memory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.counted import (
    CODES,
    HOUR,
    counted,
    known,
    logs,
    popularity,
    prefixes,
    scores_after,
    timed,
)
from training.sessions import vsknn

WEIGHTINGS = ("same", "div", "linear", "quadratic", "log")
PLACE = {
    "same": lambda i, n: 1.0,
    "div": lambda i, n: i / n,
    "linear": lambda i, n: max(0.0, 1 - 0.1 * (n - i)),
    "quadratic": lambda i, n: (i / n) ** 2,
    "log": lambda i, n: 1 / math.log10(n - i + 1.7),
}
STEP = {
    "same": lambda d: 1.0,
    "div": lambda d: 1 / d,
    "linear": lambda d: max(0.0, 1 - 0.1 * (d - 1)),
    "quadratic": lambda d: 1 / d**2,
    "log": lambda d: 1 / math.log10(d + 1.7),
}
AS_PUBLISHED = {
    "similarity": "dot",
    "weighting": "div",
    "score_weighting": "div",
    "idf": 0.0,
    "closeness": 1.0,
    "earlier": 1.0,
}


def in_order_of_last_view(session):
    return [item for at, item in enumerate(session) if item not in session[at + 1 :]]


def slow_scores(log, prefix, given):
    """The definition, one session at a time; sums in the order in which the model adds them."""
    order = sorted(range(len(log[0])), key=lambda number: log[1][number])
    past = [in_order_of_last_view(known(log[0])[number]) for number in order]
    past = [session for session in past if session]
    n = len(prefix)
    weight = {item: PLACE[given["weighting"]](i, n) for i, item in enumerate(prefix, 1)}
    sharing = [number for number, session in enumerate(past) if set(session) & set(prefix)]
    compared = sharing[-given["sample_size"] :]
    similarity = {}
    for number in compared:
        value = 0.0
        for item in in_order_of_last_view(prefix)[::-1]:
            value += weight[item] if item in past[number] else 0.0
        if given["similarity"] == "cosine":
            value *= 1 / np.sqrt(len(past[number]))
        similarity[number] = value
    nearest = sorted(compared, key=lambda number: (-similarity[number], -number))[: given["k"]]
    scores = dict.fromkeys(range(CODES), 0.0)
    for number in nearest:
        session = past[number]
        last = next(item for item in reversed(prefix) if item in session)
        step = STEP[given["score_weighting"]](prefix[::-1].index(last) + 1)
        for at, item in enumerate(session):
            distance = at - session.index(last)
            near = given["closeness"] ** (abs(distance) - 1)
            near *= given["earlier"] if distance < 0 else 1
            holders = sum(item in session for session in past)
            idf = 1 + given["idf"] * math.log(len(past) / holders)
            scores[item] += similarity[number] * step * near * idf
    floor = popularity(known(log[0])) if past else [-1.0] * CODES
    return [scores[item] if scores[item] > 0 else floor[item] for item in range(CODES)]


chosen = st.fixed_dictionaries(
    {
        "k": st.sampled_from([1, 3, 100]),
        "sample_size": st.sampled_from([1, 2, 5, 100]),
        "weighting": st.sampled_from(WEIGHTINGS),
        "score_weighting": st.sampled_from(WEIGHTINGS),
        "similarity": st.sampled_from(["dot", "cosine"]),
        "idf": st.sampled_from([0.0, 1.0, 3.0]),
        "closeness": st.sampled_from([1.0, 0.5]),
        "earlier": st.sampled_from([1.0, 0.25, 0.0]),
    }
)


def agree(log, asked, given, batches=3):
    model = counted("vsknn", *log, batches=batches, **given)
    expected = [slow_scores(log, prefix, given) for prefix in asked]
    found = scores_after(model, asked)
    np.testing.assert_allclose(found[:, 3:], np.array(expected)[:, 3:], rtol=2e-5, atol=1e-6)


@settings(max_examples=120, deadline=None)
@given(logs(), prefixes, chosen)
def test_scores_are_those_of_the_definition(log, asked, given):
    agree(log, asked, given)


@settings(max_examples=40, deadline=None)
@given(logs(most=20), prefixes, chosen)
def test_sessions_that_are_let_go_while_counting_never_matter(log, asked, given):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vsknn, "EVENTS_TO_PRUNE", 4)
        agree(log, asked, given, batches=7)


def test_the_published_weights_by_hand():
    log = [[3, 4, 5], [4, 6], [7, 8]], [0, 1, 2]
    scores = scores_after(counted("vsknn", *log, **AS_PUBLISHED), [[3, 4]])[0]
    # Session 0 shares 3 (1/2) and 4 (2/2), session 1 shares 4; both with the last event.
    assert scores[[3, 4, 5, 6]].tolist() == pytest.approx([1.5, 2.5, 1.5, 1.0])
    assert (scores[[7, 8]] < 0).all()


def test_memory_is_bounded_by_the_sample():
    generator = np.random.default_rng(0)
    sessions = generator.integers(3, CODES, (3000, 4)).tolist()
    model = counted("vsknn", sessions, batches=10, sample_size=5)
    assert 5 <= len(model.session_starts) <= 5 * (CODES - 3)
    # The latest session is certainly among the latest of its items.
    assert model.session_starts[-1] == 2999
    assert int(model.seen) == 3000


def test_the_order_in_which_sessions_come_does_not_matter():
    generator = np.random.default_rng(1)
    sessions = generator.integers(3, CODES, (60, 4)).tolist()
    starts = (generator.permutation(60) * HOUR).tolist()
    order = generator.permutation(60).tolist()
    one = counted("vsknn", sessions, starts, sample_size=7)
    shuffled = [sessions[i] for i in order], [starts[i] for i in order]
    other = counted("vsknn", *shuffled, sample_size=7)
    asked = [[3, 5], [7], [4, 4, 9]]
    np.testing.assert_array_equal(scores_after(one, asked), scores_after(other, asked))


def test_of_sessions_of_one_start_the_last_to_come_is_the_latest():
    for sessions, latest in (([[3, 4], [3, 5]], 5), ([[3, 5], [3, 4]], 4)):
        scores = scores_after(counted("vsknn", sessions, [0, 0], sample_size=1), [[3]])[0]
        assert [item for item in (4, 5) if scores[item] > 0] == [latest]


def test_a_trained_model_is_trained_further():
    generator = np.random.default_rng(2)
    sessions = generator.integers(3, CODES, (40, 4)).tolist()
    whole = counted("vsknn", sessions, sample_size=6)
    further = counted("vsknn", sessions[:25], sample_size=6)
    scores_after(further, [[3]])
    further.observe(timed(sessions[25:], range(25, 40)))
    further.finish()
    asked = [[3, 5], [7], [4, 4, 9]]
    np.testing.assert_array_equal(scores_after(further, asked), scores_after(whole, asked))
