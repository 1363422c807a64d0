"""NVTabular's Categorify with exact, partition-independent vocabularies and a fast CPU path."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.artifacts import write_parquet
from core.merlin import ops
from workflows.ops.hash_index import HashIndex, value_counts
from workflows.ops.reduction import tree_reduce

PADDING, NULL, OOV = 0, 1, 2
FIRST_VALUE = 3
"""Codes, as NVTabular gives them: padding, null, unknown, then values by falling frequency."""


class Categorify(ops.Categorify):
    """Encodes each column's values as codes 3, 4, … by falling frequency.

    A drop-in for ``nvtabular.ops.Categorify`` (one vocabulary a column) that differs in this:

    - The same counts and codes come out whatever the partitioning and the order of the rows:
      values of equal frequency are ordered by value. NVTabular leaves that to chance.
    - ``freq_threshold`` and ``max_size`` may be combined; the threshold is applied to the global
      counts (NVTabular's may use a partial frame), and ``max_size`` counts the reserved codes.
    - A partition that is empty or whose column is all null is taken as it is.
    - pandas frames go through hash tables of our own rather than merges; cuDF frames take
      NVTabular's code, and only the order of equal frequencies is settled here.
    - The state is kept as all counts and the vocabulary, in Parquet, so that it can be extended.
    """

    def __init__(self, freq_threshold: int = 0, max_size: int = 0, dtype: Any = np.int32):
        super().__init__(dtype=dtype)
        self.min_count = max(1, freq_threshold)
        self.cap = max_size
        self.vocabulary: dict[str, pa.Array] = {}
        self.counts: dict[str, tuple[pa.Array, np.ndarray]] = {}
        self._indexes: dict[str, HashIndex] = {}

    # fit

    def fit(self, col_selector, ddf):
        if not isinstance(ddf._meta, pd.DataFrame):
            return super().fit(col_selector, ddf)
        return tree_reduce(ddf[col_selector.names], count_values, merge_counts)

    def fit_finalize(self, stats):
        for column, found in stats.items():
            counted = _read_gpu_counts(found, column) if isinstance(found, str) else found
            self.counts[column] = counted
            self.vocabulary[column] = choose_vocabulary(*counted, self.min_count, self.cap)
        self._indexes.clear()

    def clear(self):
        super().clear()
        self.vocabulary, self.counts, self._indexes = {}, {}, {}

    # transform

    def transform(self, col_selector, df):
        if not isinstance(df, pd.DataFrame):
            return super().transform(col_selector, df)
        encoded = {name: self.encode(name, df[name]) for name in col_selector.names}
        return pd.DataFrame(encoded, index=df.index)

    def encode(self, name: str, column: pd.Series) -> np.ndarray:
        """Codes of one column, shape ``(rows,)``, of the operator's dtype."""
        values, missing = as_values(column)
        vocabulary = self.vocabulary[name]
        if isinstance(values, np.ndarray) and pa.types.is_integer(vocabulary.type):
            if name not in self._indexes:
                self._indexes[name] = HashIndex(vocabulary.to_numpy())
            codes = self._indexes[name].positions(values, absent=OOV - FIRST_VALUE)
        else:
            wanted = pa.array(values).cast(vocabulary.type, safe=False)
            positions = pc.index_in(wanted, value_set=vocabulary)
            codes = pc.fill_null(positions, OOV - FIRST_VALUE).to_numpy(zero_copy_only=False)
        codes = codes.astype(self.output_dtype, copy=False) + self.output_dtype(FIRST_VALUE)
        if missing is not None:
            codes[missing] = NULL
        return codes

    def get_embedding_sizes(self, columns):
        """``{column: (cardinality, suggested dimension)}``; all reserved codes are counted."""
        sizes = {}
        for name in columns:
            cardinality = len(self.vocabulary.get(name, ())) + FIRST_VALUE
            sizes[name] = (cardinality, min(16, round(1.6 * cardinality**0.56)))
        return sizes

    def _compute_properties(self, col_schema, input_schema):
        schema = super()._compute_properties(col_schema, input_schema)
        added = {"freq_threshold": self.min_count, "max_size": self.cap}
        return schema.with_properties({**schema.properties, **added})

    # state

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Writes ``unique.<column>.parquet`` (codes 3, 4, … in order) and all counts beside it."""
        columns = sorted(self.vocabulary)
        for name in columns:
            values, counts = self.counts[name]
            # Value order, so that the same counts are the same bytes.
            order = pc.sort_indices(values)
            all_counts = {"value": values.take(order), "count": pa.array(counts).take(order)}
            write_parquet(folder / f"counts.{name}.parquet", pa.table(all_counts))
            vocabulary = pa.table({"value": self.vocabulary[name]})
            write_parquet(folder / f"unique.{name}.parquet", vocabulary)
        return {"columns": columns, "freq_threshold": self.min_count, "max_size": self.cap}

    def load_state(self, folder: Path, state: dict[str, Any]) -> None:
        for name in state["columns"]:
            counts = folder / f"counts.{name}.parquet"
            if counts.exists():  # an exported bundle applies vocabularies but cannot extend them
                table = pq.read_table(counts)
                self.counts[name] = (
                    _one_array(table["value"]),
                    _one_array(table["count"]).to_numpy(),
                )
            unique = pq.read_table(folder / f"unique.{name}.parquet")
            self.vocabulary[name] = _one_array(unique["value"])
        self._indexes.clear()
        self.fitted = True

    def __getstate__(self):
        # Workers rebuild their indexes; a table of hashes is larger than the vocabulary it serves.
        return {**self.__dict__, "_indexes": {}}


def as_values(column: pd.Series) -> tuple[np.ndarray | pa.Array, np.ndarray | None]:
    """A pandas column as int64 or Arrow strings, and a mask of its nulls (None if there is none).

    Nulls stand as some value in the first array; the mask says where.
    """
    if column.dtype.kind in "iub":
        return column.to_numpy().astype(np.int64, copy=False), None
    if column.dtype.kind == "f":  # integers with nulls arrive from Parquet as floats
        floats = column.to_numpy()
        missing = np.isnan(floats)
        if not missing.any():
            return floats.astype(np.int64), None
        return np.where(missing, 0, floats).astype(np.int64), missing
    strings = pa.array(column, from_pandas=True)
    if pa.types.is_null(strings.type):
        strings = strings.cast(pa.string())
    missing = strings.is_null().to_numpy(zero_copy_only=False)
    return strings, (missing if missing.any() else None)


def count_values(df: pd.DataFrame) -> dict[str, tuple[pa.Array, np.ndarray]]:
    """``{column: (distinct values, their counts)}`` of one partition, nulls left out."""
    counted = {}
    for name in df.columns:
        values, missing = as_values(df[name])
        if isinstance(values, np.ndarray):
            distinct, counts = value_counts(values if missing is None else values[~missing])
            counted[name] = (pa.array(distinct), counts)
        else:
            found = pc.value_counts(values.drop_null())
            counted[name] = (found.field("values"), found.field("counts").to_numpy())
    return counted


def merge_counts(parts: list[dict]) -> dict[str, tuple[pa.Array, np.ndarray]]:
    """Adds up the counts of several partitions."""
    if len(parts) == 1:
        return parts[0]
    return {name: _add_up([part[name] for part in parts]) for name in parts[0]}


def _add_up(counted: list[tuple[pa.Array, np.ndarray]]) -> tuple[pa.Array, np.ndarray]:
    # A partition whose column is all null knows no type: the others say it.
    types = {values.type for values, _ in counted if len(values)}
    if len(types) > 1:
        raise ValueError(f"partitions disagree on the type of a column: {types}")
    kept = [part for part in counted if len(part[0])] or counted[:1]
    table = pa.table(
        {
            "value": pa.chunked_array([values for values, _ in kept]),
            "count": pa.chunked_array([pa.array(counts, pa.int64()) for _, counts in kept]),
        }
    )
    summed = table.group_by("value", use_threads=False).aggregate([("count", "sum")])
    return _one_array(summed["value"]), _one_array(summed["count_sum"]).to_numpy()


def choose_vocabulary(
    values: pa.Array, counts: np.ndarray, min_count: int, max_size: int
) -> pa.Array:
    """The values that get a code, most frequent first, equal frequencies by value.

    ``max_size`` is the number of codes including the three reserved ones; 0 means no cap.
    """
    enough = counts >= min_count
    kept = pa.table({"value": values, "count": counts}).filter(pa.array(enough))
    order = pc.sort_indices(kept, sort_keys=[("count", "descending"), ("value", "ascending")])
    if max_size:
        order = order[: max(0, max_size - FIRST_VALUE)]
    return _one_array(kept["value"].take(order))


def _one_array(chunked: pa.ChunkedArray) -> pa.Array:
    return chunked.combine_chunks() if isinstance(chunked, pa.ChunkedArray) else chunked


def _read_gpu_counts(path: str, column: str) -> tuple[pa.Array, np.ndarray]:
    """The counts that NVTabular's cuDF fit wrote: values with their ``<column>_size``."""
    table = pq.read_table(path, columns=[column, f"{column}_size"]).drop_null()
    return _one_array(table[column]), _one_array(table[f"{column}_size"]).to_numpy()
