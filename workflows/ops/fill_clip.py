"""NVTabular's FillMissing, Clip and LogOp, column by column, on the host and on a GPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from core import frames
from core.compiled import compiled
from core.merlin import ops


class FillMissing(ops.FillMissing):
    """A drop-in for ``nvtabular.ops.FillMissing``; a tenth of its time on plain pandas columns."""

    def transform(self, col_selector, df):
        names = col_selector.names
        if self.add_binary_cols and frames.on_host(df):
            return super().transform(col_selector, df)
        filled = by_column(df, names, self._fill)
        if filled is None:
            return super().transform(col_selector, df)
        if self.add_binary_cols:
            blank = {f"{name}_filled": frames.missing(df[name]) for name in names}
            return frames.joined(filled, frames.frame_of(df, blank))
        return filled

    def _fill(self, name: str, values: frames.Array, out: frames.Array) -> None:
        fill(values, self.fill_val, out)


class Clip(ops.Clip):
    """A drop-in for ``nvtabular.ops.Clip``; missing values stay missing."""

    def transform(self, col_selector, df):
        clipped = by_column(df, col_selector.names, self._clip)
        return super().transform(col_selector, df) if clipped is None else clipped

    def _clip(self, name: str, values: frames.Array, out: frames.Array) -> None:
        np.clip(values, self.min_value, self.max_value, out=out)


class LogOp(ops.LogOp):
    """A drop-in for ``nvtabular.ops.LogOp``: log(1 + x) as float32."""

    def transform(self, col_selector, df):
        logged = by_column(df, col_selector.names, self._log, self.output_dtype)
        return super().transform(col_selector, df) if logged is None else logged

    def _log(self, name: str, values: frames.Array, out: frames.Array) -> None:
        np.add(values.astype(out.dtype, copy=False), 1, out=out)
        np.log(out, out=out)


def fill(values: frames.Array, with_what: float, out: frames.Array) -> None:
    """``values`` with ``with_what`` in the place of NaN, written to ``out``."""
    if isinstance(values, np.ndarray):
        _filled(values, values.dtype.type(with_what), out)
    else:
        out[...] = np.where(np.isnan(values), values.dtype.type(with_what), values)


@compiled
def _filled(values, fill, out):
    for i in range(len(values)):
        out[i] = fill if np.isnan(values[i]) else values[i]


def by_column(
    df: Any,
    names: list[str],
    function: Callable[[str, frames.Array, frames.Array], None],
    dtype: Any = None,
) -> Any:
    """``function(name, column, what it becomes)`` for each column, NaN where a value is missing;
    None where a column of the host is not of NumPy's floats.

    ``dtype``: of what they become (None: as they are).
    """
    if not frames.on_host(df):
        return _by_column_on_device(df, names, function, dtype)
    columns = [df[name] for name in names]
    if any(not isinstance(c.dtype, np.dtype) or c.dtype.kind != "f" for c in columns):
        return None
    kinds = {np.dtype(dtype or c.dtype) for c in columns}
    if len(kinds) > 1:
        return None
    made = np.empty((len(names), len(df)), *kinds)  # one block: the system gives huge pages for it
    for name, column, out in zip(names, columns, made, strict=True):
        function(name, column.to_numpy(), out)
    return pd.DataFrame(dict(zip(names, made, strict=True)), index=df.index, copy=False)


def _by_column_on_device(df: Any, names: list[str], function: Callable, dtype: Any) -> Any:
    made = {}
    for name in names:
        kind = df[name].dtype
        values = frames.numbers(df[name], kind if kind.kind == "f" else np.float64)
        made[name] = np.empty_like(values, dtype=dtype or values.dtype)
        function(name, values, made[name])
    return frames.frame_of(df, made)
