"""NVTabular's NormalizeMinMax that survives constants and nulls and leaves float32."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from core import frames
from core.merlin import ops
from workflows.ops.reduction import tree_reduce
from workflows.state_files import Finite, OperatorState, StateFiles

Range = tuple[float, float] | None
"""Least and greatest value; None where there is no value."""


class MinMaxState(OperatorState):
    """What is saved of :class:`NormalizeMinMax`: least and greatest value by column."""

    ranges: dict[str, Annotated[tuple[Finite, Finite], Field(strict=False)] | None]


class NormalizeMinMax(ops.NormalizeMinMax):
    """``(x - min) / (max - min)`` over the training rows, as float32.

    A drop-in for ``nvtabular.ops.NormalizeMinMax``, whose constant zero column becomes NaN (here a
    constant becomes 0) and whose transform fails on a column that has no value. Missing values stay
    missing. A later row beyond the training range lies outside 0 … 1; clip it where that matters.
    """

    def __init__(self):
        super().__init__(out_dtype=np.float32)
        self.ranges: dict[str, Range] = {}

    def fit(self, col_selector, ddf):
        return tree_reduce(ddf[col_selector.names], column_ranges, merge_ranges)

    def fit_finalize(self, stats):
        self.ranges = stats
        for name, found in stats.items():
            self.mins[name], self.maxs[name] = found or (0.0, 0.0)

    def clear(self):
        super().clear()
        self.ranges = {}

    def absorb(self, later: "NormalizeMinMax") -> None:
        """Widens the ranges by those of the same operator fitted on later rows."""
        self.fit_finalize(merge_ranges([self.ranges, later.ranges]))

    def transform(self, col_selector, df):
        columns = {}
        for name in col_selector.names:
            width = self.maxs[name] - self.mins[name]
            # In double, as the fit: a float32 difference of large numbers would lose digits.
            values = frames.numbers(df[name]) - self.mins[name]
            scaled = values / width if width > 0 else values * 0
            columns[name] = scaled.astype(self.output_dtype)
        return frames.frame_of(df, columns)

    def save_state(self, folder: Path) -> dict[str, Any]:
        return {"ranges": {name: found and list(found) for name, found in self.ranges.items()}}

    def load_state(self, files: StateFiles) -> None:
        ranges = files.record(MinMaxState).ranges
        files.expect("ranges", sorted(ranges), sorted(files.columns))
        for name, found in ranges.items():
            if found is not None and found[0] > found[1]:
                files.refuse(f"ranges.{name}", f"{found[0]} is above {found[1]}")
        self.fit_finalize(ranges)
        self.fitted = True


def column_ranges(df: Any) -> dict[str, Range]:
    """``{column: (least, greatest)}`` of the finite values of one partition."""
    found: dict[str, Range] = {}
    for name in df.columns:
        values = frames.numbers(df[name])
        values = values[np.isfinite(values)]
        found[name] = (float(values.min()), float(values.max())) if len(values) else None
    return found


def merge_ranges(parts: list[dict[str, Range]]) -> dict[str, Range]:
    """The ranges of several partitions together."""
    merged: dict[str, Range] = {}
    for name in parts[0]:
        known = [part[name] for part in parts if part[name] is not None]
        lows, highs = zip(*known, strict=True) if known else ((), ())
        merged[name] = (min(lows), max(highs)) if known else None
    return merged
