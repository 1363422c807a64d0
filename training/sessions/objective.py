"""From prefixes and what came next to a loss: which items are compared, and how they are drawn."""

from typing import NamedTuple

import torch
from torch import nn

from training.sessions import losses
from training.sessions.items import ItemVectors
from training.sessions.neural_settings import EVENLY_DRAWN, NextItemSettings
from training.sessions.ragged import FIRST_ITEM


class Chances(NamedTuple):
    """What follows from how often items occur."""

    bounds: torch.Tensor
    """Running sum of the weights by which items are drawn, ``(num_items - FIRST_ITEM,)``."""
    probabilities: torch.Tensor
    """How probably one draw gives each code, ``(num_items,)``."""
    adjustment: torch.Tensor
    """What is added to the score of each code in training, ``(num_items,)``."""


class Objective(nn.Module):
    """The loss that the settings name.

    Attributes:
        counts: training events of each item code, ``(num_items,)``; until any are seen all items
            count as equally frequent.
    """

    counts: torch.Tensor

    def __init__(self, settings: NextItemSettings, num_items: int) -> None:
        super().__init__()
        self.settings, self.num_items = settings, num_items
        self.kind = settings.loss_over(num_items)
        self.power = settings.sampling_power
        if self.power is None:
            self.power = 0.0 if self.kind in EVENLY_DRAWN else 0.5
        self.register_buffer("counts", torch.zeros(num_items, dtype=torch.long))
        self._found: tuple[tuple[int, int], Chances] | None = None

    def observe(self, items: torch.Tensor) -> None:
        """Counts training events."""
        self.counts += torch.bincount(items, minlength=self.num_items)

    def forward(
        self, hidden: torch.Tensor, targets: torch.Tensor, viewed: torch.Tensor, items: ItemVectors
    ) -> torch.Tensor:
        """The mean loss of a batch's steps.

        Args:
            hidden: outputs at the event before each target, ``(steps, d_model)``.
            targets: codes of the items that came next, ``(steps,)``.
            viewed: codes of the items just viewed, ``(steps,)``; no candidates where repeats are
                dropped, unless they are the target.
            items: gives the candidates' vectors.
        """
        compared = self._over_all if self.kind == "cross_entropy" else self._over_drawn
        return compared(hidden, targets, viewed, items).mean()

    def _over_all(
        self, hidden: torch.Tensor, targets: torch.Tensor, viewed: torch.Tensor, items: ItemVectors
    ) -> torch.Tensor:
        scores = items.scores(hidden, items.candidates()[FIRST_ITEM:])
        if self.settings.popularity_debias:
            scores = scores + self._chances().adjustment[FIRST_ITEM:]
        if self.settings.drop_repeats:
            rows = (viewed != targets).nonzero().squeeze(1)
            places = rows, viewed[rows] - FIRST_ITEM
            scores = scores.index_put(places, scores.new_tensor(-torch.inf))
        return losses.cross_entropy(scores, targets - FIRST_ITEM, self.settings.label_smoothing)

    def _over_drawn(
        self, hidden: torch.Tensor, targets: torch.Tensor, viewed: torch.Tensor, items: ItemVectors
    ) -> torch.Tensor:
        drawn = self._draw(len(targets) if self.kind == "bce" else self.settings.negatives)
        # In one lookup: each one has a gradient of the size of the table.
        of_targets, of_drawn = items.candidates(torch.cat([targets, drawn])).tensor_split(
            [len(targets)]
        )
        positive = items.pair_scores(hidden, of_targets)
        if self.kind == "bce":
            drawn, negative = drawn[:, None], items.pair_scores(hidden, of_drawn)[:, None]
        else:
            drawn, negative = drawn[None], items.scores(hidden, of_drawn)
        if self.kind == "sampled_softmax":
            shift = self._chances().adjustment
            positive, negative = positive + shift[targets], negative + shift[drawn]
            if self.settings.log_q:
                # Not the positive's: it is there in any case, and the sum over all items is then
                # estimated without bias.
                expected = self._chances().probabilities[drawn] * self.settings.negatives
                negative = negative - expected.log()
        hit = drawn == targets[:, None]
        if self.settings.drop_repeats:
            hit = hit | (drawn == viewed[:, None])
        negative = negative.masked_fill(hit, -torch.inf)
        if self.kind == "sampled_softmax":
            return losses.sampled_softmax(positive, negative, self.settings.label_smoothing)
        if self.kind == "bpr_max":
            return losses.bpr_max(positive, negative, self.settings.bpr_max_penalty)
        if self.kind == "bce":
            return losses.gbce(positive, negative)
        return losses.gbce(positive, negative, self._beta())

    def _beta(self) -> float:
        rivals = max(self.num_items - FIRST_ITEM - 1, 1)
        rate = min(self.settings.negatives / rivals, 1.0)
        return losses.gbce_beta(rate, self.settings.gbce_t)

    def _draw(self, count: int) -> torch.Tensor:
        """Codes of items drawn independently, ``(count,)``."""
        bounds = self._chances().bounds
        places = torch.rand(count, dtype=torch.float64, device=bounds.device) * bounds[-1]
        found = torch.searchsorted(bounds, places, right=True)
        return found.clamp(max=len(bounds) - 1) + FIRST_ITEM

    def _chances(self) -> Chances:
        """Found anew only where the counts have changed: it takes time of the order of a step."""
        state = id(self.counts), self.counts._version
        if self._found is None or self._found[0] != state:
            events = self.counts[FIRST_ITEM:].double().clamp(min=1)
            weights = events**self.power
            adjustment = (events / events.sum()).log() * self.settings.popularity_debias
            chances = Chances(
                weights.cumsum(0),
                nn.functional.pad((weights / weights.sum()).float(), (FIRST_ITEM, 0)),
                nn.functional.pad(adjustment.float(), (FIRST_ITEM, 0)),
            )
            self._found = state, chances
        return self._found[1]
