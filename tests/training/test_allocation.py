"""Building a model stops before it takes more than its weights allow, and else is the same."""

import pytest
import torch
from torch import nn

from training.allocation import ALWAYS_ALLOWED, TooLarge, bounded
from training.tables.storage import allocator, tables_in

FLOATS = ALWAYS_ALLOWED // 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(10**9, 10**3),
        lambda: nn.Embedding(10**12, 16),
        lambda: torch.zeros(FLOATS + 2000),
        lambda: torch.ones(2**13).outer(torch.ones(2**13)),
        lambda: torch.ones(1000).repeat(10**6),
        lambda: torch.arange(10**11),
        lambda: torch.eye(10**6),
        lambda: torch.empty(1).new_zeros(10**11),
        lambda: torch.Tensor(10**6, 10**6),
        lambda: torch.full((10**10,), 1.0),
        lambda: torch.cat([torch.ones(FLOATS // 8)] * 8),
        lambda: [torch.zeros(2**20) for _ in range(100)],
        lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(10**5)),
        lambda: nn.GRU(10**6, 10**6),
    ],
)
def test_what_is_too_large_is_not_made(make):
    with pytest.raises(TooLarge), bounded(1000, 3):
        make()


def test_tables_in_files_count_before_they_take_the_disk(tmp_path):
    with tables_in(tmp_path), pytest.raises(TooLarge), bounded(1000, 3):
        allocator()("weight", (10**9, 16))
    assert list(tmp_path.iterdir()) == []
    with tables_in(tmp_path), bounded(1000, 3):
        assert allocator()("weight", (100, 16)).shape == (100, 16)


def test_what_fits_is_as_without():
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(30, 20), nn.LayerNorm(20), nn.GRU(20, 5), nn.Embedding(9, 2))

    free = make()
    with bounded(sum(weight.nbytes for weight in free.parameters()), 12):
        held = make()
    for one, other in zip(free.parameters(), held.parameters(), strict=True):
        assert torch.equal(one, other)
