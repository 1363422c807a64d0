"""Transformers4Rec's networks, as the session models here use them.

de Souza Pereira Moreira et al., Transformers4Rec, RecSys 2021.
"""

from typing import Any

import torch
from torch import nn

from core.merlin import transformers4rec
from training.dropout import use_cheap_dropout
from training.sessions.transformer_settings import TransformerSettings


def shape(settings: TransformerSettings) -> dict[str, Any]:
    """What the configurations of all networks are built from."""
    return {
        "d_model": settings.d_model,
        "n_head": settings.heads,
        "n_layer": settings.layers,
        # One more than is seen: the position that is asked for.
        "total_seq_length": settings.max_length + 1,
        "dropout": settings.dropout,
        "initializer_range": settings.weight_std,
        # Transformers4Rec's 0.03 is larger than the variance of what is normalised at the start.
        "layer_norm_eps": 1e-12,
    }


def transformer_block(config: Any, masking: nn.Module | None = None) -> nn.Module:
    """Transformers4Rec's block: ``(batch, length, d_model)`` → ``(batch, outputs, d_model)``.

    Without the weights that events given as vectors never use.
    """
    block = transformers4rec().TransformerBlock(config, masking=masking)
    network = block.transformer
    network.set_input_embeddings(nn.Identity())
    network.pooler = None
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Embedding):
                setattr(module, name, _Positions(child.weight))
    use_cheap_dropout(block)
    return block


class _Positions(nn.Module):
    """Not an nn.Embedding: it is no table of a column and learns at the dense layers' rate."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(positions, self.weight)
