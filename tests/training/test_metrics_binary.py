import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from core.errors import UserError
from training.metrics import binary


def data(kind, rows=2000, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.3).astype("int8")
    scores = {
        "distinct": rng.random(rows),
        "ties": rng.integers(0, 7, rows) / 7,
        "constant": np.full(rows, 0.25),
        "perfect": 0.1 + 0.8 * labels,
        "reversed": 0.9 - 0.8 * labels,
        "extremes": rng.integers(0, 2, rows).astype(float),
    }[kind]
    return labels, scores


KINDS = ["distinct", "ties", "constant", "perfect", "reversed", "extremes"]


@pytest.mark.parametrize("kind", KINDS)
def test_against_sklearn(kind):
    labels, scores = data(kind)
    found = binary.binary_metrics(labels, scores)
    assert tuple(found) == binary.NAMES
    assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    clipped = scores.clip(1e-15, 1 - 1e-15)
    assert found["logloss"] == pytest.approx(sk.log_loss(labels, clipped), rel=1e-12)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, scores >= 0.5))
    prior = sk.log_loss(labels, np.full(len(labels), labels.mean()))
    assert found["normalized_entropy"] == pytest.approx(found["logloss"] / prior)
    assert found["calibration"] == pytest.approx(scores.mean() / labels.mean())


def test_auc_counts_pairs():
    labels = np.array([0, 1, 0, 1, 1, 0], "int8")
    scores = np.array([0.1, 0.1, 0.5, 0.5, 0.9, 0.9])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert binary.auc(labels, scores) == np.mean(pairs)


def test_one_class_is_undefined_with_a_reason():
    for label in (0, 1):
        labels, scores = np.full(5, label, "int8"), np.linspace(0, 1, 5)
        found = binary.binary_metrics(labels, scores)
        assert found["auc"] is None and found["normalized_entropy"] is None
        assert binary.why_undefined(labels) == f"all 5 labels are {label}"
        assert binary.roc_points(labels, scores) == []
        assert binary.precision_recall_points(labels, scores) == []
    assert binary.calibration(np.zeros(3), np.full(3, 0.1)) is None
    assert binary.why_undefined(np.array([0, 1])) is None


@pytest.mark.parametrize("kind", KINDS)
def test_curves_are_thinned_and_exact(kind):
    labels, scores = data(kind)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    points = binary.roc_points(labels, scores)
    exact = {(round(x, 12), round(y, 12)) for x, y in zip(fpr, tpr, strict=True)}
    assert 2 <= len(points) <= 200
    assert {(round(p["fpr"], 12), round(p["tpr"], 12)) for p in points} <= exact
    assert (points[0]["fpr"], points[0]["tpr"]) == (0, 0)
    assert (points[-1]["fpr"], points[-1]["tpr"]) == (1, 1)
    area = np.trapezoid if hasattr(np, "trapezoid") else np.trapz
    thinned = area([p["tpr"] for p in points], [p["fpr"] for p in points])
    assert thinned == pytest.approx(sk.roc_auc_score(labels, scores), abs=0.01)

    precision, recall, thresholds = sk.precision_recall_curve(labels, scores)
    exact = set(zip(recall[:-1].round(12), precision[:-1].round(12), thresholds, strict=True))
    points = binary.precision_recall_points(labels, scores)
    assert 1 <= len(points) <= 200
    assert {
        (round(p["recall"], 12), round(p["precision"], 12), p["threshold"]) for p in points
    } <= exact
    assert points[-1]["recall"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_reliability_bins(kind):
    labels, scores = data(kind)
    points = binary.reliability_points(labels, scores, bins=10)
    assert 1 <= len(points) <= 10
    assert sum(p["rows"] for p in points) == len(labels)
    pooled = sum(p["rows"] * p["observed"] for p in points) / len(labels)
    assert pooled == pytest.approx(labels.mean())
    predicted = [p["predicted"] for p in points]
    assert predicted == sorted(set(predicted))
    if kind == "distinct":
        assert {p["rows"] for p in points} == {len(labels) // 10}


def test_accumulator_pools_over_batches():
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(size=500).astype("float32"))
    labels = torch.from_numpy((rng.random(500) < 0.4).astype("float32"))
    accumulator = binary.BinaryAccumulator()
    for part in torch.arange(500).split(37):
        accumulator.update(logits[part], ({}, labels[part]))
    probabilities = 1 / (1 + np.exp(-logits.double().numpy()))
    assert accumulator.compute() == pytest.approx(
        binary.binary_metrics(labels.numpy(), probabilities)
    )


def test_faults():
    with pytest.raises(UserError, match="no rows"):
        binary.BinaryAccumulator().compute()
    with pytest.raises(UserError, match="no rows"):
        binary.binary_metrics(np.zeros(0), np.zeros(0))
    with pytest.raises(UserError, match="0 or 1, found"):
        binary.binary_metrics(np.array([0, 2]), np.array([0.1, 0.2]))
    with pytest.raises(UserError, match="NaN or outside"):
        binary.binary_metrics(np.array([0, 1]), np.array([0.1, np.nan]))
