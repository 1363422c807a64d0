"""Rows drawn for the splits by a hash of their place in the log: the same in every run."""

from collections.abc import Mapping

import numpy as np

from core.hashing import mix
from pipeline.splits import SPLITS, SplitSettings

SHARES = "shares"
"""Among the bounds of splits: the share of each split, where rows are drawn."""


def random_bounds(split: SplitSettings) -> dict[str, dict[str, float]]:
    """What the manifest says of splits that are drawn."""
    valid = (1 - split.test) * split.valid
    shares = {"train": 1 - split.test - valid, "valid": valid, "test": split.test}
    return {SHARES: shares}


def drawn(places: np.ndarray, bounds: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """The number of the split of each row, ``(rows,)``.

    Args:
        places: of the rows in the log, ``(rows,)``.
    """
    at = mix(places.astype(np.uint64)) / 2.0**64
    edges = np.cumsum([bounds[SHARES][split] for split in SPLITS[:-1]])
    return np.searchsorted(edges, at, side="right").astype(np.int8)
