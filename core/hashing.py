"""A mixer of integers that is the same on every machine."""

import numpy as np


def mix(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser over a uint64 array (Steele, Lea & Flood 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
