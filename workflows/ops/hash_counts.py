"""How often each integer stands in a column: counting, adding up, ordering. No Python in a loop.

Counts that are yet to be added up stand in the order of their values' hashes. Adding up several of
them then walks through all of them at once, in ranges whose table stays in the cache, and a bucket
of hashes is a slice. (Put into a growing table in that order, they would pile up at its beginning.)
All loops run without the interpreter's lock.
"""

import numpy as np

from core import frames
from core.compiled import compiled
from workflows.ops.hash_index import ALL_VALID, hashed, hashes, is_valid

_RANGE = 1 << 15
_DIGIT_BITS = 11
_DIGITS = 1 << _DIGIT_BITS
_RARE = 1 << 16


@compiled
def _slot(key, skip, bits):
    """Where a key belongs by the ``bits`` bits of its hash after the first ``skip``."""
    return np.int64((hashed(key) << np.uint64(skip)) >> np.uint64(64 - bits))


@compiled
def _put(key, count, keys, counts, skip, shift, mask):
    """Adds ``count`` to a key that belongs where its hash, without the first ``skip`` bits and
    those of the last ``shift``, says."""
    slot = np.int64((hashed(key) << skip) >> shift)
    while counts[slot]:
        if keys[slot] == key:
            counts[slot] += count
            return
        slot = (slot + 1) & mask
    keys[slot], counts[slot] = key, count


@compiled
def _take_out(keys, counts, skip, bits, distinct, totals, at):
    """Writes a table's entries from ``at`` in the order of their hashes; where they end."""
    start, size = at, 1 << bits
    gap = 0
    while counts[gap]:
        gap += 1
    # Of the entries before the first gap, those that came round from the end are the last.
    for turn in range(2):
        for slot in range(gap):
            if (_slot(keys[slot], skip, bits) > slot) == (turn == 1):
                distinct[at], totals[at] = keys[slot], counts[slot]
                at += 1
        if turn == 0:
            for slot in range(gap, size):
                if counts[slot]:
                    distinct[at], totals[at] = keys[slot], counts[slot]
                    at += 1
    for i in range(start + 1, at):  # only neighbours that shared slots are out of order
        key, count, own = distinct[i], totals[i], hashed(distinct[i])
        j = i
        while j > start and hashed(distinct[j - 1]) > own:
            distinct[j], totals[j] = distinct[j - 1], totals[j - 1]
            j -= 1
        distinct[j], totals[j] = key, count
    return at


@compiled
def _count(values, valid, offset):
    bits, known = 12, 0
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    keys, counts = np.zeros(1 << bits, np.int64), np.zeros(1 << bits, np.int64)
    for i in range(len(values)):
        if valid.size and not is_valid(valid, offset + i):
            continue
        slot = np.int64(hashed(values[i]) >> shift)
        while counts[slot] and keys[slot] != values[i]:
            slot = (slot + 1) & mask
        counts[slot] += 1
        if counts[slot] > 1:
            continue
        keys[slot] = values[i]
        known += 1
        if 2 * known > 1 << bits:
            old_keys, old_counts = keys, counts
            bits += 2
            shift, mask = np.uint64(64 - bits), (1 << bits) - 1
            keys, counts = np.zeros(1 << bits, np.int64), np.zeros(1 << bits, np.int64)
            for old in range(len(old_keys)):
                if old_counts[old]:
                    _put(old_keys[old], old_counts[old], keys, counts, np.uint64(0), shift, mask)
    distinct, totals = np.empty(known, np.int64), np.empty(known, np.int64)
    _take_out(keys, counts, 0, bits, distinct, totals, 0)
    return distinct, totals


@compiled
def _shared_bits(values, bounds):
    """How many first bits the hashes of all runs share: those of one bucket share its number."""
    low, high = ~np.uint64(0), np.uint64(0)
    for run in range(len(bounds) - 1):
        if bounds[run] < bounds[run + 1]:
            low = min(low, hashed(values[bounds[run]]))
            high = max(high, hashed(values[bounds[run + 1] - 1]))
    bits = 0
    while bits < 32 and (low ^ high) >> np.uint64(63 - bits) == 0:
        bits += 1
    return bits


@compiled
def _add_up(values, counts, bounds):
    """Adds up the runs ``bounds[k]`` to ``bounds[k + 1]``, each in the order of hashes."""
    shared, wide = _shared_bits(values, bounds), 0
    while len(values) >> wide > _RANGE:
        wide += 1
    skip = shared + wide
    distinct, totals = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    keys, sums = np.zeros(16, np.int64), np.zeros(16, np.int64)
    starts, ends = bounds[:-1].copy(), bounds[:-1].copy()
    at = 0
    for part in range(1 << wide):
        entries = 0
        for run in range(len(starts)):
            end = starts[run]
            while end < bounds[run + 1] and (wide == 0 or _slot(values[end], shared, wide) == part):
                end += 1
            ends[run] = end
            entries += end - starts[run]
        bits = 4
        while 1 << bits < 2 * entries:
            bits += 1
        if 1 << bits > len(keys):
            keys, sums = np.zeros(1 << bits, np.int64), np.zeros(1 << bits, np.int64)
        sums[: 1 << bits] = 0
        shift, mask = np.uint64(64 - bits), (1 << bits) - 1
        for run in range(len(starts)):
            for i in range(starts[run], ends[run]):
                _put(values[i], counts[i], keys, sums, np.uint64(skip), shift, mask)
            starts[run] = ends[run]
        at = _take_out(keys, sums, skip, bits, distinct, totals, at)
    return distinct[:at].copy(), totals[:at].copy()


@compiled
def _first_of(values, buckets_bits):
    """Where each bucket of hashes begins: ``(buckets + 1,)``."""
    first = np.zeros((1 << buckets_bits) + 1, np.int64)
    for value in values:
        first[_slot(value, 0, buckets_bits) + 1] += 1
    return np.cumsum(first)


@compiled
def _sort_by_value(values, counts):
    """A radix sort, from the last digit to the first, of pairs by signed value."""
    other_values, other_counts = np.empty_like(values), np.empty_like(counts)
    sign = np.uint64(1) << np.uint64(63)
    for shift in range(0, 64, _DIGIT_BITS):
        places = np.zeros(_DIGITS + 1, np.int64)
        for value in values:
            digit = ((np.uint64(value) ^ sign) >> np.uint64(shift)) & np.uint64(_DIGITS - 1)
            places[np.int64(digit) + 1] += 1
        if places.max() == len(values):
            continue
        places = np.cumsum(places)
        for i in range(len(values)):
            digit = ((np.uint64(values[i]) ^ sign) >> np.uint64(shift)) & np.uint64(_DIGITS - 1)
            to = places[np.int64(digit)]
            places[np.int64(digit)] += 1
            other_values[to], other_counts[to] = values[i], counts[i]
        values, other_values = other_values, values
        counts, other_counts = other_counts, counts
    return values, counts


@compiled
def _order_rare(counts, min_count, order):
    """Positions of counts from ``min_count`` to below ``_RARE``, falling, else as they stand."""
    places = np.zeros(_RARE + 1, np.int64)
    for count in counts:
        if min_count <= count < _RARE:
            places[_RARE - count] += 1
    places = np.cumsum(places)
    for i in range(len(counts)):
        if min_count <= counts[i] < _RARE:
            place = _RARE - 1 - counts[i]
            order[places[place]] = i
            places[place] += 1
    return places[_RARE - 1]


def value_counts(
    values: np.ndarray, valid: np.ndarray = ALL_VALID, offset: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct valid int64 values and how often each stands in ``values``, by their hashes."""
    return _count(values, valid, offset)


def sum_counts(
    runs: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct int64 values and the sums of their positive counts, by their hashes.

    ``runs``: as :func:`value_counts` or this function gives them.
    """
    bounds = np.cumsum([0, *(len(values) for values, _ in runs)])
    values = np.concatenate([values for values, _ in runs])
    return _add_up(values, np.concatenate([counts for _, counts in runs]), bounds)


def sum_counts_on_device(
    runs: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`sum_counts`, sorted and added up by a GPU: runs and result lie on the host."""
    module = frames.rapids().cupy
    values = module.asarray(np.concatenate([values for values, _ in runs]))
    counts = module.asarray(np.concatenate([counts for _, counts in runs]))
    order = hashes(values).argsort()  # no two values have the same
    values, total = values[order], counts[order].cumsum()
    last = module.ones(len(values), dtype=bool)
    last[:-1] = values[1:] != values[:-1]
    ends = module.flatnonzero(last)
    sums = total[ends]
    sums[1:] -= total[ends[:-1]]
    return frames.on_the_host(values[ends]), frames.on_the_host(sums)


def bucket_bounds(values: np.ndarray, buckets: int) -> np.ndarray:
    """Where each of ``buckets`` (a power of two) ranges of hashes begins in values that stand in
    their order, and where the last ends: ``(buckets + 1,)``."""
    return _first_of(values, buckets.bit_length() - 1)


def by_value(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both, in the order of the int64 values."""
    return _sort_by_value(values.copy(), counts.copy())


def falling(counts: np.ndarray, min_count: int) -> np.ndarray:
    """Positions of the counts of at least ``min_count``, greatest first, equal ones as they
    stand."""
    often = np.flatnonzero(counts >= max(_RARE, min_count))
    often = often[np.argsort(-counts[often], kind="stable")]
    order = np.empty(len(counts), np.int64)
    rare = _order_rare(counts, min_count, order)
    return np.concatenate([often, order[:rare]])
