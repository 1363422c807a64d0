"""Click models with their own training defaults, on several logs, with logistic regression
by scikit-learn on the same features and the mean of the training labels.

    python -m benchmarks.defaults --models logistic_regression fm dlrm \\
        criteo=work/criteo/features small=work/small/features --output work/defaults.json

Each log is a folder of features that ``merlin-pipeline preprocess ranking`` wrote. A model is
trained on its training split, stopped by its validation split and judged on ``--split``.
``--set`` and ``--settings`` go over the defaults, as on the command line of the pipeline: with
``--split valid`` they choose defaults without a look at the test rows.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.console import say, table
from pipeline.params import Params
from pipeline.sections import MODELS
from training.ranking import SEVERAL_LABELS

REFERENCE, MEAN = "scikit-learn", "always the mean"


class Score(NamedTuple):
    """What a model reached on one log."""

    auc: float
    logloss: float
    note: str = ""

    def __str__(self) -> str:
        return f"{self.auc:.4f} / {self.logloss:.4f}{self.note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="+", metavar="NAME=FEATURES")
    usual = [name for name in MODELS["ranking"] if name not in SEVERAL_LABELS]
    parser.add_argument("--models", nargs="*", default=usual, choices=MODELS["ranking"])
    parser.add_argument("--split", default="test", choices=("valid", "test"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--settings", action="append", default=[], help="over the defaults")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, over --settings")
    parser.add_argument("--no-reference", action="store_true", help="leave scikit-learn out")
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args()
    results = measure(options)
    show(results, options.split)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Log → model → its score: means over the seeds."""
    os.environ.setdefault("MERLIN_PIPELINE_QUIET", "1")
    results: dict[str, dict[str, Any]] = {}
    for given in options.logs:
        log, _, folder = given.partition("=")
        features = Path(folder)
        results[log] = {MEAN: mean_score(features, options.split)}
        if not options.no_reference:
            results[log][REFERENCE] = reference_score(features, options.split)
        for name in options.models:
            scores = [trained(features, name, seed, options) for seed in options.seeds]
            means = np.mean([score[:2] for score in scores], axis=0)
            results[log][name] = Score(*map(float, means), scores[0].note)
            say(f"{log}: {name}: {results[log][name]}")
    return results


def trained(features: Path, name: str, seed: int, options: argparse.Namespace) -> Score:
    """Trains one model and judges it."""
    from pipeline.feature_folder import read_schema
    from pipeline.model_folder import build
    from pipeline.stages.train import splits
    from training.batches import Batches
    from training.engine import evaluate, fit

    chosen = [f"ranking.model={name}", f"ranking.train.seed={seed}", *options.set]
    params = Params.read(options.settings, chosen)
    engine, schema = params.engine("ranking"), read_schema(features)
    model = build("ranking", name, schema, params.model("ranking")[1], engine.seed)
    train, valid = splits("ranking", model, schema, features, engine)
    with tempfile.TemporaryDirectory() as folder:
        result = fit(model, train, valid, engine, folder)
    judged = Batches(features / options.split, schema, engine.valid_batch_size, shuffle=False)
    metrics = evaluate(model, judged)
    note = f" ({result.best_step}/{result.steps} {result.seconds:.0f}s)"
    return Score(metrics["auc"], metrics["logloss"], note)


def rows_of(features: Path, split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns of a split by name, codes as integers, and its labels."""
    from pipeline.feature_folder import read_schema
    from training.batches import Batches

    schema = read_schema(features)
    inputs, labels = [], []
    for batch, target in Batches(features / split, schema, 65_536, shuffle=False):
        inputs.append(batch)
        labels.append(next(iter(target.values())) if isinstance(target, dict) else target)
    columns = {name: np.concatenate([batch[name].numpy() for batch in inputs]) for name in batch}
    return columns, np.concatenate(labels)


def mean_score(features: Path, split: str) -> Score:
    """What always the mean of the training labels reaches."""
    from sklearn.metrics import log_loss

    mean = float(rows_of(features, "train")[1].mean())
    labels = rows_of(features, split)[1]
    return Score(0.5, float(log_loss(labels, np.full(len(labels), mean))))


def reference_score(features: Path, split: str) -> Score:
    """Logistic regression on one-hot codes and numbers, solved by L-BFGS with an L2 of C = 1."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss, roc_auc_score
    from sklearn.preprocessing import OneHotEncoder

    train, labels = rows_of(features, "train")
    held, answers = rows_of(features, split)
    codes = [name for name, values in train.items() if values.dtype.kind == "i"]
    numbers = [name for name in train if name not in codes]
    encoder = OneHotEncoder(handle_unknown="ignore")
    encoder.fit(np.stack([train[name] for name in codes], axis=1))

    def matrix(columns: dict[str, np.ndarray]) -> Any:
        parts = [encoder.transform(np.stack([columns[name] for name in codes], axis=1))]
        if numbers:
            parts.append(csr_matrix(np.stack([columns[name] for name in numbers], axis=1)))
        return hstack(parts).tocsr()

    solved = LogisticRegression(max_iter=2000).fit(matrix(train), labels)
    predicted = solved.predict_proba(matrix(held))[:, 1]
    return Score(float(roc_auc_score(answers, predicted)), float(log_loss(answers, predicted)))


def show(results: dict[str, dict[str, Any]], split: str) -> None:
    """Prints the table: a row a model, auc / logloss of each log."""
    names = dict.fromkeys(name for scores in results.values() for name in scores)
    rows = [[name, *(str(scores.get(name, "")) for scores in results.values())] for name in names]
    table(f"auc / logloss of the {split} split", ["model", *results], rows)


if __name__ == "__main__":
    main()
