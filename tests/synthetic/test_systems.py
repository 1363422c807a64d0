"""The random and the trace generator: distances against a plain stack, and labels with signal."""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from pipeline.synthetic.random_ids import RandomGenerateSettings, generate_random
from pipeline.synthetic.trace import (
    FIRST_TIME,
    Replay,
    TraceGenerateSettings,
    _bin,
    _bin_range,
    generate_trace,
    read_profile,
    stack_distances,
    take_profile,
)


def plain_distances(ids):
    stack, distances = [], []
    for item in ids:
        distances.append(stack.index(item) if item in stack else FIRST_TIME)
        if item in stack:
            stack.remove(item)
        stack.insert(0, item)
    return distances


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=80))
def test_distances_agree_with_a_plain_stack(ids):
    codes = np.array(ids)
    assert stack_distances(codes, 13).tolist() == plain_distances(ids)


def test_bins_cover_every_distance_once():
    distances = np.arange(200_000)
    low, high = _bin_range(_bin(distances))
    assert (low <= distances).all() and (distances <= high).all()
    edges = np.unique(np.stack([low, high], 1), axis=0)
    assert (edges[1:, 0] == edges[:-1, 1] + 1).all()
    assert ((edges[:, 1] - edges[:, 0]) <= edges[:, 0] / 60).all()


def skewed(count=60_000, size=3000):
    random = np.random.default_rng(0)
    ids = np.minimum((random.pareto(0.9, count) * 3).astype(np.int64), size - 1)
    # Bursts, so that there is locality beyond frequency.
    repeat = random.random(count) < 0.3
    ids[1:][repeat[1:]] = ids[:-1][repeat[1:]]
    return ids


def shares(profile):
    """Share of accesses by octave of distance, first times last."""
    octave = np.floor(np.log2(np.array(profile.low) + 1)).astype(int)
    counts = np.bincount(octave, profile.count, minlength=24)
    return np.append(counts, profile.distinct) / profile.accesses


def test_replay_keeps_the_profile():
    source = take_profile(skewed())
    replayed = take_profile(Replay(source, np.random.SeedSequence(1)).draw(60_000))
    assert 0.5 * np.abs(shares(source) - shares(replayed)).sum() < 0.03


def test_replay_goes_on_across_draws_and_through_gathering():
    profile = take_profile(skewed(20_000, 50))
    whole = Replay(profile, np.random.SeedSequence(3)).draw(30_000)
    # 50 ids leave room for some 1,100 accesses, so positions are put together many times.
    distances = stack_distances(whole, 50)
    assert whole.min() >= 0 and whole.max() < 50
    assert (distances == FIRST_TIME).sum() == len(np.unique(whole))


def test_seeds_begin_with_different_ids():
    profile = take_profile(skewed())
    first = {int(Replay(profile, np.random.SeedSequence(s)).draw(1)[0]) for s in range(20)}
    assert len(first) > 15


def test_trace_of_a_parquet_column(tmp_path):
    ids = [None if i % 50 == 0 else f"{x:08x}" for i, x in enumerate(skewed(5000))]
    pq.write_table(pa.table({"C3": ids}), tmp_path / "source.parquet")
    column = {"file": tmp_path / "source.parquet", "column": "C3"}
    config = TraceGenerateSettings(rows=3000, bag=3, bag_sizes="random", columns=[column, column])
    manifest = generate_trace(config, tmp_path / "out")
    assert read_profile(tmp_path / "out" / "profile_C1.json").accesses == 4900
    frame = pl.read_parquet(tmp_path / "out" / "part-00000.parquet")
    assert set(frame["C1"].list.len()) == {1, 2, 3}
    assert frame["C1"].explode().max() < manifest["tables"][0]
    assert not frame["C1"].equals(frame["C2"])
    again = TraceGenerateSettings(rows=10, columns=[{"file": tmp_path / "out" / "profile_C1.json"}])
    assert generate_trace(again, tmp_path / "again")["tables"] == manifest["tables"][:1]


def test_trace_faults_are_named(tmp_path):
    pq.write_table(pa.table({"a": pa.array([None], pa.int64())}), tmp_path / "x.parquet")
    (tmp_path / "bad.json").write_text('{"accesses": 3}')
    for column, message in [
        ({"file": "absent.parquet", "column": "a"}, "no such file"),
        ({"file": tmp_path / "x.parquet", "column": "b"}, "no column 'b'; it has a"),
        ({"file": tmp_path / "x.parquet", "column": "a"}, "holds no value"),
        ({"file": tmp_path / "bad.json"}, "distinct: this setting is required"),
    ]:
        with pytest.raises(UserError, match=message):
            generate_trace(TraceGenerateSettings(rows=10, columns=[column]), tmp_path / "out")


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_random_ids_and_shards(tmp_path, distribution):
    config = RandomGenerateSettings(
        rows=2500, tables=(1000, 7), dense=4, bag=5, distribution=distribution, shard_rows=1000
    )
    manifest = generate_random(config, tmp_path)
    assert [shard["rows"] for shard in manifest["shards"]] == [1000, 1000, 500]
    frame = pl.concat([pl.read_parquet(path) for path in sorted(tmp_path.glob("*.parquet"))])
    assert frame.columns == ["label", "dense", "C1", "C2"]
    ids = frame["C1"].explode().to_numpy()
    assert len(ids) == 12_500 and ids.min() >= 0 and ids.max() < 1000
    width = 1000 / 12**0.5 if distribution == "uniform" else 1000 / 6
    assert ids.std() == pytest.approx(width, rel=0.03)
    assert set(frame["C2"].explode()) == set(range(7))


def test_random_is_seeded_and_its_labels_carry_signal(tmp_path):
    config = RandomGenerateSettings(rows=20_000, tables=(50,) * 2, dense=8)
    manifest = generate_random(config, tmp_path / "a")
    generate_random(config, tmp_path / "b")
    name = "part-00000.parquet"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    frame = pl.read_parquet(tmp_path / "a" / name)
    assert 0.75 < manifest["bayes"]["all"]["auc"] < 0.9
    by_id = frame.group_by(pl.col("C1").list.first()).agg(pl.col("label").mean())
    assert by_id["label"].std() > 0.1
    y = frame["label"].to_numpy() - frame["label"].mean()
    dense = np.stack(frame["dense"].to_numpy())
    assert np.abs(y @ dense / len(y)).max() > 0.03
