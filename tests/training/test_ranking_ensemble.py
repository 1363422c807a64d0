"""Members of an ensemble: what each learns alone, and what they say together."""

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags
from tests.training import click_log
from training import ranking
from training.batches import Batches
from training.checkpoints import load_weights
from training.engine import EngineSettings, evaluate, fit
from training.ranking.low_rank import compress
from training.ranking.settings import LowRankSettings

SCHEMA = click_log.schema()
SMALL = {"embedding_dim": 4, "deep_mlp": [8], "dropout": 0.0}
ENGINE = EngineSettings(
    batch_size=50,
    max_steps=40,
    epochs=9,
    optimizer="adam",
    learning_rate=0.005,
    table_weight_decay=0.01,
    validate_every_steps=20,
    threads=1,
)


def build(members, seed=3, name="wide_and_deep", schema=SCHEMA, **more):
    settings = ranking.settings_class(name)(members=members, **{**SMALL, **more})
    return ranking.build(name, schema, settings, seed)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    return click_log.write(folder / "train", 1000, seed=1), click_log.write(
        folder / "valid", 300, seed=2
    )


def test_the_first_member_learns_what_it_learns_alone(log, tmp_path):
    train, valid = (Batches(folder, SCHEMA, 50, shuffle=False) for folder in log)
    fits = {}
    for members in (1, 3):
        model = build(members)
        fit(model, train, None, ENGINE, tmp_path / str(members))
        fits[members] = model
    alone, first = fits[1].state_dict(), fits[3].members[0].state_dict()
    assert alone.keys() == first.keys()
    for name, weights in alone.items():
        torch.testing.assert_close(first[name], weights, rtol=1e-4, atol=1e-6)
    second = fits[3].members[1].state_dict()
    assert any(not torch.allclose(second[name], weights) for name, weights in alone.items())
    (batch,) = Batches(log[1], SCHEMA, 300, shuffle=False)
    each = [member.predict(batch).detach().numpy() for member in fits[3].members]
    np.testing.assert_allclose(fits[3].predict(batch).detach(), np.mean(each, 0), atol=1e-6)
    losses = [np.logaddexp(0, np.where(batch[1] > 0, -p, p)).mean() for p in each]
    assert fits[3].loss(batch).item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert len(valid) == 6


def test_an_ensemble_is_saved_and_loaded_like_any_model(log, tmp_path):
    train, valid = (Batches(folder, SCHEMA, 50, shuffle=False) for folder in log)
    model = build(2)
    result = fit(model, train, valid, ENGINE, tmp_path)
    again = build(2, seed=8)
    load_weights(tmp_path / "model.safetensors", again)
    assert evaluate(again, valid)["logloss"] == pytest.approx(result.metrics["logloss"], abs=1e-7)


def test_what_has_no_members_says_so():
    second = ColumnSchema("bought", dtype="int8", tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    with pytest.raises(UserError, match=r"model mmoe: ranking\.mmoe\.members"):
        settings = ranking.settings_class("mmoe")(members=2)
        ranking.build("mmoe", Schema([*SCHEMA, second]), settings)
    with pytest.raises(UserError, match="several members"):
        compress(build(2), LowRankSettings(fraction=0.5))
