"""NVTabular's FillMedian with the exact median, whatever the partitioning."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from core import frames
from core.artifacts import write_parquet
from core.merlin import ops
from workflows.ops.fill_clip import by_column, fill
from workflows.ops.reduction import tree_reduce
from workflows.state_files import COUNTS, Finite, OperatorState, StateFiles, column_files

Counted = tuple[np.ndarray, np.ndarray]
"""Distinct values, rising, and how often each was seen."""


class MedianState(OperatorState):
    """What is saved of :class:`FillMedian`: the median of each column."""

    medians: dict[str, Finite]


class FillMedian(ops.FillMedian):
    """Missing values become the median of the training rows' values (0 where there is none).

    A drop-in for ``nvtabular.ops.FillMedian``, whose median is put together from those of the
    partitions: an approximation that changes with the partitioning. Here values are counted, which
    is exact, can be merged with later days, and is small for columns of counts such as Criteo's
    (16 bytes a distinct value).
    """

    def __init__(self):
        super().__init__()
        self.counted: dict[str, Counted] = {}

    def fit(self, col_selector, ddf):
        return tree_reduce(ddf[col_selector.names], count_numbers, merge_numbers)

    def fit_finalize(self, stats):
        self.counted = stats
        self.medians = {name: median(*found) for name, found in stats.items()}

    def clear(self):
        super().clear()
        self.counted = {}

    def transform(self, col_selector, df):
        filled = by_column(df, col_selector.names, self._fill)
        if filled is None:
            medians = {name: self.medians[name] for name in col_selector.names}
            filled = df[col_selector.names].fillna(medians)
        return filled

    def _fill(self, name: str, values: frames.Array, out: frames.Array) -> None:
        fill(values, self.medians[name], out)

    def absorb(self, later: "FillMedian") -> None:
        """Adds the counts of the same operator fitted on later rows."""
        self.fit_finalize(merge_numbers([self.counted, later.counted]))

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Writes ``counts.<column>.parquet``: all values and how often each was seen."""
        files = column_files("counts", self.counted)
        for name, (values, counts) in self.counted.items():
            write_parquet(folder / files[name], pa.table({"value": values, "count": counts}))
        return {"medians": self.medians}

    def load_state(self, files: StateFiles) -> None:
        medians = files.record(MedianState).medians
        files.expect("medians", sorted(medians), sorted(files.columns))
        counted = {}
        for name, file in files.of_columns("counts", medians).items():
            if not files.has(file):  # an exported bundle fills but cannot be extended
                continue
            table = files.table(file, {"value": (pa.float64(),), "count": COUNTS})
            values, counts = table["value"].to_numpy(), table["count"].to_numpy()
            if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
                files.refuse_file(file, "value: expected finite numbers that rise")
            files.check_counts(file, counts)
            counted[name] = values, counts
        self.medians, self.counted = medians, counted
        self.fitted = True


def count_numbers(df: Any) -> dict[str, Counted]:
    """``{column: (values, counts)}`` of one partition, missing ones left out."""
    counted = {}
    for name in df.columns:
        values = frames.numbers(df[name])
        distinct, counts = np.unique(values[~np.isnan(values)], return_counts=True)
        counted[name] = frames.on_the_host(distinct), frames.on_the_host(counts)
    return counted


def merge_numbers(parts: list[dict[str, Counted]]) -> dict[str, Counted]:
    """The counts of several partitions together."""
    merged = {}
    for name in parts[0]:
        values = np.concatenate([part[name][0] for part in parts])
        counts = np.concatenate([part[name][1] for part in parts])
        distinct, where = np.unique(values, return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        np.add.at(total, where, counts)
        merged[name] = (distinct, total)
    return merged


def median(values: np.ndarray, counts: np.ndarray) -> float:
    """The middle value, or the mean of the two middle ones; 0 where there is no value."""
    total = int(counts.sum())
    if total == 0:
        return 0.0
    passed = np.cumsum(counts)
    middle = np.searchsorted(passed, [(total - 1) // 2, total // 2], side="right")
    return float(values[middle].mean())
