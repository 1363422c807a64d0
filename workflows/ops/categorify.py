"""NVTabular's Categorify with exact, partition-independent vocabularies and a fast CPU path."""

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from core import frames
from core.artifacts import write_parquet
from core.hashing import mix
from core.merlin import ops
from core.parquet_bounds import rows_in
from workflows.ops import hash_counts, spill
from workflows.ops.codes import NULL, OOV
from workflows.ops.hash_index import ALL_VALID, HashIndex
from workflows.ops.lookup import ABSENT, ValueLookup
from workflows.ops.reduction import lies_on_a_gpu, tree_reduce
from workflows.ops.spill import Counts, CountsFile, Tally
from workflows.ops.values import as_values, cast_to, counted_on_device, list_parts, one_array
from workflows.state_files import COUNTS, VALUES, OperatorState, StateFiles, column_files

FIRST_VALUE = 3
"""The code of the most frequent value; the others follow by falling frequency. With ``num_buckets``
b the unknown values share the codes 2 to 1 + b, and the first value has 2 + b."""

COLUMNS_AT_ONCE = 4
ENTRIES_IN_MEMORY = 1 << 22
"""Counts of more values than this stay on disk once they are there."""
_BUILDING = threading.Lock()
VOCABULARY = (*VALUES, pa.null())
"""Of a column without a value no type is known."""
PerColumn = int | dict[str, int]
Run = Callable[..., list[Any]]


class CategorifyState(OperatorState):
    """What is saved of :class:`Categorify` beside its files."""

    columns: list[str]
    freq_threshold: PerColumn
    max_size: PerColumn
    num_buckets: PerColumn
    shared: list[list[str]]


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
      are taken without a copy. cuDF frames are counted and looked up by sorting on the GPU.
    - Of a column of lists, Arrow's or cuDF's, each value is counted and encoded; a list without
      one, or that is missing, becomes the code of a missing value.
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
        self.counts: dict[str, Counts | CountsFile] = {}
        self.spill_folder: str | None = None
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
        on_device = lies_on_a_gpu(ddf)
        combine = functools.partial(merge_counts, folder=self.spill_folder, on_device=on_device)
        return tree_reduce(ddf[col_selector.names], count_values, combine)

    def settle(self, stats: dict[str, Tally], run: Run) -> dict[str, Tally | CountsFile]:
        """Adds up what was spilled, a bucket at a time, on the workers."""
        settled: dict[str, Any] = {}
        for key, columns in self._by_key(stats).items():
            found = [stats[column] for column in columns]
            if isinstance(found[0], CountsFile):
                settled[key] = found[0]
                continue
            settled[key] = spill.merge(found, self.spill_folder)
            if settled[key].files and len(settled[key].values):
                settled[key] = spill.spilled(settled[key], self.spill_folder)
        large = {k: t for k, t in settled.items() if isinstance(t, Tally) and t.files}
        if not large:
            return settled
        items = [(key, bucket) for key in large for bucket in range(spill.BUCKETS)]
        paths = run("adding up counts", spill.settle_bucket, items, large, self.spill_folder)
        of_key: dict[str, list[str]] = {key: [] for key in large}
        for (key, _), path in zip(items, paths, strict=True):
            of_key[key].append(path)
        files = run("merging counts", spill.settle_column, of_key.values(), self.spill_folder)
        return {**settled, **dict(zip(of_key, files, strict=True))}

    def _by_key(self, columns: Iterable[str]) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = {}
        for column in columns:
            grouped.setdefault(self.key_of(column), []).append(column)
        return grouped

    def fit_finalize(self, stats: dict[str, Any]):
        """Takes the counts of each column, or what :meth:`settle` made of them, and chooses the
        vocabularies."""
        stats = self.settle(stats, _nowhere)
        with ThreadPoolExecutor(COLUMNS_AT_ONCE) as pool:
            found = pool.map(lambda key: self._finished(key, stats[key]), stats)
            for key, (counts, vocabulary) in zip(stats, found, strict=True):
                self.counts[key], self.vocabulary[key] = counts, vocabulary
        self._indexes.clear()

    def _finished(self, key: str, found: Any) -> tuple[Counts | CountsFile, pa.Array]:
        counts = found
        if isinstance(found, Tally):
            counts = spill.by_value(found.values, found.counts)
        return counts, self._chosen(key, counts, None)

    def _chosen(self, key: str, counts: Counts | CountsFile, known: pa.Array | None) -> pa.Array:
        """The values that get a code, beside those that are ``known``."""
        column = next((name for name, k in self.storage_name.items() if k == key), key)
        room = None
        if self.cap_of(column):
            have = 0 if known is None else len(known)
            room = max(0, self.cap_of(column) - self.first_value(column) - have)
        return choose_vocabulary(spill.batches(counts), self.threshold_of(column), room, known)

    def clear(self):
        super().clear()
        self.vocabulary, self.counts, self._indexes = {}, {}, {}

    def absorb(self, later: "Categorify") -> None:
        """Adds the counts of the same operator fitted on later rows.

        No code moves; values that now reach the threshold get codes at the end, by falling
        frequency and then by value, as far as ``max_size`` leaves room.
        """
        for key, counted in later.counts.items():
            self.counts[key] = spill.added(self.counts[key], counted, later.spill_folder)
            known = self.vocabulary[key]
            new = self._chosen(key, self.counts[key], known if len(known) else None)
            self.vocabulary[key] = pa.concat_arrays([known, new]) if len(known) else new
        self._indexes.clear()

    # transform

    def transform(self, col_selector, df):
        names = col_selector.names
        if not frames.on_host(df):
            return frames.frame_of(df, {n: self.encode_on_device(n, df[n]) for n in names})
        lists = {name: parts for name in names if (parts := list_parts(df[name])) is not None}
        single = [name for name in names if name not in lists]
        # One block: the system gives huge pages for it.
        codes = np.empty((len(single), len(df)), self.output_dtype)
        for name, out in zip(single, codes, strict=True):
            self.encode(name, as_values(df[name]), out)
        encoded: dict[str, Any] = dict(zip(single, codes, strict=True))
        encoded |= {name: self._encode_lists(name, *parts) for name, parts in lists.items()}
        return pd.DataFrame({n: encoded[n] for n in names}, index=df.index, copy=False)

    def _encode_lists(self, name: str, values: pa.Array, lengths: np.ndarray) -> Any:
        codes = np.empty(len(values), self.output_dtype)
        self.encode(name, values, codes)
        offsets, codes = with_missing(codes, lengths)
        return pd.arrays.ArrowExtensionArray(pa.ListArray.from_arrays(offsets, codes))

    def encode(self, name: str, values: pa.Array, codes: np.ndarray) -> None:
        """Writes the codes of one column's values to ``codes``, shape ``(values,)``."""
        key = self.key_of(name)
        vocabulary = self.vocabulary[key]
        if pa.types.is_integer(values.type) and pa.types.is_integer(vocabulary.type):
            with _BUILDING:  # or each thread would build its own
                if key not in self._indexes:
                    self._indexes[key] = HashIndex(vocabulary.to_numpy())
            numbers, valid, offset = _buffers(values)
            reserved = (NULL, OOV, self.buckets_of(name))
            self._indexes[key].codes(numbers, valid, offset, *reserved, codes)
        else:
            codes[:] = self._encode_text(name, cast_to(values, vocabulary.type, name), vocabulary)

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

    def encode_on_device(self, name: str, column: Any) -> Any:
        """The codes of one column of a GPU, there: by binary search, where :meth:`encode` hashes.

        The distinct values of a column of texts cross to the host to be looked up.
        """
        if frames.has_lists(column):
            codes = self.encode_on_device(name, frames.elements(column))
            offsets, codes = with_missing(codes, frames.lengths(column))
            return frames.lists(frames.rapids().cudf.Series(codes), offsets[:-1])
        key = self.key_of(name)
        with _BUILDING:
            if (key, "device") not in self._indexes:
                self._indexes[key, "device"] = ValueLookup(self.vocabulary[key])
        positions = self._indexes[key, "device"].positions(column)
        module, buckets = frames.module_of(positions), self.buckets_of(name)
        unknown = OOV
        if buckets > 1:
            unknown = OOV + _buckets_on_device(column, buckets)
        codes = module.where(positions == ABSENT, unknown, positions + self.first_value(name))
        codes[frames.missing(column)] = NULL
        return codes.astype(self.output_dtype)

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
        files = column_files("counts", columns), column_files("unique", columns)

        def save(name: str) -> None:
            self._save(name, *(folder / of[name] for of in files))

        with ThreadPoolExecutor(COLUMNS_AT_ONCE) as pool:  # Arrow sorts and writes without the lock
            list(pool.map(save, columns))
        return {
            "columns": columns,
            "freq_threshold": self.min_count,
            "max_size": self.cap,
            "num_buckets": self.buckets,
            "shared": [list(group) for group in self.shared],
        }

    def _save(self, name: str, counts: Path, unique: Path) -> None:
        spill.write_counts(counts, spill.batches(self.counts[name]))
        if isinstance(self.counts[name], CountsFile):
            self.counts[name] = CountsFile(counts)
        vocabulary = pa.table({"value": self.vocabulary[name]})
        # Distinct values: a dictionary would hold each once.
        write_parquet(unique, vocabulary, use_dictionary=False)

    def load_state(self, files: StateFiles) -> None:
        saved = files.record(CategorifyState)
        files.expect("columns", saved.columns, sorted(self._by_key(files.columns)))
        files.expect("freq_threshold", saved.freq_threshold, self.min_count)
        files.expect("max_size", saved.max_size, self.cap)
        files.expect("num_buckets", saved.num_buckets, self.buckets)
        files.expect("shared", saved.shared, [list(group) for group in self.shared])
        uniques = files.of_columns("unique", saved.columns)
        for name, counts in files.of_columns("counts", saved.columns).items():
            self.vocabulary[name] = _loaded_vocabulary(files, uniques[name])
            if files.has(counts):  # an exported bundle applies vocabularies but cannot extend them
                self.counts[name] = _loaded_counts(files, counts, self.vocabulary[name].type)
        self._indexes.clear()
        self.fitted = True

    def __getstate__(self):
        # Workers rebuild their indexes, and need no counts to apply a vocabulary.
        return {**self.__dict__, "_indexes": {}, "counts": {}}


def with_missing(codes: frames.Array, lengths: frames.Array) -> tuple[frames.Array, frames.Array]:
    """The offsets ``(rows + 1,)`` and codes of lists, those without a value given the code of a
    missing one."""
    module = frames.module_of(codes)
    sizes = module.maximum(lengths, 1)
    offsets = module.zeros(len(sizes) + 1, dtype=np.int32)
    offsets[1:] = module.cumsum(sizes)
    present = module.ones(int(offsets[-1]), dtype=bool)
    present[offsets[:-1][lengths == 0]] = False
    filled = module.full(len(present), NULL, dtype=codes.dtype)
    filled[present] = codes
    return offsets, filled


def _given(setting: PerColumn, column: str, otherwise: int) -> int:
    return setting.get(column, otherwise) if isinstance(setting, dict) else setting


def _buffers(values: pa.Array) -> tuple[np.ndarray, np.ndarray, int]:
    """An int64 array's numbers, its validity bits, and where in them it begins."""
    bits, data = values.buffers()
    numbers = np.frombuffer(data, np.int64)[values.offset : values.offset + len(values)]
    if not values.null_count:
        return numbers, ALL_VALID, 0
    return numbers, np.frombuffer(bits, np.uint8), values.offset


def _loaded_vocabulary(files: StateFiles, name: str) -> pa.Array:
    """Values in the order of their codes, each once."""
    values = one_array(files.table(name, {"value": VOCABULARY})["value"])
    files.check_distinct(name, values)
    return values


def _loaded_counts(files: StateFiles, name: str, kind: pa.DataType) -> Counts | CountsFile:
    """Counts that were kept, of values of the vocabulary's type; those of many stay on disk."""
    kinds = {"value": (kind,), "count": COUNTS}
    path = files.bounded_path(name, kinds)
    if rows_in(path) > ENTRIES_IN_MEMORY:
        return CountsFile(path)
    table = files.table(name, kinds)
    values, counts = one_array(table["value"]), one_array(table["count"]).to_numpy()
    files.check_distinct(name, values)
    files.check_counts(name, counts)
    return values, counts


def _nowhere(what: str, function: Callable[..., Any], items: Any, *fixed: Any) -> list[Any]:
    """Runs without a cluster."""
    return [function(item, *fixed) for item in items]


def bucket_numbers(values: pa.Array, buckets: int) -> np.ndarray:
    """The out-of-vocabulary bucket of each value (no nulls), from 0, by a hash of the value."""
    if pa.types.is_integer(values.type):
        found = np.empty(len(values), np.int64)
        HashIndex(np.empty(0, np.int64)).codes(*_buffers(values), 0, 0, buckets, found)
        return found
    return spill.bucket_of_text(values, buckets)


def _buckets_on_device(column: Any, buckets: int) -> Any:
    """:func:`bucket_numbers` of every row of a GPU's column."""
    found = frames.integers(column)
    if found is not None:
        return (mix(found[0].view(np.uint64)) % np.uint64(buckets)).astype(np.int64)
    positions, distinct = frames.distinct(column)
    # The entry past the end is what position -1, a missing value, finds.
    numbers = np.append(bucket_numbers(distinct, buckets), 0)
    return frames.beside(column, numbers)[positions]


def count_values(df: Any) -> dict[str, Tally]:
    """``{column: its counts}`` of one partition, nulls left out."""
    return {name: Tally(*_counted(df[name])) for name in df.columns}


def _counted(column: Any) -> Counts:
    if not frames.on_host(column):
        return counted_on_device(frames.elements(column))
    parts = list_parts(column)
    values = as_values(column) if parts is None else parts[0]
    if pa.types.is_integer(values.type):
        distinct, counts = hash_counts.value_counts(*_buffers(values))
        return pa.array(distinct), counts
    found = pc.value_counts(values.drop_null())
    return found.field("values"), found.field("counts").to_numpy()


def merge_counts(
    parts: list[dict[str, Tally]], folder: str | None = None, on_device: bool = False
) -> dict[str, Tally]:
    """Adds up the counts of several partitions, by a GPU where ``on_device``; ``folder``: where
    large ones are spilled to."""

    def merged(name: str) -> Tally:
        return spill.merge([part[name] for part in parts], folder, on_device)

    if on_device:
        return {name: merged(name) for name in parts[0]}
    with ThreadPoolExecutor(COLUMNS_AT_ONCE) as pool:
        return dict(zip(parts[0], pool.map(merged, parts[0]), strict=True))


def choose_vocabulary(
    counted: Iterable[Counts], min_count: int, room: int | None, known: pa.Array | None = None
) -> pa.Array:
    """The values that get a code, most frequent first, equal frequencies by value.

    Args:
        counted: counts in value order, in pieces.
        room: the most values that are kept (None: no cap).
        known: values that have one already.
    """
    kept: list[Counts] = []
    for values, counts in counted:
        order = hash_counts.falling(counts, min_count)
        if known is not None:
            new = pc.invert(pc.is_in(values, value_set=known)).to_numpy(zero_copy_only=False)
            order = order[new[order]]
        kept.append(_at(values, counts, np.sort(order[:room])))
        if room is not None and sum(len(counts) for _, counts in kept) > 2 * room + spill.ROW_GROUP:
            values, counts = _joined(kept)
            kept = [_at(values, counts, np.sort(hash_counts.falling(counts, 1)[:room]))]
    values, counts = _joined(kept)
    return values.take(pa.array(hash_counts.falling(counts, 1)[:room]))


def _joined(pieces: list[Counts]) -> Counts:
    return pa.concat_arrays([v for v, _ in pieces]), np.concatenate([c for _, c in pieces])


def _at(values: pa.Array, counts: np.ndarray, positions: np.ndarray) -> Counts:
    return values.take(pa.array(positions)), counts[positions]
