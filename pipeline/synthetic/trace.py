"""The *trace* generator of the DLRM paper: ids with the locality of a real column.

The stack distance of an access is the number of *other* ids met since the same id was met last: 0
for an immediate repeat, and none for an id's first time (Mattson et al., 1970). The profile is how
often each distance occurs. A replay draws distances from it and takes the id that lies so deep in
the least-recently-used stack; a distance beyond the stack is a new id.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from core.artifacts import read_json, write_json
from core.errors import UserError
from core.settings import Settings, validate
from pipeline.synthetic.shards import Bag, SystemsSettings, draw_offsets, write_shards

FIRST_TIME = -1
# Distances up to this are counted one by one; above, an octave has so many bins.
_EXACT = 1024
_BINS_PER_OCTAVE = 64


class TraceProfile(Settings):
    """How far back the ids of a column recur."""

    accesses: int = Field(ge=1)
    """Ids in the column, blanks left out."""
    distinct: int = Field(ge=1)
    """Different ids, each of which had one first time."""
    low: tuple[int, ...]
    """Lowest distance of each bin, ascending; up to 1024 a bin is one distance."""
    high: tuple[int, ...]
    """Highest distance of each bin."""
    count: tuple[int, ...]
    """Accesses with a distance in the bin; first times are in none."""


class TraceColumn(Settings):
    """A real column whose locality is to be replayed."""

    file: Path
    """A Parquet file, or a profile that :func:`write_profile` wrote (``.json``)."""
    column: str = ""
    """Column of the Parquet file."""


class TraceGenerateSettings(SystemsSettings):
    """Which replayed ids to write."""

    columns: tuple[TraceColumn, ...] = Field(min_length=1)
    """One column for each table of the output."""


def generate_trace(
    settings: TraceGenerateSettings,
    folder: str | Path,
    advance: Callable[[float], None] = lambda rows: None,
) -> dict[str, Any]:
    """Writes ``part-*.parquet``, ``profile_C<i>.json`` and ``manifest.json``.

    Shards are as :func:`shards.write_shards` says; a table's replay goes on from shard to shard.
    """
    folder = Path(folder)
    replays = []
    for table, source in enumerate(settings.columns):
        profile = load_profile(source)
        write_profile(folder / f"profile_C{table + 1}.json", profile)
        replays.append(Replay(profile, np.random.SeedSequence([settings.seed, table])))

    def draw(random: np.random.Generator, rows: int) -> list[Bag]:
        bags = []
        for replay in replays:
            offsets = draw_offsets(settings, random, rows)
            bags.append((offsets, replay.draw(int(offsets[-1]))))
        return bags

    described = {
        "recipe": "trace",
        "tables": [replay.table_rows for replay in replays],
        "profiles": [f"profile_C{table + 1}.json" for table in range(len(replays))],
    }
    return write_shards(settings, len(replays), draw, folder, advance, described)


def load_profile(source: TraceColumn) -> TraceProfile:
    """Reads a profile, or takes it of a Parquet column (plain or list; blanks are left out)."""
    if source.file.suffix == ".json":
        return read_profile(source.file)
    try:
        file = pq.ParquetFile(source.file)
    except FileNotFoundError:
        raise UserError(f"{source.file}: no such file") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{source.file}: not a Parquet file ({error})") from None
    if source.column not in file.schema_arrow.names:
        known = ", ".join(file.schema_arrow.names)
        raise UserError(f"{source.file}: no column '{source.column}'; it has {known}")
    column = file.read(columns=[source.column])[source.column].combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.list_flatten(column)
    column = column.drop_null()
    if len(column) == 0:
        raise UserError(f"{source.file}: column '{source.column}' holds no value")
    return take_profile(pc.dictionary_encode(column).indices.to_numpy())


def take_profile(ids: np.ndarray) -> TraceProfile:
    """The profile of ``ids``, ``(accesses,)`` of any sortable type, in O(n log n)."""
    distinct, codes = np.unique(ids, return_inverse=True)
    distances = stack_distances(codes.astype(np.int64), len(distinct))
    bins = _bin(distances[distances != FIRST_TIME])
    numbers, counts = np.unique(bins, return_counts=True)
    low, high = _bin_range(numbers)
    return TraceProfile(
        accesses=len(ids),
        distinct=len(distinct),
        low=low.tolist(),
        high=high.tolist(),
        count=counts.tolist(),
    )


def write_profile(path: str | Path, profile: TraceProfile) -> None:
    """Writes a profile as JSON, atomically."""
    write_json(path, profile.model_dump())


def read_profile(path: str | Path) -> TraceProfile:
    """Reads what :func:`write_profile` wrote; a wrong file is a UserError."""
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a stack-distance profile")
    profile = validate(TraceProfile, tree, str(path))
    if not len(profile.low) == len(profile.high) == len(profile.count):
        raise UserError(f"{path}: low, high and count must be equally long")
    if sum(profile.count) + profile.distinct != profile.accesses:
        raise UserError(f"{path}: the counts and 'distinct' must add up to 'accesses'")
    return profile


def _bin(distances: np.ndarray) -> np.ndarray:
    """Bin number of each distance."""
    large = np.maximum(distances, _EXACT) / _EXACT
    return np.where(
        distances < _EXACT,
        distances,
        _EXACT + np.floor(np.log2(large) * _BINS_PER_OCTAVE + 1e-9).astype(np.int64),
    )


def _bin_range(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest distance of each bin."""

    def low(number: np.ndarray) -> np.ndarray:
        octave = (number - _EXACT) / _BINS_PER_OCTAVE
        start = np.ceil(_EXACT * 2.0 ** np.maximum(octave, 0) - 1e-6).astype(np.int64)
        return np.where(number < _EXACT, number, start)

    return low(bins), low(bins + 1) - 1


@numba.njit(cache=True)
def stack_distances(codes: np.ndarray, distinct: int) -> np.ndarray:
    """Stack distance of each access, ``FIRST_TIME`` for first ones, ``(accesses,)`` int64.

    A Fenwick tree over time marks each id's latest access, so that the marks after an id's last
    time are the other ids met since.
    """
    count = len(codes)
    tree = np.zeros(count + 1, np.int64)
    last = np.full(distinct, -1)
    distances = np.empty(count, np.int64)
    live = 0
    for now in range(count):
        before = last[codes[now]]
        if before < 0:
            distances[now] = FIRST_TIME
            live += 1
        else:
            distances[now] = live - _sum_to(tree, before)
            _add(tree, before, -1)
        _add(tree, now, 1)
        last[codes[now]] = now
    return distances


@numba.njit(cache=True)
def _add(tree, position, amount):
    at = position + 1
    while at < len(tree):
        tree[at] += amount
        at += at & -at


@numba.njit(cache=True)
def _sum_to(tree, position):
    """Sum over 0..position."""
    total = 0
    at = position + 1
    while at > 0:
        total += tree[at]
        at -= at & -at
    return total


@numba.njit(cache=True)
def _find(tree, rank):
    """Position of the ``rank``-th mark, counted from 1."""
    at, step = 0, 1
    while step * 2 < len(tree):
        step *= 2
    while step > 0:
        if at + step < len(tree) and tree[at + step] < rank:
            at += step
            rank -= tree[at]
        step //= 2
    return at


class Replay:
    """An endless stream of ids with a profile's locality, in memory of the stack's depth.

    Ids are 0..``table_rows``-1 in an order that depends on the seed, so that two seeds begin with
    different ids (Facebook's generator always begins with the same). Once every id of the table is
    in the stack, a new id can only be the one not met for longest.
    """

    def __init__(self, profile: TraceProfile, seed: np.random.SeedSequence) -> None:
        self.table_rows = profile.distinct
        self._random = np.random.default_rng(seed)
        self._low, self._high = np.array(profile.low), np.array(profile.high)
        weights = np.append(np.array(profile.count, np.float64), profile.distinct)
        self._running = np.cumsum(weights / weights.sum())
        self._fresh = self._random.permutation(profile.distinct)
        # Time positions: the live ones are put together again when they run out.
        self._tree = np.zeros(2 * profile.distinct + 1025, np.int64)
        self._at = np.full(len(self._tree) - 1, -1)
        self._state = np.zeros(2, np.int64)

    def draw(self, count: int) -> np.ndarray:
        """The next ``count`` ids, int64."""
        bins = np.searchsorted(self._running, self._random.random(count), side="right")
        bins = np.minimum(bins, len(self._low))
        known = bins < len(self._low)
        distances = np.full(count, FIRST_TIME)
        distances[known] = self._random.integers(
            self._low[bins[known]], self._high[bins[known]], endpoint=True
        )
        return _replay(distances, self._fresh, self._tree, self._at, self._state)


@numba.njit(cache=True)
def _replay(distances, fresh, tree, at, state):
    """Distances → ids; ``tree``, ``at`` (id by position) and ``state`` (now, depth) go on."""
    ids = np.empty(len(distances), np.int64)
    now, depth = state
    for i in range(len(distances)):
        if now == len(at):
            now = _gather(tree, at)
        distance = distances[i]
        if (distance == FIRST_TIME or distance >= depth) and depth < len(fresh):
            ids[i] = fresh[depth]
            depth += 1
        else:
            if distance == FIRST_TIME or distance >= depth:
                distance = depth - 1
            position = _find(tree, depth - distance)
            ids[i] = at[position]
            at[position] = -1
            _add(tree, position, -1)
        at[now] = ids[i]
        _add(tree, now, 1)
        now += 1
    state[0], state[1] = now, depth
    return ids


@numba.njit(cache=True)
def _gather(tree, at):
    """Moves the live positions to the front, in order; returns how many there are."""
    live = 0
    for position in range(len(at)):
        if at[position] >= 0:
            at[live] = at[position]
            live += 1
    at[live:] = -1
    tree[:] = 0
    for position in range(live):
        _add(tree, position, 1)
    return live
