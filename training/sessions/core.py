"""CORE: a session is a weighted mean of its items' vectors, so it lives in the space of the items.

Hou, Hu, Zhang & Zhao, CORE: Simple and Effective Session-based Recommendation within Consistent
Representation Space, SIGIR 2022.
"""

import torch
from torch import nn

from core.merlin import Schema
from training.sessions.neural_settings import CORESettings
from training.sessions.next_item import NextItemModel
from training.sessions.sasrec import CausalTransformer


class CORE(NextItemModel):
    """Weights come from a causal transformer, or all events weigh the same.

    So that all steps learn in one pass, the transformer is causal, and the last event of a prefix
    gives the weights, as attention over the prefix; the paper's looks both ways.
    """

    settings: CORESettings

    def __init__(self, schema: Schema, settings: CORESettings) -> None:
        super().__init__(schema, settings)
        self.network = self.weigh = None
        if settings.weights == "attention":
            self.network = CausalTransformer(
                settings.d_model,
                settings.layers,
                settings.heads,
                settings.max_length,
                dropout=settings.dropout,
            )
            self.weigh = nn.ModuleList(nn.Linear(settings.d_model, settings.d_model) for _ in "qk")

    def encode(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """See :meth:`NextItemModel.encode`."""
        if self.network is None:
            events = present.cumsum(1).clamp(min=1)[..., None]
            return (vectors * present[..., None]).cumsum(1) / events
        found = self.network(vectors)
        query, key = (layer(found) for layer in self.weigh)
        return nn.functional.scaled_dot_product_attention(query, key, vectors, is_causal=True)
