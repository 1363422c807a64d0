"""Batches that a GPU reads are those that the host reads; on stand-ins that need no GPU."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core import frames
from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags
from tests.gpu import stand_in
from training import device_table
from training.batches import Batches

ROWS = (700, 450, 90)
SCHEMA = Schema(
    [
        ColumnSchema("label", dtype=np.int8, tags=[Tags.TARGET]),
        ColumnSchema("price", dtype=np.float64),
        ColumnSchema("code", dtype=np.int32),
        ColumnSchema("big", dtype=np.int64),
        ColumnSchema("at", dtype="datetime64[ms]"),
        ColumnSchema("items", dtype=np.int32, is_list=True, is_ragged=True),
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    for part, rows in enumerate(ROWS):
        lengths = rng.integers(0, 5, rows)
        offsets = np.append(0, lengths.cumsum()).astype(np.int32)
        values = rng.integers(0, 99, offsets[-1]).astype(np.int32)
        table = {
            "label": rng.integers(0, 2, rows).astype(np.int8),
            "price": rng.normal(size=rows),
            "code": rng.integers(0, 50, rows).astype(np.int32),
            "big": rng.integers(0, 2**40, rows),
            "at": pa.array(rng.integers(0, 2**40, rows)).cast(pa.timestamp("ms")),
            "items": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)),
        }
        pq.write_table(pa.table(table), folder / f"part-{part}.parquet", row_group_size=100)
    return folder


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(frames, "rapids", lambda: stand_in.RAPIDS)
    monkeypatch.setattr(frames, "use_the_drivers_pool", lambda: None)
    monkeypatch.setattr(device_table, "fits", lambda device, world_size: True)


def handed_out(folder, first_batch, **how):
    batches = Batches(folder, SCHEMA, 64, seed=3, chunk_rows=250, **how)
    batches.set_position(1, first_batch)
    return [({n: t.clone() for n, t in inputs.items()}, targets) for inputs, targets in batches]


@pytest.mark.parametrize("how", [{}, {"shuffle": False}, {"drop_last": True}])
@pytest.mark.parametrize("first_batch", [0, 7])
def test_the_same_batches(folder, how, first_batch, request):
    expected = handed_out(folder, first_batch, **how)
    request.getfixturevalue("pretended")
    found = handed_out(folder, first_batch, **how)
    assert len(found) == len(expected) > 10
    for (mine, label), (inputs, target) in zip(found, expected, strict=True):
        assert mine.keys() == inputs.keys()
        for name, tensor in inputs.items():
            assert mine[name].dtype == tensor.dtype, name
            assert torch.equal(mine[name], tensor), name
        assert torch.equal(label, target) and label.dtype == target.dtype


def test_nulls_are_refused(tmp_path, pretended):
    table = pa.table({"label": pa.array([1, None, 0], pa.int8())})
    pq.write_table(table, tmp_path / "part-0.parquet")
    with pytest.raises(UserError, match="column label holds nulls"):
        list(Batches(tmp_path, SCHEMA.select_by_name(["label"]), 2))


def test_one_process_with_cudf_reads_on_the_gpu(monkeypatch):
    monkeypatch.setattr(device_table.gpu, "takes_frames", lambda: True)
    cuda = torch.device("cuda", 0)
    assert device_table.fits(cuda, 1) and not device_table.fits(cuda, 2)
    assert not device_table.fits(torch.device("cpu"), 1)
    monkeypatch.setattr(device_table.gpu, "takes_frames", lambda: False)
    assert not device_table.fits(cuda, 1)
