"""What the tests of counting models share: sessions with starts, and models that saw them."""

import torch
from hypothesis import strategies as st

from tests.training.session_examples import batch_of, session_schema
from training.sessions import build
from training.sessions.ragged import every_step, pad, windows_before

HOUR = 3_600_000
CODES = 12
"""Codes of the item column: 3 to 11 are items."""
SCHEMA = session_schema(items=CODES)
COUNTING = (
    "popular",
    "recently_popular",
    "session_popular",
    "item_knn",
    "vsknn",
    "association_rules",
    "sequential_rules",
)


@st.composite
def logs(draw, longest=7, most=12):
    """Sessions with unknown items, repeats and one event only, and their starts, with ties."""
    sessions = draw(
        st.lists(st.lists(st.integers(1, CODES - 1), min_size=1, max_size=longest), max_size=most)
    )
    starts = draw(st.lists(st.integers(0, 5), min_size=len(sessions), max_size=len(sessions)))
    return sessions, [start * HOUR for start in starts]


prefixes = st.lists(
    st.lists(st.integers(3, CODES - 1), min_size=1, max_size=6), min_size=1, max_size=4
)


def timed(sessions, starts=None):
    """A training batch of sessions with their starts."""
    inputs, targets = batch_of(sessions)
    starts = range(len(sessions)) if starts is None else starts
    return {**inputs, "start": torch.tensor(list(starts), dtype=torch.int64)}, targets


def counted(name, sessions, starts=None, batches=1, schema=SCHEMA, **settings):
    """A model that saw the sessions, in so many batches."""
    model = build(name, schema, settings)
    starts = list(range(len(sessions))) if starts is None else starts
    size = -(-len(sessions) // batches) or 1
    for first in range(0, len(sessions), size):
        model.observe(timed(sessions[first : first + size], starts[first : first + size]))
    model.finish()
    return model


def scores_after(model, sessions):
    """Scores after the whole of each session, ``(sessions, num_items)`` float64 NumPy."""
    seen = model.sessions(batch_of([[*session, 3] for session in sessions]))
    steps = every_step(seen)
    last = seen.offsets[1:] - 1
    windows = windows_before(seen, steps[torch.isin(steps, last)], model.max_length)
    return model.scores(pad(seen, windows)).double().numpy()


def known(sessions):
    """The sessions without unknown items."""
    return [[item for item in session if item >= 3] for session in sessions]


def popularity(sessions):
    """What an item that a model has nothing to say of scores: -1 to 0, by its events."""
    events = [item for session in sessions for item in session]
    most = max(map(events.count, events), default=0)
    return [events.count(item) / (most + 1) - 1 for item in range(CODES)]
