"""Embedding tables: their gradients and their initialisation, inside Merlin's blocks.

Beside it the initialisation of linear layers that goes with DLRM's tables.
"""

from typing import Literal

import torch
from torch import nn

from core.merlin import torch_models

Initialisation = Literal["dlrm", "normal"]

NORMAL_SCALE = 0.01


class SparseEmbedding(nn.Embedding):
    """An embedding whose gradient holds the rows of the batch only.

    A step then costs the same whatever the number of rows. The lookup is ``nn.Embedding``'s.
    """

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__(rows, dim, sparse=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids of any shape → ``(*shape, dim)``."""
        return super().forward(ids.long())


def make_sparse(model: nn.Module, initialisation: Initialisation) -> None:
    """Gives every Merlin ``EmbeddingTable`` in ``model`` sparse gradients and fresh weights.

    Merlin's own tables start from N(0, 1), far too wide for the dot products of DLRM.

    Args:
        initialisation: ``dlrm``: uniform within ±1/√rows, as Facebook's DLRM; ``normal``:
            N(0, 0.01²), the same for every table.
    """
    tables = [m for m in model.modules() if isinstance(m, torch_models().EmbeddingTable)]
    for table in tables:
        old = table.table
        table.table = SparseEmbedding(old.num_embeddings, old.embedding_dim)
        initialise(table.table.weight, initialisation)


@torch.no_grad()
def initialise(weight: torch.Tensor, initialisation: Initialisation) -> None:
    """Fills a table's weights ``(rows, dim)``."""
    if initialisation == "dlrm":
        bound = len(weight) ** -0.5
        weight.uniform_(-bound, bound)
    else:
        weight.normal_(0.0, NORMAL_SCALE)


@torch.no_grad()
def initialise_layers(model: nn.Module) -> None:
    """Linear layers as Facebook's DLRM starts them.

    Weights ``(out, in)`` are N(0, 2 / (in + out)), biases N(0, 1 / out): wider than torch's own,
    which matters where a net is best after one pass over the data.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            outputs, inputs = layer.weight.shape
            layer.weight.normal_(0.0, (2 / (inputs + outputs)) ** 0.5)
            if layer.bias is not None:
                layer.bias.normal_(0.0, outputs**-0.5)
