"""Frames in the host's memory (pandas) and in a GPU's (cuDF), seen alike.

Operators ask here for a column as an array of the library that it lies in, NumPy or CuPy, compute
with what the two have in common, and hand the arrays back. Nothing else in the project imports
cuDF or CuPy, and what a GPU's column cannot do (texts, above all) crosses to the host by a function
of this file that says so.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

import core.merlin  # noqa: F401  (cuDF has to be adapted before Merlin meets it)
from core import parquet
from core.artifacts import atomic_path

Device = Literal["cpu", "cuda"]
Array = Any
"""A NumPy or a CuPy array."""
Read = Callable[[Any, str], Any]


@functools.cache
def rapids() -> SimpleNamespace:
    """``cudf`` and ``cupy``, imported when first asked for.

    Raises:
        ImportError: they are not installed.
    """
    import cudf
    import cupy

    return SimpleNamespace(cudf=cudf, cupy=cupy)


def on_host(frame: Any) -> bool:
    """Whether a frame or a column lies in the host's memory."""
    return isinstance(frame, pd.DataFrame | pd.Series)


def module_of(array: Array) -> ModuleType:
    """NumPy or CuPy, whichever made ``array``."""
    return np if isinstance(array, np.ndarray | np.generic) else rapids().cupy


def beside(column: Any, array: np.ndarray) -> Array:
    """``array`` where ``column`` lies: itself, or a copy on the GPU."""
    return array if on_host(column) else rapids().cupy.asarray(array)


def on_the_host(array: Array) -> np.ndarray:
    """``array`` in the host's memory: itself, or a copy of what lies on the GPU."""
    return array if isinstance(array, np.ndarray | np.generic) else array.get()


# columns → arrays


def missing(column: Any) -> Array:
    """A mask ``(rows,)`` of a column's missing values, NaN among them."""
    return column.isna().to_numpy() if on_host(column) else column.isna().values


def numbers(column: Any, dtype: Any = np.float64) -> Array:
    """A column of numbers as floats ``(rows,)``, NaN where a value is missing."""
    if on_host(column):
        return column.to_numpy(dtype, na_value=np.nan)
    if not column.null_count:
        return column.values.astype(dtype, copy=False)
    values = column.fillna(0).values.astype(dtype)
    values[missing(column)] = np.nan
    return values


def integers(column: Any) -> tuple[Array, Array] | None:
    """A GPU's column as int64 numbers ``(rows,)``, 0 where one is missing, and the mask of these;
    None where it holds texts."""
    kind, gaps = column.dtype.kind, missing(column)
    if kind not in "iufb":
        return None
    if kind == "b":
        column = column.astype("int8")
    if kind == "f" or column.null_count:
        column = column.fillna(0)
    return column.values.astype(np.int64, copy=False), gaps


def milliseconds(column: Any) -> Array:
    """A column of times as int64 milliseconds since 1970 UTC."""
    counted = column.astype("datetime64[ms]").astype("int64")
    return counted.to_numpy() if on_host(column) else counted.values


def distinct(column: Any) -> tuple[Array, pa.Array]:
    """A GPU's column as positions ``(rows,)``, -1 where a value is missing, in its distinct values,
    which come to the host."""
    if column.null_count == len(column):
        nowhere = rapids().cupy.full(len(column), -1, dtype=np.int64)
        return nowhere, pa.array([], pa.string())
    positions, values = column.factorize()
    return positions.astype(np.int64), _one_array(values.to_arrow())


def starts(column: Any) -> Array:
    """Where a value differs from the one before, the first row included: positions, rising."""
    if on_host(column):
        values = column.to_numpy()
    else:
        found = integers(column)
        values = distinct(column)[0] if found is None else found[0]
    new = module_of(values).ones(len(values), dtype=bool)
    new[1:] = values[1:] != values[:-1]
    return module_of(values).flatnonzero(new)


def taken(column: Any, positions: Array) -> Any:
    """The rows of a GPU's column at ``positions``."""
    return column.take(positions).reset_index(drop=True)


def leaves(column: Any) -> Array:
    """All numbers in the lists of a GPU's column, one after the other."""
    return column.list.leaves.values


def has_lists(column: Any) -> bool:
    """Whether a GPU's column holds lists."""
    return hasattr(column.dtype, "leaf_type")


def elements(column: Any) -> Any:
    """The values of all lists of a GPU's column as a column, or a column without lists itself."""
    return column.list.leaves.reset_index(drop=True) if has_lists(column) else column


def lengths(column: Any) -> Array:
    """How long each list of a GPU's column is, int64 ``(rows,)``; 0 where there is none."""
    return column.list.len().fillna(0).values.astype(np.int64)


def counted(places: Array, size: int, weights: Array | None = None) -> np.ndarray:
    """How often each of ``size`` places stands in ``places``, or the sum of its ``weights``, on the
    host."""
    if not len(places):  # of nothing CuPy counts nothing
        return np.zeros(size, np.int64 if weights is None else np.float64)
    return on_the_host(module_of(places).bincount(places, weights, minlength=size))


# arrays → frames


def frame_of(like: Any, columns: Mapping[str, Any]) -> Any:
    """A frame of ``columns`` where ``like`` lies, with its index if that is the host."""
    if on_host(like):
        return pd.DataFrame(dict(columns), index=like.index, copy=False)
    # NaN stays NaN: to look for it in every column, at every step, would cost more than the steps.
    return rapids().cudf.DataFrame(dict(columns), nan_as_null=False)


def joined(*frames: Any, names: Sequence[str] | None = None) -> Any:
    """The columns of several frames of the same rows side by side, or those named, uncopied."""
    wanted = (names or frame.columns for frame in frames)
    pairs = [
        (name, frame[name]) for frame, of_it in zip(frames, wanted, strict=True) for name in of_it
    ]
    if on_host(frames[0]):
        return frame_of(frames[0], {name: column.array for name, column in pairs})
    return frame_of(frames[0], dict(pairs))


def lists(column: Any, first: Array) -> Any:
    """A GPU's column as lists that begin at the positions ``first`` and end where the next begins:
    the same memory with offsets."""
    from cudf.core.column import as_column, build_column

    offsets = module_of(first).append(first, len(column)).astype(np.int32)
    cudf = rapids().cudf
    return cudf.Series._from_column(
        build_column(
            None,
            dtype=cudf.ListDtype(column.dtype),
            size=len(first),
            children=(as_column(offsets), as_column(column)),
        )
    )


# between the host, the GPU and files


@dataclass(frozen=True)
class OnDevice:
    """A reader of parts whose frames lie on the GPU; can be sent to a worker.

    A reader with a method ``on_device`` reads them there; those of others are read on the host and
    copied.
    """

    read: Read

    def __call__(self, source: Any, split: str) -> Any:
        direct = getattr(self.read, "on_device", None)
        frame = direct(source, split) if direct else to_device(self.read(source, split))
        # cuDF puts columns together by their rows' labels.
        return frame.reset_index(drop=True)


def reader(read: Read, device: Device) -> Read:
    """``read`` for frames that lie on ``device``."""
    return read if device == "cpu" else OnDevice(read)


def from_arrow(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a frame in the host's memory, texts as objects.

    Integers with missing values stay Arrow's. NumPy's would be floats, among which 2⁵³ and
    2⁵³ + 1 are one number.
    """
    gaps = [
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if pa.types.is_integer(column.type) and column.null_count
    ]
    frame = table.drop_columns(gaps).to_pandas()
    for name in gaps:
        values = pd.arrays.ArrowExtensionArray(table[name])
        frame.insert(table.schema.get_field_index(name), name, values)
    return frame


def numpy_type(column: Any) -> np.dtype:
    """The NumPy type of a column's values, missing ones left out."""
    kind = column.dtype
    return kind.numpy_dtype if isinstance(kind, pd.ArrowDtype) else kind


def to_device(frame: pd.DataFrame) -> Any:
    """A copy on the GPU; missing values are cuDF's nulls."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for place, field in enumerate(table.schema):
        if pa.types.is_null(field.type):  # nothing says what it would hold
            table = table.set_column(place, field.name, pa.nulls(len(table), pa.string()))
    return rapids().cudf.DataFrame.from_arrow(table)


def head(frame: Any, rows: int) -> pd.DataFrame:
    """The first rows of a frame, in the host's memory and nothing else of it."""
    if on_host(frame):
        # Taken, not cut: a slice would keep the whole frame in memory.
        return frame.take(range(min(len(frame), rows)))
    return from_arrow(frame.iloc[:rows].to_arrow())


@functools.cache
def use_the_drivers_pool() -> None:
    """Lets cuDF take a GPU's memory in the order of its work, where nothing else was set.

    Otherwise it asks the driver for each column, which waits for all that runs on the GPU.
    """
    import rmm

    if type(rmm.mr.get_current_device_resource()) is rmm.mr.CudaMemoryResource:
        rmm.mr.set_current_device_resource(rmm.mr.CudaAsyncMemoryResource())


def read_parquet(path: str | Path, columns: list[str], row_groups: list[int]) -> Any:
    """Row groups of a file, read and decoded by the GPU."""
    options = {
        "use_pandas_metadata": False,
        "dataset_kwargs": {"partitioning": None},  # a folder called a=b is no column a
    }
    with parquet.reading(path):
        # cuDF takes a path such as run[1] for a pattern, but not bytes.
        source = BytesIO(Path(path).read_bytes()) if has_magic(str(path)) else str(path)
        return rapids().cudf.read_parquet(source, columns=columns, row_groups=row_groups, **options)


def write_parquet(path: str | Path, frame: Any, row_group: int) -> None:
    """Writes a GPU's frame, encoded and compressed by the GPU, atomically (zstd)."""
    with atomic_path(path) as partial:
        frame.to_parquet(
            str(partial), index=False, compression="ZSTD", row_group_size_rows=row_group
        )


def _one_array(values: Any) -> pa.Array:
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return values.cast(pa.string()) if not pa.types.is_integer(values.type) else values
