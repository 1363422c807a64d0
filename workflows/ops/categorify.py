"""NVTabular's Categorify with exact, partition-independent vocabularies and a fast CPU path."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.artifacts import write_parquet
from core.merlin import ops
from workflows.ops.hash_index import ALL_VALID, HashIndex, sum_counts, text_buckets, value_counts
from workflows.ops.reduction import tree_reduce

PADDING, NULL, OOV = 0, 1, 2
FIRST_VALUE = 3
"""Codes, as NVTabular gives them: padding, null, unknown, then values by falling frequency. With
``num_buckets`` b the unknown values share the codes 2 to 1 + b, and the first value has 2 + b."""

COLUMNS_AT_ONCE = 4
Counts = tuple[pa.Array, np.ndarray]
PerColumn = int | dict[str, int]


class Categorify(ops.Categorify):
    """Encodes each column's values as codes, by falling frequency in the training rows.

    A drop-in for ``nvtabular.ops.Categorify`` (single columns and joint encoding) that differs:

    - The same counts and codes come out whatever the partitioning and the order of the rows:
      values of equal frequency are ordered by value. NVTabular leaves that to chance.
    - ``freq_threshold`` and ``max_size`` may be combined; the threshold is applied to the global
      counts (NVTabular's may use a partial frame), and ``max_size`` counts the reserved codes.
    - A partition that is empty or whose column is all null is taken as it is.
    - Out-of-vocabulary buckets come from a hash that is the same on CPU, GPU and every machine.
    - pandas frames go through hash tables of our own rather than merges; columns of Arrow's types
      are taken without a copy. cuDF frames are counted and merged on the device.
    - The state is kept as all counts and the vocabulary, in Parquet, so that it can be extended.

    Args:
        freq_threshold: values seen fewer times in training get no code of their own.
        max_size: most codes, the reserved ones included; 0 means no cap.
        num_buckets: codes that unknown values share, by a hash of the value.
        dtype: integer type of the codes.
        shared: groups of columns that share one vocabulary; their counts are added up.

    The first three take one number, or one for each column by name; a column that is not named
    has no threshold, no cap and one bucket. Columns that share a vocabulary need equal numbers.
    """

    def __init__(
        self,
        freq_threshold: PerColumn = 0,
        max_size: PerColumn = 0,
        num_buckets: PerColumn = 1,
        dtype: Any = np.int32,
        shared: tuple[tuple[str, ...], ...] = (),
    ):
        super().__init__(dtype=dtype)
        self.min_count, self.cap, self.buckets = freq_threshold, max_size, num_buckets
        self.shared = tuple(tuple(group) for group in shared)
        names = [name for group in self.shared for name in group]
        if len(set(names)) < len(names):
            raise ValueError(f"shared: a column may stand in one group only, got {self.shared}")
        self.storage_name = {name: "_".join(group) for group in self.shared for name in group}
        for group in self.shared:
            self._check_alike(group)
        self.vocabulary: dict[str, pa.Array] = {}
        self.counts: dict[str, Counts] = {}
        self._indexes: dict[str, Any] = {}

    def _check_alike(self, group: tuple[str, ...]) -> None:
        for what in (self.threshold_of, self.cap_of, self.buckets_of):
            if len({what(name) for name in group}) > 1:
                raise ValueError(
                    f"columns {', '.join(group)} share a vocabulary: they need the same "
                    "freq_threshold, max_size and num_buckets"
                )

    # settings by column

    def key_of(self, column: str) -> str:
        """The name under which a column's vocabulary is kept: its own, or its group's."""
        return self.storage_name.get(column, column)

    def threshold_of(self, column: str) -> int:
        return max(1, _given(self.min_count, column, 1))

    def cap_of(self, column: str) -> int:
        return _given(self.cap, column, 0)

    def buckets_of(self, column: str) -> int:
        return max(1, _given(self.buckets, column, 1))

    def first_value(self, column: str) -> int:
        """The code of the most frequent value of a column."""
        return OOV + self.buckets_of(column)

    # fit

    def fit(self, col_selector, ddf):
        return tree_reduce(ddf[col_selector.names], self.count, self.merge)

    @staticmethod
    def count(df: Any) -> dict[str, Counts]:
        return count_values(df)

    @staticmethod
    def merge(parts: list[dict[str, Counts]]) -> dict[str, Counts]:
        return merge_counts(parts)

    def fit_finalize(self, stats: dict[str, Counts]):
        """Takes the counts of each column and chooses the vocabularies."""
        grouped: dict[str, list[str]] = {}
        for column in stats:
            grouped.setdefault(self.key_of(column), []).append(column)
        for key, columns in grouped.items():
            self.counts[key] = _add_up([stats[column] for column in columns])
        with ThreadPoolExecutor(COLUMNS_AT_ONCE) as pool:
            chosen = pool.map(lambda key: self._chosen(key, grouped[key][0]), grouped)
            self.vocabulary.update(zip(grouped, chosen, strict=True))
        self._indexes.clear()

    def _chosen(self, key: str, column: str) -> pa.Array:
        room = None
        if self.cap_of(column):
            room = max(0, self.cap_of(column) - self.first_value(column))
        return choose_vocabulary(*self.counts[key], self.threshold_of(column), room)

    def clear(self):
        super().clear()
        self.vocabulary, self.counts, self._indexes = {}, {}, {}

    def absorb(self, later: "Categorify") -> None:
        """Adds the counts of the same operator fitted on later rows.

        No code moves; values that now reach the threshold get codes at the end, by falling
        frequency and then by value, as far as ``max_size`` leaves room.
        """
        for key, counted in later.counts.items():
            self.counts[key] = _add_up([self.counts[key], counted])
            column = next((name for name, k in self.storage_name.items() if k == key), key)
            known, chosen = self.vocabulary[key], self._chosen(key, column)
            if not len(known):
                self.vocabulary[key] = chosen
                continue
            everything = choose_vocabulary(*self.counts[key], self.threshold_of(column), None)
            new = everything.filter(pc.invert(pc.is_in(everything, value_set=known)))
            if self.cap_of(column):
                room = self.cap_of(column) - self.first_value(column) - len(known)
                new = new[: max(0, room)]
            self.vocabulary[key] = pa.concat_arrays([known, new])
        self._indexes.clear()

    # transform

    def transform(self, col_selector, df):
        if not isinstance(df, pd.DataFrame):
            return self.transform_on_device(col_selector.names, df)
        encoded = {name: self.encode(name, df[name]) for name in col_selector.names}
        return pd.DataFrame(encoded, index=df.index, copy=False)

    def encode(self, name: str, column: pd.Series) -> np.ndarray:
        """Codes of one column, shape ``(rows,)``, of the operator's dtype."""
        values, key = as_values(column), self.key_of(name)
        vocabulary = self.vocabulary[key]
        if pa.types.is_integer(values.type) and pa.types.is_integer(vocabulary.type):
            if key not in self._indexes:
                self._indexes[key] = HashIndex(vocabulary.to_numpy())
            numbers, valid, offset = _buffers(values)
            reserved = (NULL, OOV, self.buckets_of(name))
            dtype = np.dtype(self.output_dtype)
            return self._indexes[key].codes(numbers, valid, offset, *reserved, dtype)
        return self._encode_text(name, values.cast(vocabulary.type, safe=False), vocabulary)

    def _encode_text(self, name: str, values: pa.Array, vocabulary: pa.Array) -> np.ndarray:
        positions = pc.index_in(values, value_set=vocabulary)
        unknown = positions.is_null().to_numpy(zero_copy_only=False)
        codes = pc.fill_null(positions, 0).to_numpy().astype(self.output_dtype)
        codes += self.output_dtype(self.first_value(name))
        codes[unknown] = OOV
        if self.buckets_of(name) > 1:
            codes[unknown] += bucket_numbers(
                values.filter(pa.array(unknown)), self.buckets_of(name)
            ).astype(self.output_dtype)
        if values.null_count:
            codes[values.is_null().to_numpy(zero_copy_only=False)] = NULL
        return codes

    def transform_on_device(self, names: list[str], df: Any) -> Any:
        """The same for a frame that is not pandas' (cuDF), by merges on the device."""
        out = type(df)(index=df.index)
        for name in names:
            key, first = self.key_of(name), self.first_value(name)
            if (key, "device") not in self._indexes:
                vocabulary = self.vocabulary[key].to_pandas()
                table = {"value": vocabulary, "code": np.arange(len(vocabulary)) + first}
                self._indexes[key, "device"] = type(df)(table)
            table = self._indexes[key, "device"]
            wanted = type(df)({"value": df[name].reset_index(drop=True)})
            missing = wanted["value"].isna()
            wanted["value"] = wanted["value"].fillna(0 if _numeric(wanted["value"]) else "")
            if not _numeric(wanted["value"]) or len(table):
                wanted["value"] = wanted["value"].astype(table["value"].dtype)
            wanted["order"] = np.arange(len(df))
            codes = wanted.merge(table, on="value", how="left").sort_values("order")["code"]
            codes = codes.reset_index(drop=True)
            unknown = codes.isna() & ~missing
            codes = codes.fillna(OOV).astype(np.int64)
            if self.buckets_of(name) > 1 and bool(unknown.any()):
                values = as_values(wanted["value"][unknown])
                codes[unknown] = OOV + bucket_numbers(values, self.buckets_of(name))
            codes[missing] = NULL
            out[name] = codes.astype(self.output_dtype).values
        return out

    # schema

    def get_embedding_sizes(self, columns):
        """``{column: (cardinality, suggested dimension)}``; all reserved codes are counted."""
        sizes = {}
        for name in columns:
            # NVTabular asks by the vocabulary's name, people by the column's.
            column = next((c for c, key in self.storage_name.items() if key == name), name)
            known = self.vocabulary.get(self.key_of(column), ())
            cardinality = len(known) + self.first_value(column)
            sizes[name] = (cardinality, min(16, round(1.6 * cardinality**0.56)))
        return sizes

    def _compute_properties(self, col_schema, input_schema):
        schema = super()._compute_properties(col_schema, input_schema)
        name = col_schema.name
        added = {
            "freq_threshold": self.threshold_of(name),
            "max_size": self.cap_of(name),
            "num_buckets": self.buckets_of(name),
        }
        return schema.with_properties({**schema.properties, **added})

    # state

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Writes ``unique.<column>.parquet`` (values in the order of their codes, from 2 +
        num_buckets) and all counts beside it; a shared vocabulary under its group's name."""
        columns = sorted(self.vocabulary)
        with ThreadPoolExecutor(COLUMNS_AT_ONCE) as pool:  # Arrow sorts and writes without the lock
            list(pool.map(lambda name: self._save(folder, name), columns))
        return {
            "columns": columns,
            "freq_threshold": self.min_count,
            "max_size": self.cap,
            "num_buckets": self.buckets,
            "shared": [list(group) for group in self.shared],
        }

    def _save(self, folder: Path, name: str) -> None:
        values, counts = self.counts[name]
        # Value order, so that the same counts are the same bytes.
        order = pc.sort_indices(values)
        all_counts = {"value": values.take(order), "count": pa.array(counts).take(order)}
        options = {"use_dictionary": False}  # distinct values: a dictionary would hold each once
        write_parquet(folder / f"counts.{name}.parquet", pa.table(all_counts), **options)
        vocabulary = pa.table({"value": self.vocabulary[name]})
        write_parquet(folder / f"unique.{name}.parquet", vocabulary, **options)

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
        # Workers rebuild their indexes, and need no counts to apply a vocabulary.
        return {**self.__dict__, "_indexes": {}, "counts": {}}


def _given(setting: PerColumn, column: str, otherwise: int) -> int:
    return setting.get(column, otherwise) if isinstance(setting, dict) else setting


def as_values(column: Any) -> pa.Array:
    """A column as Arrow int64 or strings, nulls as nulls (NaN too)."""
    if hasattr(column, "to_arrow"):  # cuDF
        values = column.to_arrow()
    elif column.dtype == object:
        values = pa.array(column, from_pandas=True)
    elif isinstance(column.dtype, pd.ArrowDtype):
        values = pa.array(column.array)
    else:
        values = pa.array(column.to_numpy(), from_pandas=True)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_floating(values.type) or pa.types.is_boolean(values.type):
        return values.cast(pa.int64(), safe=False)  # integers with nulls arrive as floats
    if pa.types.is_integer(values.type):
        return values.cast(pa.int64(), safe=False)
    return values.cast(pa.string())


def _buffers(values: pa.Array) -> tuple[np.ndarray, np.ndarray, int]:
    """An int64 array's numbers, its validity bits, and where in them it begins."""
    bits, data = values.buffers()
    numbers = np.frombuffer(data, np.int64)[values.offset : values.offset + len(values)]
    if not values.null_count:
        return numbers, ALL_VALID, 0
    return numbers, np.frombuffer(bits, np.uint8), values.offset


def bucket_numbers(values: pa.Array, buckets: int) -> np.ndarray:
    """The out-of-vocabulary bucket of each value (no nulls), from 0, by a hash of the value."""
    if pa.types.is_integer(values.type):
        distinct = HashIndex(np.empty(0, np.int64))
        return distinct.codes(*_buffers(values), 0, 0, buckets, np.dtype(np.int64))
    values = pa.concat_arrays([values.cast(pa.large_string())])  # at offset 0
    _, offsets, data = values.buffers()
    starts = np.frombuffer(offsets, np.int64)[: len(values) + 1]
    return text_buckets(starts, np.frombuffer(data or b"", np.uint8), buckets)


def count_values(df: Any) -> dict[str, Counts]:
    """``{column: (distinct values, their counts)}`` of one partition, nulls left out."""
    counted = {}
    for name in df.columns:
        column = df[name]
        if not isinstance(df, pd.DataFrame):
            column = column.dropna().value_counts()  # on the device: far fewer rows come over
            values = as_values(column.index.to_series())
            counted[name] = (values, _one_array(column.to_arrow()).to_numpy())
            continue
        values = as_values(column)
        if pa.types.is_integer(values.type):
            distinct, counts = value_counts(*_buffers(values))
            counted[name] = (pa.array(distinct), counts)
        else:
            found = pc.value_counts(values.drop_null())
            counted[name] = (found.field("values"), found.field("counts").to_numpy())
    return counted


def merge_counts(parts: list[dict[str, Counts]]) -> dict[str, Counts]:
    """Adds up the counts of several partitions."""
    if len(parts) == 1:
        return parts[0]
    return {name: _add_up([part[name] for part in parts]) for name in parts[0]}


def _add_up(counted: list[Counts]) -> Counts:
    # A partition whose column is all null knows no type: the others say it.
    kept = [part for part in counted if len(part[0])] or counted[:1]
    types = {values.type for values, _ in kept}
    if len(types) > 1:
        raise ValueError(f"the values of one vocabulary are of several types: {types}")
    if len(kept) == 1:
        return kept[0]
    values = pa.concat_arrays([values for values, _ in kept])
    counts = np.concatenate([counts for _, counts in kept])
    if pa.types.is_integer(values.type):
        distinct, sums = sum_counts(values.to_numpy(), counts)
        return pa.array(distinct), sums
    table = pa.table({"value": values, "count": counts})
    summed = table.group_by("value", use_threads=False).aggregate([("count", "sum")])
    return _one_array(summed["value"]), _one_array(summed["count_sum"]).to_numpy()


def choose_vocabulary(
    values: pa.Array, counts: np.ndarray, min_count: int, room: int | None
) -> pa.Array:
    """The values that get a code, most frequent first, equal frequencies by value.

    ``room``: the most values that are kept (None: no cap).
    """
    enough = np.flatnonzero(counts >= min_count)
    kept, frequencies = values.take(pa.array(enough)), counts[enough]
    if pa.types.is_integer(kept.type):
        order = pa.array(np.lexsort((kept.to_numpy(), -frequencies)))
    else:
        order = pc.sort_indices(
            pa.table({"value": kept, "count": frequencies}),
            sort_keys=[("count", "descending"), ("value", "ascending")],
        )
    return kept.take(order if room is None else order[:room])


def _numeric(column: Any) -> bool:
    return column.dtype.kind in "iufb"


def _one_array(chunked: pa.ChunkedArray) -> pa.Array:
    return chunked.combine_chunks() if isinstance(chunked, pa.ChunkedArray) else chunked
