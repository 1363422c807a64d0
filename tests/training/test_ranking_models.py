"""Each click model's forward pass against the paper's formula, in plain NumPy and float64."""

import itertools

import numpy as np
import pytest
import torch

from tests.training import click_log
from tests.training.click_weights import columns, lookups, randomised, values
from training import ranking
from training.ranking.settings import TableSettings

SCHEMA = click_log.schema(dense=3, categorical=4)
CODES = [f"C{i}" for i in range(1, 5)]
NUMBERS = [f"I{i}" for i in range(1, 4)]
ROWS = 7


def built(name, **given):
    """The model with every weight wide enough to matter, and a batch."""
    given = {"dropout": 0.5, "low_rank": {}, **given}
    cls = ranking.settings_class(name)
    settings = cls(**{k: v for k, v in given.items() if k in cls.model_fields})
    model = randomised(ranking.build(name, SCHEMA, settings, seed=3))
    model.train(False)
    return model, columns(ROWS)


def check(model, inputs, expected):
    with torch.no_grad():
        logits = model({name: torch.from_numpy(value) for name, value in inputs.items()})
    assert logits.shape == (ROWS,)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits.numpy(), expected, rtol=2e-4, atol=2e-4)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def relu_layers(x, layers, last_is_linear=False):
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        if not (last_is_linear and number == len(layers) - 1):
            x = np.maximum(x, 0)
    return x


def dense(inputs):
    return np.stack([inputs[name] for name in NUMBERS], 1).astype(np.float64)


def first_order(part, inputs):
    total = dense(inputs) @ values(part.linear.weight)[0]
    for vector in lookups(part.codes, inputs).values():
        total = total + vector[:, 0]
    return total


def field_vectors(part, inputs):
    """A list of ``(rows, dim)``: codes first."""
    found = list(lookups(part.tables, inputs).values())
    for number, name in enumerate(NUMBERS):
        found.append(inputs[name][:, None] * values(part.number_vectors)[number])
    return found


def flat(part, inputs):
    return np.concatenate([*lookups(part.tables, inputs).values(), dense(inputs)], 1)


def linears(part):
    """Weights and biases of every linear layer in a part, in order."""
    return [
        (values(m.weight), values(m.bias)) for m in part.modules() if type(m) is torch.nn.Linear
    ]


def test_logistic_regression():
    model, inputs = built("logistic_regression")
    body = model.body
    check(model, inputs, first_order(body.first_order, inputs) + values(body.bias))


def dot_of_pairs(vectors):
    return sum((a * b).sum(1) for a, b in itertools.combinations(vectors, 2))


def test_fm():
    model, inputs = built("fm", embedding_dim=5)
    body = model.body
    pairs = dot_of_pairs(field_vectors(body.vectors, inputs))
    check(model, inputs, first_order(body.first_order, inputs) + pairs + values(body.bias))


def test_wide_and_deep():
    model, inputs = built("wide_and_deep", embedding_dim=5, deep_mlp=[6, 4])
    body = model.body
    deep = relu_layers(flat(body.features, inputs), linears(body.deep), True)[:, 0]
    check(model, inputs, first_order(body.wide, inputs) + deep)


def test_the_wide_tower_alone_reads_the_crosses():
    names = {"wide": ("C1", "I2"), "crosses": ("C3",), "deep_mlp": [6]}
    model, inputs = built("wide_and_deep", embedding_dim=5, **names)
    wide, features = model.body.wide, model.body.features
    assert wide.codes.names == ["C1", "C3"] and wide.numbers.names == ["I2"]
    assert features.tables.names == ["C1", "C2", "C4"]
    total = inputs["I2"] * values(wide.linear.weight)[0, 0]
    total = total + sum(v[:, 0] for v in lookups(wide.codes, inputs).values())
    tower = relu_layers(flat(features, inputs), linears(model.body.deep), True)[:, 0]
    check(model, inputs, total + tower)


def test_deepfm():
    model, inputs = built("deepfm", embedding_dim=5, deep_mlp=[6, 4])
    body = model.body
    vectors = field_vectors(body.vectors, inputs)
    deep = relu_layers(np.concatenate(vectors, 1), linears(body.deep), True)[:, 0]
    expected = first_order(body.first_order, inputs) + dot_of_pairs(vectors) + deep
    check(model, inputs, expected)


def head(part, joined):
    ((weight, bias),) = linears(part)
    return (joined @ weight.T + bias)[:, 0]


def test_dcn():
    model, inputs = built("dcn", embedding_dim=3, deep_mlp=[6, 4], cross_layers=3)
    body = model.body
    x0 = flat(body.features, inputs)
    crossed = np.empty_like(x0)
    for row in range(ROWS):
        x = x0[row]
        for weight, bias in zip(body.cross.weights, body.cross.biases, strict=True):
            x = np.outer(x0[row], x) @ values(weight.weight)[0] + values(bias) + x
        crossed[row] = x
    joined = np.concatenate([crossed, relu_layers(x0, linears(body.deep))], 1)
    check(model, inputs, head(body.output, joined))


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("cross", ["full", "low_rank"])
def test_dcnv2(cross, structure):
    sizes = {"embedding_dim": 3, "deep_mlp": [6, 4], "cross_layers": 2, "cross_rank": 4}
    model, inputs = built("dcnv2", cross=cross, structure=structure, **sizes)
    body = model.body
    x0 = x = flat(body.features, inputs)
    weights = [(values(m.weight), m.bias) for m in body.cross.modules() if hasattr(m, "bias")]
    while weights:
        if cross == "low_rank":
            v, no_bias = weights.pop(0)
            assert v.shape == (4, 15) and no_bias is None
        u, bias = weights.pop(0)
        x = x0 * (x @ (u @ v if cross == "low_rank" else u).T + values(bias)) + x
    check_joined(model, inputs, structure, x0, x)


def check_joined(model, inputs, structure, x0, crossed):
    body = model.body
    if structure == "stacked":
        joined = relu_layers(crossed, linears(body.deep))
    else:
        joined = np.concatenate([crossed, relu_layers(x0, linears(body.deep))], 1)
    check(model, inputs, head(body.output, joined))


def test_dcnv2_mixture():
    sizes = {"embedding_dim": 3, "deep_mlp": [6], "cross_layers": 2, "cross_rank": 4, "experts": 3}
    model, inputs = built("dcnv2", cross="mixture", **sizes)
    x0 = x = flat(model.body.features, inputs)
    for layer in (m for m in model.body.cross.modules() if hasattr(m, "middle")):
        gates = softmax(x @ values(layer.gate.weight).T, 1)
        bias, total = values(layer.bias), x
        for i in range(3):
            v, c, u = (values(part)[i].T for part in (layer.down, layer.middle, layer.up))
            expert = x0 * (np.tanh(np.tanh(x @ v.T) @ c.T) @ u.T + bias)
            total = total + gates[:, i : i + 1] * expert
        x = total
    check_joined(model, inputs, "parallel", x0, x)


def attended(part, vectors):
    products = [a * b for a, b in itertools.combinations(vectors, 2)]
    (w, b), h = (values(part.hidden.weight), values(part.hidden.bias)), values(part.score.weight)[0]
    scores = np.stack([np.maximum(p @ w.T + b, 0) @ h for p in products], 1)
    weights = softmax(scores, 1)
    assert np.ptp(weights) > 0.02
    return sum(weights[:, i : i + 1] * p for i, p in enumerate(products))


def test_afm():
    model, inputs = built("afm", embedding_dim=5, attention_size=6)
    body = model.body
    pooled = attended(body.attention, field_vectors(body.vectors, inputs))
    weight, bias = values(body.projection.weight)[0], values(body.projection.bias)
    check(model, inputs, first_order(body.first_order, inputs) + pooled @ weight + bias)


def test_afm_of_categories_alone_leaves_the_numbers_their_weights():
    model, inputs = built("afm", embedding_dim=5, attention_size=6, pairs="categorical")
    body = model.body
    codes = list(lookups(body.vectors.tables, inputs).values())
    weight, bias = values(body.projection.weight)[0], values(body.projection.bias)
    pooled = attended(body.attention, codes)
    check(model, inputs, first_order(body.first_order, inputs) + pooled @ weight + bias)


def test_ensemble():
    members = [
        {"model": "logistic_regression"},
        {"model": "fm", "settings": {"embedding_dim": 3}},
        {"model": "fm", "settings": {"embedding_dim": 3, "loss": "focal"}},
    ]
    model, inputs = built("ensemble", members=members)
    alone = list(model.body.models)
    with torch.no_grad():
        logits = [values(one({n: torch.from_numpy(v) for n, v in inputs.items()})) for one in alone]
    assert not np.allclose(logits[1], logits[2])
    check(model, inputs, np.mean(logits, axis=0))


def test_a_member_of_an_ensemble_steps_as_if_it_were_alone():
    members = [{"model": "fm"}, {"model": "deepfm", "settings": {"dropout": 0.0}}]
    model, inputs = built("ensemble", members=members)
    batch = {n: torch.from_numpy(v) for n, v in inputs.items()}, torch.ones(ROWS)
    together = model.loss(batch)
    together.backward()
    losses = []
    for member in model.body.models:
        found = {n: p.grad.to_dense().clone() for n, p in member.named_parameters()}
        member.zero_grad()
        loss = member.loss(batch)
        loss.backward()
        losses.append(loss.item())
        for name, weights in member.named_parameters():
            torch.testing.assert_close(found[name], weights.grad.to_dense(), rtol=1e-5, atol=1e-7)
    assert together.item() == pytest.approx(np.mean(losses), rel=1e-6)


def test_attention_dlrm():
    sizes = {"embedding_dim": 5, "bottom_mlp": [6], "top_mlp": [7, 4], "attention_size": 3}
    model, inputs = built("attention_dlrm", **sizes)
    body = model.body
    bottom = relu_layers(dense(inputs), linears(body.bottom))
    pooled = attended(body.attention, [*lookups(body.tables, inputs).values(), bottom])
    joined = np.concatenate([bottom, pooled], 1)
    check(model, inputs, relu_layers(joined, linears(body.top), True)[:, 0])


@pytest.mark.parametrize("heads", [1, 2])
def test_finalmlp(heads):
    sizes = {"first_mlp": [6, 4], "second_mlp": [5, 8], "gate_mlp": [3], "embedding_dim": 4}
    model, inputs = built("finalmlp", heads=heads, first_context=("C2", "I1"), **sizes)
    body = model.body
    features = flat(body.features, inputs)
    first, second = body.gates
    context = [lookups(first.context.tables, inputs)["C2"], inputs["I1"][:, None]]
    gates = [
        2 * sigmoid(relu_layers(np.concatenate(context, 1), linears(first.net), True)),
        2 * sigmoid(relu_layers(values(second.vector), linears(second.net), True)),
    ]
    x = relu_layers(features * gates[0], linears(body.first))
    y = relu_layers(features * gates[1], linears(body.second))
    fusion = body.fusion
    total = x @ values(fusion.first.weight)[0] + values(fusion.first.bias)
    total = total + y @ values(fusion.second.weight)[0]
    for h in range(heads):
        xs, ys = np.split(x, heads, 1)[h], np.split(y, heads, 1)[h]
        weight = values(fusion.bilinear)[h] / np.sqrt(4 / heads * 8 / heads)
        total = total + np.einsum("bi,ij,bj->b", xs, weight, ys)
    check(model, inputs, total)


def test_finalmlp_without_gates_reads_the_features_as_they_are():
    model, inputs = built("finalmlp", gates=False, first_mlp=[4], second_mlp=[4], heads=4)
    assert not model.body.gates
    features = flat(model.body.features, inputs)
    x, y = (relu_layers(features, linears(part)) for part in (model.body.first, model.body.second))
    fusion = model.body.fusion
    total = x @ values(fusion.first.weight)[0] + values(fusion.first.bias)
    total = total + y @ values(fusion.second.weight)[0]
    total = total + (x * y) @ values(fusion.bilinear)[:, 0, 0]
    check(model, inputs, total)


@pytest.mark.parametrize("normalisation", ["batch", "layer"])
def test_normalisation(normalisation):
    given = {"embedding_dim": 4, "deep_mlp": [6, 5], "normalisation": normalisation}
    model, inputs = built("wide_and_deep", **given)
    body = model.body
    x = flat(body.features, inputs)
    norms = [m for m in body.deep.modules() if hasattr(m, "eps")]
    *layers, (weight, bias) = linears(body.deep)
    assert len(norms) == 2
    with torch.no_grad():
        for norm in norms:
            if normalisation == "batch":
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    for norm, (w, b) in zip(norms, layers, strict=True):
        x = np.maximum(x @ w.T + b, 0)
        if normalisation == "batch":
            mean, variance = values(norm.running_mean), values(norm.running_var)
        else:
            mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
        x = (x - mean) / np.sqrt(variance + norm.eps) * values(norm.weight) + values(norm.bias)
    deep = (x @ weight.T + bias)[:, 0]
    check(model, inputs, first_order(body.wide, inputs) + deep)


def test_a_batch_of_one_row_trains_with_batch_normalisation():
    model, _ = built("deepfm", normalisation="batch", deep_mlp=[4])
    model.train(True)
    inputs = {name: torch.from_numpy(value) for name, value in columns(1).items()}
    model.loss((inputs, torch.ones(1))).backward()


@pytest.mark.parametrize("name", ["wide_and_deep", "dcn", "dcnv2", "finalmlp"])
def test_widths_by_cardinality(name):
    # 2·⁴√20 = 4.2: four columns of width 4, and three numbers.
    model, inputs = built(name, embedding_dim="cardinality", cross_rank=2)
    with torch.no_grad():
        assert model({k: torch.from_numpy(v) for k, v in inputs.items()}).shape == (ROWS,)
    features = next(m for m in model.modules() if type(m).__name__ == "FlatFeatures")
    assert features.width == 4 * 4 + 3 == flat_width(features, inputs)


def flat_width(features, inputs):
    return features({k: torch.from_numpy(v) for k, v in inputs.items()}).shape[1]


@pytest.mark.parametrize(
    "name", [n for n in ranking.MODELS if n not in ("dlrm", *ranking.SEVERAL_LABELS)]
)
def test_every_model_learns(name):
    """A few steps on one batch bring the loss well below that of the mean."""

    cls = ranking.settings_class(name)
    given = {"dropout": 0.0, "embedding_dim": 8, "tables": TableSettings()}
    model = ranking.build(
        name, SCHEMA, cls(**{k: v for k, v in given.items() if k in cls.model_fields}), seed=1
    )
    table = click_log.table(256, seed=5)
    batch = {c: torch.from_numpy(table[c].to_numpy().copy()) for c in table.column_names}
    labels = batch.pop("label").float()
    torch.sparse.check_sparse_tensor_invariants.disable()
    optimizer = torch.optim.Adagrad(model.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss((batch, labels)).backward()
        optimizer.step()
    mean = labels.mean()
    entropy = -(mean * mean.log() + (1 - mean) * (1 - mean).log())
    assert model.loss((batch, labels)).item() < 0.8 * entropy.item()
