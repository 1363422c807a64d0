"""What a click model has to beat: always the mean, and a logistic regression that is solved rather
than trained.

The regression has a weight a code and a continuous column and a ridge penalty, as scikit-learn's,
and is fitted by L-BFGS on all its rows at once. Its cost is bounded: it sees the latest training
rows only, and rare codes share a weight.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from core.compiled import compiled
from core.merlin import Schema, Tags
from training.batches import Batch, Batches
from training.metrics.binary import target_of

ROWS = 300_000
"""Latest training rows that the regression is fitted on."""
JUDGED_ROWS = 50_000
"""Validation rows, from the first, by which its penalty is chosen."""
CODES = 20_000
"""Codes of a column with a weight of their own; those above share that of unknown values."""
UNKNOWN = 2
BATCH = 8192
ITERATIONS = 60
STRENGTHS = (100.0, 10.0, 1.0)
"""Ridge penalties, the strongest first: the inverse of scikit-learn's C."""
GOOD_ENOUGH = 1e-6
"""Change of the mean loss, in nats, that ends the fit."""


class Rows(NamedTuple):
    """Rows of a sparse matrix, with a column a weight, and their labels."""

    places: np.ndarray
    """Column of each entry, rows one after another, ``(entries,)``."""
    values: np.ndarray
    """``(entries,)``, float32."""
    starts: np.ndarray
    """Where each row begins and the last one ends, ``(rows + 1,)``."""
    labels: np.ndarray
    """``(rows,)``, float64."""


class SolvedRegression:
    """A logistic regression fitted to its optimum.

    Args:
        schema: of the features.
        label: the target.
    """

    def __init__(self, schema: Schema, label: str) -> None:
        inputs = schema.excluding_by_tag(Tags.TARGET)
        self.label, self.first, at = label, {}, 1
        for name in inputs.select_by_tag(Tags.CONTINUOUS).column_names:
            self.first[name], at = at, at + 1
        self.numbers = {*self.first}
        for column in inputs.select_by_tag(Tags.CATEGORICAL):
            self.first[column.name] = at
            at += min(int(column.int_domain.max) + 1, CODES)
        self.weights = np.zeros(at)
        """The bias, the continuous columns, the codes."""

    def rows(self, batch: Batch) -> Rows:
        """A batch as a matrix; the codes of a list share its weight."""
        labels = target_of(batch[1], self.label).double().numpy()
        size = len(labels)
        entries = zip(*self._entries(batch[0], size), strict=True)
        rows, places, values = (np.concatenate(parts) for parts in entries)
        order = np.argsort(rows, kind="stable")
        starts = np.r_[0, np.cumsum(np.bincount(rows, minlength=size))]
        places, values = places[order].astype(np.int32), values[order].astype(np.float32)
        return Rows(places, values, starts, labels)

    def _entries(self, inputs: Mapping[str, Any], size: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Of the bias and of each column its entries: their rows, columns and values."""
        yield np.arange(size), np.zeros(size, np.int64), np.ones(size)
        for name, first in self.first.items():
            if name in inputs:
                rows, column = np.arange(size), inputs[name].numpy()
                shares = np.ones(size)
            else:
                lengths = inputs[f"{name}__offsets"].diff().numpy()
                rows, column = np.arange(size).repeat(lengths), inputs[f"{name}__values"].numpy()
                shares = (1 / np.maximum(lengths, 1)).repeat(lengths)
            if name in self.numbers:
                yield rows, np.full(len(rows), first), shares * column
            else:
                codes = np.where(column < CODES, column, UNKNOWN).astype(np.int64)
                yield rows, first + codes, shares

    def predict(self, batch: Batch) -> np.ndarray:
        """The logits of a batch, ``(rows,)``: those of :meth:`logits`, without the matrix."""
        size = len(target_of(batch[1], self.label))
        logits = np.zeros(size)
        for rows, places, values in self._entries(batch[0], size):
            np.add.at(logits, rows, values.astype(np.float32) * self.weights[places])
        return logits

    def logits(self, rows: Rows) -> np.ndarray:
        """``(rows,)``."""
        return _products(rows.places, rows.values, rows.starts, self.weights)

    def loss(self, rows: Rows) -> float:
        """Mean over rows, in nats."""
        return float(_losses(self.logits(rows), rows.labels).mean())

    def fit(self, rows: Rows, strength: float) -> None:
        """Goes on from the weights as they are to the optimum under a penalty."""
        count = len(rows.labels)
        penalty = np.full(len(self.weights), strength / count)
        penalty[0] = 0.0
        # Weights in units in which the loss is about equally curved: fewer steps are needed.
        squares = _sums(rows.places, np.square(rows.values), rows.starts, np.ones(count), penalty)
        scale = 1 / np.sqrt(0.2 * squares / count + penalty + 1e-12)
        scaled = nn.Parameter(torch.from_numpy(self.weights / scale))
        optimizer = torch.optim.LBFGS(
            [scaled],
            max_iter=ITERATIONS,
            tolerance_change=GOOD_ENOUGH,
            history_size=8,
            line_search_fn="strong_wolfe",
        )

        def loss() -> torch.Tensor:
            weights = scaled.detach().numpy() * scale
            logits = _products(rows.places, rows.values, rows.starts, weights)
            errors = (torch.from_numpy(logits).sigmoid().numpy() - rows.labels) / count
            slope = _sums(rows.places, rows.values, rows.starts, errors, penalty)
            scaled.grad = torch.from_numpy((slope + penalty * weights) * scale)
            value = _losses(logits, rows.labels).mean() + (penalty * weights**2).sum() / 2
            return torch.tensor(value)

        optimizer.step(loss)
        self.weights = scaled.detach().numpy() * scale


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logits) - labels * logits


@compiled
def _products(places, values, starts, weights):
    """The matrix times ``weights``, ``(rows,)``."""
    products = np.empty(len(starts) - 1)
    for row in range(len(products)):
        total = 0.0
        for at in range(starts[row], starts[row + 1]):
            total += values[at] * weights[places[at]]
        products[row] = total
    return products


@compiled
def _sums(places, values, starts, rows, like):
    """The matrix, transposed, times ``rows``; of the shape of ``like``."""
    sums = np.zeros(len(like))
    for row in range(len(rows)):
        for at in range(starts[row], starts[row + 1]):
            sums[places[at]] += values[at] * rows[row]
    return sums


def label_rate(features: Path, schema: Schema, label: str) -> float:
    """Share of clicks among the training rows."""
    total = rows = 0.0
    for _, target in Batches(features / "train", schema, 1 << 16, columns=[], shuffle=False):
        values = target_of(target, label)
        total, rows = total + float(values.double().sum()), rows + len(values)
    return total / rows


def solved_regression(features: Path, schema: Schema, label: str) -> SolvedRegression:
    """Fitted on the latest training rows; its penalty is the one that validates best."""
    model = SolvedRegression(schema, label)
    train = Batches(features / "train", schema, BATCH, shuffle=False)
    train.set_position(0, max(0, len(train) - -(-ROWS // BATCH)))
    rows = _joined(model, train)
    if not any((features / "valid").glob("*.parquet")):
        model.fit(rows, STRENGTHS[-1])
        return model
    valid = Batches(features / "valid", schema, BATCH, shuffle=False)
    judged = _joined(model, itertools.islice(valid, -(-JUDGED_ROWS // BATCH)))
    best = np.inf
    for strength in STRENGTHS:
        before = model.weights
        model.fit(rows, strength)
        loss = model.loss(judged)
        if not loss < best:
            model.weights = before
            break
        best = loss
    return model


def _joined(model: SolvedRegression, batches: Iterable[Batch]) -> Rows:
    joined = [model.rows(batch) for batch in batches]
    ends = np.cumsum([len(rows.places) for rows in joined])
    starts = [
        rows.starts[1:] + end - len(rows.places) for rows, end in zip(joined, ends, strict=True)
    ]
    places, values, _, labels = (np.concatenate(parts) for parts in zip(*joined, strict=True))
    return Rows(places, values, np.r_[0, np.concatenate(starts)], labels)
