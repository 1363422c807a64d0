"""The best possible AUC and logloss, from the true probabilities that labels were drawn with."""

from typing import Any

import numpy as np

BINS = 1 << 16
TRUTH_FILE = "truth.parquet"


def weighted_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """AUC where score ``i`` carries ``positive[i]`` and ``negative[i]`` weight, scores ascending.

    Weights that share an index are tied and count one half. 0.5 where either class is absent.
    """
    below = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum()
    return float(((below + 0.5 * negative) * positive).sum() / pairs) if pairs > 0 else 0.5


def expected_auc(probability: np.ndarray) -> float:
    """The AUC of the true probabilities, expected over labels drawn from them; shape ``(rows,)``.

    Ratio of the expected number of rightly ordered pairs to that of all pairs. A row is never
    paired with itself, so its own p(1-p) is taken out of both.
    """
    p = np.sort(np.asarray(probability, np.float64))
    scores, start = np.unique(p, return_index=True)
    counts = np.diff(np.append(start, len(p)))
    positive, negative = counts * scores, counts * (1 - scores)
    pairs = positive.sum() * negative.sum()
    own = (counts * scores * (1 - scores)).sum()
    if pairs - own <= 0:
        return 0.5
    return float((weighted_auc(positive, negative) * pairs - 0.5 * own) / (pairs - own))


def entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy in nats of each Bernoulli probability, which is its expected logloss."""
    p = np.asarray(probability, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    return np.where((p <= 0) | (p >= 1), 0.0, value)


def bayes_scores(probability: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """The exact scores of the true probabilities on some rows; both arrays ``(rows,)``.

    Returns ``rows``, ``positive_rate``, the ``auc`` and ``logloss`` against the labels that were
    drawn (what a perfect model would measure on these rows) and ``expected_auc`` and
    ``expected_logloss`` (their means over other draws of the labels).
    """
    p = np.asarray(probability, np.float64)
    y = np.asarray(label, np.float64)
    if len(p) == 0:
        raise ValueError("bayes_scores needs at least one row")
    order = np.argsort(p, kind="stable")
    _, group = np.unique(p[order], return_inverse=True)
    inside = np.clip(p, 1e-12, 1 - 1e-12)
    return {
        "rows": len(p),
        "positive_rate": float(y.mean()),
        "auc": weighted_auc(np.bincount(group, y[order]), np.bincount(group, 1 - y[order])),
        "logloss": float(-(y * np.log(inside) + (1 - y) * np.log1p(-inside)).mean()),
        "expected_auc": expected_auc(p),
        "expected_logloss": float(entropy(p).mean()),
    }


class BayesMeter:
    """Gathers :func:`bayes_scores` over a stream in a fixed amount of memory (about 2 MB).

    Probabilities are put in 65,536 equal bins for the AUC, which changes it by less than 1e-6; the
    sums behind the loglosses are exact.
    """

    def __init__(self) -> None:
        self._count = np.zeros(BINS)
        self._positive = np.zeros(BINS)
        self._probability = np.zeros(BINS)
        self._logloss = 0.0
        self._entropy = 0.0
        self._own = 0.0

    def add(self, probability: np.ndarray, label: np.ndarray) -> None:
        """Adds rows: true probabilities and drawn labels, both ``(rows,)``."""
        p = np.asarray(probability, np.float64)
        y = np.asarray(label, np.float64)
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        self._count += np.bincount(bins, minlength=BINS)
        self._positive += np.bincount(bins, y, minlength=BINS)
        self._probability += np.bincount(bins, p, minlength=BINS)
        inside = np.clip(p, 1e-12, 1 - 1e-12)
        self._logloss -= float((y * np.log(inside) + (1 - y) * np.log1p(-inside)).sum())
        self._entropy += float(entropy(p).sum())
        self._own += float((p * (1 - p)).sum())

    def merge(self, other: "BayesMeter") -> None:
        """Adds everything that ``other`` has seen."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def scores(self) -> dict[str, Any]:
        """The same keys as :func:`bayes_scores`."""
        rows = float(self._count.sum())
        positive, negative = self._probability, self._count - self._probability
        pairs = positive.sum() * negative.sum()
        auc = weighted_auc(positive, negative)
        if pairs > self._own:
            auc = (auc * pairs - 0.5 * self._own) / (pairs - self._own)
        return {
            "rows": int(rows),
            "positive_rate": float(self._positive.sum() / rows),
            "auc": weighted_auc(self._positive, self._count - self._positive),
            "logloss": self._logloss / rows,
            "expected_auc": float(auc),
            "expected_logloss": self._entropy / rows,
        }
