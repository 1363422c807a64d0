"""Several copies of one model, each with its own initial weights, trained side by side.

Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep
ensembles", 2017 (arXiv:1612.01474). Each learns by its own loss, as if it were alone; the mean of
their logits scores a row.
"""

import torch
from torch import nn

from training.batches import Batch, Inputs
from training.ranking.click_model import ClickModel


class Ensemble(ClickModel):
    """A click model made of others.

    Args:
        members: of one kind, for the same columns and with the same settings.
    """

    def __init__(self, members: list[ClickModel]) -> None:
        nn.Module.__init__(self)
        self.members = nn.ModuleList(members)
        self.settings, self.input_names = members[0].settings, members[0].input_names

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Inputs as ``Batches`` gives them → the mean of the members' logits ``(batch,)``."""
        return torch.stack([member(inputs) for member in self.members]).mean(0)

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean of the members' losses, with the gradients of their sum."""
        total = torch.stack([member.loss(batch) for member in self.members]).sum()
        # So that a member's gradients, beside which its weights decay, do not shrink with others.
        return total - (total - total / len(self.members)).detach()
