"""A few kills of each family; ``python -m tests.harness.resume --kills 20`` has many."""

import pytest

from tests.harness import resume


@pytest.mark.slow
@pytest.mark.parametrize("recipe", resume.SETTINGS)
def test_killed_trainings_end_in_the_same_bytes(recipe):
    (tally,) = resume.try_all(kills=2, seed=3, only=[recipe])
    assert tally.kills >= 2 and tally.files_compared
    assert tally.faults == []
