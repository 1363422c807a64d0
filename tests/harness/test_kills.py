"""Some kills and full disks; ``python -m tests.harness.kills`` has one at every operation."""

import pytest

from tests.harness import kills, operations

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(operations.why_not() is not None, reason=str(operations.why_not())),
]


@pytest.mark.parametrize(
    "command", ["ingest sessions", "preprocess sessions", "train ranking", "evaluate ranking"]
)
def test_killed_over_an_older_output(world, command):
    tallies = kills.try_all(world.folder, [command], most=5, over=["older"], world=world)
    assert [tally.command for tally in tallies] == [command]
    for tally in tallies:
        assert tally.tries >= 4
        assert tally.faults == []


def test_grown_on_a_full_disk(world):
    tallies = kills.try_all(
        world.folder, ["grow sessions"], most=4, actions=["kill", "full"], world=world
    )
    assert len(tallies) == 2
    for tally in tallies:
        assert tally.tries >= 2
        assert tally.faults == []


def test_faults_are_seen(world):
    """A command whose output nobody checks, and one that fails, are no good runs."""
    from tests.harness.world import fault_of

    (world.case / "scores.csv").mkdir(exist_ok=True)
    ended = world.run(kills.commands()["recommend"].arguments)
    assert ended.status == 1 and fault_of(ended) is None
    assert fault_of(operations.Ended(0, "Traceback (most recent call last):\nOSError")) is not None
    assert fault_of(operations.Ended(1, "error: a\nerror: b")) is not None
    assert fault_of(operations.Ended(1, "error: .x.0123.partial: no such file")) is not None
    assert fault_of(operations.Ended(3, "")) is not None
