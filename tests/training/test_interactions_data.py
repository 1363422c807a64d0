"""Histories of users, batches of them, and the metrics over users."""

import numpy as np
import pytest
import torch

from core.errors import UserError
from tests.training.interaction_log import histories, schema, write
from training.interactions.histories import UserBatches, interaction_columns, multi_hot
from training.metrics.ratings import RatingAccumulator
from training.metrics.users import UserMetrics


def test_histories_hold_what_known_users_chose(tmp_path):
    rows = [
        (5, 7, 1),
        (4, 9, 1),
        (5, 3, 1),
        (5, 7, 1),
        (5, 8, 0),
        (2, 9, 1),
        (4, 2, 1),
        (39, 29, 1),
    ]
    found = histories(write(tmp_path / "a", rows))
    assert len(found) == 4 and found.active.tolist() == [4, 5, 39]
    items, offsets = found.of(torch.tensor([5, 6, 39, 4]))
    assert items.tolist() == [3, 7, 29, 9] and offsets.tolist() == [0, 2, 2, 3, 4]
    explicit = histories(write(tmp_path / "b", rows), explicit=True)
    assert explicit.of(torch.tensor([5]))[0].tolist() == [3, 7, 8]


def test_batches_of_users(tmp_path):
    train = histories(write(tmp_path / "t", [(u, u % 20 + 3, 1) for u in range(3, 13)]))
    held = histories(write(tmp_path / "v", [(4, 20, 1), (9, 21, 1), (9, 22, 1)]))
    columns = interaction_columns(schema(), "mf")
    batches = UserBatches(tmp_path, schema(), columns, train, None, 4, shuffle=True, seed=1)
    epochs = [[b[0]["user_id"].tolist() for b in batches] for _ in range(2)]
    assert (
        sorted(user for batch in epochs[0] for user in batch) == list(range(3, 13))
        and epochs[0] != epochs[1]
    )
    assert [len(b) for b in epochs[0]] == [4, 4, 2] and len(batches) == 3
    batches.set_position(1, 1)
    assert [b[0]["user_id"].tolist() for b in batches] == epochs[1][1:]
    judged = UserBatches(tmp_path, schema(), columns, train, held, 4)
    ((inputs, targets),) = list(judged)
    assert inputs["user_id"].tolist() == [4, 9]
    assert inputs["item_id__values"].tolist() == [7, 12]
    assert targets["item_id__values"].tolist() == [20, 21, 22]
    assert judged.fingerprint != batches.fingerprint
    nobody = histories(write(tmp_path / "n", [(4, 20, 0), (2, 21, 1)]))
    with pytest.raises(UserError, match="no known user has an item held out"):
        UserBatches(tmp_path / "n", schema(), columns, train, nobody, 4)


def brute_force(scores, relevant, k):
    """recall@k and ndcg@k of one user; among equal scores the relevant come last."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], relevant[i]))
    hits = [relevant[i] for i in order[:k]]
    total = int(sum(relevant))
    gain = sum(hit / np.log2(rank + 2) for rank, hit in enumerate(hits))
    best = sum(1 / np.log2(rank + 2) for rank in range(min(k, total)))
    return sum(hits) / min(k, total), gain / best


def test_metrics_against_counting():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 6, (50, 15)).astype(float)  # many ties
    relevant = (rng.random((50, 15)) < 0.2).astype(float)
    relevant[:, 0] = 1
    metrics = UserMetrics([1, 5, 40])
    for part in range(0, 50, 16):
        rows = slice(part, part + 16)
        metrics.add(torch.from_numpy(scores[rows]), torch.from_numpy(relevant[rows]))
    found = metrics.compute()
    for k in (1, 5, 40):
        expected = np.mean(
            [brute_force(s, r, min(k, 15)) for s, r in zip(scores, relevant, strict=True)], 0
        )
        assert found[f"recall@{k}"] == pytest.approx(expected[0])
        assert found[f"ndcg@{k}"] == pytest.approx(expected[1])
    constant = UserMetrics([3])
    constant.add(torch.zeros(1, 9), torch.eye(9)[:1])
    assert constant.compute() == {"recall@3": 0.0, "ndcg@3": 0.0}
    assert UserMetrics([3]).compute() == {"recall@3": None, "ndcg@3": None}


def test_rows_of_codes():
    found = multi_hot(torch.tensor([3, 5, 4]), torch.tensor([0, 2, 2, 3]), 6)
    assert found.tolist() == [[0, 0, 0, 1, 0, 1], [0] * 6, [0, 0, 0, 0, 1, 0]]


def test_errors_of_ratings():
    found = RatingAccumulator()
    assert found.compute() == {"rmse": None, "mae": None}
    found.update(torch.tensor([1.0, 2.0]), ({}, torch.tensor([2.0, 2.0])))
    found.update(torch.tensor([5.0]), ({}, torch.tensor([2.0])))
    assert found.compute() == {"rmse": pytest.approx((10 / 3) ** 0.5), "mae": pytest.approx(4 / 3)}
