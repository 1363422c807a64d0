"""NVTabular's Normalize whose statistics can be merged and that leaves float32."""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from core import frames
from core.merlin import ops
from workflows.ops.fill_clip import by_column
from workflows.ops.reduction import tree_reduce
from workflows.state_files import Count, Finite, NotNegative, OperatorState, StateFiles


class NormalizeState(OperatorState):
    """What is saved of :class:`Normalize`: (n, mean, sum of squared deviations) by column."""

    moments: dict[str, Annotated[tuple[Count, Finite, NotNegative], Field(strict=False)]]


class Normalize(ops.Normalize):
    """``(x - mean) / std`` over the training rows, population-corrected (n - 1), as float32.

    A drop-in for ``nvtabular.ops.Normalize``. Partitions are reduced to (n, mean, sum of squared
    deviations) and merged pairwise (Chan, Golub & LeVeque 1979): no loss where the mean is far
    from zero, and a later day's moments can be merged into the state. NaN counts as absent. A GPU
    adds up in another order than the host: their moments agree but for the last digits.
    """

    def __init__(self):
        super().__init__(out_dtype=np.float32)
        self.moments: dict[str, tuple[int, float, float]] = {}

    def fit(self, col_selector, ddf):
        return tree_reduce(ddf[col_selector.names], column_moments, merge_moments)

    def fit_finalize(self, stats):
        self._set(stats)

    def _set(self, moments: dict[str, tuple[int, float, float]]) -> None:
        self.moments = moments
        for name, (n, mean, deviations) in moments.items():
            self.means[name] = mean
            self.stds[name] = math.sqrt(deviations / (n - 1)) if n > 1 else 0.0

    def transform(self, col_selector, df):
        scaled = by_column(df, col_selector.names, self._scale, self.output_dtype)
        return super().transform(col_selector, df) if scaled is None else scaled

    def _scale(self, name: str, values: frames.Array, out: frames.Array) -> None:
        np.divide(values - self.means[name], self.stds[name] or 1.0, out=out)

    def clear(self):
        super().clear()
        self.moments = {}

    def absorb(self, later: "Normalize") -> None:
        """Merges the moments of the same operator fitted on later rows."""
        self._set(merge_moments([self.moments, later.moments]))

    def save_state(self, folder: Path) -> dict[str, Any]:
        return {"moments": {name: list(moment) for name, moment in self.moments.items()}}

    def load_state(self, files: StateFiles) -> None:
        moments = files.record(NormalizeState).moments
        files.expect("moments", sorted(moments), sorted(files.columns))
        self._set(moments)
        self.fitted = True


def column_moments(df: Any) -> dict[str, tuple[int, float, float]]:
    """``{column: (n, mean, sum of squared deviations)}`` of one partition."""
    found = {}
    for name in df.columns:
        values = frames.numbers(df[name])
        finite = np.isfinite(values)
        values = values if finite.all() else values[finite]
        mean = float(values.mean()) if len(values) else 0.0
        found[name] = (len(values), mean, float(np.square(values - mean).sum()))
    return found


def merge_moments(parts: list[dict]) -> dict[str, tuple[int, float, float]]:
    """The moments of several partitions together."""
    merged = parts[0]
    for part in parts[1:]:
        merged = {name: _merge(merged[name], part[name]) for name in merged}
    return merged


def _merge(a: tuple[int, float, float], b: tuple[int, float, float]) -> tuple[int, float, float]:
    n = a[0] + b[0]
    if n == 0:
        return (0, 0.0, 0.0)
    shift = b[1] - a[1]
    return (n, a[1] + shift * b[0] / n, a[2] + b[2] + shift * shift * a[0] * b[0] / n)
