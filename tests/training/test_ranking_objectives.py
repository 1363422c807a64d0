"""Models of several labels: forward passes against the papers, losses, metrics, refusals."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags
from core.settings import validate
from tests.training import click_log
from tests.training.click_weights import columns, lookups, randomised, values
from tests.training.test_ranking_models import dense, relu_layers, softmax
from training import ranking
from training.batches import Batches
from training.engine import fit
from training.engine_settings import EngineSettings
from training.metrics.binary import binary_metrics
from training.ranking.shared_bottom import SharedBottomSettings

ROWS = 7
BUY = ColumnSchema("buy", dtype="int8", tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])
SCHEMA = Schema([*click_log.schema(dense=3, categorical=4), BUY])
SIZES = {"embedding_dim": 3, "tower_mlp": [5], "expert_mlp": [6, 4], "bottom_mlp": [6, 4]}


def built(name, **given):
    cls = ranking.settings_class(name)
    given = {k: v for k, v in {**SIZES, **given}.items() if k in cls.model_fields}
    model = randomised(ranking.build(name, SCHEMA, cls(**given), seed=3))
    model.train(False)
    return model, columns(ROWS)


def mlps(part):
    """Weights and biases of each ``MLPBlock`` of a part."""
    blocks = [m for m in part.modules() if type(m).__name__ == "MLPBlock"]
    return [
        [
            (values(m.weight), values(m.bias))
            for m in block.modules()
            if isinstance(m, torch.nn.Linear)
        ]
        for block in blocks
    ]


def features(model, inputs):
    part = model.body.features
    return np.concatenate([*lookups(part.tables, inputs).values(), dense(inputs)], 1)


def check(model, inputs, by_label):
    """Towers are a hidden layer and a logit."""
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    logits = model.logits(tensors)
    assert list(logits) == ["label", "buy"]
    for name, x in by_label.items():
        tower = model.body.towers.towers[name]
        layers = [
            (values(m.weight), values(m.bias))
            for m in tower.modules()
            if isinstance(m, torch.nn.Linear)
        ]
        expected = relu_layers(x, layers, last_is_linear=True)[:, 0]
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(values(logits[name]), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(model(tensors), logits["label"])


def test_shared_bottom():
    model, inputs = built("shared_bottom")
    (layers,) = mlps(model.body.bottom)
    shared = relu_layers(features(model, inputs), layers)
    check(model, inputs, {"label": shared, "buy": shared})


def test_mmoe():
    model, inputs = built("mmoe", experts=3)
    x = features(model, inputs)
    experts = np.stack([relu_layers(x, layers) for layers in mlps(model.body.experts)], 1)
    assert experts.shape == (ROWS, 3, 4)
    weights = {
        n: values(p)
        for n, p in model.body.experts.named_parameters()
        if "branches.label" in n or "branches.buy" in n
    }
    by_label = {}
    for name in ("label", "buy"):
        weight, bias = (
            weights[k] for k in sorted(weights, reverse=True) if f"branches.{name}." in k
        )
        gate = softmax(x @ weight.T + bias, 1)
        by_label[name] = np.einsum("be,beu->bu", gate, experts)
    check(model, inputs, by_label)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple(levels):
    model, inputs = built("ple", levels=levels, shared_experts=2, label_experts=1)
    streams = dict.fromkeys(["shared", "label", "buy"], features(model, inputs))
    for number, level in enumerate(model.body.levels, 1):
        experts = mlps(level)
        assert len(experts) == 4
        shared = [relu_layers(streams["shared"], layers) for layers in experts[:2]]
        own = {
            "label": relu_layers(streams["label"], experts[2]),
            "buy": relu_layers(streams["buy"], experts[3]),
        }
        gates = [values(gate.weight) for gate in level.gates]
        after = {}
        if number < levels:
            chosen = np.stack([*shared, own["label"], own["buy"]], 1)
            gate = softmax(streams["shared"] @ gates.pop(0).T, 1)
            after["shared"] = np.einsum("be,beu->bu", gate, chosen)
        for name in ("label", "buy"):
            gate = softmax(streams[name] @ gates.pop(0).T, 1)
            after[name] = np.einsum("be,beu->bu", gate, np.stack([*shared, own[name]], 1))
        streams = after
    check(model, inputs, {name: streams[name] for name in ("label", "buy")})


def test_every_weight_of_ple_is_learned():
    model, inputs = built("ple", levels=2)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    targets = {"label": torch.ones(ROWS), "buy": torch.zeros(ROWS)}
    model.loss((tensors, targets)).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert not silent


def test_the_loss_is_the_weighted_sum():
    model, inputs = built("mmoe", objective_weights={"buy": 0.25})
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    targets = {"label": torch.ones(ROWS), "buy": torch.zeros(ROWS)}
    p = {name: 1 / (1 + np.exp(-values(v))) for name, v in model.logits(tensors).items()}
    expected = -np.log(p["label"]).mean() - 0.25 * np.log(1 - p["buy"]).mean()
    assert model.loss((tensors, targets)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ranking.SEVERAL_LABELS)
def test_trains_on_two_labels_and_reports_both(name, tmp_path):
    for split, seed in (("train", 1), ("valid", 2)):
        table = click_log.table(600, seed, dense=3, categorical=4)
        bought = (table["C1"].to_numpy() + 4 * table["I1"].to_numpy() > 10).astype("int8")
        (tmp_path / split).mkdir()
        table = table.append_column("buy", pa.array(bought))
        pq.write_table(table, tmp_path / split / "part-0.parquet")
    cls = ranking.settings_class(name)
    given = {"embedding_dim": 4, "expert_mlp": [8], "bottom_mlp": [8], "dropout": 0.0}
    settings = cls(**{k: v for k, v in given.items() if k in cls.model_fields})
    model = ranking.build(name, SCHEMA, settings, seed=0)
    batches = [
        Batches(tmp_path / split, SCHEMA, 64, shuffle=split == "train")
        for split in ("train", "valid")
    ]
    result = fit(
        model, *batches, EngineSettings(epochs=6, batch_size=64, validate_every=1), tmp_path / "run"
    )
    assert result.metrics["auc"] > 0.6 and result.metrics["buy_auc"] > 0.9
    accumulator = model.metrics()
    for batch in batches[1]:
        accumulator.update(model.predict(batch), batch)
    assert accumulator.compute()["logloss"] == binary_metrics(*accumulator.pooled())["logloss"]


def test_what_is_missing_is_named():
    one = click_log.schema()
    for name in ranking.SEVERAL_LABELS:
        with pytest.raises(
            UserError, match=rf"model {name}: ranking.{name}.objectives: .*two labels.*got label\."
        ):
            ranking.build(name, one, ranking.settings_class(name)())
    settings = SharedBottomSettings(objectives=("label", "cart"))
    with pytest.raises(
        UserError, match=r"objectives: the features have no label column cart.*label, buy"
    ):
        ranking.build("shared_bottom", SCHEMA, settings)
    settings = SharedBottomSettings(objective_weights={"cart": 2.0})
    with pytest.raises(UserError, match=r"objective_weights: .* no label column cart"):
        ranking.build("shared_bottom", SCHEMA, settings)
    with pytest.raises(UserError, match="weight of buy is not above 0"):
        validate(SharedBottomSettings, {"objective_weights": {"buy": 0}}, "params.yaml")


def test_the_main_label_is_the_first_named():
    settings = SharedBottomSettings(objectives=("buy", "label"), **{"embedding_dim": 3})
    model = ranking.build("shared_bottom", SCHEMA, settings)
    inputs = {name: torch.from_numpy(value) for name, value in columns(ROWS).items()}
    model.train(False)
    assert torch.equal(model(inputs), model.logits(inputs)["buy"])
