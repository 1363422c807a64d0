"""A 64-bit hash of column values that is the same on every machine, in every run and partition."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from core import frames
from core.hashing import mix
from workflows.ops.values import as_values

MISSING = 0x9E3779B97F4A7C15
"""What stands for a missing value: as good as any other number."""


def hash_column(column: Any, truncate: bool = False) -> tuple[frames.Array, frames.Array]:
    """uint64 hashes ``(rows,)`` of a column, and a mask of its missing values, where it lies.

    NVTabular's ``hash_series`` differs between pandas and cuDF, and between a column of integers
    and the same integers as floats (which is what a null among them makes of it). Here integers
    go through one arithmetic, however they are held; texts are hashed by their characters, of a
    GPU's column on the host, each text once.

    Args:
        truncate: whether floats count by what is before the point; a GPU's always do.
    """
    if not frames.on_host(column):
        return _hash_on_device(column)
    values = as_values(column, truncate)
    missing = values.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_integer(values.type):
        hashed = mix(values.fill_null(0).to_numpy().view(np.uint64))
    else:
        hashed = _hash_texts(values.fill_null(""))
    hashed[missing] = np.uint64(MISSING)
    return hashed, missing


def _hash_on_device(column: Any) -> tuple[frames.Array, frames.Array]:
    found = frames.integers(column)
    if found is None:
        rows, distinct = frames.distinct(column)
        hashes = np.append(_hash_texts(distinct), np.uint64(MISSING))
        return frames.beside(column, hashes)[rows], rows < 0
    numbers, missing = found
    hashed = mix(numbers.view(np.uint64))
    hashed[missing] = np.uint64(MISSING)
    return hashed, missing


def _hash_texts(texts: pa.Array) -> np.ndarray:
    return pd.util.hash_array(texts.to_numpy(zero_copy_only=False), categorize=True)


def combine(hashes: list[frames.Array]) -> frames.Array:
    """One hash of several columns' hashes; their order matters."""
    combined = hashes[0]
    for hashed in hashes[1:]:
        combined = mix(combined * np.uint64(3) + hashed)
    return combined
