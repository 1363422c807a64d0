"""Random numbers as functions of what they are for, so that any chunk of any size is the same.

Every draw is a hash of (seed, purpose, row, ...): nothing depends on how many numbers were drawn
before, which makes the logs identical whatever the chunk size or the number of threads. The mixer
is SplitMix64's finalizer (Steele, Lea and Flood: Fast splittable pseudorandom number generators,
2014).
"""

import numba
import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_S11, _S16, _S27, _S30, _S31 = (np.uint64(bits) for bits in (11, 16, 27, 30, 31))
_LOW_16 = np.uint64(0xFFFF)
# Four 16-bit uniforms sum to a mean of 2 * 65535 and this standard deviation.
_SUM_MEAN = 2.0 * 65535.0
_SUM_STD = np.sqrt(4.0 * (65536.0**2 - 1.0) / 12.0)


@numba.njit(cache=True, nogil=True, inline="always")
def derive(key: int, index: int) -> int:
    """A 64-bit key for item ``index`` under ``key`` (both taken modulo 2^64)."""
    x = np.uint64(key) + (np.uint64(index) + np.uint64(1)) * _GOLDEN
    x = (x ^ (x >> _S30)) * _MULTIPLY_1
    x = (x ^ (x >> _S27)) * _MULTIPLY_2
    return x ^ (x >> _S31)


@numba.njit(cache=True, nogil=True, inline="always")
def uniform(key: int, index: int) -> float:
    """A number in [0, 1), with 53 random bits."""
    return np.float64(derive(key, index) >> _S11) * (1.0 / 9007199254740992.0)


@numba.njit(cache=True, nogil=True, inline="always")
def normal(key: int, index: int) -> float:
    """Nearly N(0, 1): a standardised sum of four uniforms, so never beyond 3.47 deviations.

    No logarithm or cosine is taken, which keeps it fast and the same on every machine.
    """
    x = derive(key, index)
    total = x & _LOW_16
    total += (x >> _S16) & _LOW_16
    total += (x >> np.uint64(32)) & _LOW_16
    total += x >> np.uint64(48)
    return (np.float64(total) - _SUM_MEAN) / _SUM_STD


@numba.njit(cache=True, nogil=True)
def uniform_columns(key: int, first: int, count: int, columns: int) -> np.ndarray:
    """Numbers in [0, 1) for items ``first`` to ``first + count``, ``(columns, count)``."""
    values = np.empty((columns, count))
    for i in range(count):
        item_key = derive(key, first + i)
        for column in range(columns):
            values[column, i] = uniform(item_key, column)
    return values


def purpose_key(seed: int, purpose: str) -> np.uint64:
    """The key under which all draws for one purpose are made."""
    key = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
    for byte in purpose.encode():
        key = np.uint64(derive(key, byte))
    return key
