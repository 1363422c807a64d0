"""Integers → positions, by an open-addressing hash table: the lookup under Categorify on CPU."""

import numpy as np
from numba import njit

_EMPTY = np.int32(-1)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True)
def _slot(key: int, shift: int) -> int:
    # Fibonacci hashing; the xor keeps ids that differ in high bits only from colliding.
    mixed = np.uint64(key) ^ (np.uint64(key) >> np.uint64(32))
    return np.int64((mixed * _MULTIPLIER) >> np.uint64(shift))


@njit(nogil=True)
def _build(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    size = 1 << bits
    keys = np.zeros(size, np.int64)
    positions = np.full(size, _EMPTY, np.int32)
    for position in range(len(values)):
        slot = _slot(values[position], 64 - bits)
        while positions[slot] != _EMPTY:
            slot = (slot + 1) & (size - 1)
        keys[slot] = values[position]
        positions[slot] = position
    return keys, positions


@njit(nogil=True)
def _lookup(
    wanted: np.ndarray, keys: np.ndarray, positions: np.ndarray, bits: int, absent: int
) -> np.ndarray:
    found = np.empty(len(wanted), np.int32)
    mask = (1 << bits) - 1
    for i in range(len(wanted)):
        slot = _slot(wanted[i], 64 - bits)
        while positions[slot] != _EMPTY and keys[slot] != wanted[i]:
            slot = (slot + 1) & mask
        found[i] = positions[slot] if positions[slot] != _EMPTY else absent
    return found


@njit(nogil=True)
def _count(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Distinct values in order of first sight and their counts, as far as the table holds."""
    size = 1 << bits
    positions = np.full(size, _EMPTY, np.int32)
    limit = size // 2
    distinct = np.empty(limit, np.int64)
    counts = np.zeros(limit, np.int64)
    known = 0
    for i in range(len(values)):
        slot = _slot(values[i], 64 - bits)
        while positions[slot] != _EMPTY and distinct[positions[slot]] != values[i]:
            slot = (slot + 1) & (size - 1)
        if positions[slot] == _EMPTY:
            if known == limit:
                return distinct, counts, -1
            positions[slot] = known
            distinct[known] = values[i]
            known += 1
        counts[positions[slot]] += 1
    return distinct, counts, known


def value_counts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct int64 values and how often each stands in ``values``, in order of first sight."""
    bits = 12
    while True:
        distinct, counts, known = _count(values, bits)
        if known >= 0:
            return distinct[:known], counts[:known]
        bits += 3  # the table overflowed: eight times the room


class HashIndex:
    """Positions of known int64 values; the table is at most half full, so probes stay short."""

    def __init__(self, values: np.ndarray):
        """``values``: distinct int64, shape ``(n,)``; memory 24 to 48 bytes a value."""
        self._bits = max(4, int(2 * max(1, len(values)) - 1).bit_length())
        self._keys, self._positions = _build(np.ascontiguousarray(values, np.int64), self._bits)

    def positions(self, wanted: np.ndarray, absent: int = -1) -> np.ndarray:
        """int32 position of each wanted value, ``absent`` where it is not known."""
        wanted = np.ascontiguousarray(wanted, np.int64)
        return _lookup(wanted, self._keys, self._positions, self._bits, absent)
