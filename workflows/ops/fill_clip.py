"""NVTabular's FillMissing, Clip and LogOp, column by column on CPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from core.compiled import compiled
from core.merlin import ops


class FillMissing(ops.FillMissing):
    """A drop-in for ``nvtabular.ops.FillMissing``; a tenth of its time on plain pandas columns."""

    def transform(self, col_selector, df):
        if self.add_binary_cols:
            return super().transform(col_selector, df)
        filled = by_column(df, col_selector.names, self._fill)
        return super().transform(col_selector, df) if filled is None else filled

    def _fill(self, values: np.ndarray, out: np.ndarray) -> None:
        _filled(values, values.dtype.type(self.fill_val), out)


class Clip(ops.Clip):
    """A drop-in for ``nvtabular.ops.Clip``; missing values stay missing."""

    def transform(self, col_selector, df):
        clipped = by_column(df, col_selector.names, self._clip)
        return super().transform(col_selector, df) if clipped is None else clipped

    def _clip(self, values: np.ndarray, out: np.ndarray) -> None:
        np.clip(values, self.min_value, self.max_value, out=out)


class LogOp(ops.LogOp):
    """A drop-in for ``nvtabular.ops.LogOp``: log(1 + x) as float32."""

    def transform(self, col_selector, df):
        logged = by_column(df, col_selector.names, self._log, self.output_dtype)
        return super().transform(col_selector, df) if logged is None else logged

    def _log(self, values: np.ndarray, out: np.ndarray) -> None:
        np.add(values.astype(out.dtype, copy=False), 1, out=out)
        np.log(out, out=out)


@compiled
def _filled(values, fill, out):
    for i in range(len(values)):
        out[i] = fill if np.isnan(values[i]) else values[i]


def by_column(
    df: Any,
    names: list[str],
    function: Callable[[np.ndarray, np.ndarray], None],
    dtype: Any = None,
) -> pd.DataFrame | None:
    """``function(column, what it becomes)`` for each column; None where a frame or column is not of
    NumPy's floats. ``dtype``: of what they become (None: as they are)."""
    if not isinstance(df, pd.DataFrame):
        return None
    columns = [df[name] for name in names]
    if any(not isinstance(c.dtype, np.dtype) or c.dtype.kind != "f" for c in columns):
        return None
    kinds = {np.dtype(dtype or c.dtype) for c in columns}
    if len(kinds) > 1:
        return None
    made = np.empty((len(names), len(df)), *kinds)  # one block: the system gives huge pages for it
    for column, out in zip(columns, made, strict=True):
        function(column.to_numpy(), out)
    return pd.DataFrame(dict(zip(names, made, strict=True)), index=df.index, copy=False)
