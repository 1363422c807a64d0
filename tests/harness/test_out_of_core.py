"""A small run of the out-of-core harness."""

from tests.harness import out_of_core


def test_tables_larger_than_the_memory_limit_train_to_the_same_loss(tmp_path):
    outcomes = out_of_core.run(tmp_path, tables_mb=320, headroom_mb=220, rows=1000)
    assert out_of_core.as_it_should(outcomes), outcomes
