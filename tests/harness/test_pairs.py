"""Some tries of some pairs; ``python -m tests.harness.pairs --most 200`` has many of all."""

import pytest

from tests.harness import operations, pairs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(operations.why_not() is not None, reason=str(operations.why_not())),
]


@pytest.mark.parametrize(
    "name",
    [
        "ingest, ingest sessions",
        "grow, preprocess sessions",
        "recommend while export sessions",
        "preprocess while ingest sessions",
        "export while train ranking",
    ],
)
def test_two_at_once(world, name):
    tally = pairs.try_pair(world, pairs.pairs()[name], most=8)
    assert tally.delayed >= 2 and tally.held >= 3
    assert tally.faults == []
