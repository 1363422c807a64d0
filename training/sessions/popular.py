"""The popularity floor: every prefix gets the items that trained sessions showed most often."""

import torch

from core.merlin import Schema
from training.sessions.base import SessionModel
from training.sessions.ragged import Batch
from training.sessions.settings import PopularSettings


class Popular(SessionModel):
    """Counts the events of each item.

    ``counts``, ``(num_items,)``, is a buffer, so it is saved and loaded like any weight.
    """

    learns_by_gradient = False
    counts: torch.Tensor

    def __init__(self, schema: Schema, settings: PopularSettings):
        super().__init__(schema, settings, max_length=1)
        self.register_buffer("counts", torch.zeros(self.num_items, dtype=torch.int64))

    def observe(self, batch: Batch) -> None:
        """Counts the batch's events."""
        items = self.sessions(batch).columns[self.item].long()
        self.counts += torch.bincount(items, minlength=self.num_items)

    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """See :meth:`SessionModel.scores`: the counts, whatever the prefix."""
        return self.counts.float().expand(len(prefixes[self.item]), -1)
