"""How often a value was seen in training, as a number."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.artifacts import write_parquet
from core.merlin import ColumnSchema, Schema, Tags, ops
from workflows.ops.categorify import count_values, merge_counts
from workflows.ops.lookup import ValueLookup
from workflows.ops.reduction import tree_reduce

SUFFIX = "_count"


class CountEncoding(ops.StatOperator):
    """The columns ``X_count``: log(1 + training rows that hold the value), float32.

    0 for values that training has not seen, and for missing ones. ``nvtabular.ops.JoinGroupby``
    with ``stats=["count"]`` gives the count itself, but fails on a value that it has not seen (a
    null cannot be an int32), and its state is files of its own making.
    """

    def __init__(self):
        super().__init__()
        self.counts: dict[str, tuple[pa.Array, np.ndarray]] = {}
        self._lookups: dict[str, tuple[ValueLookup, np.ndarray]] = {}

    def fit(self, col_selector, ddf):
        return tree_reduce(ddf[col_selector.names], count_values, merge_counts)

    def fit_finalize(self, stats):
        self.counts, self._lookups = stats, {}

    def clear(self):
        self.counts, self._lookups = {}, {}

    def transform(self, col_selector, df):
        out = type(df)()
        for name in col_selector.names:
            if name not in self._lookups:
                values, counts = self.counts[name]
                # The entry past the end is what position -1, an unknown value, finds.
                logged = np.log1p(np.append(counts, 0)).astype(np.float32)
                self._lookups[name] = ValueLookup(values), logged
            lookup, logged = self._lookups[name]
            out[name + SUFFIX] = logged[lookup.positions(df[name])]
        out.index = df.index
        return out

    def column_mapping(self, col_selector):
        return {name + SUFFIX: [name] for name in col_selector.names}

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        names = self.column_mapping(col_selector)
        return Schema(
            [ColumnSchema(name, dtype=np.float32, tags=[Tags.CONTINUOUS]) for name in names]
        )

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Writes ``values.<column>.parquet``: every value and its count, in value order."""
        for name, (values, counts) in self.counts.items():
            order = pc.sort_indices(values)
            table = {"value": values.take(order), "count": pa.array(counts).take(order)}
            write_parquet(folder / f"values.{name}.parquet", pa.table(table))
        return {"columns": sorted(self.counts)}

    def load_state(self, folder: Path, state: dict[str, Any]) -> None:
        found = {}
        for name in state["columns"]:
            table = pq.read_table(folder / f"values.{name}.parquet").combine_chunks()
            found[name] = (
                pa.concat_arrays(table["value"].chunks) if len(table) else pa.array([], pa.int64()),
                table["count"].to_numpy(),
            )
        self.fit_finalize(found)
        self.fitted = True

    def __getstate__(self):
        # Workers rebuild their lookups, which are larger than what they are made of.
        return {**self.__dict__, "_lookups": {}}
