"""Embedding tables as a model sees them, and their initialisation.

Beside it the initialisation of linear layers that goes with DLRM's tables.
"""

import itertools
from typing import Any, Literal

import torch
from torch import nn

from core.merlin import Schema
from training.tables.lookup import SparseEmbedding
from training.tables.storage import allocator

Initialisation = Literal["dlrm", "normal"]

NORMAL_SCALE = 0.01
ELEMENTS_AT_ONCE = 2**22
"""Values that are drawn together: a table in a file is never in memory as a whole."""


class TableGroup(nn.Module):
    """All tables of one width as one matrix: one lookup, one gradient and one optimizer step.

    The vectors are those of Merlin's ``EmbeddingTables``, whose one module a column costs more in
    small steps than the arithmetic does.

    Attributes:
        table: holds the rows of all columns; which kind of store it is, the training loop decides
            (:func:`training.tables.place.place_tables`).

    Args:
        schema: the CATEGORICAL columns: one code a row each or, where a column is a list, any
            number. Columns whose domains have one name share their rows.
        dim: width of every vector.
        initialisation: of each table, see :func:`initialise`.
        combiner: what a list's vectors become: their ``mean`` or ``sum``; zeros for an empty list.
    """

    def __init__(
        self,
        schema: Schema,
        dim: int,
        initialisation: Initialisation,
        combiner: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        rows = {column.int_domain.name: int(column.int_domain.max) + 1 for column in schema}
        starts = dict(zip(rows, itertools.accumulate(rows.values(), initial=0), strict=False))
        self.names = schema.column_names
        self.lists = {column.name for column in schema if column.is_list}
        self.combiner = combiner
        total = sum(rows.values())
        self.table = SparseEmbedding(total, dim, allocator()("weight", (total, dim)))
        places = [starts[column.int_domain.name] for column in schema]
        self.register_buffer("places", torch.tensor(places), persistent=False)
        for domain, start in starts.items():
            initialise(self.table.weight[start : start + rows[domain]], initialisation)

    def forward(self, inputs: dict[str, torch.Tensor], batch: Any = None) -> dict:
        """Codes by name, as ``Batches`` gives them → vectors ``(batch, dim)`` by name."""
        return dict(zip(self.names, self.stacked(inputs).unbind(1), strict=True))

    def stacked(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The same as one tensor ``(batch, columns, dim)``: nothing is copied to stack it."""
        if self.lists:
            return self._bags(inputs)
        codes = torch.stack([inputs[name].reshape(-1) for name in self.names], dim=1)
        return self.table(codes + self.places)

    @property
    def width(self) -> int:
        """Of every vector."""
        return self.table.weight.shape[1]

    def rows(self, name: str) -> slice:
        """Where the rows of a column's table lie in ``table.weight``, from its code 0 on."""
        return slice(int(self.places[self.names.index(name)]), None)

    def _bags(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """All columns' bags as one sequence of bags, one column after the other."""
        ids, lengths = [], []
        for name, start in zip(self.names, self.places, strict=True):
            if name in self.lists:
                ids.append(inputs[f"{name}__values"] + start)
                lengths.append(inputs[f"{name}__offsets"].diff())
            else:
                ids.append(inputs[name].reshape(-1) + start)
                lengths.append(torch.ones_like(ids[-1]))
        sizes = torch.cat(lengths)
        offsets = nn.functional.pad(sizes.cumsum(0), (1, 0))
        vectors = self.table.bags(torch.cat(ids), offsets)
        if self.combiner == "mean":
            vectors = vectors / sizes.clamp(min=1)[:, None]
        return vectors.view(len(self.names), -1, vectors.shape[1]).transpose(0, 1)


class Projection(nn.Linear):
    """Widens the narrow rows of a table: a part of the tables, which starts as they do.

    A sum of ``width`` products then has the variance of one entry of the table.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__(width, dim, bias=False)

    def reset_parameters(self) -> None:
        """Weights are N(0, 1 / width)."""
        nn.init.normal_(self.weight, 0.0, self.in_features**-0.5)


def stack_vectors(tables: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The vectors of all columns, ``(batch, columns, dim)``, of tables of one width."""
    if isinstance(tables, TableGroup):
        return tables.stacked(inputs)
    return torch.stack(list(tables(inputs).values()), dim=1)


@torch.no_grad()
def initialise(
    weight: torch.Tensor, initialisation: Initialisation, rows: int | None = None
) -> None:
    """Fills a table's weights ``(rows, dim)``.

    Args:
        initialisation: ``dlrm``: uniform within ±1/√rows, as Facebook's DLRM; ``normal``:
            N(0, 0.01²), the same for every table. Merlin's N(0, 1) is far too wide for the dot
            products of DLRM.
        rows: of the full table, where ``weight`` stands for one with more rows than it has.
    """
    bound = (rows or len(weight)) ** -0.5
    for values in weight.view(-1).split(ELEMENTS_AT_ONCE):
        if initialisation == "dlrm":
            values.uniform_(-bound, bound)
        else:
            values.normal_(0.0, NORMAL_SCALE)


@torch.no_grad()
def initialise_layers(model: nn.Module) -> None:
    """Linear layers as Facebook's DLRM starts them.

    Weights ``(out, in)`` are N(0, 2 / (in + out)), biases N(0, 1 / out): wider than torch's own,
    which matters where a net is best after one pass over the data. Projections of tables are no
    layers of DLRM and stay as they are.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and not isinstance(layer, Projection):
            outputs, inputs = layer.weight.shape
            layer.weight.normal_(0.0, (2 / (inputs + outputs)) ** 0.5)
            if layer.bias is not None:
                layer.bias.normal_(0.0, outputs**-0.5)
