"""SASRec: a transformer whose events attend to earlier ones only.

Kang & McAuley, Self-Attentive Sequential Recommendation, ICDM 2018. Theirs are the settings
``similarity: dot``, ``temperature: 1``, ``feed_forward: 1`` and ``loss: bce``. No setting brings
back what else differs: they have ReLU in the place of GELU; dropout on attention weights, and on
inputs after positions are added to them, not before; positions that count back from the last event;
item vectors multiplied by √d_model (in their code); and no linear layer after the heads.
"""

import torch
from torch import nn

from core.merlin import Schema
from training.dropout import Dropout
from training.sessions.neural_settings import SASRecSettings
from training.sessions.next_item import NextItemModel


class SASRec(NextItemModel):
    """Positions are counted from the first event that the model sees."""

    settings: SASRecSettings

    def __init__(self, schema: Schema, settings: SASRecSettings) -> None:
        super().__init__(schema, settings)
        self.network = CausalTransformer(
            settings.d_model,
            settings.layers,
            settings.heads,
            settings.max_length,
            dropout=settings.dropout,
            widen=settings.feed_forward,
            norm_first=settings.norm == "pre",
            std=settings.weight_std,
        )

    def encode(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """See :meth:`NextItemModel.encode`."""
        return self.network(vectors)


class CausalTransformer(nn.Module):
    """Learned positions, then layers of causal self-attention and a feed-forward net.

    As sequences are padded on the right, no event ever attends to padding.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        longest: int,
        dropout: float,
        widen: int = 4,
        norm_first: bool = True,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        # Not an nn.Embedding: it is no table of a column and learns at the dense layers' rate.
        self.positions = nn.Parameter(torch.randn(longest, width) * std)
        self.layers = nn.ModuleList(
            _Layer(width, heads, dropout, widen, norm_first) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """``(batch, width, d_model)`` → the same shape."""
        vectors = vectors + self.positions[: vectors.shape[1]]
        for layer in self.layers:
            vectors = layer(vectors)
        return self.norm(vectors)


class _Layer(nn.Module):
    def __init__(
        self, width: int, heads: int, dropout: float, widen: int, norm_first: bool
    ) -> None:
        super().__init__()
        self.heads, self.norm_first = heads, norm_first
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, widen * width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(widen * width, width),
        )
        self.dropout = Dropout(dropout)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        for part, norm in (
            (self._attention, self.attention_norm),
            (self.feed_forward, self.forward_norm),
        ):
            if self.norm_first:
                vectors = vectors + self.dropout(part(norm(vectors)))
            else:
                vectors = norm(vectors + self.dropout(part(vectors)))
        return vectors

    def _attention(self, vectors: torch.Tensor) -> torch.Tensor:
        rows, events, width = vectors.shape
        parts = self.attend(vectors).view(rows, events, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.join(found.transpose(1, 2).reshape(rows, events, width))
