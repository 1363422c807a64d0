"""Categorify: codes against a plain reference, whatever the partitioning."""

import itertools
from collections import Counter

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.merlin import Dataset, Workflow
from workflows.ops import Categorify
from workflows.ops.categorify import FIRST_VALUE, NULL, OOV
from workflows.ops.hash_index import HashIndex, value_counts


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
    index = HashIndex(expected)
    np.testing.assert_array_equal(
        expected[index.positions(values)],
        values,
    )
    assert (index.positions(np.array([2**62 + 1, -(2**62) - 5])) == -1).all()
