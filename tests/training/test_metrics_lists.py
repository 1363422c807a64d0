"""Recommended lists and what is told of them, against sorting and counting in plain Python."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.metrics import lists as lists_module
from training.metrics import ranking
from training.metrics.lists import ListCounts, popularity_groups, self_information, top_items

VALUES = [0.0, -0.0, 1.0, 2.5, -1.0, 1e-30, -1e30, math.nan, math.inf, -math.inf]


def sorted_list(scores, k, excluded):
    """One list by sorting pairs of score and column."""
    pairs = [
        (-score, column)
        for column, score in enumerate(scores)
        if column not in excluded and not math.isnan(score) and score != -math.inf
    ]
    columns = [column for _, column in sorted(pairs)][:k]
    return columns + [-1] * (k - len(columns))


@pytest.mark.parametrize("at_once", [1, 9, 1000])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_lists_agree_with_sorting(data, at_once, monkeypatch):
    monkeypatch.setattr(ranking, "AT_ONCE", at_once)
    monkeypatch.setattr(lists_module, "GROUP", 3)
    items, rows = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 4))
    k = data.draw(st.integers(1, 20))
    row = st.lists(st.sampled_from(VALUES), min_size=items, max_size=items)
    scores = [data.draw(row) for _ in range(rows)]
    excluded = [[data.draw(st.integers(-3, items - 1)) for _ in range(2)] for _ in range(rows)]
    found = top_items(torch.tensor(scores), k, torch.tensor(excluded))
    assert found.tolist() == [sorted_list(s, k, e) for s, e in zip(scores, excluded, strict=True)]
    assert top_items(torch.tensor(scores), k).tolist() == [sorted_list(s, k, []) for s in scores]


def test_long_lists_of_a_large_catalogue():
    scores = torch.randint(-9, 9, (3, 5000), generator=torch.Generator().manual_seed(0)).float()
    scores[0, ::3] = torch.nan
    excluded = torch.randint(-1, 5000, (3, 700), generator=torch.Generator().manual_seed(1))
    found = top_items(scores, 300, excluded).tolist()
    assert found == [
        sorted_list(s, 300, set(e)) for s, e in zip(scores.tolist(), excluded.tolist(), strict=True)
    ]


def test_coverage_popularity_and_novelty_by_counting():
    rng = np.random.default_rng(1)
    counts = np.array([0, 400, 90, 90, 7, 7, 7, 1, 1, 0])
    lists = np.array([rng.permutation(10)[:4] for _ in range(30)])
    lists[3, 2:] = -1
    lists[lists == 9] = 1  # so that one item is never listed
    kept = ListCounts((2, 4), 10)
    other = ListCounts((2, 4), 10)
    kept.add(torch.tensor(lists[:11]))
    other.add(torch.tensor(lists[11:]))
    kept.counts += other.counts

    found = kept.coverage() | kept.popularity(torch.tensor(counts))
    for k in (2, 4):
        named = Counter(int(item) for row in lists for item in row[:k] if item >= 0)
        assert found[f"coverage@{k}"] == len(named) / 10
        total = sum(named.values())
        shares = sum(n * counts[item] / counts.sum() for item, n in named.items())
        bits = sum(-n * math.log2(max(counts[item], 1) / counts.sum()) for item, n in named.items())
        assert found[f"popularity@{k}"] == pytest.approx(shares / total)
        assert found[f"novelty@{k}"] == pytest.approx(bits / total)


def test_self_information_of_a_coin():
    assert self_information(torch.tensor([8, 8])).tolist() == [1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30))
def test_popularity_groups_cut_the_events(counts):
    groups = popularity_groups(torch.tensor(counts)).tolist()
    total = sum(counts)
    for mine, group in zip(counts, groups, strict=True):
        before = sum(other for other in counts if other > mine)
        expected = 0 if before < 0.2 * total else 1 if before < 0.8 * total else 2
        # A cut that falls on a bound is decided by rounding.
        on_a_bound = total and min(abs(before / total - share) for share in (0.2, 0.8)) < 1e-9
        assert group == expected or on_a_bound or not total
    assert total == 0 or groups[counts.index(max(counts))] == 0
