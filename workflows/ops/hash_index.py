"""Integers → counts and codes, by open-addressing hash tables: what Categorify does on CPU.

All loops run without the interpreter's lock, so that threads share the work. Validity is Arrow's:
bit ``offset + i`` of ``valid`` says whether value ``i`` is there; an empty ``valid`` means all are.
"""

import numpy as np

from core.compiled import compiled

_EMPTY = np.int32(-1)
_FIBONACCI = np.uint64(0x9E3779B97F4A7C15)
ALL_VALID = np.empty(0, np.uint8)


@compiled
def _slot(key, bits):
    # Fibonacci hashing; the xor keeps ids that differ in high bits only from colliding.
    mixed = np.uint64(key) ^ (np.uint64(key) >> np.uint64(32))
    return np.int64((mixed * _FIBONACCI) >> np.uint64(64 - bits))


@compiled
def _mix(key):
    """splitmix64's finaliser (Steele, Lea & Flood 2014): every bit of the key moves every bit."""
    mixed = np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@compiled
def _is_valid(valid, at):
    return valid.size == 0 or (valid[at >> 3] >> (at & 7)) & 1


@compiled
def _build(values, bits):
    size = 1 << bits
    keys = np.zeros(size, np.int64)
    positions = np.full(size, _EMPTY, np.int32)
    for position in range(len(values)):
        slot = _slot(values[position], bits)
        while positions[slot] != _EMPTY:
            slot = (slot + 1) & (size - 1)
        keys[slot] = values[position]
        positions[slot] = position
    return keys, positions


@compiled
def _find(value, keys, positions, bits):
    """Position of a value, or -1."""
    slot = _slot(value, bits)
    while positions[slot] != _EMPTY and keys[slot] != value:
        slot = (slot + 1) & ((1 << bits) - 1)
    return positions[slot]


@compiled
def _positions(wanted, keys, positions, bits, absent):
    found = np.empty(len(wanted), np.int32)
    for i in range(len(wanted)):
        position = _find(wanted[i], keys, positions, bits)
        found[i] = position if position >= 0 else absent
    return found


@compiled
def _codes(wanted, valid, offset, keys, positions, bits, null, unknown, buckets, codes):
    first = unknown + buckets
    for i in range(len(wanted)):
        if not _is_valid(valid, offset + i):
            codes[i] = null
            continue
        position = _find(wanted[i], keys, positions, bits)
        if position >= 0:
            codes[i] = first + position
        elif buckets == 1:
            codes[i] = unknown
        else:
            codes[i] = unknown + np.int64(_mix(wanted[i]) % np.uint64(buckets))


@compiled
def _grown(keys, counts, bits):
    """The same table with four times the room."""
    size = 1 << bits
    new_keys = np.zeros(size, np.int64)
    new_counts = np.zeros(size, np.int64)
    for old in range(len(keys)):
        if counts[old]:
            slot = _slot(keys[old], bits)
            while new_counts[slot]:
                slot = (slot + 1) & (size - 1)
            new_keys[slot] = keys[old]
            new_counts[slot] = counts[old]
    return new_keys, new_counts


@compiled
def _count(values, valid, offset, weights, bits):
    """Adds up the weights (all 1 where empty) of each distinct value."""
    keys = np.zeros(1 << bits, np.int64)
    counts = np.zeros(1 << bits, np.int64)
    known = 0
    for i in range(len(values)):
        if not _is_valid(valid, offset + i):
            continue
        slot = _slot(values[i], bits)
        while counts[slot] and keys[slot] != values[i]:
            slot = (slot + 1) & ((1 << bits) - 1)
        if counts[slot] == 0:
            keys[slot] = values[i]
            known += 1
        counts[slot] += weights[i] if weights.size else 1
        if 2 * known > 1 << bits:
            bits += 2
            keys, counts = _grown(keys, counts, bits)
    distinct = np.empty(known, np.int64)
    totals = np.empty(known, np.int64)
    at = 0
    for slot in range(1 << bits):
        if counts[slot]:
            distinct[at] = keys[slot]
            totals[at] = counts[slot]
            at += 1
    return distinct, totals


@compiled
def _text_buckets(offsets, data, buckets, found):
    for i in range(len(found)):
        hashed = np.uint64(0xCBF29CE484222325)  # FNV-1a over the bytes
        for at in range(offsets[i], offsets[i + 1]):
            hashed = (hashed ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
        found[i] = np.int64(_mix(hashed) % np.uint64(buckets))


def value_counts(
    values: np.ndarray, valid: np.ndarray = ALL_VALID, offset: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct valid int64 values and how often each stands in ``values``, in no special order."""
    return _count(values, valid, offset, np.empty(0, np.int64), 12)


def sum_counts(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct int64 values and the sums of their positive ``counts``."""
    return _count(values, ALL_VALID, 0, counts, 12)


def text_buckets(offsets: np.ndarray, data: np.ndarray, buckets: int) -> np.ndarray:
    """A bucket from 0 for each string, by its UTF-8 bytes: the same on every machine.

    ``offsets``: int64 ``(strings + 1,)`` into ``data``, uint8 ``(bytes,)``.
    """
    found = np.empty(len(offsets) - 1, np.int64)
    _text_buckets(offsets, data, buckets, found)
    return found


class HashIndex:
    """Positions of known int64 values; the table is at most half full, so probes stay short."""

    def __init__(self, values: np.ndarray):
        """``values``: distinct int64, shape ``(n,)``; memory 24 to 48 bytes a value."""
        self._bits = max(4, int(2 * max(1, len(values)) - 1).bit_length())
        self._keys, self._positions = _build(np.ascontiguousarray(values, np.int64), self._bits)

    def positions(self, wanted: np.ndarray, absent: int = -1) -> np.ndarray:
        """int32 position of each wanted value, ``absent`` where it is not known."""
        wanted = np.ascontiguousarray(wanted, np.int64)
        return _positions(wanted, self._keys, self._positions, self._bits, absent)

    def codes(
        self,
        wanted: np.ndarray,
        valid: np.ndarray,
        offset: int,
        null: int,
        unknown: int,
        buckets: int,
        dtype: np.dtype,
    ) -> np.ndarray:
        """The code of each wanted int64 value, shape ``(n,)``.

        ``null`` where it is not valid, ``unknown + buckets + position`` where it is known, else
        one of the ``buckets`` codes from ``unknown``, by a hash of the value.
        """
        codes = np.empty(len(wanted), dtype)
        table = (self._keys, self._positions, self._bits)
        _codes(wanted, valid, offset, *table, null, unknown, buckets, codes)
        return codes
