"""Models of users and items: forward passes, losses, ranking, and learning."""

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.merlin import Tags
from tests.training.click_weights import randomised, values
from tests.training.interaction_log import ITEMS, histories, schema, taste
from training import interactions
from training.batches import Batches
from training.engine import fit
from training.engine_settings import EngineSettings
from training.interactions.histories import UserBatches
from training.interactions.mult_vae import divergence


def built(name, explicit=False, **given):
    settings = interactions.settings_class(name)(**given)
    return randomised(interactions.build(name, schema(explicit), settings, seed=1))


def row(table, code):
    return values(table.table.weight)[code]


USER_CODES, ITEM_CODES = torch.tensor([5, 39, 3]), torch.tensor([3, 29, 8])


def test_mf_forward():
    model = built("mf", embedding_dim=4)
    expected = [
        row(model.users, u) @ row(model.items, i)
        + row(model.user_biases, u)[0]
        + row(model.item_biases, i)[0]
        + values(model.bias)[0]
        for u, i in zip(USER_CODES, ITEM_CODES, strict=True)
    ]
    found = model.pair_scores(USER_CODES, ITEM_CODES)
    np.testing.assert_allclose(values(found), expected, rtol=1e-4)


@pytest.mark.parametrize("parts", ["both", "gmf", "mlp"])
def test_neumf_forward(parts):
    model = built("neumf", embedding_dim=4, mlp=[5, 3], parts=parts)
    expected = []
    for u, i in zip(USER_CODES, ITEM_CODES, strict=True):
        joined = []
        if parts != "mlp":
            joined.append(row(model.gmf[0], u) * row(model.gmf[1], i))
        if parts != "gmf":
            x = np.r_[row(model.towers[0], u), row(model.towers[1], i)]
            for layer in (m for m in model.mlp.modules() if isinstance(m, torch.nn.Linear)):
                x = np.maximum(values(layer.weight) @ x + values(layer.bias), 0)
            joined.append(x)
        output = values(model.output.weight)[0] @ np.concatenate(joined)
        expected.append(output + values(model.output.bias)[0])
    found = model.pair_scores(USER_CODES, ITEM_CODES)
    np.testing.assert_allclose(values(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mf", "neumf"])
def test_all_items_are_scored_as_pairs_are(name, monkeypatch):
    monkeypatch.setattr("training.interactions.neumf.PAIRS_AT_ONCE", 70)
    model = built(name)
    all_items = model.scores(({"user_id": USER_CODES}, None))
    for user, scores in zip(USER_CODES, all_items, strict=True):
        pairs = model.pair_scores(user.repeat(ITEMS), torch.arange(ITEMS))
        torch.testing.assert_close(scores, pairs, rtol=1e-4, atol=1e-4)


def tanh_layers(part, x):
    for layer in (m for m in part.modules() if isinstance(m, torch.nn.Linear)):
        x = np.tanh(x @ values(layer.weight).T + values(layer.bias))
    return x


def test_mult_vae_forward_and_loss():
    model = built("mult_vae", hidden=[6], latent=4, dropout=0.0, beta=0.3, anneal_steps=10)
    model.train(False)
    inputs = {
        "user_id": torch.tensor([5, 6]),
        "item_id__values": torch.tensor([3, 8, 29, 4]),
        "item_id__offsets": torch.tensor([0, 3, 4]),
    }
    rows = np.zeros((2, ITEMS))
    rows[0, [3, 8, 29]] = rows[1, 4] = 1
    x = rows / np.array([[3**0.5], [1]])
    middle = tanh_layers(model.encoder, x) @ values(model.middle.weight).T
    middle = middle + values(model.middle.bias)
    mean, log_variance = middle[:, :4], middle[:, 4:]
    hidden = tanh_layers(model.decoder, mean)
    logits = hidden @ values(model.output.weight).T + values(model.output.bias)
    found = model.scores((inputs, None))
    assert torch.isinf(found[:, :3]).all()
    np.testing.assert_allclose(values(found)[:, 3:], logits[:, 3:], rtol=1e-4, atol=1e-4)
    logs = logits[:, 3:] - np.log(np.exp(logits[:, 3:]).sum(1, keepdims=True))
    likelihood = -(logs * rows[:, 3:]).sum(1).mean()
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1).mean()
    for steps, weight in ((0, 0.0), (5, 0.15), (10, 0.3), (99, 0.3)):
        model.steps.fill_(steps)
        expected = likelihood + weight * kl
        assert model.loss((inputs, None)).item() == pytest.approx(expected, rel=1e-4)
    before = int(model.steps)
    model.train(True)
    losses = {model.loss((inputs, None)).item() for _ in range(3)}
    assert len(losses) == 3 and int(model.steps) == before + 3


def test_the_denoising_variant_draws_nothing_but_the_dropout():
    model = built("mult_vae", hidden=[6], latent=4, dropout=0.0, variational=False)
    inputs = {"item_id__values": torch.tensor([3, 8]), "item_id__offsets": torch.tensor([0, 2])}
    assert model.middle.out_features == 4
    assert len({model.loss((inputs, None)).item() for _ in range(3)}) == 1
    noisy = built("mult_vae", hidden=[6], latent=4, dropout=0.5, variational=False)
    assert len({noisy.loss((inputs, None)).item() for _ in range(8)}) > 1


def test_the_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    ours = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(ours, standard).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_losses_of_pairs():
    drawn = torch.tensor([[4, 5], [6, 7], [9, 3]])
    for loss in ("bpr", "pointwise"):
        model = built("mf", embedding_dim=4, loss=loss, negatives=2)
        chosen = values(model.pair_scores(USER_CODES, ITEM_CODES))[:, None]
        other = np.stack([values(model.pair_scores(USER_CODES, drawn[:, j])) for j in (0, 1)], 1)
        if loss == "bpr":
            expected = -np.log(1 / (1 + np.exp(other - chosen))).mean()
        else:
            each = [np.log1p(np.exp(-chosen)).ravel(), np.log1p(np.exp(other)).ravel()]
            expected = np.concatenate(each).mean()
        found = model.implicit_loss(USER_CODES, ITEM_CODES, drawn).item()
        assert found == pytest.approx(expected, rel=1e-4)
    inputs = {"user_id": USER_CODES, "item_id": ITEM_CODES}
    for explicit, targets in ((True, [4.0, 1.5, 3.0]), (False, [1.0, 0.0, 1.0])):
        model = built("mf", explicit, embedding_dim=4, loss="rating")
        scores, y = values(model.pair_scores(USER_CODES, ITEM_CODES)), np.array(targets)
        p = 1 / (1 + np.exp(-scores))
        expected = (scores - y) ** 2 if explicit else -np.where(y > 0, np.log(p), np.log(1 - p))
        found = model.loss((inputs, torch.tensor(targets))).item()
        assert found == pytest.approx(expected.mean(), rel=1e-4)


def test_a_batch_of_refused_items_alone_changes_nothing():
    model = built("mf")
    inputs = {"user_id": USER_CODES, "item_id": ITEM_CODES}
    loss = model.loss((inputs, torch.zeros(3)))
    loss.backward()
    assert loss.item() == 0.0
    drawn = model.draw(10_000, torch.device("cpu"))
    assert drawn.min() == 3 and drawn.max() == ITEMS - 1


def test_what_was_chosen_in_training_is_no_candidate():
    model = built("mf")
    inputs = {
        "user_id": torch.tensor([5]),
        "item_id__values": torch.tensor([3, 8]),
        "item_id__offsets": torch.tensor([0, 2]),
    }
    scores = model.predict((inputs, None))
    assert torch.isinf(scores[0, [0, 1, 2, 3, 8]]).all()
    assert torch.isfinite(scores[0]).sum() == ITEMS - 5


CASES = {
    "mf-bpr": ("mf", {"loss": "bpr"}),
    "mf-pointwise": ("mf", {"loss": "pointwise", "negatives": 3}),
    "neumf": ("neumf", {"mlp": [16, 8]}),
    "mult_vae": ("mult_vae", {"hidden": [32], "latent": 8, "anneal_steps": 100}),
    "mult_dae": ("mult_vae", {"hidden": [32], "latent": 8, "variational": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_model_learns_a_taste(case, tmp_path):
    name, given = CASES[case]
    folders = taste(tmp_path)
    given = {"ks": (5, 10), **given}
    model = interactions.build(name, schema(), interactions.settings_class(name)(**given), seed=2)
    train, held = (histories(folders[split]) for split in ("train", "valid"))
    valid = UserBatches(tmp_path, schema(), model.columns, train, held, 16)
    if model.reads_users:
        batches = UserBatches(tmp_path, schema(), model.columns, train, None, 8, shuffle=True)
    else:
        batches = Batches(folders["train"], schema(), 32, shuffle=True)
    settings = EngineSettings(
        epochs=20,
        batch_size=32,
        optimizer="adam",
        learning_rate=0.02,
        validate_every=5,
        patience=None,
    )
    result = fit(model, batches, valid, settings, tmp_path / "run")
    # By chance, with 2 of the 20 items left held out, it would be about 0.15.
    assert result.metrics["ndcg@5"] > 0.25
    assert set(result.metrics) == {"recall@5", "ndcg@5", "recall@10", "ndcg@10"}


def test_ratings_are_predicted(tmp_path):
    folders = taste(tmp_path, explicit=True)
    settings = interactions.settings_class("mf")(loss="rating", embedding_dim=4)
    model = interactions.build("mf", schema(True), settings, seed=2)
    batches = Batches(folders["train"], schema(True), 32, shuffle=True)
    same = Batches(folders["train"], schema(True), 500, shuffle=False)
    settings = EngineSettings(epochs=40, learning_rate=0.05, validate_every=20)
    result = fit(model, batches, same, settings, tmp_path / "run")
    _, targets = next(iter(same))
    assert result.metrics["rmse"] < 0.5 * targets.std()


def test_what_is_missing_is_named():
    for name in interactions.MODELS:
        settings = interactions.settings_class(name)()
        with pytest.raises(
            UserError, match=rf"model {name}: needs one column tagged USER_ID.*none"
        ):
            interactions.build(name, schema().excluding_by_tag(Tags.USER_ID), settings)
        with pytest.raises(UserError, match=rf"model {name}: needs one column tagged TARGET"):
            interactions.build(name, schema().excluding_by_tag(Tags.TARGET), settings)
    with pytest.raises(UserError, match="'vae' is unknown; known: mf, neumf, mult_vae"):
        interactions.build("vae", schema(), settings)
