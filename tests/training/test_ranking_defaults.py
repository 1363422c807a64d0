"""Simple click models with their training defaults, against what they should reach.

The reference is scikit-learn's logistic regression: L-BFGS to the optimum on one-hot codes and
numbers of the same features, which shares nothing with the loop but the features.
"""

import argparse

import numpy as np
import polars as pl
import pytest

from benchmarks.defaults import MEAN, REFERENCE, measure
from pipeline.params import Params
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess

LOGS = {
    "rare codes": {"rows": 9000, "cardinalities": (1500, 400, 60, 24), "spread": 0.7},
    "few codes": {"rows": 8000, "cardinalities": (20, 7), "spread": 0.9},
    "many clicks": {"rows": 8000, "cardinalities": (300, 300, 300), "spread": 0.5, "bias": 0.3},
}
COLUMNS = "ranking.source.columns={labels: [liked], categorical: [%s], continuous: [price, age]}"


def additive_log(rows, cardinalities, spread, bias=-1.5, seed=0):
    """Clicks by a sum of effects of codes, frequent and rare, and of two numbers."""
    rng = np.random.default_rng(seed)
    columns, logit = {}, np.full(rows, bias)
    for number, size in enumerate(cardinalities):
        chances = 1 / np.arange(1, size + 1) ** 0.8
        codes = rng.choice(size, rows, p=chances / chances.sum())
        columns[f"c{number}"] = codes
        logit += rng.normal(0, spread, size)[codes]
    price, age = np.exp(rng.normal(3, 1, rows)).round(2), rng.normal(40, 12, rows).round()
    logit += 0.3 * (np.log(price) - 3) + 0.02 * (age - 40)
    liked = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    return pl.DataFrame({"liked": liked, **columns, "price": price, "age": age})


@pytest.fixture(scope="module", params=LOGS)
def scores(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    log = additive_log(**LOGS[request.param])
    log.write_csv(folder / "log.csv")
    codes = ", ".join(name for name in log.columns if name[0] == "c")
    params = Params.read([], [COLUMNS % codes])
    ingest("ranking", params.section("ranking.source"), folder / "log.csv", folder / "raw")
    preprocess("ranking", folder / "raw", folder / "features", params)
    options = argparse.Namespace(
        logs=[f"log={folder / 'features'}"],
        models=["logistic_regression", "fm"],
        split="test",
        seeds=[1],
        settings=[],
        set=[],
        no_reference=False,
    )
    return measure(options)["log"]


def test_logistic_regression_reaches_what_an_exact_solver_does(scores):
    trained, exact = scores["logistic_regression"], scores[REFERENCE]
    assert trained.logloss < exact.logloss + 0.002 and trained.auc > exact.auc - 0.005
    assert trained.logloss < scores[MEAN].logloss - 0.01


def test_a_factorization_machine_is_as_good_on_additive_clicks(scores):
    trained, linear = scores["fm"], scores["logistic_regression"]
    assert trained.logloss < linear.logloss + 0.004 and trained.auc > linear.auc - 0.01
