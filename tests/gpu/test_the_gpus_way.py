"""The GPU's way through every workflow, on stand-ins for cuDF and CuPy that need no GPU."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import cluster, frames, gpu
from core.cluster import ClusterSettings
from core.errors import UserError
from pipeline.fitting import part_statistics
from tests.gpu import stand_in
from tests.gpu.logs import ROADS
from tests.gpu.sides import assert_same_features, assert_same_state
from workflows.ops import hash_counts, spill
from workflows.ops.categorify import count_values
from workflows.ops.count_encoding import count_rows
from workflows.ops.fill_median import count_numbers
from workflows.ops.min_max import column_ranges
from workflows.ops.normalize import column_moments
from workflows.ops.stable_hash import combine, hash_column
from workflows.ops.target_encoding import TARGET, TOTALS, fold_sums


@pytest.fixture
def pretended(monkeypatch):
    """This machine has a GPU and cuDF: workers are threads, and memory is the host's."""

    def threads(settings, options):
        from distributed import LocalCluster

        return LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **options)

    monkeypatch.setattr(frames, "rapids", lambda: stand_in.RAPIDS)
    monkeypatch.setattr(frames, "lists", stand_in.lists)
    monkeypatch.setattr(gpu, "fault", lambda: "")
    monkeypatch.setattr(cluster, "_cuda_cluster", threads)
    monkeypatch.setattr(spill, "WORTH_THE_WAY", 1)


@pytest.mark.parametrize(("road", "how"), ROADS)
def test_a_gpu_makes_the_same_features_and_state(road, how, tmp_path, pretended, monkeypatch):
    raw, written = tmp_path / "raw", []
    write = frames.write_parquet
    monkeypatch.setattr(frames, "write_parquet", lambda *a: written.append(a[0]) or write(*a))
    host = road(raw, tmp_path / "host", how, ClusterSettings(device="cpu", workers=2))
    assert not written
    device = road(raw, tmp_path / "device", how, ClusterSettings(device="cuda"))
    assert len(written) == len(list(device.glob("*/part-*.parquet")))
    assert_same_state(host, device)
    assert_same_features(host, device)


def test_more_memory_than_the_gpu_has_names_the_setting(pretended):
    def read(error):
        def fails(source, split):
            raise error

        return fails

    full = MemoryError("std::bad_alloc: out_of_memory: RMM failure: Maximum pool size exceeded")
    with pytest.raises(UserError, match="rows_per_part"):
        part_statistics(None, [], read(full), "train")
    with pytest.raises(MemoryError, match="of the host"):
        part_statistics(None, [], read(MemoryError("of the host")), "train")


def test_where_the_rows_lie_is_one_setting(monkeypatch):
    monkeypatch.setattr(gpu, "fault", lambda: "there is no NVIDIA GPU here")
    assert not ClusterSettings().on_gpus()
    for asked in (ClusterSettings(device="cuda"), ClusterSettings(kind="cuda")):
        with pytest.raises(UserError, match="no NVIDIA GPU here; set it to auto or cpu"):
            asked.on_gpus()
    monkeypatch.setattr(gpu, "fault", lambda: "")
    assert ClusterSettings().on_gpus() and ClusterSettings(kind="cuda").on_gpus()
    assert not ClusterSettings(device="cpu").on_gpus()
    with pytest.raises(ValueError, match="device 'cuda' or 'auto'"):
        ClusterSettings(kind="cuda", device="cpu")


def test_a_schedulers_workers_say_what_they_have(monkeypatch):
    class Client:
        def run(self, function):
            return answers

    settings = ClusterSettings(kind="scheduler", address="tcp://host:1")
    for has_gpu, device in ((True, "cuda"), (False, "cpu")):
        answers = {"a": True, "b": has_gpu}
        assert cluster.device_of(Client(), settings) == device
    forced = settings.model_copy(update={"device": "cuda"})
    with pytest.raises(UserError, match="of the workers at tcp://host:1 b have no GPU"):
        cluster.device_of(Client(), forced)


def test_stand_ins_keep_host_and_device_apart():
    array = stand_in.CUPY.asarray(np.arange(3))
    for mix in (lambda: array + np.ones(3), lambda: np.ones(3)[array], lambda: np.asarray(array)):
        with pytest.raises(TypeError):
            mix()
    with pytest.raises(ValueError, match="no nulls"):
        stand_in.Series(pa.array([1, None])).values  # noqa: B018


def test_a_gpu_adds_up_counts_as_the_host_does(pretended):
    rng = np.random.default_rng(0)
    runs = [hash_counts.value_counts(rng.integers(-50, 50, n) << 33) for n in (900, 700, 3)]
    expected, found = hash_counts.sum_counts(runs), hash_counts.sum_counts_on_device(runs)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
    tallies = [spill.Tally(pa.array(values), counts) for values, counts in runs]
    host, device = (spill.merge(tallies, None, where) for where in (False, True))
    assert host.values.equals(device.values) and (host.counts == device.counts).all()


def test_parts_without_rows_or_values_are_taken_as_they_are(pretended):
    frame = pd.DataFrame({"n": [np.nan, np.nan], "t": [None, None], "y": [1.0, 0.0]})
    for host in (frame, frame[:0]):
        device = frames.to_device(host)
        assert count_values(device)["t"].values.equals(count_values(host)["t"].values[:0])
        for names in (["n"], ["t"], ["n", "t"]):
            hashes = [combine([hash_column(side[n])[0] for n in names]) for side in (host, device)]
            np.testing.assert_array_equal(hashes[0], frames.on_the_host(hashes[1]))
        assert all(len(values) == 0 for values, _ in count_rows(device[["n", "t"]]).values())
        for function in (column_moments, column_ranges, count_numbers):
            expected, found = (function(side[["n"]])["n"] for side in (host, device))
            assert str(found) == str(expected), function
        folded = host.rename(columns={"y": TARGET}).assign(fold=np.full(len(host), 1, np.int8))
        expected = fold_sums(folded)
        found = fold_sums(frames.to_device(folded))
        for name in ("n", "t", TOTALS):
            for column in ("fold", "count", "sum"):
                assert found[name][column].to_pylist() == expected[name][column].to_pylist()


def test_a_path_is_no_pattern(pretended, tmp_path):
    for folder, value in (("run1", 1), ("run[1]", 2), ("run*", 3)):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"x": [value]}), tmp_path / folder / "part.parquet")
        found = frames.read_parquet(tmp_path / folder / "part.parquet", ["x"], [0])
        assert frames.on_the_host(found["x"].values).tolist() == [value]


def test_integers_with_gaps_keep_all_bits(pretended):
    values = [2**53, 2**53 + 1, None, -(2**63), 2**63 - 1, 2**53]
    host = frames.from_arrow(pa.table({"x": pa.array(values, pa.int64())}))
    device = frames.to_device(host)
    assert device["x"].to_arrow().to_pylist() == values
    expected, found = (
        dict(zip(*map(list, count_rows(f)["x"]), strict=True)) for f in (host, device)
    )
    assert {k.as_py(): int(v) for k, v in expected.items()} == {
        k.as_py(): int(v) for k, v in found.items()
    }
    for one, other in zip(hash_column(host["x"]), hash_column(device["x"]), strict=True):
        np.testing.assert_array_equal(one, frames.on_the_host(other))
