"""Categorify: codes against a plain reference, whatever the partitioning."""

import itertools
from collections import Counter

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.merlin import Dataset, Workflow, ops
from workflows.ops import Categorify
from workflows.ops.categorify import FIRST_VALUE
from workflows.ops.codes import NULL, OOV
from workflows.ops.hash_counts import sum_counts, value_counts
from workflows.ops.hash_index import HashIndex


def reference_codes(training, values, freq_threshold=1, max_size=0):
    """The definition, a row at a time."""
    counts = Counter(value for value in training if value is not None)
    kept = sorted((v for v in counts if counts[v] >= freq_threshold), key=lambda v: (-counts[v], v))
    if max_size:
        kept = kept[: max(0, max_size - FIRST_VALUE)]
    codes = {value: FIRST_VALUE + rank for rank, value in enumerate(kept)}
    return [NULL if value is None else codes.get(value, OOV) for value in values]


def frame_of(values):
    if any(isinstance(value, str) for value in values):
        return pd.DataFrame({"x": pd.Series(values, dtype=object)})
    return pd.DataFrame({"x": pd.Series(values, dtype="float64" if None in values else "int64")})


def fitted(values, cuts, **options):
    bounds = [0, *sorted(cuts), len(values)]
    whole = frame_of(values)
    parts = [whole.iloc[a:b] for a, b in itertools.pairwise(bounds)]
    ddf = dd.from_map(lambda i: parts[i], range(len(parts)), meta=whole.iloc[:0])
    workflow = Workflow(["x"] >> Categorify(**options))
    workflow.fit(Dataset(ddf, cpu=True))
    return workflow


integers = st.one_of(st.none(), st.integers(-3, 12), st.sampled_from([2**31, 2**40, -(2**40)]))
strings = st.one_of(st.none(), st.sampled_from(["a", "b", "", "emoji 🦊", "comma,", "ß", "a "]))


@settings(max_examples=40, deadline=None)
@given(
    values=st.one_of(
        st.lists(integers, min_size=1, max_size=60), st.lists(strings, min_size=1, max_size=60)
    ).filter(lambda found: any(value is not None for value in found)),
    cuts=st.lists(st.integers(0, 60), max_size=9),
    freq_threshold=st.integers(1, 4),
    max_size=st.sampled_from([0, 3, 4, 6]),
)
def test_codes_follow_the_definition_however_partitioned(values, cuts, freq_threshold, max_size):
    cuts = [min(cut, len(values)) for cut in cuts]
    workflow = fitted(values, cuts, freq_threshold=freq_threshold, max_size=max_size)
    found = workflow.transform(frame_of(values))["x"]
    assert found.dtype == np.int32
    assert found.tolist() == reference_codes(values, values, freq_threshold, max_size)


def test_unseen_and_null_values_have_their_own_codes():
    workflow = fitted([7, 7, 9], [1])
    assert workflow.transform(frame_of([9, None, 7, 8]))["x"].tolist() == [4, NULL, 3, OOV]


def test_a_partition_of_nulls_and_an_empty_one_are_no_obstacle():
    workflow = fitted([None, None, 5, 5, 6], [2, 2])
    assert workflow.transform(frame_of([5, 6, None]))["x"].tolist() == [3, 4, NULL]


def test_a_column_without_any_value_gets_no_code():
    workflow = fitted([None, None], [1])
    assert workflow.transform(frame_of([None, 4]))["x"].tolist() == [NULL, OOV]
    assert workflow.output_schema["x"].int_domain.max == FIRST_VALUE - 1


def test_schema_states_the_cardinality():
    workflow = fitted([1, 2, 2, 3], [])
    assert workflow.output_schema["x"].int_domain.max == 3 + FIRST_VALUE - 1


GOLDEN_BUCKETS = [791, 732, 69, 527, 205, 738, 243, 712]
LETTERS = ["a", "a", "a", "b", "b", "c", None]
NUMBERS = [5, 5, 5, 2**40, 2**40, -7, None]


@pytest.mark.parametrize("training", [LETTERS, NUMBERS])
def test_unknown_values_are_spread_over_buckets(training):
    fresh = [f"new {i}" for i in range(400)] if training is LETTERS else list(range(10, 410))
    workflow = fitted(training, [3], num_buckets=4, freq_threshold=2)
    codes = workflow.transform(frame_of([training[0], training[3], None, *fresh]))["x"]
    assert codes[:3].tolist() == [6, 7, NULL]
    assert set(codes[3:]) == {2, 3, 4, 5}
    assert np.bincount(codes[3:])[2:].min() > 60
    again = workflow.transform(frame_of([fresh[7], fresh[3]]))["x"].tolist()
    assert again == [codes[3 + 7], codes[3 + 3]]
    assert workflow.output_schema["x"].int_domain.max == 7


def test_buckets_are_the_same_in_every_release():
    numbers = fitted(NUMBERS, [], num_buckets=1000, max_size=1002)
    found = numbers.transform(frame_of([1, 2, -1, 2**62]))["x"].tolist()
    text = fitted(LETTERS, [], num_buckets=1000, max_size=1002)
    found += text.transform(frame_of(["", "a", "ß", "emoji 🦊"]))["x"].tolist()
    assert found == GOLDEN_BUCKETS


def two_columns(operator, **columns):
    workflow = Workflow(list(columns) >> operator)
    frame = pd.DataFrame({name: frame_of(values)["x"] for name, values in columns.items()})
    workflow.fit(Dataset(dd.from_pandas(frame, npartitions=2), cpu=True))
    return workflow, workflow.transform(frame)


def test_each_column_may_have_its_own_numbers():
    operator = Categorify({"a": 2}, {"b": 5}, {"b": 2})
    _, codes = two_columns(operator, a=[1, 1, 2, 3], b=[1, 1, 2, 3])
    assert codes["a"].tolist() == [3, 3, OOV, OOV]
    assert codes["b"].tolist()[:2] == [4, 4]
    assert set(codes["b"].tolist()[2:]) <= {2, 3}


def test_columns_may_share_a_vocabulary():
    operator = Categorify(freq_threshold=2, shared=(("a", "b"),))
    workflow, codes = two_columns(operator, a=[1, 2, 9, None], b=[2, 2, 9, 4])
    assert codes["a"].tolist() == [OOV, 3, 4, NULL]
    assert codes["b"].tolist() == [3, 3, 4, OOV]
    domains = [workflow.output_schema[name].int_domain for name in ("a", "b")]
    assert [domain.max for domain in domains] == [4, 4]
    assert [domain.name for domain in domains] == ["a_b", "a_b"]
    with pytest.raises(ValueError, match="share a vocabulary"):
        Categorify(freq_threshold={"a": 2}, shared=(("a", "b"),))


@settings(max_examples=20, deadline=None)
@given(
    first=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    second=st.lists(st.integers(0, 14), min_size=1, max_size=30),
    freq_threshold=st.integers(1, 3),
    max_size=st.sampled_from([0, 5, 8]),
    as_text=st.booleans(),
)
def test_absorbing_moves_no_code_and_adds_up_counts(
    first, second, freq_threshold, max_size, as_text
):
    if as_text:
        first, second = [f"v{i:02d}" for i in first], [f"v{i:02d}" for i in second]
    options = {"freq_threshold": freq_threshold, "max_size": max_size}
    operators = [fitted(v, [], **options).output_node.op for v in (first, second, first + second)]
    grown, later, at_once = operators
    before = grown.vocabulary["x"].to_pylist()
    grown.absorb(later)
    counts = [dict(zip(*map(list, op.counts["x"]), strict=True)) for op in (grown, at_once)]
    assert counts[0] == counts[1]
    after = grown.vocabulary["x"].to_pylist()
    assert after[: len(before)] == before
    total = Counter(first + second)
    due = sorted((v for v in total if total[v] >= freq_threshold), key=lambda v: (-total[v], v))
    due = [v for v in due if v not in before]
    room = max(0, max_size - FIRST_VALUE - len(before)) if max_size else len(due)
    assert after[len(before) :] == due[:room]


def transform(operator, frame):
    return operator.transform(ops.ColumnSelector(["x"]), frame)["x"].tolist()


def test_arrow_columns_are_taken_as_they_are():
    workflow = fitted(NUMBERS, [2])
    column = pd.Series(pd.arrays.ArrowExtensionArray(pa.array([None, *NUMBERS])[1:]))
    expected = workflow.transform(frame_of(NUMBERS))["x"].tolist()
    assert workflow.transform(pd.DataFrame({"x": column}))["x"].tolist() == expected


@pytest.mark.parametrize("size", [1, 1000, 50_000])
def test_hash_index_and_counts_agree_with_numpy(size):
    rng = np.random.default_rng(size)
    values = rng.integers(-(2**62), 2**62, size)
    values = np.concatenate([values, values[: size // 2]])
    distinct, counts = value_counts(values)
    expected, expected_counts = np.unique(values, return_counts=True)
    order = np.argsort(distinct)
    np.testing.assert_array_equal(distinct[order], expected)
    np.testing.assert_array_equal(counts[order], expected_counts)
    summed, sums = sum_counts([(distinct, counts), (distinct, counts)])
    assert dict(zip(summed, sums, strict=True)) == dict(zip(distinct, 2 * counts, strict=True))
    index = HashIndex(expected)
    np.testing.assert_array_equal(
        expected[index.positions(values)],
        values,
    )
    assert (index.positions(np.array([2**62 + 1, -(2**62) - 5])) == -1).all()
