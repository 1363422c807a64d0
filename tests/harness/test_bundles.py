"""A sample of what ``python -m tests.harness.bundles`` alters."""

from tests.harness import bundles


def test_what_is_altered_is_refused_or_changes_nothing():
    counts = bundles.try_all(bundles.Plan(part=0.002, seed=1))
    assert {(c.target, c.kind): c.faults for c in counts if c.faults} == {}
    assert sum(count.tried for count in counts) > 50
    assert {count.target for count in counts} >= {"ranking bundle", "model folder", "checkpoint"}
    assert sum(count.refused for count in counts) > sum(count.same for count in counts)
