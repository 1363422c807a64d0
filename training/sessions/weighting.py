"""How much an event counts by its distance, by the names that the literature gives."""

import numpy as np

from training.sessions.counting_settings import Weighting


def by_distance(weighting: Weighting, distances: int) -> np.ndarray:
    """The weight of each distance from 1 to ``distances``, ``(distances,)`` float64."""
    d = np.arange(1, distances + 1, dtype=np.float64)
    weights = {
        "same": np.ones_like(d),
        "div": 1 / d,
        "linear": 1 - 0.1 * (d - 1),
        "quadratic": 1 / d**2,
        "log": 1 / np.log10(d + 1.7),
    }
    return weights[weighting].clip(0)


def by_place(weighting: Weighting, places: int) -> np.ndarray:
    """The weight of each place in each length, ``(places + 1, places)`` float64: in row n, the
    first n are those of the places of a session of n events, the rest is 0."""
    n = np.arange(places + 1, dtype=np.float64)[:, None]
    i = np.arange(1, places + 1, dtype=np.float64)
    share = i / np.maximum(n, 1)
    weights = {
        "same": np.ones_like(share),
        "div": share,
        "linear": 1 - 0.1 * (n - i),
        "quadratic": share**2,
        "log": 1 / np.log10(np.maximum(n - i, 0) + 1.7),
    }
    return np.where(i <= n, weights[weighting].clip(0), 0.0)
