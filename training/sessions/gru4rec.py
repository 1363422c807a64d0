"""GRU4Rec: a recurrent network over the events of a session.

Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016; Hidasi &
Karatzoglou, Recurrent Neural Networks with Top-k Gains, CIKM 2018 (sampled losses, BPR-max, one
table for inputs and outputs).
"""

import torch
from torch import nn

from core.merlin import Schema
from training.dropout import Dropout
from training.sessions.neural_settings import GRU4RecSettings
from training.sessions.next_item import NextItemModel


class GRU4Rec(NextItemModel):
    """Sessions are padded to batches and learned from end to end."""

    settings: GRU4RecSettings

    def __init__(self, schema: Schema, settings: GRU4RecSettings) -> None:
        super().__init__(schema, settings)
        self.events.dropout = Dropout(settings.embedding_dropout)
        width = settings.d_model
        between = settings.dropout if settings.layers > 1 else 0.0
        self.network = nn.GRU(width, width, settings.layers, batch_first=True, dropout=between)
        self.dropout = Dropout(settings.dropout)

    def encode(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """See :meth:`NextItemModel.encode`."""
        return self.dropout(self.network(vectors)[0])
