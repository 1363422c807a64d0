"""Losses of next-item models against formulas written out in NumPy, one step at a time."""

import numpy as np
import pytest
import torch

from tests.training.session_examples import ITEMS, batch_of, random_sessions, session_schema
from training.sessions import build, losses

GENERATOR = torch.Generator().manual_seed(4)
POSITIVE = torch.randn(5, generator=GENERATOR, dtype=torch.float64)
NEGATIVE = torch.randn(5, 7, generator=GENERATOR, dtype=torch.float64)
MASKED = NEGATIVE.masked_fill(torch.rand(5, 7, generator=GENERATOR) < 0.3, -torch.inf)
FIRST = 3
MIXED = ("cross_entropy", "sampled_softmax")
SMALL = {"d_model": 8, "embedding_std": 0.7, "similarity": "dot", "temperature": 0.5}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rows():
    """Each step's positive and those of its negatives that are candidates."""
    for positive, negative in zip(POSITIVE.numpy(), MASKED.numpy(), strict=True):
        yield positive, negative[np.isfinite(negative)]


def softmax_loss(scores, target, smoothing):
    """Cross-entropy with the target distribution ``(1 - e) one_hot + e / n``."""
    probabilities = np.exp(scores) / np.exp(scores).sum()
    wanted = np.full(len(scores), smoothing / len(scores))
    wanted[target] += 1 - smoothing
    return -(wanted * np.log(probabilities)).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_over_candidates(smoothing):
    targets = torch.tensor([0, 6, 2, 3, 1])
    scores = MASKED.clone()
    scores[range(5), targets] = POSITIVE
    expected = []
    for row, target in zip(scores.numpy(), targets.tolist(), strict=True):
        candidates = np.isfinite(row)
        expected.append(softmax_loss(row[candidates], candidates[:target].sum(), smoothing))
    found = losses.cross_entropy(scores, targets, smoothing)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sampled_softmax(smoothing):
    expected = [softmax_loss(np.r_[p, n], 0, smoothing) for p, n in rows()]
    found = losses.sampled_softmax(POSITIVE, MASKED, smoothing)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_gbce(t):
    alpha = 7 / 90
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    assert losses.gbce_beta(alpha, t) == pytest.approx(beta)
    expected = [-(np.log(sigmoid(p) ** beta) + np.log(1 - sigmoid(n)).sum()) / 8 for p, n in rows()]
    found = losses.gbce(POSITIVE, MASKED, losses.gbce_beta(alpha, t))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_gbce_gives_true_probabilities_when_calibrated():
    """The paper's theorem: with t = 1 the best score of an item with probability p is logit(p),
    though only a share alpha of the negatives is seen; with t = 0 it is far above."""
    chance, alpha, items = 0.2, 0.05, 200

    def best_score(t):
        """The minimum over scores s of what one item's score costs in expectation."""
        scores = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
        beta = losses.gbce_beta(alpha, t)
        won = losses.gbce(scores, torch.full((len(scores), 1), -torch.inf), beta) * 2
        lost = losses.gbce(torch.full_like(scores, torch.inf), scores[:, None]) * 2
        return float(scores[(chance * won + (1 - chance) * alpha * lost).argmin()])

    assert items * alpha > 1
    assert best_score(1.0) == pytest.approx(np.log(chance / (1 - chance)), abs=1e-3)
    assert best_score(0.0) == pytest.approx(np.log(chance / (1 - chance) / alpha), abs=1e-3)


def test_bpr_max():
    expected = []
    for p, n in rows():
        share = np.exp(n) / np.exp(n).sum()
        expected.append(-np.log((share * sigmoid(p - n)).sum()) + 0.5 * (share * n**2).sum())
    found = losses.bpr_max(POSITIVE, MASKED, 0.5)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["sampled_softmax", "gbce", "bpr_max"])
def test_steps_without_a_candidate_have_finite_losses_and_gradients(name):
    positive = POSITIVE.clone().requires_grad_()
    none = torch.full((5, 3), -torch.inf, dtype=torch.float64)
    negative = torch.cat([none[:4], NEGATIVE[4:, :3]]).requires_grad_()
    penalty = {"bpr_max": 1.0, "sampled_softmax": 0.1, "gbce": 1.0}[name]
    found = getattr(losses, name)(positive, negative, penalty)
    found.sum().backward()
    assert found.isfinite().all() and positive.grad.isfinite().all()
    assert negative.grad[:4].eq(0).all() and negative.grad[4].ne(0).any()


def training_step(**settings):
    """A model, what its objective is given for a batch, and the item vectors as NumPy."""
    torch.manual_seed(0)
    model = build("sasrec", session_schema(), {**SMALL, **settings})
    model.observe(batch_of(random_sessions(50, seed=2)))
    hidden = torch.randn(6, 8)
    targets, viewed = torch.tensor([3, 4, 9, 32, 8, 9]), torch.tensor([5, 4, 3, 7, 9, 8])
    return model, hidden, targets, viewed, model.items.inputs["item_id"].weight.detach().numpy()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("debias", [0.0, 0.5])
def test_the_loss_over_all_items(similarity, debias):
    """Reserved codes and the item just viewed are no candidates; counts shift the logits."""
    model, hidden, targets, viewed, table = training_step(
        similarity=similarity, popularity_debias=debias
    )
    counts = np.maximum(model.objective.counts.numpy(), 1)[FIRST:]
    expected = []
    for h, target, seen in zip(hidden.numpy(), targets.tolist(), viewed.tolist(), strict=True):
        scores = []
        for item in range(FIRST, ITEMS):
            score = h @ table[item]
            if similarity == "cosine":
                score /= np.linalg.norm(h) * np.linalg.norm(table[item])
            scores.append(score / 0.5 + debias * np.log(counts[item - FIRST] / counts.sum()))
        left_out = [seen - FIRST] if seen != target else []
        position = target - FIRST - (bool(left_out) and seen < target)
        expected.append(softmax_loss(np.delete(scores, left_out), position, 0.0))
    found = model.objective(hidden, targets, viewed, model.items)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_sampled_loss_with_every_item_drawn_is_the_one_over_all():
    """Log-q correction: drawn often enough, the estimate of the softmax is the softmax."""
    model, *given, _ = training_step(loss="sampled_softmax", negatives=200_000, sampling_power=0.7)
    found = model.objective(*given, model.items)
    whole, *_ = training_step(loss="cross_entropy")
    # The positive is one more draw of its item: as many as the share of one in 200,000.
    assert found.item() == pytest.approx(whole.objective(*given, whole.items).item(), abs=0.02)
    uncorrected, *_ = training_step(
        loss="sampled_softmax", negatives=200_000, sampling_power=0.7, log_q=False
    )
    assert uncorrected.objective(*given, whole.items).item() > found.item() + 1


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_items_are_drawn_by_their_frequency(power):
    model, *_ = training_step(loss="sampled_softmax", sampling_power=power)
    drawn = np.bincount(model.objective._draw(200_000).numpy(), minlength=ITEMS) / 200_000
    weights = np.maximum(model.objective.counts.numpy(), 1.0) ** power
    weights[:FIRST] = 0
    np.testing.assert_allclose(drawn, weights / weights.sum(), atol=4e-3)


@pytest.mark.parametrize("loss", ["cross_entropy", "sampled_softmax", "gbce", "bce", "bpr_max"])
def test_every_loss_learns_a_cycle_and_bears_a_catalogue_of_one_item(loss):
    torch.manual_seed(0)
    options = {"loss": loss, "negatives": 24, "d_model": 16, "dropout": 0.0, "embedding_std": 0.3}
    options |= {"bpr_max_penalty": 0.1, "mixtures": 2 if loss in MIXED else 1}
    model = build("sasrec", session_schema(), options)
    sessions = [[(start + step) % 30 + 3 for step in range(5)] for start in range(30)]
    model.observe(batch_of(sessions))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        found = model.loss(batch_of(sessions))
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    scores = model.eval().scores({"item_id": torch.arange(3, 33)[:, None]})[:, FIRST:]
    scores[range(30), range(30)] = -torch.inf  # The item just viewed never was a candidate.
    assert (scores.argmax(1) == (torch.arange(30) + 1) % 30).float().mean() > 0.9

    options["mixtures"] = 2
    single = build("sasrec", session_schema(items=4), {**options, "drop_repeats": False})
    found = single.loss(batch_of([[3, 3, 3], [3, 3]]))
    found.backward()
    assert found.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in single.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_a_large_table_has_gradients_of_the_rows_that_were_drawn(tied, monkeypatch):
    """The same ones as a dense table has."""
    options = {"loss": "sampled_softmax", "negatives": 6, "dropout": 0.0, "weight_tying": tied}
    batch = batch_of(random_sessions(3, longest=3))
    found = []
    for rows in (ITEMS + 1, ITEMS):
        monkeypatch.setattr("training.sessions.items.SPARSE_FROM", rows)
        model, *_ = training_step(**options)
        torch.manual_seed(1)
        model.loss(batch).backward()
        found.append([table.weight.grad for table in model.modules() if hasattr(table, "sparse")])
    for dense, sparse in zip(*found, strict=True):
        assert sparse.is_sparse and not dense.is_sparse
        assert 0 < len(sparse.coalesce().indices()[0]) < ITEMS
        torch.testing.assert_close(sparse.to_dense(), dense)
