"""Session models in the one training loop, from feature Parquet to saved weights."""

import pytest
import torch

from tests.training.session_examples import session_schema, write_sessions
from training.batches import Batches
from training.checkpoints import load_weights
from training.engine import EngineSettings, seed_all
from training.sessions import build
from training.sessions.evaluation import evaluate_sessions
from training.sessions.fitting import fit_session_model

SCHEMA = session_schema("category", "price")
XLNET = {"d_model": 16, "heads": 2, "max_length": 6, "side_dim": 4, "dropout": 0.0}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Sessions that walk a cycle of 30 items: the next one is always known."""
    folder = tmp_path_factory.mktemp("features")
    generator = torch.Generator().manual_seed(3)
    for split, count in (("train", 400), ("valid", 60)):
        starts = torch.randint(0, 30, (count,), generator=generator).tolist()
        walks = [[(start + step) % 30 + 3 for step in range(2 + start % 5)] for start in starts]
        write_sessions(folder / split, walks)
    return folder


def fitted(name, settings, splits, folder, **engine):
    seed_all(1)
    model = build(name, SCHEMA, settings)
    train = Batches(splits / "train", SCHEMA, 40, columns=model.columns, shuffle=True)
    valid = Batches(splits / "valid", SCHEMA, 32, columns=model.columns, shuffle=False)
    engine = EngineSettings(
        optimizer="adamw", learning_rate=1e-2, batch_size=40, validate_every=1.0, **engine
    )
    return model, fit_session_model(model, train, valid, engine, folder), valid


@pytest.mark.parametrize(
    "options",
    [{}, {"loss": "sampled_softmax", "negatives": 64}],
    ids=["all items", "sampled"],
)
def test_xlnet_trains_validates_and_saves(splits, tmp_path, options):
    model, result, valid = fitted("xlnet", {**XLNET, **options}, splits, tmp_path, epochs=10)
    # Chance is a third.
    assert result.metrics["recall@10"] > 0.6
    report = evaluate_sessions(model, valid)
    assert {k: report[k] for k in result.metrics} == pytest.approx(result.metrics)
    assert set(report["by_session_length"]) == {"2", "3-5", "6-10"}

    again = build("xlnet", SCHEMA, model.settings)
    load_weights(tmp_path / "model.safetensors", again)
    assert evaluate_sessions(again, valid) == report


def test_xlnet_trains_the_same_twice(splits, tmp_path):
    first, _, _ = fitted("xlnet", XLNET, splits, tmp_path / "a", epochs=1)
    second, _, _ = fitted("xlnet", XLNET, splits, tmp_path / "b", epochs=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_popular_counts_once_and_saves(splits, tmp_path):
    model, result, valid = fitted("popular", {}, splits, tmp_path, epochs=3)
    events = sum(int(inputs["item_id__offsets"][-1]) for inputs, _ in _train(splits))
    assert int(model.counts.sum()) == events
    assert result.epochs == 1
    assert result.metrics["recall@20"] == evaluate_sessions(model, valid)["recall@20"]
    again = build("popular", SCHEMA)
    load_weights(tmp_path / "model.safetensors", again)
    assert torch.equal(again.counts, model.counts)


def _train(splits):
    return Batches(splits / "train", SCHEMA, 100, columns=["item_id"], shuffle=False)
