"""The smaller operators against plain computations."""

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

from core.merlin import Dataset, Workflow, ops
from workflows.ops import Normalize, SessionClock, SessionLists


@pytest.mark.parametrize("parts", [1, 3, 17])
def test_normalize_matches_numpy_far_from_zero(parts):
    values = np.random.default_rng(0).normal(1e6, 3.0, 5000)
    frame = pd.DataFrame({"x": values})
    operator = Normalize()
    workflow = Workflow(["x"] >> operator)
    workflow.fit(Dataset(dd.from_pandas(frame, npartitions=parts), cpu=True))
    assert operator.means["x"] == pytest.approx(values.mean(), rel=1e-12)
    assert operator.stds["x"] == pytest.approx(values.std(ddof=1), rel=1e-9)
    found = workflow.transform(frame)["x"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (values - values.mean()) / values.std(ddof=1), atol=1e-5)


def test_normalize_of_a_constant_and_of_missing_values():
    frame = pd.DataFrame({"c": [2.0, 2.0, 2.0], "m": [1.0, np.nan, 3.0]})
    operator = Normalize()
    workflow = Workflow(["c", "m"] >> operator)
    workflow.fit(Dataset(dd.from_pandas(frame, npartitions=2), cpu=True))
    assert operator.moments["m"][0] == 2
    assert workflow.transform(frame)["c"].tolist() == [0.0, 0.0, 0.0]


def events():
    times = pd.to_datetime(
        ["2020-01-01 00:00:00", "2020-01-01 06:00:00", "2020-01-01 18:00:00"] * 2,
        format="%Y-%m-%d %H:%M:%S",
    ).astype("datetime64[ms]")
    return pd.DataFrame(
        {"session_id": [5, 5, 5, -9, -9, -9], "timestamp": times, "item_id": [1, 2, 1, 3, 4, 5]}
    )


def test_session_clock_restarts_with_each_session():
    found = Workflow(["session_id", "timestamp"] >> SessionClock())
    found.fit(Dataset(dd.from_pandas(events(), npartitions=1), cpu=True))
    clock = found.transform(events())
    np.testing.assert_allclose(clock["hour_sin"], [0, 1, -1] * 2, atol=1e-6)
    np.testing.assert_allclose(clock["hour_cos"], [1, 0, 0] * 2, atol=1e-6)
    gaps = np.log1p([0, 6 * 3600, 12 * 3600] * 2)
    np.testing.assert_allclose(clock["gap"], gaps, rtol=1e-6)


def test_session_lists_equal_nvtabulars_groupby():
    frame = events().sort_values(["session_id", "timestamp"], ignore_index=True)
    columns = ["session_id", "timestamp", "item_id"]
    ours = Workflow(columns >> SessionLists())
    ours.fit(Dataset(dd.from_pandas(frame, npartitions=1), cpu=True))
    theirs = ops.Groupby(
        groupby_cols=["session_id"],
        sort_cols=["timestamp"],
        aggs={"item_id": "list", "timestamp": "first"},
    )
    stock = Workflow(columns >> theirs)
    stock.fit(Dataset(dd.from_pandas(frame, npartitions=1), cpu=True))
    a, b = ours.transform(frame), stock.transform(frame)
    assert a["session_id"].tolist() == b["session_id"].tolist()
    assert [list(x) for x in a["item_id"]] == [list(x) for x in b["item_id_list"]]
    assert a["start"].tolist() == b["timestamp_first"].tolist()
    assert ours.output_schema["item_id"].is_ragged
