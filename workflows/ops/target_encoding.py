"""Target encoding whose out-of-fold means depend on the rows alone, not on the partitions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from core.artifacts import write_parquet
from core.merlin import ColumnSchema, Schema, Tags, ops
from workflows.ops.categorify import as_values
from workflows.ops.lookup import ValueLookup, one_array, one_type
from workflows.ops.reduction import tree_reduce
from workflows.ops.row_fold import FOLD, RowFold

TARGET = "__target__"
"""What the target is called in the fit, whatever its own name."""
LEAST = 1e-6
"""Means are kept this far from 0 and 1 before their logarithm is taken."""
TOTALS = "totals"
"""Stands beside the columns' statistics for those of all rows."""
Statistics = dict[str, pa.Table]
"""Columns ``value`` (not in TOTALS), ``fold``, ``count`` and ``sum`` (of the target)."""


class TargetEncoding(ops.StatOperator):
    """The columns ``TE_X_<target>``: the target's smoothed mean over the rows with that value.

    For a value seen ``n`` times with a sum ``s`` of targets, ``(s + smoothing * m) / (n +
    smoothing)``, ``m`` being the mean over all rows; float32 (Micci-Barreca 2001). A missing value
    is a value; one that training has not seen gets ``m``. Rows with a fold (see
    :class:`workflows.ops.RowFold`) get ``n``, ``s`` and ``m`` from the other folds only, so that no
    row's own target is in its encoding; rows without one (-1) get those of all training rows.

    ``nvtabular.ops.TargetEncoding`` draws the folds anew in each partition, by place: they change
    with the partitioning, the validation rows get folds too, and ``m`` holds the row's own target.
    Its state is files of its own making, joined to every partition. Sums of integer targets are
    exact in any order of the rows; those of others to the last digits of a double.

    Args:
        columns: those that are encoded, among those selected; all that are selected, but for the
            target, make a row's fold.
        target: name of the column to average.
        flag: column that is not 0 in the rows that train.
        folds: how many folds there are.
        smoothing: rows that the mean of all counts for.
        log_odds: instead of a mean p of a 0/1 target its log-odds beside those of ``m``,
            log(p / (1 - p)) - log(m / (1 - m)): 0 for a value of which nothing is known.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        target: str,
        flag: str,
        folds: int,
        smoothing: float,
        log_odds: bool = False,
    ):
        super().__init__()
        self.columns = list(columns)
        self.target = target
        self.flag = flag
        self.folds = folds
        self.smoothing = smoothing
        self.log_odds = log_odds
        self.statistics: Statistics = {}
        self._tables: dict[str, tuple[ValueLookup, np.ndarray]] = {}

    def with_folds(self, df: Any, names: list[str]) -> Any:
        """The columns to encode, the target and the fold of each row."""
        # Not an operator before this one: NVTabular drops what one makes of an empty partition.
        selector = ops.ColumnSelector([name for name in names if name != self.target])
        found = df[[*self.columns, self.target]].rename(columns={self.target: TARGET})
        found[FOLD] = RowFold(self.folds, self.flag).transform(selector, df)[FOLD]
        return found

    # fit

    def fit(self, col_selector, ddf):
        names = list(col_selector.names)
        if not hasattr(ddf, "map_partitions"):  # a plain frame: pipeline.fitting fits one at a time
            return tree_reduce(self.with_folds(ddf, names), fold_sums, add_sums)
        options = {"meta": ddf._meta, "enforce_metadata": False}
        return tree_reduce(
            ddf.map_partitions(self.with_folds, names, **options), fold_sums, add_sums
        )

    def fit_finalize(self, stats):
        self.statistics, self._tables = stats, {}

    def clear(self):
        self.statistics, self._tables = {}, {}

    # transform

    def transform(self, col_selector, df):
        out = type(df)()
        folds = as_values(self.with_folds(df, col_selector.names)[FOLD]).to_numpy()
        for name in self.columns:
            if name not in self._tables:
                self._tables[name] = self._encodings(name)
            lookup, encodings = self._tables[name]
            # Position -1, an unknown value, finds the last row; fold -1 the last column.
            out[self.output_name(name)] = encodings[lookup.positions(df[name]), folds]
        out.index = df.index
        return out

    def output_name(self, column: str) -> str:
        return f"TE_{column}_{self.target}"

    def _encodings(self, name: str) -> tuple[ValueLookup, np.ndarray]:
        """A column's values, and their encodings ``(values + 1, folds + 1)`` for rows of each fold;
        the last row is for unknown values, the last column for rows without a fold."""
        found = self.statistics[name]
        codes = one_array(found["value"]).dictionary_encode(null_encoding="encode")
        place = (codes.indices.to_numpy(), found["fold"].to_numpy())
        shape = (len(codes.dictionary) + 1, self.folds)
        counts, sums = np.zeros(shape), np.zeros(shape)
        counts[place], sums[place] = found["count"].to_numpy(), found["sum"].to_numpy()
        mean = self.means()
        n, s = (_without_fold(total) for total in (counts, sums))
        weight = n + self.smoothing
        smoothed = (s + self.smoothing * mean) / np.where(weight == 0, 1, weight)
        found = np.where(weight == 0, mean, smoothed)
        if self.log_odds:
            found = _log_odds(found) - _log_odds(mean)
        return ValueLookup(codes.dictionary), found.astype("f4")

    def means(self) -> np.ndarray:
        """The target's mean over the rows outside each fold, then over all: ``(folds + 1,)``."""
        totals = self.statistics[TOTALS]
        counts, sums = np.zeros((1, self.folds)), np.zeros((1, self.folds))
        folds = totals["fold"].to_numpy()
        counts[0, folds], sums[0, folds] = totals["count"].to_numpy(), totals["sum"].to_numpy()
        n, s = _without_fold(counts)[0], _without_fold(sums)[0]
        return np.divide(s, n, out=np.zeros_like(s), where=n > 0)

    # schema

    def column_mapping(self, col_selector):
        return {self.output_name(name): list(col_selector.names) for name in self.columns}

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        names = self.column_mapping(col_selector)
        return Schema(
            [ColumnSchema(name, dtype=np.float32, tags=[Tags.CONTINUOUS]) for name in names]
        )

    # state

    def absorb(self, later: "TargetEncoding") -> None:
        """Adds the sums of the same operator fitted on later rows."""
        self.fit_finalize(add_sums([self.statistics, later.statistics]))

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Writes ``sums.<column>.parquet``: count and sum of each value and fold, sorted."""
        for name, table in self.statistics.items():
            keys = [(key, "ascending") for key in ("value", "fold") if key in table.column_names]
            write_parquet(folder / f"sums.{name}.parquet", table.sort_by(keys))
        columns = sorted(name for name in self.statistics if name != TOTALS)
        settings = {"folds": self.folds, "smoothing": self.smoothing, "log_odds": self.log_odds}
        return {"columns": columns, **settings}

    def load_state(self, folder: Path, state: dict[str, Any]) -> None:
        names = [*state["columns"], TOTALS]
        self.fit_finalize({name: pq.read_table(folder / f"sums.{name}.parquet") for name in names})
        self.fitted = True

    def __getstate__(self):
        # Workers rebuild their tables, which are larger than what they are made of.
        return {**self.__dict__, "_tables": {}}


def _log_odds(means: np.ndarray) -> np.ndarray:
    kept = means.clip(LEAST, 1 - LEAST)
    return np.log(kept / (1 - kept))


def _without_fold(per_fold: np.ndarray) -> np.ndarray:
    """Sums over the folds but one, then over all: ``(n, folds)`` → ``(n, folds + 1)``."""
    total = per_fold.sum(axis=1, keepdims=True)
    return np.concatenate([total - per_fold, total], axis=1)


def fold_sums(df: Any) -> Statistics:
    """Count and sum of the target for each value and fold of one partition; rows without a fold
    or a target are left out."""
    targets = pd.Series(df[TARGET].to_numpy()).astype(float)
    folds = as_values(df[FOLD]).to_numpy()
    kept = targets.notna().to_numpy() & (folds >= 0)
    base = {"fold": folds[kept], "count": np.ones(kept.sum(), np.int64), "sum": targets[kept]}
    found = {TOTALS: _grouped(pa.table(base))}
    for name in df.columns:
        if name not in (TARGET, FOLD):
            values = as_values(df[name]).filter(pa.array(kept))
            found[name] = _grouped(pa.table({"value": values, **base}))
    return found


def add_sums(parts: list[Statistics]) -> Statistics:
    """The statistics of several partitions together."""
    added = {}
    for name in parts[0]:
        tables = [part[name] for part in parts]
        rest = pa.concat_tables([table.select(["fold", "count", "sum"]) for table in tables])
        joined = {key: rest[key] for key in rest.column_names}
        if name != TOTALS:
            joined = {"value": one_type([one_array(table["value"]) for table in tables]), **joined}
        added[name] = _grouped(pa.table(joined))
    return added


def _grouped(table: pa.Table) -> pa.Table:
    keys = [name for name in table.column_names if name in ("value", "fold")]
    summed = table.group_by(keys, use_threads=False).aggregate([("count", "sum"), ("sum", "sum")])
    return summed.rename_columns([*keys, "count", "sum"])
