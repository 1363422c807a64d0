"""Some of the places that outputs are pointed to; ``python -m tests.harness.outputs`` has all."""

import pytest

from tests.harness import operations, outputs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(operations.why_not() is not None, reason=str(operations.why_not())),
]


@pytest.fixture(scope="module")
def playground(world):
    return outputs.Playground(world)


@pytest.mark.parametrize("option", outputs.options(), ids=lambda option: option.name)
def test_nothing_else_is_harmed(playground, option):
    tally = outputs.try_option(playground, option, every=16, first=3)
    assert tally.tries >= 4
    assert tally.ended["otherwise"] == 0
    assert tally.faults == []


def test_a_change_is_seen():
    before = {"a": "/", "a/x": "1", "b": "2"}
    assert outputs._changes(before, before, "") == []
    assert outputs._changes(before, {"a": "/", "b": "3"}, "") == ["a/x is gone", "b was changed"]
    assert outputs._changes(before, {"a": "/", "b": "2"}, "a") == []
    assert outputs._changes(before, {**before, "c/d": "1"}, "", ["e"]) == ["c/d was made"]
