import itertools

import numpy as np
import pytest
import torch
from torch import nn

from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags, torch_models
from core.settings import validate
from tests.training import click_log
from training import ranking
from training.embeddings import SparseEmbedding, TableGroup, initialise, initialise_layers
from training.ranking.dlrm import DLRMSettings

# More than nine columns of a kind, so that I10 sorts before I2 as Merlin sorts them.
SCHEMA = click_log.schema(dense=11, categorical=12)
SETTINGS = DLRMSettings(embedding_dim=4, bottom_mlp=[8, 6], top_mlp=[7, 5])


def batch(rows=9):
    table = click_log.table(rows, seed=4, dense=11, categorical=12)
    columns = {name: torch.from_numpy(table[name].to_numpy().copy()) for name in table.column_names}
    return columns, columns.pop("label").float()


def numpy_dlrm(weights, inputs):
    """The paper's forward pass, from the weights alone, in float64."""

    def mlp(x, prefix):
        names = [n for n in weights if n.startswith(prefix) and n.endswith(".weight")]
        for name in names:
            x = x @ weights[name].T + weights[name.removesuffix("weight") + "bias"]
            x = np.maximum(x, 0)
        return x

    dense = np.stack([inputs[name] for name in SCHEMA.column_names if name[0] == "I"], 1)
    bottom = mlp(dense, "body.bottom")
    # One matrix holds the tables one after another, in the order of the schema.
    tables = weights["body.tables.table.weight"]
    codes = [name for name in SCHEMA.column_names if name[0] == "C"]
    vectors = [tables[i * click_log.CARDINALITY + inputs[name]] for i, name in enumerate(codes)]
    vectors.append(bottom)
    pairs = [(a * b).sum(1) for a, b in itertools.combinations(vectors, 2)]
    # 4 + 78 columns, filled up to a multiple of 8.
    zeros = np.zeros((len(bottom), 6))
    top = mlp(np.concatenate([bottom, np.stack(pairs, 1), zeros], 1), "body.top.values.0")
    (weight,), (bias,) = (
        [w for n, w in weights.items() if n.startswith("body.top.values.1") and n.endswith(kind)]
        for kind in ("weight", "bias")
    )
    return (top @ weight.T + bias)[:, 0]


@pytest.fixture(scope="module")
def model():
    return ranking.build("dlrm", SCHEMA, SETTINGS, seed=1)


def test_forward_against_numpy(model):
    inputs, targets = batch()
    with torch.no_grad():
        # Tables wide enough for their products to matter.
        for module in model.modules():
            if isinstance(module, SparseEmbedding):
                module.weight.normal_()
    weights = {name: t.double().numpy() for name, t in model.state_dict().items()}
    expected = numpy_dlrm(weights, {name: t.numpy() for name, t in inputs.items()})
    assert np.ptp(expected) > 0.1
    logits = model.predict((inputs, targets))
    assert logits.shape == (9,) and logits.dtype == torch.float32
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    p = 1 / (1 + np.exp(-expected))
    bce = -np.mean(np.where(targets.numpy() > 0, np.log(p), np.log(1 - p)))
    assert model.loss((inputs, targets)).item() == pytest.approx(bce, rel=1e-4)


def test_the_loss_is_right_where_a_sigmoid_saturates():
    model = ranking.build("dlrm", SCHEMA, SETTINGS)
    weight, bias = (p for n, p in model.named_parameters() if n.startswith("body.top.values.1."))
    with torch.no_grad():
        weight.zero_()
        bias.fill_(200.0)
    inputs, _ = batch()
    loss = model.loss((inputs, torch.zeros(9)))
    assert loss.item() == pytest.approx(200.0)
    loss.backward()
    assert bias.grad.item() == pytest.approx(1.0)


def test_gradients_of_tables_hold_the_rows_of_the_batch(model):
    model.zero_grad()
    inputs, targets = batch()
    model.loss((inputs, targets)).backward()
    (table,) = (p for n, p in model.named_parameters() if n.endswith("table.weight"))
    assert table.grad.is_sparse and table.shape == (12 * click_log.CARDINALITY, 4)
    names = [c for c in SCHEMA.column_names if c[0] == "C"]
    used = [i * click_log.CARDINALITY + inputs[name].long() for i, name in enumerate(names)]
    rows = table.grad.coalesce().indices()[0]
    assert rows.tolist() == torch.cat(used).unique().tolist()


def test_a_group_of_tables_gives_what_merlins_tables_give():
    merlin = torch_models().EmbeddingTables(4, SCHEMA.select_by_tag(Tags.CATEGORICAL))
    group = TableGroup(SCHEMA.select_by_tag(Tags.CATEGORICAL), 4, "dlrm")
    with torch.no_grad():
        for name, table in merlin.branches.items():
            weight = (
                table.values[0].table.weight if hasattr(table, "values") else table.table.weight
            )
            start = group.rows(name).start
            group.table.weight[start : start + click_log.CARDINALITY] = weight[
                : click_log.CARDINALITY
            ]
    inputs, _ = batch()
    codes = {name: values for name, values in inputs.items() if name[0] == "C"}
    ours, theirs = group(codes), merlin(codes)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_columns_of_one_domain_share_rows():
    domain = {"domain": {"min": 0, "max": 9, "name": "shared"}}
    schema = Schema(
        [ColumnSchema(n, dtype="int32", properties=domain, tags=[Tags.CATEGORICAL]) for n in "ab"]
    )
    group = TableGroup(schema, 3, "normal")
    assert group.table.weight.shape == (10, 3)
    vectors = group({"a": torch.tensor([7]), "b": torch.tensor([7])})
    assert torch.equal(vectors["a"], vectors["b"])


def test_initial_weights_follow_the_seed_and_the_setting():
    one, same, other = (ranking.build("dlrm", SCHEMA, SETTINGS, seed=s) for s in (1, 1, 2))
    states = [m.state_dict() for m in (one, same, other)]
    (name,) = (n for n in states[0] if n.endswith("table.weight"))
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not torch.equal(states[0][name], states[2][name])
    wide = nn.Linear(300, 500)
    initialise_layers(wide)
    assert wide.weight.std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.02)
    assert wide.bias.std().item() == pytest.approx((1 / 500) ** 0.5, rel=0.2)
    weight = torch.empty(10_000, 4)
    initialise(weight, "dlrm")
    assert 0.0099 < weight.abs().max() <= 0.01
    initialise(weight, "normal")
    assert weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_faults_name_model_and_setting():
    with pytest.raises(UserError, match="'dlmr' is unknown; known: dlrm"):
        ranking.build("dlmr", SCHEMA, SETTINGS)
    with pytest.raises(UserError, match="model dlrm: needs columns tagged CATEGORICAL"):
        ranking.build("dlrm", SCHEMA.excluding_by_tag(Tags.CATEGORICAL), SETTINGS)
    with pytest.raises(UserError, match="model dlrm: needs columns tagged CONTINUOUS"):
        ranking.build("dlrm", SCHEMA.excluding_by_tag(Tags.CONTINUOUS), SETTINGS)
    with pytest.raises(UserError, match="a column tagged BINARY_CLASSIFICATION"):
        ranking.build("dlrm", SCHEMA.excluding_by_tag(Tags.TARGET), SETTINGS)
    with pytest.raises(UserError, match="top_mlp"):
        validate(DLRMSettings, {"top_mlp": []}, "params.yaml")
