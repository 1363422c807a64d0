"""Ratings → features → a model of users and items → metrics, by the stages alone."""

import json

import numpy as np
import pytest

from pipeline.params import Params
from pipeline.stages.evaluate import evaluate
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from pipeline.stages.train import train


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """A log in which users rate the items of their own half high, others low."""
    rng = np.random.default_rng(1)
    lines = ["user_id,item_id,rating,timestamp"]
    for user in range(60):
        for time, item in enumerate(rng.permutation(40)[:24]):
            stars = 5 if item % 2 == user % 2 else 1
            lines.append(f"{user},{item},{stars},{1_500_000_000 + 100 * time + user}")
    folder = tmp_path_factory.mktemp("interactions")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    ingest(
        "interactions",
        params().section("interactions.source"),
        folder / "ratings.csv",
        folder / "raw",
    )
    return folder


def params(*overrides):
    split = "interactions.preprocess.split.kind=leave_one_out"
    return Params.read([], [split, "interactions.train.batch_size=64", *overrides])


def run(folder, name, given):
    features = folder / f"features-{name}"
    if not features.exists():
        preprocess("interactions", folder / "raw", features, given)
    record = train("interactions", features, folder / name, given)
    metrics = folder / f"{name}.json"
    evaluate("interactions", features, folder / name, metrics, folder / "plots", given)
    return record, json.loads(metrics.read_text())


@pytest.mark.parametrize("name", ["mf", "mult_vae"])
def test_from_ratings_to_rankings(ratings, name):
    given = params(
        "interactions.preprocess.workflow.positive_from=3",
        f"interactions.model={name}",
        "interactions.train.epochs=40",
        "interactions.train.learning_rate=0.01",
        "interactions.train.table_learning_rate=0.02",
        "interactions.mult_vae={hidden: [32], latent: 8, anneal_steps: 100}",
    )
    record, found = run(ratings, name, given)
    assert record["model"] == name and record["learned"]["steps"] > 0
    assert found["recall@20"] > found["popular"]["recall@20"]
    assert found["users"] > 10 and found["model"]["parameters"] == record["parameters"]


def test_from_ratings_to_ratings(ratings):
    given = params(
        "interactions.mf.loss=rating",
        "interactions.train.epochs=30",
        "interactions.train.table_learning_rate=0.02",
    )
    _, found = run(ratings, "stars", given)
    # Ones and fives, half of each: always saying three is wrong by two.
    assert found["rmse"] < 1.5 and found["ratings"] == 60
