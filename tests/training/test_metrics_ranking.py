"""Ranking metrics against a brute-force second implementation, ties and NaN included."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.metrics import ranking
from training.metrics.ranking import (
    METRICS,
    MISSED,
    RankHistogram,
    mrr,
    ndcg,
    recall,
    target_ranks,
)


def brute_force_rank(scores, target, excluded):
    """Counts, one by one, the candidates that do not stand clearly below the target."""
    if target in excluded:
        return MISSED
    rank = 1
    for column, score in enumerate(scores):
        if column == target or column in excluded:
            continue
        if math.isnan(score) or math.isnan(scores[target]) or score >= scores[target]:
            rank += 1
    return rank


def brute_force_metrics(ranks, k):
    """Every metric at k from its textbook definition over ranked lists."""
    totals = dict.fromkeys(("recall", "ndcg", "mrr", "hit", "map"), 0.0)
    for rank in ranks:
        relevance = [1.0 if position == rank else 0.0 for position in range(1, k + 1)]
        totals["recall"] += sum(relevance)
        gains = [gain / math.log2(position + 2) for position, gain in enumerate(relevance)]
        totals["ndcg"] += sum(gains) / (1 / math.log2(2))
        totals["mrr"] += max(gain / (position + 1) for position, gain in enumerate(relevance))
        totals["hit"] += 1.0 if any(relevance) else 0.0
        # Average precision: over the relevant positions, the share of what stands above that is.
        precisions = [sum(relevance[: n + 1]) / (n + 1) for n in range(k) if relevance[n]]
        totals["map"] += sum(precisions)
    return {f"{name}@{k}": total / len(ranks) for name, total in totals.items()}


@pytest.mark.parametrize("at_once", [1, 7, 1000])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ranks_agree_with_brute_force(data, at_once, monkeypatch):
    monkeypatch.setattr(ranking, "AT_ONCE", at_once)
    items = data.draw(st.integers(1, 12))
    rows = data.draw(st.integers(1, 5))
    # Few distinct values make ties the rule.
    value = st.sampled_from([0.0, 1.0, 2.0, -1.0, math.nan, math.inf, -math.inf])
    scores = [data.draw(st.lists(value, min_size=items, max_size=items)) for _ in range(rows)]
    targets = [data.draw(st.integers(0, items - 1)) for _ in range(rows)]
    excluded = [[data.draw(st.integers(-1, items - 1)) for _ in range(2)] for _ in range(rows)]

    ranks = target_ranks(torch.tensor(scores), torch.tensor(targets), torch.tensor(excluded))

    expected = [brute_force_rank(*row) for row in zip(scores, targets, excluded, strict=True)]
    assert ranks.tolist() == expected


def test_equal_scores_rank_the_target_last():
    ranks = target_ranks(torch.zeros(2, 7), torch.tensor([0, 3]))
    assert ranks.tolist() == [7, 7]


def test_a_target_that_is_excluded_is_missed_however_long_the_list():
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    ranks = target_ranks(scores, torch.tensor([1]), torch.tensor([[1]]))
    histogram = RankHistogram(1, 100)
    histogram.add(ranks, torch.tensor([0]))
    assert set(histogram.metrics([100], names=list(METRICS)).values()) == {0.0}


@pytest.mark.parametrize("k", [1, 10, 20])
def test_histogram_agrees_with_brute_force(k):
    generator = torch.Generator().manual_seed(0)
    ranks = torch.randint(1, 60, (500,), generator=generator)
    group = torch.randint(0, 3, (500,), generator=generator)
    histogram = RankHistogram(3, 20)
    for part in torch.arange(500).split(77):
        histogram.add(ranks[part], group[part])

    assert histogram.predictions() == 500
    found = histogram.metrics([k], names=list(METRICS))
    assert found == pytest.approx(brute_force_metrics(ranks.tolist(), k))
    one = ranks[group == 1].tolist()
    assert histogram.predictions([1]) == len(one)
    found = histogram.metrics([k], [1], names=list(METRICS))
    assert found == pytest.approx(brute_force_metrics(one, k))


def test_metrics_of_single_ranks():
    ranks = torch.tensor([1, 2, 3, 20, 21])
    assert recall(ranks, 20).tolist() == [1, 1, 1, 1, 0]
    assert mrr(ranks, 20).tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 20, 0])
    assert ndcg(ranks, 20).tolist() == pytest.approx(
        [1, 1 / math.log2(3), 0.5, 1 / math.log2(21), 0]
    )


def test_no_predictions_give_zeros():
    assert RankHistogram(2, 20).metrics([20]) == {"recall@20": 0, "ndcg@20": 0, "mrr@20": 0}


def test_a_k_beyond_the_histogram_is_refused():
    with pytest.raises(ValueError, match="max_k"):
        RankHistogram(1, 10).metrics([20])
