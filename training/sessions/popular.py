"""The popularity floor: every prefix gets the items that trained sessions showed most often."""

import torch

from core.merlin import Schema
from training.sessions.counting import CountingModel
from training.sessions.counting_settings import PopularSettings


class Popular(CountingModel):
    """Counts the events of each item."""

    def __init__(self, schema: Schema, settings: PopularSettings):
        super().__init__(schema, settings, max_length=1)

    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """See :meth:`SessionModel.scores`: the counts, whatever the prefix."""
        return self.counts.float().expand(len(prefixes[self.item]), -1)
