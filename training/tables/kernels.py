"""Loops over the rows of a batch: their gradients summed by row, and the optimizers' updates.

A batch's ids are dealt to a fixed number of parts by their hash. The parts run side by side, and
since all places of a row are in one part, in the order of the batch, the sums are bit for bit the
same for any number of threads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from core.compiled import compiled
from training.threads import PARTS, in_threads, shares_of

SHIFT = np.uint64(65 - PARTS.bit_length())  # The hash's highest bits choose the part.
PLACE = np.uint64(20)  # Bits from here on choose the place in a part's hash table.
MIX = np.uint64(0x9E3779B97F4A7C15)
FREE = -1


@compiled
def number_rows(ids, part, keys, numbers, number_of, rows):
    """Numbers the different ids of one part in the order of their first appearance.

    Args:
        ids: ``(n,)`` int64.
        keys, numbers: hash table of 2^k places, ``keys`` all FREE; more places than ids.
        number_of: ``(n,)`` int32; set where the id belongs to ``part``.
        rows: filled with the part's different ids.

    Returns:
        How many there are.
    """
    mask = np.int64(len(keys) - 1)
    found = 0
    for i in range(len(ids)):
        row = ids[i]
        mixed = np.uint64(row) * MIX
        if np.int64(mixed >> SHIFT) != part:
            continue
        place = np.int64(mixed >> PLACE) & mask
        while keys[place] != row and keys[place] != FREE:
            place = (place + 1) & mask
        if keys[place] == FREE:
            keys[place] = row
            numbers[place] = found
            rows[found] = row
            found += 1
        number_of[i] = numbers[place]
    return found


@compiled
def sum_by_row(gradients, source, ids, part, number_of, sums):
    """Adds up the gradients of one part's rows.

    Args:
        gradients: ``(m, dim)`` float32.
        source: ``(n,)`` which gradient each id takes; empty: the i-th id takes the i-th.
        sums: ``(rows of the part, dim)``, zeros.
    """
    dim = gradients.shape[1]
    for i in range(len(ids)):
        if np.int64((np.uint64(ids[i]) * MIX) >> SHIFT) != part:
            continue
        g = source[i] if len(source) else i
        row = number_of[i]
        for d in range(dim):
            sums[row, d] += gradients[g, d]


@compiled
def step_sgd(weight, rows, gradients, first, last, rate):
    """``w -= rate * g`` for the rows ``first`` to ``last`` of the list."""
    for i in range(first, last):
        row = rows[i]
        for d in range(weight.shape[1]):
            weight[row, d] -= rate * gradients[i, d]


@compiled
def step_adagrad(weight, total, rows, gradients, first, last, rate, eps):
    """``s += g²; w -= rate * g / (√s + eps)``, element by element (Duchi et al., 2011)."""
    for i in range(first, last):
        row = rows[i]
        for d in range(weight.shape[1]):
            g = gradients[i, d]
            s = total[row, d] + g * g
            total[row, d] = s
            weight[row, d] -= rate * g / (np.sqrt(s) + eps)


@compiled
def step_rowwise_adagrad(weight, total, rows, gradients, first, last, rate, eps):
    """Adagrad with one sum a row, of the mean of the row's squared gradient."""
    dim = weight.shape[1]
    for i in range(first, last):
        row = rows[i]
        square = np.float32(0)
        for d in range(dim):
            square += gradients[i, d] * gradients[i, d]
        s = total[row] + square / np.float32(dim)
        total[row] = s
        scale = rate / (np.sqrt(s) + eps)
        for d in range(dim):
            weight[row, d] -= scale * gradients[i, d]


@compiled
def step_adam(weight, mean, square, rows, gradients, first, last, rate, beta1, beta2, eps):
    """Adam with its moments moved for these rows only; ``rate`` holds the bias correction."""
    one = np.float32(1)
    for i in range(first, last):
        row = rows[i]
        for d in range(weight.shape[1]):
            g = gradients[i, d]
            m = mean[row, d] + (g - mean[row, d]) * (one - beta1)
            v = square[row, d] + (g * g - square[row, d]) * (one - beta2)
            mean[row, d] = m
            square[row, d] = v
            weight[row, d] -= rate * m / (np.sqrt(v) + eps)


def sum_gradients(
    ids: np.ndarray, gradients: np.ndarray, source: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The different ids and the sum of each one's gradients.

    Args:
        ids: ``(n,)`` int64, at least 0.
        gradients: ``(m, dim)`` float32, C-contiguous.
        source: ``(n,)`` int64, the gradient that each id takes; None: ``n == m``, one each.

    Returns:
        ``(rows,)`` int64 and ``(rows, dim)`` float32; their order depends on the ids alone.
    """
    source = np.empty(0, np.int64) if source is None else source
    number_of = np.empty(len(ids), np.int32)
    places = 1 << max(4, int(1.5 * len(ids)).bit_length())

    def number(part: int) -> np.ndarray:
        keys, numbers = np.full(places, FREE, np.int64), np.empty(places, np.int32)
        rows = np.empty(len(ids), np.int64)
        return rows[: number_rows(ids, part, keys, numbers, number_of, rows)]

    parts = in_threads(len(ids), number)
    ends = np.cumsum([len(rows) for rows in parts])
    sums = np.zeros((ends[-1], gradients.shape[1]), np.float32)

    def add(part: int) -> None:
        own = sums[ends[part] - len(parts[part]) : ends[part]]
        sum_by_row(gradients, source, ids, part, number_of, own)

    in_threads(len(ids), add)
    return np.concatenate(parts), sums


def over_rows(kernel: Callable[..., None], *arrays: Any, rows: np.ndarray, extra: tuple) -> None:
    """Runs an update kernel over all ``rows``, in shares side by side."""
    shares = shares_of(len(rows))
    in_threads(len(rows), lambda part: kernel(*arrays, *shares[part], *extra))
