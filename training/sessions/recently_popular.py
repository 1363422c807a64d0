"""The popularity floor of the last hours: every prefix gets what is popular now."""

import torch

from core.merlin import Schema
from training.sessions.counting import START, CountingModel
from training.sessions.counting_settings import RecentlyPopularSettings
from training.sessions.ragged import Batch

MS_AN_HOUR = 3_600_000


class RecentlyPopular(CountingModel):
    """Counts events, each halved for every ``half_life_hours`` between its session's start and the
    start of the latest session that trained.

    ``recent``, ``(num_items,)`` float64, are those counts; ``latest`` is that start.
    """

    observed = (START,)
    any_sign = ("latest",)
    recent: torch.Tensor
    latest: torch.Tensor

    def __init__(self, schema: Schema, settings: RecentlyPopularSettings):
        super().__init__(schema, settings, max_length=1)
        self.register_buffer("recent", torch.zeros(self.num_items, dtype=torch.float64))
        self.register_buffer("latest", torch.zeros((), dtype=torch.int64))

    def observe(self, batch: Batch) -> None:
        """Counts the batch's events."""
        super().observe(batch)
        sessions, starts = self.sessions(batch), batch[0][START].long()
        if not len(starts):
            return
        before, latest = self.latest.clone(), starts.max()
        if not self.recent.any():
            before = latest
        self.latest.copy_(torch.maximum(before, latest))
        self.recent *= self._faded(before)
        weights = self._faded(starts)[sessions.session_of_event()]
        items = sessions.columns[self.item].long()
        self.recent += torch.bincount(items, weights, minlength=self.num_items)

    def _faded(self, starts: torch.Tensor) -> torch.Tensor:
        hours = (self.latest - starts).double() / MS_AN_HOUR
        return torch.exp2(-hours / self.settings.half_life_hours)

    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """See :meth:`SessionModel.scores`: the faded counts, whatever the prefix."""
        return self.recent.expand(len(prefixes[self.item]), -1)
