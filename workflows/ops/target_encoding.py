"""Target encoding whose out-of-fold means depend on the rows alone, not on the partitions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from core import frames
from core.artifacts import write_parquet
from core.merlin import ColumnSchema, Schema, Tags, ops
from workflows.ops.joint_value import JointValues
from workflows.ops.lookup import ValueLookup, one_type
from workflows.ops.reduction import tree_reduce
from workflows.ops.row_fold import FOLD, RowFold
from workflows.ops.values import as_values, one_array
from workflows.state_files import (
    COUNTS,
    VALUES,
    Finite,
    OperatorState,
    StateFiles,
    are_distinct,
    column_files,
)

TARGET = "target"
"""What the target is called in the fit, where the columns to encode are called ``COLUMN`` and
their name."""
COLUMN = "="
LEAST = 1e-6
"""Means are kept this far from 0 and 1 before their logarithm is taken."""
EQUAL = 0.1
"""Logarithms of counts that deviate less than this are not scaled up: they differ by chance."""
TOTALS = None
"""Key of the statistics of all rows, among those of the columns."""
TOTALS_FILE = "sums.totals.parquet"
TWIN_OF_TOTALS = "sums.totals~.parquet"
"""The file of a column that is called totals."""
FOLDS = (pa.int8(), pa.int64())
Statistics = dict[str | None, pa.Table]
"""Columns ``value`` (not in TOTALS), ``fold``, ``count`` and ``sum`` (of the target)."""


class TargetState(OperatorState):
    """What is saved of :class:`TargetEncoding` beside its files."""

    columns: list[str]
    folds: int
    smoothing: Finite
    log_odds: bool


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
        joint: columns of combined values to encode too, as ``TE_A_X_B_<target>``.
        counts: whether there are columns ``TE_X_<target>_count`` too: log(1 + n), less its mean
            over the training rows and divided by its standard deviation there. Of rows with a fold,
            n is that of the other folds times folds / (folds - 1).
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        target: str,
        flag: str,
        folds: int,
        smoothing: float,
        log_odds: bool = False,
        joint: JointValues | None = None,
        counts: bool = False,
    ):
        super().__init__()
        self.single = list(columns)
        self.joint = joint or JointValues(())
        self.columns = [*self.single, *self.joint.groups]
        self.target = target
        self.flag = flag
        self.folds = folds
        self.smoothing = smoothing
        self.log_odds = log_odds
        self.counts = counts
        self.statistics: Statistics = {}
        self._tables: dict[tuple[str, bool], tuple[ValueLookup, dict[str, frames.Array]]] = {}

    def with_folds(self, df: Any, names: list[str]) -> Any:
        """The columns to encode, the target and the fold of each row."""
        # Not an operator before this one: NVTabular drops what one makes of an empty partition.
        selector = ops.ColumnSelector([name for name in names if name != self.target])
        given = {COLUMN + name: df[name] for name in self.single} | {TARGET: df[self.target]}
        if self.joint.groups:
            joint = self.joint.frame(df)
            given |= {COLUMN + name: joint[name] for name in joint.columns}
        folds = RowFold(self.folds, self.flag).transform(selector, df)
        return frames.frame_of(df, given | {FOLD: folds[FOLD]})

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
        columns = {}
        known = self.with_folds(df, col_selector.names)
        folds = _folds_of(known)
        for name in self.columns:
            key = name, frames.on_host(df)
            if key not in self._tables:
                lookup, encodings = self._encodings(name)
                beside = {out: frames.beside(df, table) for out, table in encodings.items()}
                self._tables[key] = lookup, beside
            lookup, encodings = self._tables[key]
            positions = lookup.positions(known[COLUMN + name])
            # Position -1, an unknown value, finds the last row; fold -1 the last column.
            columns |= {out: table[positions, folds] for out, table in encodings.items()}
        return frames.frame_of(df, columns)

    def output_names(self, column: str) -> list[str]:
        name = f"TE_{column}_{self.target}"
        return [name, f"{name}_count"] if self.counts else [name]

    def _encodings(self, name: str) -> tuple[ValueLookup, dict[str, np.ndarray]]:
        """A column's values, and for each output theirs ``(values + 1, folds + 1)`` in rows of each
        fold; the last row is for unknown values, the last column for rows without a fold."""
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
        tables = [found, _scaled_logs(n, counts)] if self.counts else [found]
        outputs = zip(self.output_names(name), tables, strict=True)
        return ValueLookup(codes.dictionary, name), {
            out: table.astype("f4") for out, table in outputs
        }

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
        outputs = [out for name in self.columns for out in self.output_names(name)]
        return {out: list(col_selector.names) for out in outputs}

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
        columns = sorted(name for name in self.statistics if name is not TOTALS)
        files = self._files(column_files("sums", columns))
        for name, table in self.statistics.items():
            keys = [(key, "ascending") for key in ("value", "fold") if key in table.column_names]
            write_parquet(folder / files[name], table.sort_by(keys))
        settings = {"folds": self.folds, "smoothing": self.smoothing, "log_odds": self.log_odds}
        return {"columns": columns, **settings}

    def load_state(self, files: StateFiles) -> None:
        saved = files.record(TargetState)
        files.expect("columns", saved.columns, sorted(self.columns))
        for key in ("folds", "smoothing", "log_odds"):
            files.expect(key, getattr(saved, key), getattr(self, key))
        names = self._files(files.of_columns("sums", saved.columns))
        self.fit_finalize({name: self._load(files, name, file) for name, file in names.items()})
        self.fitted = True

    @staticmethod
    def _files(of_columns: dict[str, str]) -> dict[str | None, str]:
        """The file of each column, which is not that of all rows, and that of all rows."""
        own = {n: TWIN_OF_TOTALS if f.lower() == TOTALS_FILE else f for n, f in of_columns.items()}
        return {**own, TOTALS: TOTALS_FILE}

    def _load(self, files: StateFiles, name: str | None, file: str) -> pa.Table:
        """A column's statistics, or those of all rows, checked."""
        value = {} if name is TOTALS else {"value": VALUES}
        kinds = {**value, "fold": FOLDS, "count": COUNTS, "sum": (pa.float64(),)}
        table = files.table(file, kinds, with_null="value")
        folds = table["fold"].to_numpy()
        if len(folds) and not 0 <= folds.min() <= folds.max() < self.folds:
            files.refuse_file(file, f"fold: expected 0 to {self.folds - 1}")
        if not np.isfinite(table["sum"].to_numpy()).all():
            files.refuse_file(file, "sum: expected finite numbers")
        files.check_counts(file, table["count"].to_numpy())
        places = np.zeros(len(folds), np.int64)
        if value:
            codes = one_array(table["value"]).dictionary_encode(null_encoding="encode")
            places = codes.indices.to_numpy().astype(np.int64)
        if not are_distinct(pa.array(places * self.folds + folds)):
            files.refuse_file(file, "a fold of a value is there twice")
        return table

    def __getstate__(self):
        # Workers rebuild their tables, which are larger than what they are made of.
        return {**self.__dict__, "_tables": {}}


def _log_odds(means: np.ndarray) -> np.ndarray:
    kept = means.clip(LEAST, 1 - LEAST)
    return np.log(kept / (1 - kept))


def _scaled_logs(n: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """log(1 + ``n``), ``(values + 1, folds + 1)``, scaled by its mean and deviation over training
    rows, of which ``counts`` ``(values + 1, folds)`` hold each value in each fold.

    Where a fold is left out, ``n`` counts for as many rows as all folds would hold: or else all
    values would look more frequent in the rows that do not train.
    """
    folds = counts.shape[1]
    of_all = np.append(np.full(folds, folds / (folds - 1)), 1.0)
    logs = np.log1p(n * of_all)
    rows = max(counts.sum(), 1)
    mean = (counts * logs[:, :-1]).sum() / rows
    deviation = np.sqrt((counts * np.square(logs[:, :-1] - mean)).sum() / rows)
    return (logs - mean) / (deviation if deviation > EQUAL else 1)


def _without_fold(per_fold: np.ndarray) -> np.ndarray:
    """Sums over the folds but one, then over all: ``(n, folds)`` → ``(n, folds + 1)``."""
    total = per_fold.sum(axis=1, keepdims=True)
    return np.concatenate([total - per_fold, total], axis=1)


def _folds_of(df: Any) -> frames.Array:
    """The fold of each row, int64."""
    return as_values(df[FOLD]).to_numpy() if frames.on_host(df) else frames.integers(df[FOLD])[0]


def fold_sums(df: Any) -> Statistics:
    """Count and sum of the target for each value and fold of one partition; rows without a fold
    or a target are left out."""
    if not frames.on_host(df):
        return _fold_sums_on_device(df)
    targets = pd.Series(df[TARGET].to_numpy()).astype(float)
    folds = as_values(df[FOLD]).to_numpy()
    kept = targets.notna().to_numpy() & (folds >= 0)
    base = {"fold": folds[kept], "count": np.ones(kept.sum(), np.int64), "sum": targets[kept]}
    tables = {TOTALS: _grouped(pa.table(base))}
    for name in df.columns:
        if name not in (TARGET, FOLD):
            values = as_values(df[name]).filter(pa.array(kept))
            tables[name.removeprefix(COLUMN)] = _grouped(pa.table({"value": values, **base}))
    return tables


def _fold_sums_on_device(df: Any) -> Statistics:
    """The same of a GPU's frame: every pair of a value and a fold is a number, and these are
    counted."""
    targets, folds = frames.numbers(df[TARGET]), _folds_of(df)
    kept = ~np.isnan(targets) & (folds >= 0)
    targets, folds = targets[kept], folds[kept]
    number = int(folds.max()) + 1 if len(folds) else 1
    tables = {TOTALS: _sums_by_pair(folds, number, targets, None)}
    for name in df.columns:
        if name not in (TARGET, FOLD):
            places, values = _places(df[name], kept)
            tables[name.removeprefix(COLUMN)] = _sums_by_pair(
                places * number + folds, number, targets, values
            )
    return tables


def _places(column: Any, kept: frames.Array) -> tuple[frames.Array, pa.Array]:
    """Where the value of each row that is ``kept`` stands among the values, and these; the last of
    them is null, the missing one."""
    found = frames.integers(column)
    if found is None:
        places, values = frames.distinct(column)
        places = np.where(places < 0, len(values), places)[kept]
        return places, pa.concat_arrays([values, pa.nulls(1, values.type)])
    numbers, missing = found[0][kept], found[1][kept]
    distinct, places = np.unique(numbers, return_inverse=True)
    values = pa.array(frames.on_the_host(distinct))
    places = np.where(missing, len(values), places.astype(np.int64))
    return places, pa.concat_arrays([values, pa.nulls(1, values.type)])


def _sums_by_pair(
    pairs: frames.Array, number: int, targets: frames.Array, values: pa.Array | None
) -> pa.Table:
    """The table of a column's statistics; a pair is the place of a value times the ``number`` of
    folds, plus a fold. ``values`` None: folds alone."""
    size = number * (1 if values is None else len(values))
    counts, sums = frames.counted(pairs, size), frames.counted(pairs, size, targets)
    present = np.flatnonzero(counts)
    columns = {"fold": present % number, "count": counts[present], "sum": sums[present]}
    if values is not None:
        columns = {"value": values.take(pa.array(present // number)), **columns}
    return pa.table(columns)


def add_sums(parts: list[Statistics]) -> Statistics:
    """The statistics of several partitions together."""
    added = {}
    for name in parts[0]:
        tables = [part[name] for part in parts]
        rest = pa.concat_tables([table.select(["fold", "count", "sum"]) for table in tables])
        joined = {key: rest[key] for key in rest.column_names}
        if name is not TOTALS:
            joined = {"value": one_type([one_array(table["value"]) for table in tables]), **joined}
        added[name] = _grouped(pa.table(joined))
    return added


def _grouped(table: pa.Table) -> pa.Table:
    keys = [name for name in table.column_names if name in ("value", "fold")]
    summed = table.group_by(keys, use_threads=False).aggregate([("count", "sum"), ("sum", "sum")])
    return summed.rename_columns([*keys, "count", "sum"])
