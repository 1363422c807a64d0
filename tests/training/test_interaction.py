import numpy as np
import pytest
import torch

from core.merlin import torch_models
from training.ranking.interaction import DotInteraction

VECTORS, DIM = 7, 4


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, VECTORS, DIM, generator=generator, dtype=torch.float64)


def apply(interaction, vectors):
    return interaction(vectors[:, :-1], vectors[:, -1])


def test_products_are_those_of_merlin(vectors):
    merlin = torch_models().blocks.dlrm.DLRMInteraction()
    one, other = (vectors.clone().requires_grad_() for _ in range(2))
    interaction = DotInteraction(VECTORS, DIM)
    ours, theirs = apply(interaction, one), merlin(other)
    pairs = theirs.shape[1]
    assert ours.shape == (5, interaction.width) and interaction.width == 32 > DIM + pairs
    assert torch.equal(ours[:, :DIM], vectors[:, -1])
    torch.testing.assert_close(ours[:, DIM : DIM + pairs], theirs)
    assert not ours[:, DIM + pairs :].any()
    weights = torch.linspace(-1, 1, pairs, dtype=torch.float64)
    (ours[:, DIM : DIM + pairs].square() * weights).sum().backward()
    (theirs.square() * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_with_itself_the_squares_follow_the_pairs(vectors, dtype):
    vectors = vectors.to(dtype)
    interaction = DotInteraction(VECTORS, DIM, itself=True)
    out = apply(interaction, vectors)
    pairs = apply(DotInteraction(VECTORS, DIM), vectors)[:, : DIM + 21]
    assert out.shape == (5, interaction.width) and interaction.width == 32
    torch.testing.assert_close(out[:, : DIM + 21], pairs)
    torch.testing.assert_close(out[:, DIM + 21 : DIM + 28], (vectors**2).sum(2))


@pytest.mark.parametrize("itself", [False, True])
def test_gradients_by_differences(vectors, itself):
    interaction = DotInteraction(VECTORS, DIM, itself)
    torch.autograd.gradcheck(lambda v: apply(interaction, v), vectors.requires_grad_())


def test_what_comes_for_the_zeros_goes_nowhere(vectors):
    vectors.requires_grad_()
    interaction = DotInteraction(VECTORS, DIM)
    apply(interaction, vectors)[:, DIM + 21 :].sum().backward()
    assert not vectors.grad.any()


def test_no_filling_where_the_width_fits():
    # 3 + 10 * 9 / 2 = 48
    assert DotInteraction(10, 3).width == 48


def test_under_autocast_the_products_are_bfloat16(vectors):
    vectors = vectors.float().requires_grad_()
    interaction = DotInteraction(VECTORS, DIM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = apply(interaction, vectors)
    assert out.dtype == torch.bfloat16
    exact = apply(interaction, vectors).detach()
    np.testing.assert_allclose(out.detach().float(), exact, rtol=0.05, atol=0.05)
    out.float().sum().backward()
    assert vectors.grad.dtype == torch.float32 and torch.isfinite(vectors.grad).all()
