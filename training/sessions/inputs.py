"""Events → vectors: the item's, with side features of the event joined to it."""

import torch
from torch import nn

from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags
from core.names import key_of
from training.dropout import Dropout
from training.sessions.base import cardinality, side_features
from training.sessions.items import ItemVectors
from training.sessions.neural_settings import NextItemSettings


class EventVectors(nn.Module):
    """One vector an event, of its item and of its side features by concatenation, sum or gate.

    Args:
        items: gives the items' vectors.
        names: the side features, list columns of ``schema`` tagged CATEGORICAL or CONTINUOUS.
    """

    def __init__(
        self, schema: Schema, items: ItemVectors, names: list[str], settings: NextItemSettings
    ) -> None:
        super().__init__()
        # The items are the model's; here they are only asked.
        self._items = [items]
        self.item, self.fusion = items.item, settings.side_fusion
        self.keys = {name: key_of(name) for name in names if Tags.CATEGORICAL in schema[name].tags}
        self.tables = nn.ModuleDict(
            {key: _table(schema[name], settings) for name, key in self.keys.items()}
        )
        self.numbers = [name for name in names if name not in self.keys]
        side = len(self.tables) * settings.side_dim + len(self.numbers)
        width = settings.d_model
        joined = width + side if self.fusion == "concat" else side
        self.project = nn.Linear(joined, width) if side else None
        self.gate = nn.Linear(width + side, width) if side and self.fusion == "gate" else None
        self.dropout = Dropout(settings.dropout)

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        """Columns of any one shape ``(…)`` → ``(…, d_model)``."""
        vectors = self._items[0](columns[self.item].long())
        if self.project is None:
            return self.dropout(vectors)
        side = [self.tables[key](columns[name].long()) for name, key in self.keys.items()]
        side += [columns[name].float()[..., None] for name in self.numbers]
        joined = torch.cat([vectors, *side], -1)
        if self.fusion == "concat":
            return self.dropout(self.project(joined))
        added = self.project(torch.cat(side, -1))
        if self.gate is not None:
            added = torch.sigmoid(self.gate(joined)) * added
        return self.dropout(vectors + added)


def _table(column: ColumnSchema, settings: NextItemSettings) -> nn.Embedding:
    table = nn.Embedding(cardinality(column), settings.side_dim, padding_idx=0)
    nn.init.normal_(table.weight, std=settings.embedding_std)
    with torch.no_grad():
        table.weight[0] = 0.0
    return table


def chosen_columns(schema: Schema, setting: str, names: tuple[str, ...] | None) -> list[str]:
    """The list columns that a setting names; None takes all that the features have.

    Raises:
        UserError: the features lack one.
    """
    known = side_features(schema)
    missing = [name for name in names or () if name not in known]
    if missing:
        raise UserError(
            f"{setting}: the features have no list column {', '.join(map(repr, missing))} beside "
            f"the item (found: {', '.join(known) or 'none'}); name only columns that the workflow "
            "makes"
        )
    return known if names is None else list(names)
