"""A few kills of every stage; ``python -m tests.harness.kill --kills 50`` has many."""

import pytest

from tests.harness import kill


@pytest.mark.slow
def test_killed_stages_end_in_the_same_bytes():
    tallies = kill.try_all(kills=2, rows=4000, seed=1)
    stages = [f"{stage} {recipe}" for recipe in ("ranking", "sessions") for stage in kill.STAGES]
    assert [tally.job for tally in tallies] == stages
    for tally in tallies:
        assert tally.kills >= 2 and tally.files_compared
        assert tally.faults == []
