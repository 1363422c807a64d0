"""The operators chosen per column against plain references, whatever the partitioning."""

import itertools
import statistics

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from core.errors import UserError
from core.merlin import Dataset, Tags, Workflow
from workflows.ops import (
    Bucketize,
    CountEncoding,
    FillMedian,
    HashBucket,
    HashedCross,
    JointValues,
    LogSquared,
    NormalizeMinMax,
    RowFold,
    SplitVector,
    TargetEncoding,
)
from workflows.state import load_state, save_state, stat_operators

FOLDS, SMOOTHING = 3, 2.0
rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 4)),
        st.sampled_from(["x", "y", "ß", None]),
        st.integers(0, 1),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=40,
)


def frame_of(found):
    columns = list(zip(*found, strict=True))
    return pd.DataFrame(
        {
            "a": pd.array(columns[0], "Int64").to_numpy("float64", na_value=np.nan),
            "b": pd.Series(columns[1], dtype=object),
            "label": np.array(columns[2], np.int8),
            "training": np.array(columns[3], np.int8),
            "id": np.arange(len(found)),
        }
    )


def fit(graph, frame, cuts=()):
    bounds = [0, *sorted(min(cut, len(frame)) for cut in cuts), len(frame)]
    parts = [frame.iloc[a:b] for a, b in itertools.pairwise(bounds)]
    ddf = dd.from_map(lambda i: parts[i], range(len(parts)), meta=frame.iloc[:0])
    workflow = Workflow(graph)
    workflow.fit(Dataset(ddf, cpu=True))
    return workflow


def target_graph(log_odds=False):
    operator = TargetEncoding(("a", "b"), "label", "training", FOLDS, SMOOTHING, log_odds)
    return ["a", "b", "id", "training", "label"] >> operator


def folds_of(frame):
    workflow = Workflow(["a", "b", "id", "training"] >> RowFold(FOLDS, "training"))
    workflow.fit(Dataset(dd.from_pandas(frame, npartitions=1), cpu=True))
    return workflow.transform(frame)["fold"].tolist()


def reference_encoding(frame, column, folds):
    """The definition, a row at a time."""
    labels = frame["label"].tolist()
    values = [None if pd.isna(v) else v for v in frame[column]]
    encoded = []
    for value, fold in zip(values, folds, strict=True):
        others = [i for i, f in enumerate(folds) if f >= 0 and (fold < 0 or f != fold)]
        mean = sum(labels[i] for i in others) / len(others) if others else 0.0
        same = [labels[i] for i in others if values[i] == value]
        encoded.append((sum(same) + SMOOTHING * mean) / (len(same) + SMOOTHING))
    return encoded


@settings(max_examples=20, deadline=None)
@given(found=rows, cuts=st.lists(st.integers(0, 40), max_size=4), seed=st.integers(0, 99))
def test_target_encoding_follows_the_definition_however_partitioned(found, cuts, seed):
    frame = frame_of(found)
    folds = folds_of(frame)
    shuffled = frame.sample(frac=1, random_state=seed)
    encoded = fit(target_graph(), shuffled, cuts).transform(frame)
    for column in ("a", "b"):
        expected = reference_encoding(frame, column, folds)
        np.testing.assert_allclose(encoded[f"TE_{column}_label"], expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(found=rows, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_the_encoding_of_columns_together_is_that_of_their_pairs(found, cuts):
    frame = frame_of(found)
    joint = JointValues((("a", "b"), ("b", "a")))
    encoder = TargetEncoding((), "label", "training", FOLDS, SMOOTHING, joint=joint)
    encoded = fit(["a", "b", "id", "training", "label"] >> encoder, frame, cuts).transform(frame)
    pairs = [f"{a} {b}" for a, b in zip(frame["a"], frame["b"], strict=True)]
    expected = reference_encoding(frame.assign(pair=pairs), "pair", folds_of(frame))
    hashed = joint.frame(frame)
    for column in ("a_X_b", "b_X_a"):
        assert hashed[column].nunique() == len(set(pairs))
        np.testing.assert_allclose(encoded[f"TE_{column}_label"], expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(found=rows, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_the_counts_beside_an_encoding_are_of_the_rows_it_was_taken_over(found, cuts):
    frame = frame_of(found)
    encoder = TargetEncoding(("a",), "label", "training", FOLDS, SMOOTHING, counts=True)
    encoded = fit(["a", "b", "id", "training", "label"] >> encoder, frame, cuts).transform(frame)
    values, folds = [str(a) for a in frame["a"]], folds_of(frame)
    others = [
        [i for i, f in enumerate(folds) if f >= 0 and (fold < 0 or f != fold)] for fold in folds
    ]
    logs = np.array(
        [
            np.log1p(
                sum(values[i] == value for i in rest) * (1 if fold < 0 else FOLDS / (FOLDS - 1))
            )
            for value, rest, fold in zip(values, others, folds, strict=True)
        ]
    )
    training = logs[np.array(folds) >= 0]
    mean, deviation = (training.mean(), training.std()) if len(training) else (0, 1)
    deviation = deviation if deviation > 0.1 else 1
    np.testing.assert_allclose(
        encoded["TE_a_label_count"], (logs - mean) / deviation, rtol=1e-4, atol=1e-5
    )


def test_the_counts_of_a_column_of_one_value_are_near_nought_in_all_rows():
    frame = frame_of([(1, "x", i % 2, i < 2000) for i in range(3000)])
    encoder = TargetEncoding(("a",), "label", "training", FOLDS, SMOOTHING, counts=True)
    encoded = fit(["a", "b", "id", "training", "label"] >> encoder, frame).transform(frame)
    assert encoded["TE_a_label_count"].abs().max() < 0.1


def test_a_boundary_is_met_in_the_columns_own_precision():
    frame = pd.DataFrame({"price": np.array([0.1, 0.69, 0.7, 19.99, np.nan], np.float32)})
    found = fit(["price"] >> Bucketize({"price": (0.1, 0.7, 19.99)}), frame).transform(frame)
    assert found["price"].tolist() == [4, 4, 5, 6, 1]


def test_counts_take_part_in_a_joint_value_by_their_level():
    frame = pd.DataFrame({"n": [2.0, 950, 1000, 1020, 1021, np.nan], "c": [1.0] * 6})
    found = JointValues((("n", "c"),), counts=("n",)).frame(frame)["n_X_c"]
    assert found[1] == found[2] == found[3]
    assert found.nunique() == 4
    assert JointValues((("n", "c"),)).frame(frame)["n_X_c"].nunique() == 6


@settings(max_examples=20, deadline=None)
@given(found=rows, row=st.integers(0, 39))
def test_a_training_rows_own_target_is_not_in_its_encoding(found, row):
    frame = frame_of(found)
    row %= len(frame)
    frame.loc[row, "training"] = 1
    other = frame.copy()
    other.loc[row, "label"] = 1 - other.loc[row, "label"]
    first, second = (fit(target_graph(), f).transform(frame).iloc[row] for f in (frame, other))
    assert first.tolist() == second.tolist()


def test_rows_that_do_not_train_do_not_change_the_encoding():
    frame = frame_of([(i % 4, "x", i % 2, 1) for i in range(30)] + [(1, "x", 1, 0)] * 20)
    assert (
        fit(target_graph(), frame).transform(frame).iloc[:30].to_numpy().tolist()
        == fit(target_graph(), frame.iloc[:30]).transform(frame).iloc[:30].to_numpy().tolist()
    )


def test_folds_are_a_function_of_the_row_and_about_even():
    frame = frame_of([(i % 7, "x", 0, 1) for i in range(3000)])
    folds = np.array(folds_of(frame))
    assert folds_of(frame.iloc[1000:]) == folds[1000:].tolist()
    assert np.bincount(folds).min() > 900


@settings(max_examples=20, deadline=None)
@given(found=rows, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_counts_medians_and_ranges(found, cuts):
    frame = frame_of(found)
    known = [v for v in frame["a"] if not np.isnan(v)]
    counts = fit(["a", "b"] >> CountEncoding(), frame, cuts).transform(frame)
    expected = [np.log1p(known.count(v)) for v in frame["a"]]
    np.testing.assert_allclose(counts["a_count"], expected, atol=1e-6)
    texts = [t for t in frame["b"] if t is not None]
    np.testing.assert_allclose(counts["b_count"], [np.log1p(texts.count(t)) for t in frame["b"]])
    filled = fit(["a"] >> FillMedian(), frame, cuts).transform(frame)["a"]
    median = statistics.median(known) if known else 0.0
    assert filled.tolist() == [median if np.isnan(v) else v for v in frame["a"]]
    low, high = (min(known), max(known)) if known else (0, 0)
    scaled = fit(["a"] >> NormalizeMinMax(), frame, cuts).transform(frame)["a"]
    expected = (frame["a"] - low) / (high - low) if high > low else frame["a"] * 0
    np.testing.assert_allclose(scaled, expected, atol=1e-6)


def test_unseen_values_count_nothing_and_get_the_mean():
    frame = frame_of([(1, "x", 1, 1), (1, "y", 0, 1), (2, "x", 1, 1), (None, "x", 1, 1)])
    unseen = frame_of([(9, "new", 0, 0)])
    assert fit(["a", "b"] >> CountEncoding(), frame).transform(unseen).to_numpy().tolist() == [
        [0, 0]
    ]
    assert fit(target_graph(), frame).transform(unseen)["TE_a_label"].tolist() == [0.75]


def test_log_odds_of_the_encoding_are_0_where_nothing_is_known():
    frame = frame_of([(i % 3, "xy"[i % 2], (i * i) % 5 < 2, 1) for i in range(40)])
    frame = pd.concat([frame, frame_of([(9, "new", 0, 0)])], ignore_index=True)
    means = fit(target_graph(), frame).transform(frame).to_numpy().astype(float)
    found = fit(target_graph(log_odds=True), frame).transform(frame)
    assert found.iloc[-1].tolist() == [0, 0]
    folds = np.array(folds_of(frame))
    labels = frame["label"].to_numpy()
    of_others = [labels[(folds >= 0) & ((fold < 0) | (folds != fold))].mean() for fold in folds]
    expected = logit(means) - logit(np.array(of_others))[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    certain = frame_of([(0, "x", 0, 1) for _ in range(30)])
    assert np.isfinite(fit(target_graph(log_odds=True), certain).transform(certain)).all(None)


def test_levels_tell_small_numbers_apart_and_large_ones_by_magnitude():
    frame = pd.DataFrame({"n": [-2.0, 0.0, 2.0, 3.0, 4.0, 5.0, 950.0, 1020.0, 1021.0, np.nan]})
    found = fit(["n"] >> LogSquared(), frame).transform(frame)["n_level"]
    expected = [-2, 0, 2, 3, 3, 4, 49, 49, 50, np.nan]
    np.testing.assert_array_equal(found, expected)


def test_bucketize_marks_missing_values_and_states_its_domain():
    frame = pd.DataFrame({"n": [-1.0, 0.0, 4.9, 5.0, np.nan]})
    workflow = fit(["n"] >> Bucketize({"n": (0.0, 5.0)}), frame)
    assert workflow.transform(frame)["n"].tolist() == [3, 4, 4, 5, 1]
    column = workflow.output_schema["n"]
    assert column.int_domain.max == 5 and Tags.CATEGORICAL in column.tags


def mixed(n):
    """SplitMix64's finaliser in plain integers."""
    n = (n ^ (n >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    n = (n ^ (n >> 27)) * 0x94D049BB133111EB % 2**64
    return n ^ (n >> 31)


def test_hashes_are_the_same_in_every_release_type_and_partition():
    plain = pd.DataFrame({"n": [1, 2, 2**40, -7]})
    nulls = pd.DataFrame({"n": pd.array([1, 2, 2**40, -7, None], "int64[pyarrow]")})
    floats = pd.DataFrame({"n": [1.0, 2.0, 2.0**40, -7.0, np.nan]})
    workflow = fit(["n"] >> HashBucket(1000), plain)
    expected = [3 + mixed(n % 2**64) % 1000 for n in (1, 2, 2**40, -7)]
    assert workflow.transform(plain)["n"].tolist() == expected
    for frame in (nulls, floats):
        assert workflow.transform(frame)["n"].tolist() == [*expected, 1]
    assert workflow.output_schema["n"].int_domain.max == 1002
    text = pd.DataFrame({"t": ["a", "ß", None]})
    assert fit(["t"] >> HashBucket(1000), text).transform(text)["t"].tolist()[2] == 1


def test_crosses_keep_order_and_equal_pairs_apart():
    frame = pd.DataFrame({"p": [1, 2, 3, 4, 1, 2], "q": [1, 2, 3, 4, 2, 1]})
    workflow = fit(["p", "q"] >> HashedCross(1_000_000), frame)
    codes = workflow.transform(frame)["p_X_q"]
    assert codes.nunique() == 6 and codes.min() >= 3
    column = workflow.output_schema["p_X_q"]
    assert column.int_domain.max == 1_000_002 and Tags.CATEGORICAL in column.tags
    gone = pd.DataFrame({"p": [np.nan, np.nan], "q": [np.nan, 5.0]})
    assert (workflow.transform(gone)["p_X_q"] == 1).tolist() == [True, False]


def test_vectors_become_columns():
    frame = pd.DataFrame({"v": [np.array([1.0, 2.0]), None, np.array([3.0, 4.0])]})
    workflow = Workflow(["v"] >> SplitVector({"v": 2}))
    workflow.fit_schema(Dataset(frame.iloc[[0, 2]].rename(columns={})).schema)
    found = workflow.transform(frame)
    assert found["v_0"].tolist() == [1, 0, 3] and found["v_1"].tolist() == [2, 0, 4]
    with pytest.raises(UserError, match=r"vectors\.v: set to 3 numbers, .* vectors of 2"):
        SplitVector({"v": 3})._stacked("v", frame["v"])


def everything():
    return (
        target_graph()
        + (["a", "b"] >> CountEncoding())
        + (["a"] >> FillMedian())
        + (["id"] >> NormalizeMinMax())
    )


def test_state_goes_to_disk_and_back_and_grows_to_that_of_all_rows(tmp_path):
    rng = np.random.default_rng(0)
    frame = frame_of(
        [(int(a), "xyz"[b], int(c), 1) for a, b, c in rng.integers(0, (9, 3, 2), (200, 3))]
    )
    whole, first = fit(everything(), frame, [50]), fit(everything(), frame.iloc[:120])
    later = fit(everything(), frame.iloc[120:])
    save_state(first, tmp_path / "first")
    loaded = load_state(Workflow(everything()), tmp_path / "first", first.input_schema)
    pd.testing.assert_frame_equal(loaded.transform(frame), first.transform(frame))
    for op, more in zip(stat_operators(loaded), stat_operators(later), strict=True):
        op.absorb(more)
    pd.testing.assert_frame_equal(loaded.transform(frame), whole.transform(frame))
    save_state(loaded, tmp_path / "grown")
    save_state(whole, tmp_path / "whole")
    files = sorted(
        p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.parquet")
    )
    for file in files:
        assert (tmp_path / "grown" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert len(stat_operators(whole)) == 4
