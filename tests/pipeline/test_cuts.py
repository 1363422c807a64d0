"""The same log in other files, shards and parts: the features' rows and the model are the same."""

import itertools

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from safetensors.numpy import load_file

from core.artifacts import parquet_files
from pipeline.params import Params
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from pipeline.stages.train import train

ROWS = 1500
SETTINGS = {
    "ranking": [
        "ranking.source.columns={labels: [liked], categorical: [user_id, item_id, kind],"
        " continuous: [price]}",
        "ranking.model=deepfm",
        "ranking.deepfm={embedding_dim: 4, deep_mlp: [8]}",
        "ranking.train={epochs: 2, batch_size: 64}",
    ],
    "sessions": [
        "sessions.model=gru4rec",
        "sessions.gru4rec={d_model: 8}",
        "sessions.source.columns={user_id: null, category: null, brand: null, price: null}",
        "sessions.preprocess.workflow={categorical: [], continuous: []}",
        "sessions.train={epochs: 2, batch_size: 16}",
    ],
    "interactions": ["interactions.train={epochs: 2, batch_size: 64}"],
}
COLUMNS = {
    "ranking": ["liked", "user_id", "item_id", "kind", "price"],
    "sessions": ["session_id", "item_id", "timestamp"],
    "interactions": ["user_id", "item_id", "rating", "timestamp"],
}


def made_log():
    rng = np.random.default_rng(3)
    item = rng.zipf(1.4, ROWS) % 60
    user = rng.integers(0, 50, ROWS)
    return pl.DataFrame(
        {
            "liked": (rng.random(ROWS) < 0.2 + 0.5 * (item % 2)).astype(int),
            "user_id": user,
            "session_id": user * 100 + np.arange(ROWS) // 250,
            "item_id": item,
            "kind": [f"kind {number % 7}" for number in item],
            "price": rng.normal(size=ROWS).round(2),
            "rating": rng.integers(1, 6, ROWS),
            "timestamp": 1_600_000_000 + np.arange(ROWS) * 60,
        }
    )


def trained(recipe, log, folder, bounds, *overrides):
    """The weights, and the rows of the training split, of a log cut into files at ``bounds``."""
    (folder / "log").mkdir(parents=True)
    for number, (first, end) in enumerate(itertools.pairwise(bounds)):
        piece = log[first:end].select(COLUMNS[recipe])
        piece.write_csv(folder / f"log/{number:02d}.csv")
    params = Params.read([], [*SETTINGS[recipe], *overrides])
    ingest(recipe, params.section(f"{recipe}.source"), folder / "log", folder / "raw")
    preprocess(recipe, folder / "raw", folder / "features", params)
    train(recipe, folder / "features", folder / "model", params)
    rows = pl.concat(map(pl.read_parquet, parquet_files(folder / "features/train")))
    return rows, load_file(folder / "model/model.safetensors")


@pytest.mark.parametrize("recipe", ["ranking", "sessions", "interactions"])
def test_the_same_rows_train_the_same_model(recipe, tmp_path):
    log, rng = made_log(), np.random.default_rng(5)
    rows, weights = trained(recipe, log, tmp_path / "whole", [0, ROWS])
    for trial in range(3):
        inner = np.sort(rng.choice(np.arange(1, ROWS), rng.integers(1, 5), replace=False))
        sizes = [f"{recipe}.source.rows_per_shard={rng.integers(50, ROWS)}"]
        if recipe == "ranking":
            sizes.append(f"ranking.preprocess.rows_per_part={rng.integers(100, 500)}")
        again, others = trained(recipe, log, tmp_path / str(trial), [0, *inner, ROWS], *sizes)
        assert_frame_equal(again, rows)
        for name, weight in weights.items():
            assert np.array_equal(others[name], weight), name
