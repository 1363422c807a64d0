"""The process behind the synthetic click log: what a row holds, and how likely it is a click.

Everything is a hash of (seed, row, column) or (seed, column, value), so any rows can be made alone.
A value is known by its *rank*: 0 is its column's most frequent value; values born on a later day
follow after the column's base vocabulary. What the teacher adds up is a function of the columns
that are written, so a model that sees them can in principle reach the true probability.
"""

from dataclasses import dataclass

import numba
import numpy as np

from pipeline.synthetic.bayes import expected_auc
from pipeline.synthetic.hashing import derive, normal, purpose_key, uniform

MISSING = np.iinfo(np.int64).min

# (mean and deviation of log(1+x), share missing, missing together with group), as measured on the
# Criteo Kaggle log; columns of one group are missing in the same rows.
INTEGERS = np.array(
    [
        (0.88, 0.98, 0.45, 0),
        (2.10, 2.11, 0.00, 1),
        (2.15, 1.19, 0.21, 2),
        (1.70, 0.91, 0.21, 2),
        (7.28, 2.60, 0.03, 3),
        (3.40, 1.76, 0.22, 4),
        (1.63, 1.37, 0.04, 5),
        (2.04, 1.15, 0.00, 6),
        (3.53, 1.62, 0.04, 5),
        (0.40, 0.40, 0.45, 0),
        (0.92, 0.77, 0.04, 5),
        (0.29, 0.62, 0.77, 7),
        (1.73, 0.96, 0.21, 2),
    ]
)
# I2 is the one column of the real log with negative numbers.
SHIFTED, SHIFT = 1, 3
# (cardinality in the Kaggle log, Zipf exponent, Zipf offset, share missing, missing together with
# group, strength of the linear effect, whether later days bring new values).
CATEGORIES = np.array(
    [
        (1460, 1.60, 0.6, 0.000, 10, 0.5, 0),
        (583, 1.25, 3.0, 0.000, 11, 0.8, 0),
        (10131227, 1.08, 3.0, 0.035, 12, 0.6, 1),
        (2202608, 1.10, 3.0, 0.035, 12, 0.6, 1),
        (305, 1.90, 0.4, 0.000, 13, 0.4, 0),
        (24, 1.80, 0.9, 0.120, 14, 0.6, 0),
        (12517, 1.10, 8.0, 0.000, 15, 0.9, 1),
        (633, 1.90, 0.5, 0.000, 16, 0.5, 0),
        (3, 3.50, 0.6, 0.000, 17, 0.3, 0),
        (93145, 1.15, 1.0, 0.000, 18, 0.6, 1),
        (5683, 1.15, 8.0, 0.000, 19, 0.8, 0),
        (8351593, 1.08, 4.0, 0.035, 12, 0.5, 1),
        (3194, 1.15, 7.0, 0.000, 20, 0.8, 0),
        (27, 1.60, 1.0, 0.000, 21, 0.9, 0),
        (14992, 1.10, 9.0, 0.000, 22, 0.7, 1),
        (5461306, 1.08, 4.0, 0.035, 12, 0.5, 1),
        (10, 1.50, 0.8, 0.000, 23, 0.9, 0),
        (5652, 1.20, 6.0, 0.000, 24, 0.8, 0),
        (2173, 1.30, 0.8, 0.440, 25, 0.4, 0),
        (4, 1.05, 9.0, 0.440, 25, 0.4, 0),
        (7046547, 1.08, 4.0, 0.035, 12, 0.5, 1),
        (18, 1.90, 0.6, 0.760, 26, 0.4, 0),
        (15, 1.60, 1.2, 0.000, 27, 0.7, 0),
        (286181, 1.15, 3.0, 0.035, 12, 0.7, 1),
        (105, 1.60, 1.5, 0.440, 25, 0.5, 0),
        (142572, 1.15, 3.0, 0.440, 25, 0.6, 1),
    ]
)
# Columns whose low-rank vectors interact, counted from 0: C2-C14, C6-C17, C14-C23, C2-C6, C25-C17.
PAIRS = np.array([(1, 13), (5, 16), (13, 22), (1, 5), (24, 16)])
PAIR_RANK = 2
# The effect of the value at this rank is half that of the head, so that what is rare, and cannot be
# learned from few rows, carries little of the signal; in a pair the two ranks count together.
HALF_RANK = 8.0
# Vocabularies above this size are the ones that the scale applies to.
LARGE = 2000
CALIBRATION_ROWS = 1 << 16


@dataclass(frozen=True)
class Teacher:
    """All that :func:`draw_rows` needs; made by :func:`make_teacher`."""

    draw_key: np.uint64
    effect_key: np.uint64
    cardinalities: np.ndarray
    """Base vocabulary of each categorical column, ``(26,)``."""
    fresh_sizes: np.ndarray
    """Values that each later day adds to a column, 0 where none, ``(26,)``."""
    fresh_share: float
    weights: np.ndarray
    """Of the linear, pairwise and dense terms, ``(3,)``."""
    intercept: float

    def draw(self, rows: np.ndarray, days: np.ndarray) -> tuple[np.ndarray, ...]:
        """Rows by number → integers, value ranks, true probabilities, labels.

        Args:
            rows: row numbers over all days, ``(n,)`` int64.
            days: the day of each, ``(n,)`` int64.

        Returns:
            integers ``(n, 13)`` and ranks ``(n, 26)``, int64 with ``MISSING`` for blanks;
            probabilities ``(n,)`` float32; labels ``(n,)`` int8.
        """
        integers, ranks = draw_rows(
            self.draw_key, rows, days, self.cardinalities, self.fresh_sizes, self.fresh_share
        )
        terms = teacher_terms(self.effect_key, integers, ranks, self.cardinalities)
        logit = self.intercept + terms[:, 0] * self.weights[0]
        logit += terms[:, 1] * self.weights[1] + terms[:, 2] * self.weights[2]
        probability = (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
        return integers, ranks, probability, draw_labels(self.draw_key, rows, probability)


def make_teacher(
    seed: int,
    days: int,
    cardinality_scale: float,
    fresh_share: float,
    shares: tuple[float, float, float],
    positive_rate: float,
    bayes_auc: float,
) -> Teacher:
    """Sets the vocabularies, then scales the terms to the rate and Bayes AUC that are asked for.

    ``shares`` are the parts of the logit's variance of the linear, pairwise and dense terms. The
    scaling is done on 65,536 rows drawn beside the log, so the log meets both within noise.
    """
    base = CATEGORIES[:, 0]
    large = LARGE + (base - LARGE) * cardinality_scale
    cardinalities = np.where(base > LARGE, large, base).astype(np.int64)
    grows = CATEGORIES[:, 6] > 0
    fresh_sizes = np.where(grows, np.maximum(cardinalities // 50, 20), 0)
    draw_key, effect_key = purpose_key(seed, "criteo rows"), purpose_key(seed, "criteo effects")

    beside = np.arange(CALIBRATION_ROWS, dtype=np.int64)
    integers, ranks = draw_rows(
        purpose_key(seed, "criteo calibration"),
        beside,
        beside % days,
        cardinalities,
        fresh_sizes,
        fresh_share,
    )
    terms = teacher_terms(effect_key, integers, ranks, cardinalities)
    weights = np.sqrt(np.array(shares) / np.sum(shares)) / terms.std(axis=0)
    score = np.sort(((terms - terms.mean(axis=0)) * weights).sum(axis=1))
    scale, shift = _calibrate(score, positive_rate, bayes_auc)
    weights = weights * scale
    intercept = float(shift - (terms.mean(axis=0) * weights).sum())
    return Teacher(
        draw_key, effect_key, cardinalities, fresh_sizes, fresh_share, weights, intercept
    )


def _calibrate(score: np.ndarray, positive_rate: float, bayes_auc: float) -> tuple[float, float]:
    """Scale and shift by which sigmoid(scale*score + shift) has that mean and that AUC."""

    def shift_for(scale: float) -> float:
        low, high = -50.0, 50.0
        for _ in range(50):
            middle = (low + high) / 2
            rate = (1.0 / (1.0 + np.exp(-(scale * score + middle)))).mean()
            low, high = (middle, high) if rate < positive_rate else (low, middle)
        return (low + high) / 2

    low, high = 0.0, 8.0
    for _ in range(20):
        scale = (low + high) / 2
        shift = shift_for(scale)
        auc = expected_auc(1.0 / (1.0 + np.exp(-(scale * score + shift))))
        low, high = (scale, high) if auc < bayes_auc else (low, scale)
    return scale, shift


@numba.njit(cache=True, nogil=True)
def zipf_rank(u: float, size: int, exponent: float, offset: float) -> int:
    """Rank 0..size-1 with P(k) the integral of (x+offset)^-exponent from k to k+1, by inversion."""
    power = 1.0 - exponent
    low, high = offset**power, (offset + size) ** power
    rank = int((low + u * (high - low)) ** (1.0 / power) - offset)
    return min(max(rank, 0), size - 1)


@numba.njit(cache=True, nogil=True)
def draw_rows(key, rows, days, cardinalities, fresh_sizes, fresh_share):
    """Integers ``(n, 13)`` and value ranks ``(n, 26)`` of rows; ``MISSING`` where blank."""
    count = len(rows)
    integers = np.empty((count, len(INTEGERS)), np.int64)
    ranks = np.empty((count, len(CATEGORIES)), np.int64)
    for i in range(count):
        row_key = derive(key, rows[i])
        for column in range(len(INTEGERS)):
            mean, deviation, missing, group = INTEGERS[column]
            if uniform(row_key, 100 + int(group)) < missing:
                integers[i, column] = MISSING
                continue
            x = int(np.exp(mean + deviation * normal(row_key, column)))
            integers[i, column] = x - SHIFT if column == SHIFTED else x
        for column in range(len(CATEGORIES)):
            if uniform(row_key, 100 + int(CATEGORIES[column, 4])) < CATEGORIES[column, 3]:
                ranks[i, column] = MISSING
                continue
            column_key = derive(row_key, 200 + column)
            ranks[i, column] = _draw_rank(
                column_key, column, days[i], cardinalities[column], fresh_sizes[column], fresh_share
            )
    return integers, ranks


@numba.njit(cache=True, nogil=True)
def _draw_rank(key, column, day, cardinality, fresh_size, fresh_share):
    exponent, offset = CATEGORIES[column, 1], CATEGORIES[column, 2]
    u = uniform(key, 0)
    if day > 0 and fresh_size > 0 and uniform(key, 1) < fresh_share:
        # Squaring favours the newest: most of a day's young values were born on that day.
        age = int(day * uniform(key, 2) ** 2)
        return cardinality + (day - age - 1) * fresh_size + zipf_rank(u, fresh_size, exponent, 1.0)
    return zipf_rank(u, cardinality, exponent, offset)


@numba.njit(cache=True, nogil=True)
def teacher_terms(key, integers, ranks, cardinalities):
    """The linear, pairwise and dense terms of each row, before weighting, ``(n, 3)``."""
    count = len(integers)
    terms = np.zeros((count, 3))
    for i in range(count):
        for column in range(len(CATEGORIES)):
            rank = ranks[i, column]
            # A value born later is as weak as one that far down the base vocabulary.
            depth = 0 if rank == MISSING else min(rank, cardinalities[column])
            if rank != MISSING and rank >= cardinalities[column]:
                depth = int(HALF_RANK)
            strength = CATEGORIES[column, 5] * HALF_RANK / (HALF_RANK + depth)
            terms[i, 0] += strength * normal(derive(key, column), rank)
        for pair in range(len(PAIRS)):
            terms[i, 1] += _pair_term(key, pair, ranks[i])
        terms[i, 2] = _dense_term(key, integers[i])
    return terms


@numba.njit(cache=True, nogil=True)
def _pair_term(key, pair, ranks):
    """Inner product of the two values' vectors, which are drawn for this pair."""
    left, right = ranks[PAIRS[pair, 0]], ranks[PAIRS[pair, 1]]
    total = 0.0
    for dim in range(PAIR_RANK):
        pair_key = derive(key, 1000 + 10 * pair + dim)
        total += normal(derive(pair_key, 0), left) * normal(derive(pair_key, 1), right)
    depth = max(left, 0) + max(right, 0)
    return total * HALF_RANK / (HALF_RANK + depth)


@numba.njit(cache=True, nogil=True)
def _dense_term(key, integers):
    """Waves, bumps, steps and products of the standardised log(1+x)."""
    t = np.zeros(len(INTEGERS))
    total = 0.0
    for column in range(len(INTEGERS)):
        x = integers[column]
        if x == MISSING:
            total += 0.2 * normal(derive(key, 2000), column)
            continue
        t[column] = (np.log1p(max(x, 0)) - INTEGERS[column, 0]) / INTEGERS[column, 1]
    total += 0.4 * t[1] - 0.3 * t[5]
    total += np.sin(1.8 * t[6]) + 2.0 * np.exp(-2.0 * t[8] ** 2)
    total += 0.8 * np.tanh(3.0 * (t[4] - 0.5))
    return total + 0.8 * np.tanh(t[7] * t[10]) + 0.5 * np.tanh(t[2] * t[12])


@numba.njit(cache=True, nogil=True)
def draw_labels(key, rows, probability):
    """Bernoulli labels of rows, int8."""
    labels = np.empty(len(rows), np.int8)
    for i in range(len(rows)):
        labels[i] = uniform(derive(key, rows[i]), 99) < np.float64(probability[i])
    return labels
