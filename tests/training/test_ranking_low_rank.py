"""Low-rank layers: the ranks, the products, and what is refused."""

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.settings import validate
from tests.training import click_log
from tests.training.click_weights import columns, randomised, values
from training import ranking
from training.checkpoints import load_weights, save_weights
from training.engine_settings import EngineSettings
from training.ranking.deepfm import DeepFMSettings
from training.ranking.low_rank import (
    LowRankLinear,
    compress,
    mlp_layers,
    nmf,
    rank_for,
    signed_nmf,
    truncated_svd,
)
from training.ranking.settings import LowRankSettings

SCHEMA = click_log.schema()
SIZES = {"embedding_dim": 4, "deep_mlp": [24, 16], "dropout": 0.0}
INPUTS = 7 * 4
WHOLE = 24 * INPUTS + 24 + 16 * 24 + 16
"""Weights and biases of the two MLP layers."""


def deepfm(**low_rank):
    settings = DeepFMSettings(low_rank=low_rank, **SIZES)
    return ranking.build("deepfm", SCHEMA, settings, seed=2)


def batch():
    return {name: torch.from_numpy(value) for name, value in columns(9).items()}


def parameters(model):
    return sum(p.numel() for n, p in model.named_parameters() if n.startswith("body.deep.values.0"))


def ranks(model):
    return [m[0].out_features for m in model.modules() if isinstance(m, LowRankLinear)]


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(256, 512), (24, 28), (1, 5), (64, 64)])
def test_the_rank_is_the_largest_below_the_bound(shape, fraction):
    n, m = shape
    rank = rank_for(n, m, fraction)
    assert rank * (n + m) < fraction * n * m or rank == 0
    assert (rank + 1) * (n + m) >= fraction * n * m


def test_before_training_by_fraction():
    model = deepfm(fraction=0.5)
    # r < .5·24·28 / 52 = 6.5 and r < .5·16·24 / 40 = 4.8
    assert ranks(model) == [6, 4]
    assert parameters(model) == 6 * 52 + 24 + 4 * 40 + 16
    out = model(batch())
    # The same net with whole layers that are the products.
    whole = deepfm()
    products = {}
    for module in model.modules():
        if isinstance(module, LowRankLinear):
            product = values(module[1].weight) @ values(module[0].weight)
            products[product.shape] = torch.from_numpy(product), module[1].bias
    state = {k: v for k, v in model.state_dict().items() if k in whole.state_dict()}
    whole.load_state_dict(state, strict=False)
    with torch.no_grad():
        for _, layer in mlp_layers(whole):
            weight, bias = products[tuple(layer.weight.shape)]
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    torch.testing.assert_close(whole(batch()), out)


def test_products_start_with_the_variance_of_whole_layers():
    settings = DeepFMSettings(embedding_dim=16, deep_mlp=[400, 400], initialisation="dlrm")
    low = settings.model_copy(update={"low_rank": LowRankSettings(fraction=0.4)})
    whole, thin = (ranking.build("deepfm", SCHEMA, s, seed=1) for s in (settings, low))
    layers = [m for m in thin.modules() if isinstance(m, LowRankLinear)]
    for (_, layer), product in zip(mlp_layers(whole), layers, strict=True):
        found = (product[1].weight @ product[0].weight).std()
        assert found.item() == pytest.approx(layer.weight.std().item(), rel=0.1)


def test_before_training_by_rank_and_by_size():
    assert ranks(deepfm(ranks=(5, 0))) == [5]
    for most in (300, 500, 700):
        model = deepfm(parameters=most)
        assert most - 52 - 40 < parameters(model) <= most
    assert ranks(deepfm(parameters=WHOLE)) == []


@pytest.mark.parametrize(
    ("low_rank", "message"),
    [
        (
            {"ranks": (5, 17)},
            r"model deepfm: ranking.deepfm.low_rank.ranks: 17 is larger .*16 × 24, of rank 16",
        ),
        ({"ranks": (5,)}, r"1 ranks for 2 MLP layers \(24 × 28, 16 × 24\)"),
        ({"parameters": 50}, r"low_rank.parameters: 50 cannot be met: .*rank 1 .* 132"),
    ],
)
def test_what_does_not_fit_is_named(low_rank, message):
    with pytest.raises(UserError, match=message):
        deepfm(**low_rank)


def test_settings_that_exclude_each_other_are_named():
    with pytest.raises(UserError, match="fraction and parameters exclude each other"):
        validate(DeepFMSettings, {"low_rank": {"fraction": 0.5, "parameters": 9}}, "params.yaml")
    with pytest.raises(UserError, match="no MLP layers"):
        settings = ranking.settings_class("fm")()
        compress(ranking.build("fm", SCHEMA, settings), LowRankSettings(fraction=0.5))
    with pytest.raises(UserError, match="factors already"):
        compress(deepfm(fraction=0.5), LowRankSettings(fraction=0.5))
    with pytest.raises(UserError, match="low_rank: give one of fraction"):
        compress(deepfm(), LowRankSettings())


def test_svd_is_the_nearest_product():
    torch.manual_seed(0)
    weight = torch.randn(12, 9)
    left, right = truncated_svd(weight, 4)
    assert left.shape == (12, 4) and right.shape == (4, 9)
    singular = np.linalg.svd(values(weight), compute_uv=False)
    error = ((weight - left @ right).double() ** 2).sum().item()
    assert error == pytest.approx((singular[4:] ** 2).sum(), rel=1e-4)
    exact = truncated_svd(weight, 9)
    torch.testing.assert_close(exact[0] @ exact[1], weight, atol=1e-5, rtol=1e-5)


def test_nmf_finds_non_negative_factors():
    generator = torch.Generator().manual_seed(3)
    made = [torch.rand(*s, generator=generator, dtype=torch.float64) for s in ((14, 3), (3, 10))]
    matrix = made[0] @ made[1]
    left, right = nmf(matrix, 3)
    assert (left >= 0).all() and (right >= 0).all()
    assert ((left @ right - matrix).norm() / matrix.norm()).item() < 0.02


def test_signs_of_a_weight_are_kept_apart_and_joined():
    torch.manual_seed(1)
    weight = torch.randn(20, 16)
    left, right = signed_nmf(weight, 10)
    assert left.shape == (20, 10) and right.shape == (10, 16)
    assert (right >= 0).all()
    signs = [((left[:, i] >= 0).all().item(), (left[:, i] <= 0).all().item()) for i in range(10)]
    assert all(a or b for a, b in signs) and len(set(signs)) == 2
    # Never nearer than the best product of that rank, but near.
    best = torch.dist(weight, torch.matmul(*truncated_svd(weight, 10)))
    found = torch.dist(weight, left @ right)
    assert best <= found < 0.75 * weight.norm()
    positive = signed_nmf(weight.abs(), 3)
    assert (positive[0] >= 0).all() and positive[0].shape == (20, 3)


@pytest.mark.parametrize("method", ["svd", "nmf"])
def test_a_trained_model_is_compressed_saved_loaded_and_trained_on(method, tmp_path):
    model = randomised(deepfm())
    thin = compress(model, LowRankSettings(fraction=0.5), method)
    assert ranks(thin) == list(thin.settings.low_rank.ranks) == [6, 4]
    assert not model.settings.low_rank.asked_for and ranks(model) == []
    for (_, layer), product in zip(
        mlp_layers(model), (m for m in thin.modules() if isinstance(m, LowRankLinear)), strict=True
    ):
        assert torch.equal(product[1].bias, layer.bias)
        share = torch.dist(layer.weight, product[1].weight @ product[0].weight)
        assert share < layer.weight.norm()
    save_weights(tmp_path / "thin.safetensors", thin)
    again = ranking.build("deepfm", SCHEMA, thin.settings)
    load_weights(tmp_path / "thin.safetensors", again)
    assert torch.equal(again(batch()), thin(batch()))
    before = thin.loss((batch(), torch.ones(9))).item()
    optimizer = torch.optim.SGD(thin.parameters(), EngineSettings().learning_rate)
    thin.loss((batch(), torch.ones(9))).backward()
    optimizer.step()
    assert thin.loss((batch(), torch.ones(9))).item() < before


def test_a_compressed_model_of_full_rank_is_the_same_model():
    model = randomised(deepfm())
    same = compress(model, LowRankSettings(ranks=(24, 16)))
    torch.testing.assert_close(same(batch()), model(batch()), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["dlrm", "wide_and_deep", "dcn", "dcnv2", "finalmlp"])
def test_every_model_with_an_mlp_takes_it(name):
    settings = ranking.settings_class(name)(low_rank={"fraction": 0.3}, embedding_dim=4)
    model = ranking.build(name, SCHEMA, settings)
    whole = ranking.build(name, SCHEMA, settings.model_copy(update={"low_rank": LowRankSettings()}))
    count, full = (sum(p.numel() for p in m.parameters()) for m in (model, whole))
    assert ranks(model) and count < full
    assert model(batch()).shape == (9,)
