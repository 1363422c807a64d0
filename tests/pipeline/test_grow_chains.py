"""Growth of any workflow: what is fitted on another fit's output goes on from that of its time."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from core.artifacts import read_json
from core.cluster import ClusterSettings
from pipeline.grow import grow
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.splits import SplitSettings
from tests.pipeline import grown as compare
from tests.pipeline.grown import take_shards
from tests.pipeline.test_preprocess_ranking import write_raw
from workflows.ranking import CATEGORICAL, DENSE, RankingWorkflowSettings, dense_settings

ONE = ClusterSettings(workers=1)
OLD, ALL = 480, 720
"""Rows that train of the first two days, and of all three, with the split below."""
SPLIT = SplitSettings(test=0.25, valid=0.2)
RANDOM_WORKFLOWS = 3
"""Each has 13 chains of continuous operators, drawn for each column."""


def random_workflow(seed):
    """Settings in which every operator may come before or after any other."""
    rng = np.random.default_rng(seed)

    def some(names, most):
        return tuple(rng.permutation(names)[: rng.integers(0, most + 1)].tolist())

    columns = {}
    for name in DENSE:
        columns[name] = {
            "missing": ["median", 0.0, 3.0][rng.integers(0, 3)],
            "transform": ["log", "none"][rng.integers(0, 2)],
            "scale": ["standard", "minmax", "none"][rng.integers(0, 3)],
            "clip_min": 0.0,
        }
        if rng.random() < 0.3:
            columns[name]["clip_max"] = float(rng.integers(10, 60))
        if rng.random() < 0.3:
            columns[name]["bucketize"] = (0.0, 5.0, 20.0)
    return RankingWorkflowSettings(
        freq_threshold=int(rng.integers(1, 5)),
        num_buckets=int(rng.integers(1, 4)),
        missing_indicators=bool(rng.integers(0, 2)),
        dense_levels=bool(rng.integers(0, 2)),
        columns=columns,
        shared_vocabularies=(("C2", "C3"),) if rng.random() < 0.5 else (),
        hashing={"C4": 100} if rng.random() < 0.5 else {},
        crosses=({"columns": ("C5", "C6"), "buckets": 500},) if rng.random() < 0.5 else (),
        target_encoding=some(CATEGORICAL[7:12], 3),
        target_crosses=(("C8", "I4"),) if rng.random() < 0.5 else (),
        target_counts=bool(rng.integers(0, 2)),
        counts=some(CATEGORICAL[7:12], 2),
    )


def treated(values, how, middle):
    """Values of a dense column before they are scaled."""
    values = values.fillna(middle if how.missing == "median" else how.missing).to_numpy(float)
    values = np.clip(values, how.clip_min, how.clip_max)
    return np.log1p(values) if how.transform == "log" else values


def expected_column(log, name, settings):
    """A column of the held-out rows: the median is that of all training rows; what is scaled
    counts each row as it was filled by the fit that it trained in."""
    how = dense_settings(settings, name)
    train = log[name].iloc[:ALL]
    first, whole = train.iloc[:OLD].median(), train.median()
    seen = [treated(train.iloc[:OLD], how, first), treated(train.iloc[OLD:], how, whole)]
    seen, held = np.concatenate(seen), treated(log[name].iloc[ALL:], how, whole)
    if how.scale == "standard":
        return (held - seen.mean()) / (seen.std(ddof=1) or 1.0)
    if how.scale == "minmax":
        width = seen.max() - seen.min()
        return (held - seen.min()) / width if width else held * 0
    return held


@pytest.mark.parametrize("seed", range(RANDOM_WORKFLOWS))
def test_every_chain_of_operators_grows(seed, tmp_path):
    raw = write_raw(tmp_path / "all", days=3, seed=seed)
    workflow = random_workflow(seed)
    settings = RankingPreprocessSettings(split=SPLIT, workflow=workflow, rows_per_part=170)
    features = tmp_path / "features"
    preprocess_ranking(take_shards(raw, tmp_path / "old", [0, 1]), features, settings, ONE)
    first = compare.vocabularies(features)
    grow("ranking", take_shards(raw, tmp_path / "new", [2]), features, settings, ONE)
    preprocess_ranking(raw, tmp_path / "at_once", settings, ONE)

    log = pd.concat([pq.read_table(path).to_pandas() for path in sorted(raw.glob("*.parquet"))])
    groups = workflow.shared_vocabularies
    names = [(features, "valid"), (features, "test")]
    held = pd.concat([compare.decoded(*of, groups).to_pandas() for of in names])
    names = [(tmp_path / "at_once", "valid"), (tmp_path / "at_once", "test")]
    others = pd.concat([compare.decoded(*of, groups).to_pandas() for of in names])
    assert list(held) == list(others)
    for name in held:
        if name in DENSE:
            expected = expected_column(log, name, workflow)
            np.testing.assert_allclose(held[name], expected, atol=1e-4, err_msg=name)
        elif held[name].dtype.kind == "f":
            np.testing.assert_allclose(held[name], others[name], atol=1e-5, err_msg=name)
        else:
            assert held[name].tolist() == others[name].tolist(), name
    for name, values in compare.vocabularies(features).items():
        assert values[: len(first[name])] == first[name]
    assert len(read_json(features / "manifest.json")["fits"]) == 2
