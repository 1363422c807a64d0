"""Stand-ins for cuDF and CuPy on NumPy, so that the GPU's way through a workflow runs without one.

They have what ``core.frames`` and the operators use, as strict as the real ones: an array of the
"device" does not mix with NumPy's, comes to the host by ``get`` alone, and columns with nulls give
no array. That cuDF 24.12 has these names and arguments is checked in ``test_rapids.py``; that it
does the same with them, by the tests marked ``gpu``.
"""

import glob
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.lib.mixins import NDArrayOperatorsMixin


def given(value):
    """What lies behind a device's array; one of the host's does not get in."""
    if isinstance(value, Array):
        return value.behind
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, list | tuple):
        return type(value)(given(one) for one in value)
    if isinstance(value, dict):
        return {name: given(one) for name, one in value.items()}
    return value


def made(value):
    if isinstance(value, np.ndarray | np.generic):
        return Array(np.asarray(value))
    if isinstance(value, tuple | list):
        return type(value)(made(one) for one in value)
    return value


class Array(NDArrayOperatorsMixin):
    """``cupy.ndarray``."""

    def __init__(self, behind):
        self.behind = behind

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__":
            return NotImplemented
        out = options.pop("out", None)
        options = given(options)
        if out is not None:
            options["out"] = tuple(given(one) for one in out)
        found = made(ufunc(*given(inputs), **options))
        return found if out is None else out[0]

    def __array_function__(self, function, types, arguments, options):
        return made(function(*given(arguments), **given(options)))

    def __array__(self, *arguments, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __getattr__(self, name):
        if name in ("dtype", "shape", "size", "ndim"):
            return getattr(self.behind, name)
        if name in METHODS:
            return lambda *a, **k: made(getattr(self.behind, name)(*given(a), **given(k)))
        raise AttributeError(name)

    def __getitem__(self, key):
        return made(self.behind[given(key)])

    def __setitem__(self, key, value):
        self.behind[given(key)] = given(value)

    def __len__(self):
        return len(self.behind)

    def __bool__(self):
        return bool(self.behind)

    def __int__(self):
        return int(self.behind)

    def __float__(self):
        return float(self.behind)

    def __dlpack__(self, **options):
        return self.behind.__dlpack__()

    def __dlpack_device__(self):
        return self.behind.__dlpack_device__()

    def get(self):
        return self.behind.copy()


METHODS = {
    "argsort",
    "cumsum",
    "astype",
    "view",
    "copy",
    "reshape",
    "all",
    "any",
    "sum",
    "mean",
    "min",
    "max",
}


class _Cupy:
    """The module ``cupy``: functions of NumPy over the device's arrays."""

    ndarray = Array

    def __getattr__(self, name):
        function = getattr(np, name)
        return lambda *a, **k: made(function(*given(a), **given(k)))

    def asarray(self, value):
        return Array(np.array(value)) if isinstance(value, np.ndarray) else value

    def bincount(self, places, weights=None, minlength=None):
        if not len(places):
            raise ValueError("zero-size array to reduction operation max")
        return made(np.bincount(given(places), given(weights), minlength))

    def append(self, array, value):
        return made(np.append(given(array), given(value)))


class ListDtype:
    """``cudf.ListDtype``."""

    def __init__(self, leaf_type):
        self.leaf_type = leaf_type


class Series:
    """``cudf.Series``: an Arrow array; what has no nulls gives its values."""

    def __init__(self, data, name=None):
        if isinstance(data, Array):
            data = pa.array(data.behind)
        self.arrow, self.name = data, name

    @property
    def dtype(self):
        kind = self.arrow.type
        if pa.types.is_timestamp(kind):
            return np.dtype("datetime64[ms]")
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return ListDtype(kind.value_type)
        plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        return np.dtype(kind.to_pandas_dtype()) if plain else np.dtype(object)

    def __len__(self):
        return len(self.arrow)

    @property
    def null_count(self):
        return self.arrow.null_count

    @property
    def values(self):
        if self.null_count:
            raise ValueError("Column must have no nulls.")
        if self.dtype == object:
            raise TypeError("String Arrays is not yet implemented in cudf")
        return Array(self.arrow.to_numpy(zero_copy_only=False).copy())

    def isna(self):
        return Series(self.arrow.is_null(nan_is_null=pa.types.is_floating(self.arrow.type)))

    def fillna(self, value):
        kept = self.arrow
        if pa.types.is_floating(kept.type):
            kept = pc.if_else(pc.is_nan(kept), pa.scalar(None, kept.type), kept)
        return Series(kept.fill_null(pa.scalar(value).cast(kept.type)))

    def astype(self, kind):
        if kind == "datetime64[ms]":
            return Series(self.arrow.cast(pa.timestamp("ms")))
        return Series(self.arrow.cast(pa.from_numpy_dtype(np.dtype(kind)), safe=False))

    def factorize(self):
        assert self.null_count < len(self)  # not tried: a join with nothing
        codes = self.arrow.dictionary_encode()
        positions = codes.indices.fill_null(-1).to_numpy()
        narrow = np.int8 if len(codes.dictionary) < 127 else np.int32
        return Array(positions.astype(narrow)), Series(codes.dictionary)

    def take(self, positions):
        return Series(self.arrow.take(pa.array(given(positions))))

    def reset_index(self, drop):
        assert drop
        return self

    def to_arrow(self):
        return self.arrow

    @property
    def list(self):
        return SimpleNamespace(
            leaves=Series(self.arrow.flatten()), len=lambda: Series(self.arrow.value_lengths())
        )


class DataFrame:
    """``cudf.DataFrame``, of columns of the device alone."""

    def __init__(self, columns=None, nan_as_null=True):
        self._columns = {}
        for name, column in (columns or {}).items():
            self[name] = column
        assert len({len(column) for column in self._columns.values()}) < 2

    @classmethod
    def from_arrow(cls, table):
        made = {name: Series(_whole(table[name])) for name in table.column_names}
        return cls(made)

    def __setitem__(self, name, column):
        if isinstance(column, np.ndarray):
            raise TypeError("a column of the host in a frame of the device")
        if isinstance(column, np.generic):
            column = Array(np.full(len(self), column))
        self._columns[name] = column if isinstance(column, Series) else Series(column)

    def __getitem__(self, names):
        if isinstance(names, str):
            return self._columns[names]
        return DataFrame({name: self._columns[name] for name in names})

    def __contains__(self, name):
        return name in self._columns

    def __len__(self):
        return len(next(iter(self._columns.values()), ()))

    @property
    def columns(self):
        return list(self._columns)

    @columns.setter
    def columns(self, names):
        self._columns = dict(zip(names, self._columns.values(), strict=True))

    def copy(self, deep):
        return DataFrame(self._columns)

    def rename(self, columns):
        return DataFrame({columns.get(name, name): c for name, c in self._columns.items()})

    def reset_index(self, drop):
        assert drop
        return self

    @property
    def iloc(self):
        return _Rows(self)

    def to_arrow(self):
        return pa.table({name: column.arrow for name, column in self._columns.items()})

    def to_parquet(self, path, index, compression, row_group_size_rows):
        assert index is False and compression == "ZSTD"
        rows = row_group_size_rows
        pq.write_table(self.to_arrow(), path, compression="zstd", row_group_size=rows)


class _Rows:
    def __init__(self, frame):
        self.frame = frame

    def __getitem__(self, rows):
        return DataFrame.from_arrow(
            self.frame.to_arrow().take(pa.array(range(len(self.frame))[rows], pa.int64()))
        )


def _whole(column):
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def read_parquet(path, columns, row_groups, use_pandas_metadata, dataset_kwargs):
    assert use_pandas_metadata is False and dataset_kwargs == {"partitioning": None}
    path = glob.glob(path)[0] if isinstance(path, str) else path  # cuDF takes it for a pattern
    return DataFrame.from_arrow(pq.ParquetFile(path).read_row_groups(row_groups, columns=columns))


def lists(column, first):
    """What ``core.frames.lists`` does by cuDF's columns."""
    offsets = np.append(given(first), len(column)).astype(np.int32)
    return Series(pa.ListArray.from_arrays(pa.array(offsets), column.arrow))


CUPY = _Cupy()
CUDF = SimpleNamespace(DataFrame=DataFrame, Series=Series, read_parquet=read_parquet)
RAPIDS = SimpleNamespace(cudf=CUDF, cupy=CUPY)
