"""The floor for shops that are revisited: the items of the session itself, then the popular ones.

Hidasi et al., Session-based recommendations with recurrent neural networks, 2016 (S-POP).
"""

import torch

from core.merlin import Schema
from training.sessions.counting import CountingModel
from training.sessions.counting_settings import SessionPopularSettings


class SessionPopular(CountingModel):
    """Counts the items of the prefix; popularity orders equals and all other items."""

    def __init__(self, schema: Schema, settings: SessionPopularSettings):
        super().__init__(schema, settings, settings.max_length)

    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """See :meth:`SessionModel.scores`: the sum of ``decay ** (events since)`` over an item's
        events in the prefix."""
        items, decay = prefixes[self.item].long(), self.settings.decay
        last = (items != 0).sum(1, keepdim=True) - 1
        since = last - torch.arange(items.shape[1], device=items.device)
        weights = torch.where(since >= 0, decay ** since.float(), 0.0)
        scores = weights.new_zeros(len(items), self.num_items).scatter_add_(1, items, weights)
        # Less than any event's weight.
        share = self.popularity() * decay**self.max_length
        return self.then_popular(torch.where(scores > 0, scores + share, 0.0))
