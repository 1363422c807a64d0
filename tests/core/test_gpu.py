"""What is found out of a machine's GPUs without opening one."""

import ctypes
import sys
from types import SimpleNamespace

import pytest
from distributed.diagnostics import nvml

from core import cluster, gpu
from core.cluster import ClusterSettings
from core.errors import UserError
from tests.conftest import FAULT


class OutOfMemoryError(RuntimeError):
    """As torch and CuPy call theirs."""


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA out of memory"), True),
        (MemoryError("std::bad_alloc: out_of_memory: CUDA error at: rmm/mr/device"), True),
        (MemoryError("Unable to allocate 8.00 GiB for an array with shape (1,)"), False),
        (ValueError("out of range"), False),
    ],
)
def test_a_full_gpu_is_told_from_other_faults(error, full):
    assert gpu.is_shortage(error) == full
    with (
        pytest.raises(UserError if full else type(error), match="lower it" if full else None),
        gpu.named_shortage("training", "lower it"),
    ):
        raise error


@pytest.mark.parametrize(
    ("named", "visible"), [(None, 4), ("", 0), ("2", 1), ("0,3", 2), ("-1", 0)]
)
def test_gpus_are_those_that_the_process_may_use(monkeypatch, named, visible):
    monkeypatch.setattr(nvml, "device_get_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpu.visible() == visible


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(gpu, "fault", FAULT)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name == "cupy" else object())
    assert gpu.fault() == "not all of RAPIDS is installed: cupy ('make install-gpu')"
    monkeypatch.setattr(gpu, "find_spec", lambda name: object())
    monkeypatch.setattr(gpu, "visible", lambda: 0)
    assert "no NVIDIA GPU" in gpu.fault() and not gpu.takes_frames()
    monkeypatch.setattr(gpu, "visible", lambda: 1)
    assert gpu.takes_frames()
    monkeypatch.setattr(gpu, "_BROKEN", [])
    gpu.is_broken(RuntimeError("driver too old"))
    assert gpu.fault() == "cuDF does not start: RuntimeError: driver too old"


def test_a_library_of_a_package_is_opened(monkeypatch, tmp_path):
    library = tmp_path / gpu.CUDA_12[0]
    library.parent.mkdir(parents=True)
    library.touch()
    opened = []
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path), str(tmp_path / "none")])
    monkeypatch.setattr(gpu, "find_spec", lambda name: package if name == "nvidia" else None)
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: opened.append((path, mode)))
    gpu.load_libraries()
    assert opened == [(str(library), ctypes.RTLD_GLOBAL)]


def test_workers_with_gpus_share_the_hosts_memory(monkeypatch):
    made = {}
    module = SimpleNamespace(LocalCUDACluster=lambda **options: made.update(options))
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    monkeypatch.setattr(gpu, "visible", lambda: 4)
    cluster._cuda_cluster(ClusterSettings(memory_limit="4GiB"), {})
    assert made["memory_limit"] == 16 * 2**30 and made["enable_cudf_spill"]
    cluster._cuda_cluster(ClusterSettings(memory_limit="256GiB", workers=2), {})
    assert made["memory_limit"] == 128 * 2**30 and made["n_workers"] == 2
