"""How often a value was seen in training, as a number."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core import frames
from core.artifacts import write_parquet
from core.merlin import ColumnSchema, Schema, Tags, ops
from workflows.ops.lookup import ValueLookup, one_type
from workflows.ops.reduction import tree_reduce
from workflows.ops.values import as_values, counted_on_device, one_array
from workflows.state_files import COUNTS, VALUES, OperatorState, StateFiles, column_files

SUFFIX = "_count"
Counted = tuple[pa.Array, np.ndarray]
"""Distinct values, and in how many rows each stands."""


class CountState(OperatorState):
    """What is saved of :class:`CountEncoding` beside its files."""

    columns: list[str]


class CountEncoding(ops.StatOperator):
    """The columns ``X_count``: log(1 + training rows that hold the value), float32.

    0 for values that training has not seen, and for missing ones. ``nvtabular.ops.JoinGroupby``
    with ``stats=["count"]`` gives the count itself, but fails on a value that it has not seen (a
    null cannot be an int32), and its state is files of its own making.
    """

    def __init__(self):
        super().__init__()
        self.counts: dict[str, Counted] = {}
        self._lookups: dict[tuple[str, bool], tuple[ValueLookup, frames.Array]] = {}

    def fit(self, col_selector, ddf):
        return tree_reduce(ddf[col_selector.names], count_rows, add_counts)

    def fit_finalize(self, stats):
        self.counts, self._lookups = stats, {}

    def clear(self):
        self.counts, self._lookups = {}, {}

    def transform(self, col_selector, df):
        columns = {}
        for name in col_selector.names:
            key = name, frames.on_host(df)
            if key not in self._lookups:
                values, counts = self.counts[name]
                # The entry past the end is what position -1, an unknown value, finds.
                logged = np.log1p(np.append(counts, 0)).astype(np.float32)
                self._lookups[key] = ValueLookup(values, name), frames.beside(df, logged)
            lookup, logged = self._lookups[key]
            columns[name + SUFFIX] = logged[lookup.positions(df[name])]
        return frames.frame_of(df, columns)

    def column_mapping(self, col_selector):
        return {name + SUFFIX: [name] for name in col_selector.names}

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        names = self.column_mapping(col_selector)
        return Schema(
            [ColumnSchema(name, dtype=np.float32, tags=[Tags.CONTINUOUS]) for name in names]
        )

    def absorb(self, later: "CountEncoding") -> None:
        """Adds the counts of the same operator fitted on later rows."""
        self.fit_finalize(add_counts([self.counts, later.counts]))

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Writes ``values.<column>.parquet``: every value and its count, in value order."""
        files = column_files("values", self.counts)
        for name, (values, counts) in self.counts.items():
            order = pc.sort_indices(values)
            table = {"value": values.take(order), "count": pa.array(counts).take(order)}
            write_parquet(folder / files[name], pa.table(table))
        return {"columns": sorted(self.counts)}

    def load_state(self, files: StateFiles) -> None:
        columns = files.record(CountState).columns
        files.expect("columns", columns, sorted(files.columns))
        loaded = {}
        for name, file in files.of_columns("values", columns).items():
            table = files.table(file, {"value": VALUES, "count": COUNTS})
            values, counts = one_array(table["value"]), table["count"].to_numpy()
            files.check_distinct(file, values)
            files.check_counts(file, counts)
            loaded[name] = values, counts
        self.fit_finalize(loaded)
        self.fitted = True

    def __getstate__(self):
        # Workers rebuild their lookups, which are larger than what they are made of.
        return {**self.__dict__, "_lookups": {}}


def count_rows(df: Any) -> dict[str, Counted]:
    """``{column: (values, counts)}`` of one partition, missing ones left out."""
    counted = {}
    for name in df.columns:
        if not frames.on_host(df):
            counted[name] = counted_on_device(df[name])
            continue
        found = pc.value_counts(as_values(df[name]).drop_null())
        counted[name] = (found.field("values"), found.field("counts").to_numpy())
    return counted


def add_counts(parts: list[dict[str, Counted]]) -> dict[str, Counted]:
    """The counts of several partitions together."""
    summed = {}
    for name in parts[0]:
        values = one_type([part[name][0] for part in parts])
        counts = np.concatenate([part[name][1] for part in parts])
        table = pa.table({"value": values, "count": counts})
        table = table.group_by("value", use_threads=False).aggregate([("count", "sum")])
        summed[name] = (one_array(table["value"]), table["count_sum"].to_numpy())
    return summed
