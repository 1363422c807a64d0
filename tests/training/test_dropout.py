import pytest
import torch
from torch import nn

from training.dropout import Dropout, use_cheap_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_as_many_are_dropped_as_asked_for_wherever_they_stand(p):
    torch.manual_seed(3)
    ones = torch.ones(400, 1001)
    out = Dropout(p)(ones)
    assert out.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-3)
    # Five standard deviations of so many coins; four elements share a draw, each its own bits.
    for part in (out, *(out.view(-1)[place::4] for place in range(4))):
        tolerance = 5 * (p * (1 - p) / part.numel()) ** 0.5
        assert (part == 0).float().mean().item() == pytest.approx(p, abs=tolerance)
    kept = (out.view(-1) != 0).double()
    for distance in (1, 2, 3, 4):
        together = (kept[:-distance] * kept[distance:]).mean().item()
        assert together == pytest.approx((1 - p) ** 2, abs=5 / len(kept) ** 0.5)


def test_gradients_flow_where_values_did():
    values = torch.randn(7, 5, requires_grad=True)
    out = Dropout(0.4)(values)
    out.sum().backward()
    assert torch.equal(values.grad != 0, out != 0)
    torch.testing.assert_close(out, values * values.grad)


def test_it_follows_torch_s_seed_and_generator_state():
    dropout, values = Dropout(0.3), torch.ones(100)
    torch.manual_seed(1)
    first, state, second = dropout(values), torch.get_rng_state(), dropout(values)
    torch.manual_seed(1)
    assert torch.equal(first, dropout(values)) and not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(second, dropout(values))


def test_nothing_is_dropped_outside_training_nor_everything_kept_at_one():
    values = torch.randn(4, 3)
    assert Dropout(0.5).eval()(values) is values
    assert torch.equal(Dropout(0.0)(values), values)
    assert not Dropout(1.0)(values).any()
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)


def test_every_dropout_of_a_model_is_made_cheap():
    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.7)))
    use_cheap_dropout(model)
    assert [(type(m), m.p) for m in model.modules() if isinstance(m, nn.Dropout)] == [
        (Dropout, 0.2),
        (Dropout, 0.7),
    ]
