"""Masked training that matches how the model is asked: the last event is always hidden.

Transformers4Rec's own masked language modelling hides random events, yet a recommender is only ever
asked for the event after the last one; and its transformer blocks let events attend to padding.
"""

from functools import cache

import torch

from core.merlin import transformers4rec


@cache
def last_event_masking():
    """The masking class, made when first asked for: importing Transformers4Rec takes seconds."""
    tr = transformers4rec()
    info = tr.masking.MaskingInfo

    class LastEventMasking(tr.masking.MaskedLanguageModeling):
        """Hides the last event of each sequence and every other one with ``mlm_probability``.

        Sequences are ``(batch, length)`` codes, padded on the right with 0. Only events with a code
        of at least ``first_target`` become targets (not null, not out of vocabulary). The first
        event is left visible, so that no sequence is hidden whole. Padding is never attended to.
        """

        def __init__(self, hidden_size: int, mlm_probability: float, first_target: int):
            super().__init__(hidden_size=hidden_size, mlm_probability=mlm_probability)
            self.first_target = first_target
            self.attention_mask: torch.Tensor | None = None

        def _compute_masked_targets(self, item_ids, training=False, testing=False):
            present = item_ids != self.padding_idx
            if not training and not testing:
                # The parent then appends one position and hides the one after the last event.
                self.attention_mask = torch.cat(
                    [torch.ones_like(present[:, :1]), present], 1
                ).float()
                return super()._compute_masked_targets(item_ids, training=False, testing=False)
            self.attention_mask = present.float()
            position = torch.arange(item_ids.shape[1], device=item_ids.device)
            hidden = position == present.sum(1, keepdim=True) - 1
            if training:
                hidden = hidden | (torch.rand(item_ids.shape, device=item_ids.device)
                                   < self.mlm_probability) & (position > 0)  # fmt: skip
            hidden = hidden & (item_ids >= self.first_target)
            return info(hidden, item_ids.where(hidden, self.padding_idx))

        def transformer_optional_arguments(self):
            return {"attention_mask": self.attention_mask}

    return LastEventMasking
