"""What the shims and ``core.frames`` take for granted: read from the sources of what is installed.

Of Merlin always; of RAPIDS 24.12 where the gpu extra is installed, with or without a GPU.
"""

import ast
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import gpu, merlin
from tests.conftest import ROOT

RAPIDS = pytest.mark.skipif(
    importlib.util.find_spec("cudf") is None,
    reason="cuDF is not installed: 'make install-gpu' does it, also where there is no GPU",
)


@cache
def parsed(file):
    """The syntax tree of a source file, such as ``cudf/io/parquet.py``, without importing it."""
    package, _, rest = file.partition("/")
    folder = Path(importlib.util.find_spec(package).submodule_search_locations[0])
    return ast.parse((folder / rest).read_text(encoding="utf-8"))


def names_in(file):
    """What a module defines or imports at its top, within ``if`` and ``try`` too."""
    found = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def arguments(file, name, of=None):
    """The names of a function's arguments; ``of``: the class that it is a method of."""
    within = parsed(file).body
    if of:
        (owner,) = (n for n in within if isinstance(n, ast.ClassDef) and n.name == of)
        within = owner.body
    function = next(n for n in within if isinstance(n, ast.FunctionDef) and n.name == name)
    given = function.args
    return [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def imported_from(file, module):
    return {
        alias.name
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }


def test_merlin_asks_cudf_for_what_the_shims_give():
    wanted = imported_from("merlin/io/fsspec_utils.py", "cudf.core.column")
    assert wanted == {"as_column", "build_categorical_column"}
    calls = [
        {keyword.arg for keyword in node.keywords}
        for node in ast.walk(parsed("merlin/io/fsspec_utils.py"))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", None) == "build_categorical_column"
    ]
    assert calls == [{"categories", "codes", "size", "offset", "ordered"}]
    assert "HAS_GPU" in names_in("merlin/core/has_gpu.py")
    assert imported_from("merlin/core/compat/__init__.py", "merlin.core.has_gpu") == {"HAS_GPU"}
    text = (Path(merlin.nvtabular.__file__).parent / "ops/categorify.py").read_text()
    assert 'base_aggs.append("size")' in text


def test_group_by_counts_the_rows_of_strings():
    groupby = SimpleNamespace(_STRING_AGGS={"SIZE", "COUNT"}, _CATEGORICAL_AGGS={"SIZE"})
    merlin.count_rows_of_strings(groupby)
    assert {"SIZE", "COUNT", "size"} == groupby._STRING_AGGS
    assert {"SIZE", "size"} == groupby._CATEGORICAL_AGGS


PRETEND = """
import importlib.util, os, sys
os.environ.pop("CUDA_VISIBLE_DEVICES", None)
import warnings; warnings.simplefilter("ignore")
from dask.distributed.diagnostics import nvml as merlins
from distributed.diagnostics import nvml
merlins.device_get_count = nvml.device_get_count = lambda: 1
if "without" in sys.argv:
    find = importlib.util.find_spec
    import core.gpu
    core.gpu.find_spec = lambda name: None if name == "cudf" else find(name)
import core.merlin
import merlin.core.compat as compat
from core import gpu
print(compat.HAS_GPU, compat.cudf is not None, gpu.fault() or "ready")
"""


def on_a_machine_with_a_gpu(*arguments):
    """Imports Merlin in a process that counts one GPU; what it then makes of it."""
    command = [sys.executable, "-c", PRETEND, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("\n")[-2].split(None, 2)


def test_a_gpu_without_cudf_is_left_to_torch():
    has_gpu, has_cudf, fault = on_a_machine_with_a_gpu("without")
    assert (has_gpu, has_cudf) == ("False", "False")
    assert "cudf" in fault and "make install-gpu" in fault


@RAPIDS
def test_merlin_starts_with_cudf_where_there_is_a_gpu():
    # The count of GPUs is pretended where there is none; everything else is as installed.
    assert on_a_machine_with_a_gpu() == ["True", "True", "ready"]


@RAPIDS
def test_the_shims_find_what_they_work_on():
    assert "build_categorical_column" not in names_in("cudf/core/column/__init__.py")
    assert {"CategoricalColumn", "as_column", "build_column"} <= names_in(
        "cudf/core/column/__init__.py"
    )
    made = arguments("cudf/core/column/categorical.py", "__init__", of="CategoricalColumn")
    assert {"data", "size", "dtype", "offset", "children"} <= set(made)
    folder = Path(importlib.util.find_spec("cudf").submodule_search_locations[0])
    groupby = (folder / "_lib/groupby.pyx").read_text()
    # Names in capitals, against which the aggregation is held as it was asked for.
    assert "agg not in _STRING_AGGS" in groupby and '"size"' not in groupby
    assert '"SIZE"' in groupby.split("_STRING_AGGS = {")[1].split("}")[0]


@RAPIDS
def test_cudf_has_what_frames_ask_of_it():
    series, single = "cudf/core/series.py", "cudf/core/single_column_frame.py"
    defined = names_in(series) | names_in(single) | names_in("cudf/core/indexed_frame.py")
    defined |= names_in("cudf/core/frame.py")
    wanted = {"factorize", "take", "isna", "fillna", "astype", "to_arrow", "null_count", "values"}
    assert wanted <= defined
    assert "column" in arguments(series, "_from_column", of="Series")
    assert {"leaves", "len"} <= names_in("cudf/core/column/lists.py")
    assert {"data", "dtype", "size", "children"} <= set(
        arguments("cudf/core/column/column.py", "build_column")
    )
    read = arguments("cudf/io/parquet.py", "read_parquet")
    assert {"columns", "row_groups", "use_pandas_metadata", "dataset_kwargs"} <= set(read)
    write = arguments("cudf/io/parquet.py", "to_parquet")
    assert {"path", "index", "compression", "row_group_size_rows"} <= set(write)
    frame = parsed("cudf/core/dataframe.py")
    assert {"from_arrow", "to_parquet", "to_arrow"} <= {
        node.name for node in ast.walk(frame) if isinstance(node, ast.FunctionDef)
    }
    assert "factorize" in names_in("cudf/core/algorithms.py")


@RAPIDS
def test_cupy_has_the_functions_of_numpy_that_operators_use():
    used = {"unique", "searchsorted", "bincount", "flatnonzero", "where", "minimum", "maximum"}
    used |= {"clip", "isnan", "isfinite", "full_like", "empty_like", "zeros_like", "append", "ones"}
    used |= {"argsort", "asarray", "floor", "log", "log1p", "sin", "cos", "full", "zeros"}
    assert used <= names_in("cupy/__init__.py")


@RAPIDS
def test_dask_cuda_takes_the_options_of_the_cluster():
    taken = arguments("dask_cuda/local_cuda_cluster.py", "__init__", of="LocalCUDACluster")
    wanted = {"n_workers", "memory_limit", "rmm_pool_size", "rmm_maximum_pool_size"}
    assert wanted | {"enable_cudf_spill", "jit_unspill", "pre_import"} <= set(taken)


@RAPIDS
def test_the_compiler_that_cupy_needs_is_installed():
    nvidia = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in nvidia.submodule_search_locations]
    for name in (*gpu.CUDA_12, "cuda_runtime/include/cuda_fp16.h"):
        assert any((folder / name).is_file() for folder in folders), name
