"""Losses against their formulas in probabilities, and where a sigmoid saturates."""

import numpy as np
import pytest
import torch

from training.ranking.losses import click_loss
from training.ranking.settings import ClickSettings

LOGITS = np.array([-2.0, 0.3, 1.5, -0.1, 3.0])
LABELS = np.array([1.0, 0.0, 1.0, 1.0, 0.0])


def loss(logits=LOGITS, labels=LABELS, **settings):
    values = (
        torch.from_numpy(np.asarray(logits, np.float32)),
        torch.from_numpy(np.asarray(labels, np.float32)),
    )
    return click_loss(*values, ClickSettings(**settings)).item()


def right():
    """The probability of each row's label."""
    p = 1 / (1 + np.exp(-LOGITS))
    return np.where(LABELS > 0, p, 1 - p)


def test_cross_entropy():
    assert loss() == pytest.approx(-np.log(right()).mean(), rel=1e-6)


@pytest.mark.parametrize("weight", [0.5, 1.0, 4.0])
def test_weighted(weight):
    weights = np.where(LABELS > 0, weight, 1.0)
    expected = -(weights * np.log(right())).mean()
    assert loss(loss="weighted", positive_weight=weight) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(gamma):
    each = (1 - right()) ** gamma * -np.log(right())
    assert loss(loss="focal", focal_gamma=gamma) == pytest.approx(each.mean(), rel=1e-6)
    weighted = np.where(LABELS > 0, 3.0, 1.0) * each
    found = loss(loss="focal", focal_gamma=gamma, positive_weight=3.0)
    assert found == pytest.approx(weighted.mean(), rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"loss": "focal"}, {"loss": "weighted"}])
def test_a_sure_mistake_costs_its_logit(settings):
    assert loss([200.0], [0.0], **settings) == pytest.approx(200.0)
    assert loss([-200.0], [0.0], **settings) == 0.0


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradients_are_finite_at_both_ends(gamma):
    logits = torch.tensor([200.0, -200.0, 0.0], requires_grad=True)
    settings = ClickSettings(loss="focal", focal_gamma=gamma)
    click_loss(logits, torch.tensor([1.0, 1.0, 0.0]), settings).backward()
    assert torch.isfinite(logits.grad).all()
