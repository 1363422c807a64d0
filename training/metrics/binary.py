"""Metrics of click prediction, exact over all rows: no sampling, no binning, no batch averages.

Labels are 0 or 1 and probabilities lie in [0, 1]; both are one-dimensional and equally long.
Sums are in float64.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from core.errors import UserError

SMALLEST_PROBABILITY = 1e-15
CURVE_POINTS = 200
RELIABILITY_BINS = 20

Array = np.ndarray
Metrics = dict[str, float | None]
NAMES = ("auc", "logloss", "normalized_entropy", "accuracy", "calibration")


def auc(labels: Array, probabilities: Array) -> float | None:
    """Area under the ROC curve; a tie between a click and a non-click counts half.

    O(n log n), by the rank-sum (Mann–Whitney) form. None where all labels are the same.
    """
    positives = int(np.count_nonzero(labels))
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    order = np.argsort(probabilities, kind="stable")
    ordered = probabilities[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.diff(np.r_[starts, len(ordered)])
    clicks = np.add.reduceat(labels[order].astype(np.float64), starts)
    # Twice the mean rank of a group of equal scores is an integer, so nothing is rounded.
    double_ranks = 2 * starts + counts + 1
    return float((clicks @ double_ranks) / 2 - positives * (positives + 1) / 2) / (
        positives * negatives
    )


def logloss(labels: Array, probabilities: Array) -> float:
    """Mean negative log-likelihood in nats; probabilities are kept 1e-15 away from 0 and 1."""
    p = np.clip(probabilities.astype(np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return float(-np.mean(np.where(labels > 0, np.log(p), np.log1p(-p))))


def normalized_entropy(labels: Array, probabilities: Array) -> float | None:
    """Log loss over that of always predicting the mean label; below 1 is better than that.

    He et al., "Practical lessons from predicting clicks on ads at Facebook", 2014. None where
    all labels are the same.
    """
    mean = float(labels.mean(dtype=np.float64))
    if mean in (0.0, 1.0):
        return None
    entropy = -(mean * np.log(mean) + (1 - mean) * np.log1p(-mean))
    return logloss(labels, probabilities) / float(entropy)


def accuracy(labels: Array, probabilities: Array) -> float:
    """Share of rows where a probability of at least one half goes with a click, or less without."""
    return float(np.mean((probabilities >= 0.5) == (labels > 0)))


def calibration(labels: Array, probabilities: Array) -> float | None:
    """Mean probability over mean label; 1 is right, above it too many clicks are expected.

    None where no label is 1.
    """
    mean = float(labels.mean(dtype=np.float64))
    return float(probabilities.mean(dtype=np.float64)) / mean if mean else None


def binary_metrics(labels: Array, probabilities: Array) -> Metrics:
    """All metrics of this file by name; :func:`why_undefined` says why one is None.

    Raises:
        UserError: no rows, labels other than 0 and 1, or probabilities that are none.
    """
    _check(labels, probabilities)
    functions = (auc, logloss, normalized_entropy, accuracy, calibration)
    return {
        name: function(labels, probabilities)
        for name, function in zip(NAMES, functions, strict=True)
    }


def why_undefined(labels: Array) -> str | None:
    """Why some metrics of these labels are None, or None where all are defined."""
    clicks = int(np.count_nonzero(labels))
    if clicks in (0, len(labels)):
        return f"all {len(labels):,} labels are {min(clicks, 1)}"
    return None


def roc_points(labels: Array, probabilities: Array, most: int = CURVE_POINTS) -> list[Mapping]:
    """At most ``most`` points of the ROC curve, from (0, 0) to (1, 1), each exactly on it.

    Returns:
        Dicts of ``fpr``, ``tpr`` and ``threshold`` (predict a click from there up; the first,
        above every probability, is None). Empty where all labels are the same.
    """
    if why_undefined(labels):
        return []
    thresholds, hits, false_alarms = _counts_from_the_top(labels, probabilities)
    tpr, fpr = hits / hits[-1], false_alarms / false_alarms[-1]
    keep = _spread(np.r_[0.0, tpr + fpr], most)
    tpr, fpr = np.r_[0.0, tpr][keep], np.r_[0.0, fpr][keep]
    edges = [None, *thresholds.tolist()]
    return [
        {"fpr": float(x), "tpr": float(y), "threshold": edges[i]}
        for x, y, i in zip(fpr, tpr, keep, strict=True)
    ]


def precision_recall_points(
    labels: Array, probabilities: Array, most: int = CURVE_POINTS
) -> list[Mapping]:
    """At most ``most`` points of the precision–recall curve by rising recall, each exactly on it.

    Returns:
        Dicts of ``recall``, ``precision`` and ``threshold``. Empty where all labels are the same.
    """
    if why_undefined(labels):
        return []
    thresholds, hits, false_alarms = _counts_from_the_top(labels, probabilities)
    recall, precision = hits / hits[-1], hits / (hits + false_alarms)
    keep = _spread(recall + np.linspace(0, 1, len(recall)), most)
    return [
        {
            "recall": float(recall[i]),
            "precision": float(precision[i]),
            "threshold": float(thresholds[i]),
        }
        for i in keep
    ]


def reliability_points(
    labels: Array, probabilities: Array, bins: int = RELIABILITY_BINS
) -> list[Mapping]:
    """Predicted against observed click rate in bins of equally many rows.

    Rows with the same probability stay in one bin, so there can be fewer bins than asked for.

    Returns:
        Dicts of ``predicted`` and ``observed`` (means of the bin) and ``rows``.
    """
    order = np.argsort(probabilities, kind="stable")
    p = probabilities[order].astype(np.float64)
    y = labels[order].astype(np.float64)
    cuts = np.linspace(0, len(p), bins + 1).astype(int)[:-1]
    # Each cut moves down to the first row of its probability.
    starts = np.unique(np.searchsorted(p, p[cuts], side="left"))
    rows = np.diff(np.r_[starts, len(p)])
    predicted = np.add.reduceat(p, starts) / rows
    observed = np.add.reduceat(y, starts) / rows
    return [
        {"predicted": float(a), "observed": float(b), "rows": int(n)}
        for a, b, n in zip(predicted, observed, rows, strict=True)
    ]


def target_of(targets: Any, label: str | None) -> torch.Tensor:
    """The target ``label`` of a batch, ``(batch,)``; the only one where there are not several."""
    return targets[label] if isinstance(targets, dict) else targets


class BinaryAccumulator:
    """Pools labels and logits of a whole split; the engine's accumulator for click models.

    Args:
        label: the target that counts where a batch has several.
    """

    def __init__(self, label: str | None = None) -> None:
        self.label = label
        self._labels: list[torch.Tensor] = []
        self._logits: list[torch.Tensor] = []

    def update(self, prediction: torch.Tensor, batch: Any) -> None:
        """Takes a batch's logits ``(batch,)``; the labels are the batch's targets."""
        self._logits.append(prediction.detach().float().cpu())
        self._labels.append(target_of(batch[1], self.label).cpu())

    def state(self) -> dict[str, torch.Tensor]:
        """Labels and logits of all rows so far, each ``(rows,)``."""
        empty = torch.empty(0)
        return {
            "labels": torch.cat([empty, *self._labels]),
            "logits": torch.cat([empty, *self._logits]),
        }

    def add(self, state: dict[str, torch.Tensor]) -> None:
        """Takes in another accumulator's rows."""
        self._labels.append(state["labels"])
        self._logits.append(state["logits"])

    def pooled(self) -> tuple[Array, Array]:
        """Labels, int8, and probabilities, float64, of all rows so far, each ``(rows,)``."""
        if not self._labels:
            raise UserError("no rows to evaluate; check the split's settings and its input")
        labels = torch.cat(self._labels).to(torch.int8).numpy()
        return labels, torch.cat(self._logits).double().sigmoid().numpy()

    def compute(self) -> Metrics:
        """:func:`binary_metrics` of all rows so far."""
        return binary_metrics(*self.pooled())


def _check(labels: Array, probabilities: Array) -> None:
    if labels.shape != probabilities.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and probabilities {probabilities.shape} differ")
    if not len(labels):
        raise UserError("no rows to evaluate; check the split's settings and its input")
    if not np.isin(labels, (0, 1)).all():
        raise UserError(f"labels are expected to be 0 or 1, found {np.unique(labels)[:5]}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise UserError("a probability is NaN or outside 0 to 1: the model is not fit for use")


def _counts_from_the_top(labels: Array, probabilities: Array) -> tuple[Array, Array, Array]:
    """Distinct probabilities, falling, with the clicks and non-clicks at or above each."""
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    hits = np.cumsum(labels[order] > 0)[last].astype(np.float64)
    return ordered[last], hits, last + 1 - hits


def _spread(along: Array, most: int) -> Array:
    """Indices of at most ``most`` entries of rising ``along``, evenly spread; both ends kept."""
    if len(along) <= most:
        return np.arange(len(along))
    wanted = np.linspace(along[0], along[-1], most)
    indices = np.searchsorted(along, wanted, side="left").clip(0, len(along) - 1)
    return np.unique(np.r_[0, indices[1:-1], len(along) - 1])
