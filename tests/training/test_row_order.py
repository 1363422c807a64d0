"""How well rows in the order of time are mixed, against a permutation of whole row groups."""

import numpy as np
import pytest

from training.row_order import permuted_chunks

CHUNK, GROUP, PART, DAYS = 2620, 655, 2500, 7
"""A hundredth of the default rows of a chunk, a row group and a part; days of the log."""


def permuted_groups(rows: int, random: np.random.Generator) -> list[list[range]]:
    """Row groups of parts in random order, joined until a chunk has its rows."""
    groups = [
        range(first, min(first + GROUP, part + PART, rows))
        for part in range(0, rows, PART)
        for first in range(part, min(part + PART, rows), GROUP)
    ]
    chunks: list[list[range]] = []
    for number in random.permutation(len(groups)):
        if not chunks or sum(map(len, chunks[-1])) >= CHUNK:
            chunks.append([])
        chunks[-1].append(groups[number])
    return chunks


def unevenness(chunks: list[list[range]], rows: int) -> float:
    """Chi-square of a chunk's rows by day over its rows, the mean over all rows: 0 at best."""
    total = 0.0
    for chunk in chunks:
        numbers = np.concatenate([np.arange(block.start, block.stop) for block in chunk])
        shares = np.bincount(numbers * DAYS // rows, minlength=DAYS) / len(numbers)
        total += len(numbers) * DAYS * np.square(shares - 1 / DAYS).sum()
    return total / rows


@pytest.mark.parametrize("rows", [10_000, 20_000, 50_000])
def test_days_are_mixed_as_well_as_by_a_permutation_of_row_groups(rows):
    blocks, groups = [], []
    for seed in range(150):
        blocks.append(unevenness(permuted_chunks(rows, CHUNK, np.random.default_rng(seed)), rows))
        groups.append(unevenness(permuted_groups(rows, np.random.default_rng(seed)), rows))
    assert np.mean(blocks) < np.mean(groups)
