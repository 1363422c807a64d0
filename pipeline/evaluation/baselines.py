"""What any model has to beat, on the same rows or steps as the model: simple rules and counts."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.metric_names import headlines, worse

Metrics = dict[str, float | None]
Baselines = dict[str, Metrics]
LABELS = {
    "always_the_mean": "always the mean",
    "logistic_regression": "logistic regression",
    "popular": "always the most popular items",
    "sequential_rules": "sequential rules",
}
"""Baselines by key, as a sentence names them."""
BATCH = 8192


def click_baselines(features: Path, schema: Any, split: str, label: str) -> Baselines:
    """Always the training split's share of clicks, and a logistic regression that is solved.

    Args:
        label: the target.
    """
    import torch

    from core.console import progress
    from training.batches import Batches
    from training.metrics import binary
    from training.ranking.baselines import label_rate, solved_regression

    pooled = binary.BinaryAccumulator(label)
    rate = label_rate(features, schema, label)
    model = solved_regression(features, schema, label)
    batches = Batches(features / split, schema, BATCH, shuffle=False)
    with progress("baselines", batches.rows, "rows") as advance:
        for batch in batches:
            logits = model.predict(batch)
            pooled.update(torch.from_numpy(logits), batch)
            advance(len(logits))
    labels, probabilities = pooled.pooled()
    return {
        "always_the_mean": binary.binary_metrics(labels, np.full(len(labels), rate)),
        "logistic_regression": binary.binary_metrics(labels, probabilities),
    }


def session_baselines(
    features: Path, schema: Any, split: str, settings: Any, batch_size: int, popular: Any = None
) -> Baselines:
    """Always the most popular items, and rules of what follows what, both counted in training.

    Args:
        settings: of the evaluation.
        batch_size: sessions of a batch.
        popular: the model of the popular items, where it has counted already.
    """
    from training import sessions
    from training.batches import Batches
    from training.sessions.evaluation import evaluate_sessions, validation_settings
    from training.sessions.fitting import observe

    def batches(which: str, model: Any) -> Batches:
        names = [*model.columns, *(model.observed if which == "train" else ())]
        return Batches(features / which, schema, batch_size, columns=names, shuffle=False)

    asked = validation_settings(settings).model_copy(update={"metrics": settings.metrics})
    reached: Baselines = {}
    for name in ("popular", "sequential_rules"):
        model = popular if name == "popular" and popular else sessions.build(name, schema)
        if not model.has_observed:
            observe(model, batches("train", model))
        report = evaluate_sessions(model, batches(split, model), asked)
        reached[name] = {key: value for key, value in report.items() if "@" in key}
    return reached


def others(model: str, metrics: dict[str, Any], baselines: Baselines) -> Baselines:
    """The baselines without one that is the model itself, with the same settings."""
    return {
        name: theirs
        for name, theirs in baselines.items()
        if name != model or any(_differ(metrics.get(key), value) for key, value in theirs.items())
    }


def _differ(one: float | None, other: float | None) -> bool:
    """Whether two metrics differ by more than the rounding of a mean over equal ones."""
    if one is None or other is None:
        return one is not other
    return not math.isclose(one, other, rel_tol=1e-12)


def below(model: str, metrics: dict[str, Any], baselines: Baselines) -> list[str]:
    """Sentences that say which baselines the model does not reach, and by which metric."""
    remarks = []
    for key, theirs in baselines.items():
        lost = [
            name
            for name in headlines(metrics)
            if metrics[name] is not None
            and theirs.get(name) is not None
            and worse(name, metrics[name], theirs[name])
        ]
        if lost:
            figures = ", ".join(
                f"{name} {metrics[name]:.4f} against {theirs[name]:.4f}" for name in lost
            )
            remarks.append(f"{model} scores below the baseline '{LABELS[key]}': {figures}")
    return remarks
