"""A 64-bit hash of column values that is the same on every machine, in every run and partition."""

from typing import Any

import numpy as np
import pandas as pd

MISSING = 0x9E3779B97F4A7C15
"""What stands for a missing value: as good as any other number."""


def mix(hashed: Any) -> Any:
    """SplitMix64's finaliser over a uint64 array (Steele, Lea & Flood 2014); NumPy or CuPy."""
    hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashed ^ (hashed >> np.uint64(31))


def hash_column(column: Any) -> tuple[Any, Any]:
    """uint64 hashes ``(rows,)`` of a pandas or cuDF column, and a mask of its missing values.

    NVTabular's ``hash_series`` differs between pandas and cuDF, and between a column of integers
    and the same integers as floats (which is what a null among them makes of it). Here numbers go
    through one integer arithmetic on either; texts are hashed on the host.
    """
    missing = column.isna()
    if column.dtype.kind in "iubf":
        if column.dtype.kind == "f":  # integers with nulls arrive from Parquet as floats
            column = column.fillna(0)
        hashed = mix(column.astype("int64").values.view(np.uint64))
    else:
        texts = column.to_pandas() if hasattr(column, "to_pandas") else column
        hashed = pd.util.hash_array(texts.to_numpy(dtype=object), categorize=True)
    missing = missing.values
    hashed[missing] = np.uint64(MISSING)
    return hashed, missing


def combine(hashes: list[Any]) -> Any:
    """One hash of several columns' hashes; their order matters."""
    combined = hashes[0]
    for hashed in hashes[1:]:
        combined = mix(combined * np.uint64(3) + hashed)
    return combined
