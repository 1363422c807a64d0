"""A 64-bit hash of column values that is the same on every machine, in every run and partition."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from core.hashing import mix
from workflows.ops.categorify import as_values

MISSING = 0x9E3779B97F4A7C15
"""What stands for a missing value: as good as any other number."""


def hash_column(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """uint64 hashes ``(rows,)`` of a pandas or cuDF column, and a mask of its missing values.

    NVTabular's ``hash_series`` differs between pandas and cuDF, and between a column of integers
    and the same integers as floats (which is what a null among them makes of it). Here integers
    go through one arithmetic, however they are held; texts are hashed by their characters.
    """
    values = as_values(column)
    missing = values.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_integer(values.type):
        hashed = mix(values.fill_null(0).to_numpy().view(np.uint64))
    else:
        texts = values.fill_null("").to_numpy(zero_copy_only=False)
        hashed = pd.util.hash_array(texts, categorize=True)
    hashed[missing] = np.uint64(MISSING)
    return hashed, missing


def combine(hashes: list[np.ndarray]) -> np.ndarray:
    """One hash of several columns' hashes; their order matters."""
    combined = hashes[0]
    for hashed in hashes[1:]:
        combined = mix(combined * np.uint64(3) + hashed)
    return combined
