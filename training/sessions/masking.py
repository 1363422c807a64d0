"""Training tasks over sequences that match how the model is asked: for the event after the last.

Transformers4Rec's own hide random events where a recommender is only ever asked for the next one,
let events attend to padding, and, with permutation, ask at prediction for the last event that is
known in the place of the one after it. What its blocks need of a task is kept; what is hidden,
guessed and attended to is decided here.

Sequences are ``(batch, length)`` codes, padded on the right with 0. Padding is never attended to.
"""

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from core.merlin import transformers4rec
from training.sessions.transformer_settings import MaskedSettings


def training_task(settings: MaskedSettings) -> nn.Module:
    """The task that ``settings.masking`` names, one of Transformers4Rec's ``MaskSequence``.

    Called with event vectors and item codes it returns what the transformer is given. Then
    ``masked_targets``, ``(batch, outputs)``, says which item is to be guessed from each output of
    the transformer (0: none), ``viewed``, of the same shape, the item before it (0: not seen), and
    ``mask_schema``, ``(batch, length)``, which events are guessed. Outside of training the event
    after the last one is to be guessed, and ``asked``, ``(batch,)``, says from which output.
    """
    task = _classes()[settings.masking](hidden_size=settings.d_model)
    task.share = getattr(settings, f"{'plm' if settings.masking == 'plm' else 'mlm'}_probability")
    return task


class _LastEvent:
    """Hides the last event and every other one with probability ``share``.

    The first event is left visible, so that no sequence is hidden whole. Positions count back from
    the event that is asked for, as in BERT4Rec's code: the item just viewed always has the same.
    """

    share: float
    attention_mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    _hides = True

    def _compute_masked_targets(
        self, item_ids: torch.Tensor, training: bool = False, testing: bool = False
    ) -> Any:
        present = item_ids != self.padding_idx
        self.asked = present.sum(1)
        if not training:
            # The parent then appends one position and hides the one after the last event.
            before = torch.ones_like(present[:, :1])
            self._attend(torch.cat([before, present], 1))
            return super()._compute_masked_targets(item_ids, training=False, testing=False)
        self._attend(present)
        hidden = (_last(present) | _some(present, self.share)) & self._hides
        self.viewed = _before(item_ids.masked_fill(hidden, self.padding_idx))
        targets = item_ids.where(hidden, self.padding_idx)
        return transformers4rec().masking.MaskingInfo(hidden, targets)

    def _attend(self, present: torch.Tensor) -> None:
        self.attention_mask = present.float()
        self.position_ids = (present.flip(1).cumsum(1).flip(1) - 1).clamp(min=0)

    @contextlib.contextmanager
    def nothing_hidden(self) -> Iterator[None]:
        """In training, every event is seen."""
        self._hides = False
        try:
            yield
        finally:
            self._hides = True

    def transformer_optional_arguments(self) -> dict[str, Any]:
        # XLNet's positions are relative, and Transformers4Rec leaves out what a network does not
        # take.
        return {"attention_mask": self.attention_mask, "position_ids": self.position_ids}


class _RandomOrder:
    """Events are guessed one after another in a random order, the last one of the sequence last.

    Each event but the first is guessed with probability ``share``, and the last one always. Those
    that are not come first in the order. Each is guessed from all that come before it, which the
    transformer's second stream does: it knows where an event stands and not what it is (Yang et
    al. 2019, section 2.3).
    """

    share: float
    attention_mask: torch.Tensor | None = None

    def compute_masked_targets(
        self, item_ids: torch.Tensor, training: bool = False, testing: bool = False
    ) -> Any:
        present = item_ids != self.padding_idx
        self.asked = torch.zeros_like(present[:, 0], dtype=torch.long)
        if training:
            self._guess_in_order(item_ids, present)
        else:
            self._ask_for_next(item_ids, present)
        return transformers4rec().masking.MaskingInfo(self.mask_schema, self.masked_targets)

    def _guess_in_order(self, item_ids: torch.Tensor, present: torch.Tensor) -> None:
        last = _last(present)
        guessed = last | _some(present, self.share)
        order = torch.rand(item_ids.shape, device=item_ids.device)
        order = order.where(guessed, -1.0).where(~last, 2.0)
        # True where the row's event may not see the column's.
        unseen = (order[:, :, None] <= order[:, None, :]) & guessed[:, None, :]
        outputs = max(1, int(guessed.sum(1).max()))
        at = guessed.int().argsort(dim=1, descending=True, stable=True)[:, :outputs]
        filled = guessed.gather(1, at)
        here = nn.functional.one_hot(at, item_ids.shape[1]) * filled[:, :, None]
        self.mask_schema = guessed
        self.masked_targets = item_ids.gather(1, at).where(filled, self.padding_idx)
        seen = ~guessed | nn.functional.pad(last, (0, 1))[:, 1:]
        self.viewed = _before(item_ids.where(seen, self.padding_idx)).gather(1, at)
        self.perm_mask, self.target_mapping = unseen.float(), here.float()
        self.attention_mask = present.float()

    def _ask_for_next(self, item_ids: torch.Tensor, present: torch.Tensor) -> None:
        rows, length = item_ids.shape
        self.mask_schema = nn.functional.one_hot(present.sum(1), length + 1).bool()
        self.masked_targets = torch.zeros_like(item_ids[:, :1])
        self.target_mapping = self.mask_schema[:, None].float()
        self.perm_mask = self.target_mapping.new_zeros(rows, length + 1, length + 1)
        # Nothing sees the position that is asked for: all that it holds is its place.
        self.attention_mask = nn.functional.pad(present, (0, 1)).float()

    def apply_mask_to_inputs(
        self,
        inputs: torch.Tensor,
        schema: torch.Tensor,
        training: bool = False,
        testing: bool = False,
    ) -> torch.Tensor:
        if training:
            return inputs
        return torch.cat([inputs, torch.zeros_like(inputs[:, :1])], dim=1)

    def transformer_optional_arguments(self) -> dict[str, Any]:
        return {"attention_mask": self.attention_mask}


def _last(present: torch.Tensor) -> torch.Tensor:
    position = torch.arange(present.shape[1], device=present.device)
    return position == present.sum(1, keepdim=True) - 1


def _some(present: torch.Tensor, share: float) -> torch.Tensor:
    """Events chosen with probability ``share``; never the first one of a sequence."""
    chosen = torch.rand(present.shape, device=present.device) < share
    return chosen & present & (torch.arange(present.shape[1], device=present.device) > 0)


def _before(codes: torch.Tensor) -> torch.Tensor:
    """The code before each, ``(batch, length)``; 0 before the first."""
    return nn.functional.pad(codes, (1, 0))[:, :-1]


@cache
def _classes() -> dict[str, type[nn.Module]]:
    """By name, made when first asked for: importing Transformers4Rec takes seconds."""
    masking = transformers4rec().masking
    return {
        "mlm": type("MaskedEvents", (_LastEvent, masking.MaskedLanguageModeling), {}),
        "rtd": type("ReplacedEvents", (_LastEvent, masking.ReplacementLanguageModeling), {}),
        "plm": type("PermutedEvents", (_RandomOrder, masking.PermutationLanguageModeling), {}),
    }
