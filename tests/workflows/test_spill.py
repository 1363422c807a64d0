"""Counts beyond memory: the same vocabulary and the same bytes as in memory."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import cluster as dask_cluster
from core.cluster import ClusterSettings
from core.merlin import ColumnSchema, Schema, Workflow, ops
from pipeline import fitting
from workflows.ops import Categorify, hash_counts, spill
from workflows.ops import categorify as categorify_module
from workflows.ops.hash_index import hashes
from workflows.state import load_state, save_state

ROWS, PARTS = 600, 11
SCHEMA = Schema([ColumnSchema("number", dtype=np.int64), ColumnSchema("text", dtype=np.str_)])


def read(part, split):
    rng = np.random.default_rng(part)
    number = rng.zipf(1.3, ROWS) % 3000 * np.where(rng.random(ROWS) < 0.5, 1, -(2**35))
    text = pd.Series([f"é{value % 700}" for value in number], dtype=object)
    text[rng.random(ROWS) < 0.1] = None
    return pd.DataFrame({"number": number, "text": text})


def fitted(folder, parts=range(PARTS), **options):
    workflow = Workflow(["number", "text"] >> Categorify(**options))
    with dask_cluster.start(ClusterSettings(workers=2)) as client:
        fitting.fit(client, workflow, list(parts), read, "train", SCHEMA, folder)
    return workflow


@pytest.fixture
def tiny_memory(monkeypatch):
    """Everything is spilled, read in small pieces, and stays on disk once it is there."""
    monkeypatch.setattr(spill, "SPILL_ENTRIES", 100)
    monkeypatch.setattr(spill, "BUCKETS", 8)
    monkeypatch.setattr(spill, "PIECE", 16)
    monkeypatch.setattr(spill, "ROW_GROUP", 64)
    monkeypatch.setattr(categorify_module, "ENTRIES_IN_MEMORY", 50)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.parquet")}


@pytest.mark.parametrize(
    "options", [{}, {"freq_threshold": 3}, {"max_size": 90, "freq_threshold": 2}]
)
def test_spilled_counts_give_the_state_of_those_in_memory(tmp_path, tiny_memory, options):
    in_memory, on_disk = fitted(None, **options), fitted(tmp_path / "spill", **options)
    pieces = [path for path in (tmp_path / "spill").iterdir() if path.name[:2] not in ("bu", "co")]
    assert len(pieces) > 2
    assert pq.ParquetFile(pieces[0]).num_row_groups == 8
    assert isinstance(on_disk.output_node.op.counts["number"], spill.CountsFile)
    for name, workflow in (("memory", in_memory), ("disk", on_disk)):
        save_state(workflow, tmp_path / name)
    assert bytes_of(tmp_path / "memory") == bytes_of(tmp_path / "disk")
    frame = pd.concat([read(part, "") for part in range(PARTS)])
    least = options.get("freq_threshold", 1)
    for name in ("number", "text"):
        counts = Counter(frame[name].dropna())
        expected = [value for value in counts if counts[value] >= least]
        expected.sort(key=lambda v: (-counts[v], v))
        expected = expected[: options["max_size"] - 3 if "max_size" in options else None]
        assert on_disk.output_node.op.vocabulary[name].to_pylist() == expected


def test_columns_that_share_a_vocabulary_are_spilled_together(tmp_path, tiny_memory):
    def both(folder):
        workflow = Workflow(["a", "b"] >> Categorify(2, shared=(("a", "b"),)))
        schema = Schema([ColumnSchema(name, dtype=np.int64) for name in "ab"])

        def halves(part, split):
            number = read(part, split)["number"].to_numpy()
            return pd.DataFrame({"a": number, "b": number[::-1] + 1})

        with dask_cluster.start(ClusterSettings(workers=2)) as client:
            fitting.fit(client, workflow, list(range(PARTS)), halves, "train", schema, folder)
        return workflow.output_node.op.vocabulary["a_b"]

    assert both(tmp_path / "spill").equals(both(None))


def test_a_state_on_disk_grows_as_one_in_memory(tmp_path, tiny_memory):
    grown = {}
    for name in ("memory", "disk"):
        folder = tmp_path / "spill" if name == "disk" else None
        first, later = fitted(folder, range(6)), fitted(folder, range(6, PARTS))
        save_state(first, tmp_path / name / "first")
        if name == "disk":
            unfitted = Workflow(["number", "text"] >> Categorify())
            first = load_state(unfitted, tmp_path / name / "first", SCHEMA)
            assert isinstance(first.output_node.op.counts["text"], spill.CountsFile)
        first.output_node.op.absorb(later.output_node.op)
        first.fit_schema(SCHEMA)
        save_state(first, tmp_path / name / "grown")
        grown[name] = bytes_of(tmp_path / name / "grown")
    assert grown["memory"] == grown["disk"]


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(
        st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-4, 4), max_size=60),
        min_size=1,
        max_size=6,
    )
)
def test_merging_adds_up_in_any_cut(runs):
    def source(values):
        distinct, counts = np.unique(np.array(values, np.int64), return_counts=True)
        return (
            (pa.array(distinct[i : i + 3]), counts[i : i + 3]) for i in range(0, len(distinct), 3)
        )

    found = [
        pair
        for v, c in spill.merged(map(source, runs))
        for pair in zip(v.to_pylist(), c, strict=True)
    ]
    assert found == sorted(Counter(value for run in runs for value in run).items())
    together = hash_counts.sum_counts(
        [hash_counts.value_counts(np.array(r, np.int64)) for r in runs]
    )
    values, counts = hash_counts.by_value(*together)
    assert list(zip(values, counts, strict=True)) == found


@settings(max_examples=200, deadline=None)
@given(
    runs=st.tuples(*[st.lists(st.integers(-300, 300), max_size=80)] * 2),
    piece=st.sampled_from([2, 16, spill.PIECE]),
    text=st.booleans(),
)
def test_counts_in_memory_are_added_up_whole_in_any_piece(runs, piece, text):
    def counted(values):
        counts = Counter(str(value) if text else value for value in values)
        kind = pa.string() if text else pa.int64()
        numbers = np.array([counts[value] for value in sorted(counts)], np.int64)
        return pa.array(sorted(counts), kind), numbers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "PIECE", piece)
        values, counts = spill.added(*map(counted, runs), None)
    expected, numbers = counted([*runs[0], *runs[1]])
    assert values.equals(expected)
    np.testing.assert_array_equal(counts, numbers)


@pytest.mark.parametrize("before", [5, spill.PIECE // 2, 3 * spill.PIECE])
@pytest.mark.parametrize("new", [5, spill.PIECE // 2, 3 * spill.PIECE])
def test_all_new_ids_of_a_later_day_get_codes(before, new):
    ids = np.arange(before + new)
    first, later = Categorify(), Categorify()
    for op, values in ((first, ids[:before]), (later, ids[before:])):
        frame = pd.DataFrame({"item": values})
        op.fit_finalize(op.fit(ops.ColumnSelector(["item"]), frame).statistics)
    first.absorb(later)
    assert first.vocabulary["item"].to_pylist() == ids.tolist()


def test_order_of_hashes_is_kept_and_never_piles_up():
    rng = np.random.default_rng(1)
    values = rng.integers(-(2**62), 2**62, 300_000)
    distinct, counts = hash_counts.value_counts(values)
    whole = hash_counts.sum_counts(
        [hash_counts.value_counts(part) for part in np.array_split(values, 9)]
    )
    np.testing.assert_array_equal(whole[0], distinct)
    np.testing.assert_array_equal(whole[1], counts)
    shuffled = rng.permutation(distinct)
    np.testing.assert_array_equal(shuffled[hashes(shuffled).argsort()], distinct)
    bounds = hash_counts.bucket_bounds(distinct, 4)
    bucket = distinct[bounds[1] : bounds[2]], counts[bounds[1] : bounds[2]]
    halves = [(bucket[0][half::2], bucket[1][half::2]) for half in (0, 1)]
    for found, expected in zip(hash_counts.sum_counts(halves), bucket, strict=True):
        np.testing.assert_array_equal(found, expected)
    bounds = hash_counts.bucket_bounds(distinct, 64)
    assert bounds[0] == 0 and bounds[-1] == len(distinct)
    assert (
        0.9
        < np.diff(bounds).min() * 64 / len(distinct)
        < 1
        < np.diff(bounds).max() * 64 / len(distinct)
        < 1.1
    )


@pytest.mark.parametrize("least", [1, 2, 70_000])
def test_falling_counts_keep_equal_ones_in_place(least):
    rng = np.random.default_rng(least)
    counts = np.concatenate([rng.integers(1, 5, 500), rng.integers(65_530, 65_545, 100), [10**12]])
    rng.shuffle(counts)
    expected = sorted(np.flatnonzero(counts >= least), key=lambda at: -counts[at])
    assert hash_counts.falling(counts, least).tolist() == expected
