"""How far a column's values of one day are from those of another: population stability index."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class CategoryBins:
    """A bin for each of the most frequent values, one for the rest, one for missing."""

    values: pa.Array

    @property
    def count(self) -> int:
        return len(self.values) + 2

    def of(self, column: pl.Series) -> np.ndarray:
        """The bin of every row, shape ``(rows,)``."""
        array = column.to_arrow()
        wanted = self.values.cast(array.type) if len(self.values) else self.values
        rest, missing = len(self.values), len(self.values) + 1
        found = pc.index_in(array, value_set=wanted) if len(wanted) else pa.nulls(len(array))
        bins = pc.fill_null(found.cast(pa.int64()), rest).to_numpy(zero_copy_only=False)
        return np.where(column.is_null().to_numpy(), missing, bins)


@dataclass(frozen=True)
class QuantileBins:
    """Bins between quantiles of a reference day, and one for missing. Equal quantiles are one."""

    edges: np.ndarray

    @classmethod
    def fit(cls, reference: np.ndarray, bins: int) -> "QuantileBins":
        """``reference``: the values that are not missing, shape ``(values,)``."""
        if not len(reference):
            return cls(np.empty(0))
        inner = np.arange(1, bins) / bins
        return cls(np.unique(np.quantile(reference, inner, method="lower")))

    @property
    def count(self) -> int:
        return len(self.edges) + 2

    def of(self, column: pl.Series) -> np.ndarray:
        """The bin of every row: how many edges are below its value; the last for missing."""
        values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        bins = np.searchsorted(self.edges, values, side="left")
        return np.where(np.isnan(values), len(self.edges) + 1, bins)


def population_stability_index(expected: np.ndarray, found: np.ndarray) -> float:
    """PSI of counts in the same bins: Σ (q − p) · ln(q / p), p expected and q found shares.

    It is the symmetrised Kullback–Leibler divergence of the two (Jeffreys' J). By the usual rule of
    thumb below 0.1 is stable, above 0.25 has shifted; two draws of n and m rows from one
    distribution give (bins − 1) · (1/n + 1/m) on average. Half a row is added to every bin, so that
    an empty one costs much but not infinitely. Bins empty on both sides are left out.

    Source: N. Siddiqi, Credit Risk Scorecards (2006); B. Yurdakul, Statistical Properties of the
    Population Stability Index (2018).

    Args:
        expected, found: counts, shape ``(bins,)`` each.

    Returns:
        0 for equal shares; NaN where one side has no rows.
    """
    used = (expected + found) > 0
    if not expected.sum() or not found.sum():
        return float("nan")
    p, q = expected[used] + 0.5, found[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())
