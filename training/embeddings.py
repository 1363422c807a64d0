"""Embedding tables: their gradients and their initialisation, inside Merlin's blocks.

Beside it the initialisation of linear layers that goes with DLRM's tables.
"""

import itertools
from typing import Any, Literal

import torch
from torch import nn

from core.merlin import Schema, torch_models

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


class TableGroup(nn.Module):
    """All tables of one width as one matrix: one lookup, one gradient and one optimizer step.

    It stands in the place of Merlin's ``EmbeddingTables``, whose one module a column costs more
    in small steps than the arithmetic does. The vectors are the same.

    Args:
        schema: the CATEGORICAL columns, one code a row each. Columns whose domains have one name
            share their rows.
        dim: width of every vector.
        initialisation: of each table, see :func:`initialise`.
    """

    def __init__(self, schema: Schema, dim: int, initialisation: Initialisation) -> None:
        super().__init__()
        rows = {column.int_domain.name: int(column.int_domain.max) + 1 for column in schema}
        starts = dict(zip(rows, itertools.accumulate(rows.values(), initial=0), strict=False))
        self.names = schema.column_names
        self.table = SparseEmbedding(sum(rows.values()), dim)
        places = [starts[column.int_domain.name] for column in schema]
        self.register_buffer("places", torch.tensor(places), persistent=False)
        for domain, start in starts.items():
            initialise(self.table.weight[start : start + rows[domain]], initialisation)

    def forward(self, inputs: dict[str, torch.Tensor], batch: Any = None) -> dict:
        """Codes ``(batch,)`` by name → vectors ``(batch, dim)`` by name."""
        codes = torch.stack([inputs[name].reshape(-1) for name in self.names], dim=1)
        return dict(zip(self.names, self.table(codes + self.places).unbind(1), strict=True))

    def rows(self, name: str) -> slice:
        """Where the rows of a column's table lie in ``table.weight``, from its code 0 on."""
        return slice(int(self.places[self.names.index(name)]), None)


def group_tables(model: nn.Module, schema: Schema, initialisation: Initialisation) -> None:
    """Puts a :class:`TableGroup` in the place of every ``EmbeddingTables`` in ``model``.

    Merlin's own tables start from N(0, 1), far too wide for the dot products of DLRM.

    Args:
        schema: of the model's inputs.
        initialisation: ``dlrm``: uniform within ±1/√rows, as Facebook's DLRM; ``normal``:
            N(0, 0.01²), the same for every table.
    """
    kind = torch_models().EmbeddingTables
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind):
                columns = schema.select_by_name(child.schema.column_names)
                setattr(module, name, TableGroup(columns, child.dim, initialisation))


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
