"""Standard errors by session against leaving out one session at a time, and against simulation."""

import numpy as np
import pytest
import torch

from training.metrics.clusters import ClusteredMeans


def sessions(rng, count, spread=1.0):
    """Outcomes by session; those of one session hang together, and longer ones do better."""
    lengths = rng.integers(1, 9, count)
    levels = rng.normal(0, spread, count) + lengths / 8
    return [
        (rng.normal(level, 1, n) > 0.5).astype(float)
        for level, n in zip(levels, lengths, strict=True)
    ]


def clustered(outcomes, parts=1):
    """What :class:`ClusteredMeans` says, the sessions given in ``parts`` to two accumulators."""
    means = [ClusteredMeans(1), ClusteredMeans(1)]
    for number, part in enumerate(np.array_split(np.arange(len(outcomes)), parts)):
        mine = [outcomes[row] for row in part]
        rows = torch.from_numpy(np.repeat(np.arange(len(mine)), [len(one) for one in mine]))
        order = torch.from_numpy(np.random.default_rng(number).permutation(len(rows)))
        values = torch.from_numpy(np.concatenate(mine))[:, None]
        means[number % 2].add(values[order], rows[order])
    means[0].sums += means[1].sums
    return means[0]


def test_agrees_with_the_jackknife_over_sessions():
    outcomes = sessions(np.random.default_rng(3), 2000)
    (found,) = clustered(outcomes, 7).intervals(0.95)
    totals = np.array([one.sum() for one in outcomes])
    sizes = np.array([len(one) for one in outcomes])
    without = (totals.sum() - totals) / (sizes.sum() - sizes)
    n = len(outcomes)
    jackknife = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    assert found["standard_error"] == pytest.approx(jackknife, rel=2e-3)
    mean = totals.sum() / sizes.sum()
    assert (found["low"] + found["high"]) / 2 == pytest.approx(mean)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.959964 * found["standard_error"])
    naive = np.concatenate(outcomes).std(ddof=1) / np.sqrt(sizes.sum())
    assert found["standard_error"] > 1.2 * naive


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    truth = np.concatenate(sessions(np.random.default_rng(0), 100_000)).mean()
    held = 0
    for seed in range(400):
        (found,) = clustered(sessions(np.random.default_rng(seed + 1), 150)).intervals(0.9)
        held += found["low"] <= truth <= found["high"]
    assert 0.86 <= held / 400 <= 0.94


def test_one_session_or_none_says_nothing():
    means = ClusteredMeans(2)
    assert means.intervals(0.95) is None
    means.add(torch.ones(3, 2), torch.tensor([4, 4, 4]))
    assert means.clusters == 1
    assert means.intervals(0.95) is None
    means.add(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))
    means.add(torch.ones(1, 2), torch.tensor([0]))
    assert means.intervals(0.95) == [{"standard_error": 0.0, "low": 1.0, "high": 1.0}] * 2


def test_an_interval_does_not_leave_what_a_mean_can_be():
    means = ClusteredMeans(2)
    means.add(torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 0.1]]), torch.arange(5))
    high, low = means.intervals(0.95)
    assert (high["high"], low["low"]) == (1, 0)
    assert 0 < high["low"] < 1 and 0 < low["high"] < 1
    assert high["standard_error"] == pytest.approx(0.2)
