"""A small version of the harness of environments: all of them at once, one recipe."""

from tests.harness.environments import EVERYTHING, try_all


def test_the_environment_changes_no_byte():
    outcomes = try_all("ranking", [EVERYTHING])
    faults = {name: outcome.faults for name, outcome in outcomes.items()}
    assert faults == {"plain": [], EVERYTHING.name: []}
    assert len(outcomes["plain"].files) > 40
