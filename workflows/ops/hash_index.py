"""Integers → codes, by open-addressing hash tables: what Categorify does on CPU.

All loops run without the interpreter's lock, so that threads share the work. Validity is Arrow's:
bit ``offset + i`` of ``valid`` says whether value ``i`` is there; an empty ``valid`` means all are.
"""

import numpy as np

from core.compiled import compiled

_EMPTY = np.int32(-1)
_FIBONACCI = np.uint64(0x9E3779B97F4A7C15)
ALL_VALID = np.empty(0, np.uint8)


@compiled
def hashed(key):
    """A hash, as uint64, whose first bits are the best; no two keys have the same.

    Fibonacci hashing; the xor keeps ids that differ in high bits only from colliding.
    """
    return (np.uint64(key) ^ (np.uint64(key) >> np.uint64(32))) * _FIBONACCI


def hashes(values):
    """:func:`hashed` of each number of an int64 array, of NumPy or of CuPy."""
    keys = values.view(np.uint64)
    return (keys ^ (keys >> np.uint64(32))) * _FIBONACCI


@compiled
def _slot(key, bits):
    return np.int64(hashed(key) >> np.uint64(64 - bits))


@compiled
def _mix(key):
    """splitmix64's finaliser (Steele, Lea & Flood 2014): every bit of the key moves every bit."""
    mixed = np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@compiled
def is_valid(valid, at):
    """Bit ``at`` of Arrow's validity; all are valid where there are no bits."""
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
    first, mask = unknown + buckets, (1 << bits) - 1
    shift = np.uint64(64 - bits)  # worked out once: within the loop it costs as much as a look-up
    for i in range(len(wanted)):
        if valid.size and not is_valid(valid, offset + i):
            codes[i] = null
            continue
        slot = np.int64(hashed(wanted[i]) >> shift)
        while positions[slot] != _EMPTY and keys[slot] != wanted[i]:
            slot = (slot + 1) & mask
        position = positions[slot]
        if position >= 0:
            codes[i] = first + position
        elif buckets == 1:
            codes[i] = unknown
        else:
            codes[i] = unknown + np.int64(_mix(wanted[i]) % np.uint64(buckets))


@compiled
def _text_buckets(offsets, data, buckets, found):
    for i in range(len(found)):
        hashed = np.uint64(0xCBF29CE484222325)  # FNV-1a over the bytes
        for at in range(offsets[i], offsets[i + 1]):
            hashed = (hashed ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
        found[i] = np.int64(_mix(hashed) % np.uint64(buckets))


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
        codes: np.ndarray,
    ) -> None:
        """Writes the code of each wanted int64 value to ``codes``, integers ``(n,)``.

        ``null`` where it is not valid, ``unknown + buckets + position`` where it is known, else
        one of the ``buckets`` codes from ``unknown``, by a hash of the value.
        """
        table = (self._keys, self._positions, self._bits)
        _codes(wanted, valid, offset, *table, null, unknown, buckets, codes)
