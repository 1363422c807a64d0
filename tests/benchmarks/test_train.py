"""The benchmark compares one net with itself: the same weights, inputs and targets everywhere."""

import argparse

import numpy as np
import pytest
import torch

from benchmarks.train import dlrm, sessions
from benchmarks.train.features import click_features
from core.merlin import torch_models
from training.batches import Batches

TABLES = [40] * dlrm.COLUMNS


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    return folder, click_features(folder, 256, TABLES, dlrm.DENSE)


def weights(model):
    return sum(weight.numel() for weight in model.parameters())


def test_the_nets_have_the_same_weights(features):
    folder, schema = features
    plain = dlrm.Plain(TABLES)
    stock = dlrm.stock_model(schema)
    inputs, _ = next(iter(Batches(folder / "train", schema, 8)))
    stock.initialize(torch_models().Batch(inputs))
    assert weights(stock) == weights(plain)
    # Ours has one column of zeros before the top MLP, and so as many weights that do nothing.
    assert weights(dlrm.our_model(schema)) == weights(plain) + dlrm.TOP[0]
    linear = [m for m in plain.modules() if isinstance(m, torch.nn.Linear)]
    products = sum(3 * m.weight.numel() for m in linear) - linear[0].weight.numel()
    assert dlrm.flops_a_sample() == 2 * products


def test_plain_dlrm_gives_the_logits_of_ours(features):
    folder, schema = features
    model, plain = dlrm.our_model(schema), dlrm.Plain(TABLES)
    rows, columns = plain.dense.rows, plain.dense.columns
    # Theirs puts the bottom MLP's vector first and pairs it last; ours the other way round.
    order = [dlrm.COLUMNS, *range(dlrm.COLUMNS)]
    place = torch.zeros(dlrm.COLUMNS + 1, dlrm.COLUMNS + 1, dtype=torch.long)
    place.view(-1)[model.body.interaction.pairs] = torch.arange(dlrm.PAIRS)
    place = place + place.T
    pairs = [int(place[order[i], order[j]]) for i, j in zip(rows, columns, strict=True)]
    taken = [*range(dlrm.DIM), *(dlrm.DIM + pair for pair in pairs)]
    with torch.no_grad():
        table = model.body.tables.table.weight.normal_()
        for bag, part in zip(plain.bags, table.split(TABLES[0]), strict=True):
            bag.weight.copy_(part)
        for mlp, own in ((plain.dense.bottom, "bottom"), (plain.dense.top, "top")):
            theirs = [m for m in mlp.modules() if isinstance(m, torch.nn.Linear)]
            ours = getattr(model.body, own).modules()
            ours = [m for m in ours if isinstance(m, torch.nn.Linear)]
            for a, b in zip(theirs, ours, strict=True):
                a.bias.copy_(b.bias)
                a.weight.copy_(b.weight[:, taken] if b.in_features == 368 else b.weight)
    inputs, _ = next(iter(Batches(folder / "train", schema, 64)))
    numbers = torch.stack([inputs[f"I{i + 1}"] for i in range(dlrm.DENSE)], 1)
    ids = [inputs[f"C{i + 1}"].long() for i in range(dlrm.COLUMNS)]
    expected = model(inputs).detach().numpy()
    assert np.ptp(expected) > 0.1
    found = plain(numbers, ids, torch.arange(64)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_every_way_gives_a_rate(features):
    folder, schema = features
    options = argparse.Namespace(batch=32, steps=3, threads=None)
    rates = [
        dlrm.ours(options, folder, schema, "fp32"),
        dlrm.stock(options, folder, schema),
        dlrm.plain(options, folder, schema, "adagrad"),
        dlrm.plain(options, folder, schema, "sgd"),
        dlrm.dense(options, "fp32", True),
        dlrm.dense(options, "bf16", False),
    ]
    assert all(np.isfinite(rate) and rate > 0 for rate in rates)


def test_sessions_are_of_the_lengths_and_items_that_are_said():
    drawn = sessions.random_sessions(500)
    lengths = {len(session) for session in drawn}
    items = np.concatenate(drawn)
    assert min(lengths) == 2 and max(lengths) == sessions.LONGEST
    assert items.min() >= 3 and items.max() < sessions.ITEMS and (items == items // 1).all()
