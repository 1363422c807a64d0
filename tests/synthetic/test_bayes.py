"""Bayes scores against scikit-learn and against enumeration of every labelling."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from pipeline.synthetic.bayes import BayesMeter, bayes_scores, expected_auc


@pytest.mark.parametrize("ties", [False, True])
def test_scores_agree_with_sklearn(ties):
    random = np.random.default_rng(1)
    p = random.beta(1, 3, 5000)
    p = np.round(p, 1).clip(0.05, 0.95) if ties else p
    y = (random.random(5000) < p).astype(int)
    scores = bayes_scores(p, y)
    assert scores["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert scores["logloss"] == pytest.approx(log_loss(y, p), abs=1e-12)
    assert scores["positive_rate"] == y.mean()


def test_expected_scores_agree_with_enumeration():
    p = np.array([0.1, 0.3, 0.3, 0.6, 0.8])
    right = pairs = loss = 0.0
    for labels in itertools.product([0, 1], repeat=5):
        y = np.array(labels)
        chance = np.where(y == 1, p, 1 - p).prod()
        for i, j in itertools.product(np.flatnonzero(y == 1), np.flatnonzero(y == 0)):
            pairs += chance
            right += chance * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
        loss += chance * log_loss(y, p, labels=[0, 1])
    assert expected_auc(p) == pytest.approx(right / pairs, abs=1e-12)
    assert bayes_scores(p, p > 0.5)["expected_logloss"] == pytest.approx(loss, abs=1e-12)


def test_meter_agrees_with_exact_scores():
    random = np.random.default_rng(2)
    p = random.beta(1, 3, 20_000).astype(np.float32)
    y = (random.random(len(p)) < p).astype(np.int8)
    first, second = BayesMeter(), BayesMeter()
    first.add(p[:7000], y[:7000])
    second.add(p[7000:], y[7000:])
    first.merge(second)
    assert first.scores() == pytest.approx(bayes_scores(p, y), abs=1e-6)


def test_one_class_gives_one_half():
    assert bayes_scores(np.array([0.2, 0.7]), np.array([0, 0]))["auc"] == 0.5
