"""Every kind of fault in a log; ``python -m tests.harness.altered`` alters every byte as well."""

from tests.harness import altered


def test_every_line_is_accounted_for():
    counts = altered.try_all(thorough=False)
    assert {count.kind: count.faults for count in counts if count.faults} == {}
    for count in counts:
        assert count.lines == count.written + count.quarantined + count.refused, count.kind
    assert sum(count.inputs for count in counts) > 500
    by_kind = {count.kind: count for count in counts}
    for harmless in ("Windows line ends", "a byte-order mark", "a column of nulls", "a full disk"):
        assert by_kind[harmless].written == by_kind[harmless].lines
    for bad in ("a header row", "a line of 10 MB"):
        assert (by_kind[bad].written, by_kind[bad].quarantined) == (40, 1)
