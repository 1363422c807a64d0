"""Fitting part by part against NVTabular's own fit, and frames passed on uncopied."""

from types import SimpleNamespace

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

from core import cluster as dask_cluster
from core.cluster import ClusterSettings
from core.merlin import ColumnSchema, Dataset, Schema, Workflow, ops
from pipeline import fitting
from workflows.executor import transform
from workflows.ops import Categorify, Normalize
from workflows.ops.fill_clip import Clip, FillMissing
from workflows.state import stat_operators

ROWS, PARTS = 500, 11
SCHEMA = Schema([ColumnSchema("c", dtype=np.int64), ColumnSchema("x", dtype=np.float64)])


def read(number, split):
    rng = np.random.default_rng(number)
    x = np.where(rng.random(ROWS) < 0.2, np.nan, rng.normal(3, 2, ROWS))
    return pd.DataFrame({"c": rng.zipf(1.4, ROWS) % 90, "x": x})


def dense(last):
    return ["x"] >> FillMissing(fill_val=1) >> Clip(min_value=0, max_value=6) >> ops.LogOp() >> last


def test_parts_fit_as_the_whole_does():
    graph = ["c"] >> Categorify(2)
    by_parts, whole = (Workflow(graph + dense(Normalize())) for _ in range(2))
    with dask_cluster.start(ClusterSettings(workers=2)) as client:
        fitting.fit(client, by_parts, list(range(PARTS)), read, "train", SCHEMA)
    frame = dd.from_map(read, range(PARTS), split="train", meta=read(0, "").iloc[:0])
    whole.fit(Dataset(frame, schema=SCHEMA, cpu=True))
    for a, b in zip(stat_operators(by_parts), stat_operators(whole), strict=True):
        if isinstance(a, Categorify):
            assert a.vocabulary["c"].equals(b.vocabulary["c"])
        else:
            assert a.moments["x"] == pytest.approx(b.moments["x"], rel=1e-12)
    assert by_parts.output_schema == whole.output_schema
    pd.testing.assert_frame_equal(transform(by_parts, read(3, "")), whole.transform(read(3, "")))


def test_an_operator_of_nvtabulars_own_is_fitted_by_its_graph():
    workflow = Workflow(dense(ops.NormalizeMinMax()))
    with dask_cluster.start(ClusterSettings(workers=1)) as client:
        fitting.fit(client, workflow, list(range(3)), read, "train", SCHEMA)
    found = transform(workflow, pd.concat([read(n, "") for n in range(3)], ignore_index=True))["x"]
    assert (found.min(), found.max()) == (0, 1)


def test_an_operator_after_a_fitted_one_is_fitted_on_its_output():
    workflow = Workflow(["c"] >> Categorify() >> Normalize())
    with dask_cluster.start(ClusterSettings(workers=1)) as client:
        fitting.fit(client, workflow, list(range(3)), read, "train", SCHEMA)
    found = transform(workflow, pd.concat([read(n, "") for n in range(3)], ignore_index=True))["c"]
    assert found.mean() == pytest.approx(0, abs=1e-5)
    assert found.std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fill_and_clip_equal_nvtabulars(dtype):
    frame = pd.DataFrame({"x": pd.Series([1, None, -3, 9], dtype=dtype)})
    for mine, theirs in (
        (FillMissing(fill_val=2), ops.FillMissing(fill_val=2)),
        (Clip(0, 5), ops.Clip(0, 5)),
    ):
        selected = SimpleNamespace(names=["x"])
        found = mine.transform(selected, frame.copy())
        pd.testing.assert_frame_equal(found, theirs.transform(selected, frame.copy()))
