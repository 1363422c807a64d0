"""Which rows of which weight belong to which column of the features."""

from typing import NamedTuple

from torch import nn

from core.names import name_of
from training.embeddings import TableGroup


class TableSlice(NamedTuple):
    """The rows of one column's table."""

    column: str
    name: str
    """Of the parameter, in the model's state dict."""
    parameter: nn.Parameter
    first: int
    rows: int
    code: int = 0
    """Of the first row: not 0 in a table whose rows lie in several processes."""


def table_slices(model: nn.Module) -> list[TableSlice]:
    """Every column's table, in the model's order; columns that share rows each have their own.

    Groups of tables say themselves which rows are whose; of other embeddings the column is the
    key under which they stand, as in the ``embedding_tables`` of Transformers4Rec.
    """
    found = []
    names = {parameter: name for name, parameter in model.named_parameters()}
    grouped = set()
    for path, module in model.named_modules():
        if isinstance(module, TableGroup) and not hasattr(module.table, "weight"):
            name = f"{path}.table.weight"
            for column, *place in module.table.column_shards():
                found.append(TableSlice(column, name, *place))
        elif isinstance(module, TableGroup):
            weight = module.table.weight
            grouped.add(weight)
            starts = module.places.tolist()
            ends = sorted({*starts, len(weight)})
            for column, start in zip(module.names, starts, strict=True):
                end = ends[ends.index(start) + 1]
                found.append(TableSlice(column, names[weight], weight, start, end - start))
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight not in grouped:
            grouped.add(module.weight)
            column = name_of(path.rpartition(".")[2])
            weight = module.weight
            found.append(TableSlice(column, names[weight], weight, 0, len(weight)))
    return found


def input_columns(model: nn.Module) -> list[str] | None:
    """The columns that a model says it reads, or None where it does not say."""
    return getattr(model, "input_names", None) or getattr(model, "columns", None)


def column_rows(model: nn.Module) -> dict[str, int]:
    """The number of rows of each column's table."""
    found = {part.column: part.rows for part in table_slices(model)}
    for module in model.modules():
        if isinstance(module, TableGroup) and not hasattr(module.table, "weight"):
            found |= module.table.column_rows()  # All of them, here or in other processes.
    return found
