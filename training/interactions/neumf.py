"""NeuMF: He et al., "Neural collaborative filtering", 2017 (arXiv:1708.05031).

GMF weights the products of the vectors' entries; an MLP reads the vectors side by side, from tables
of its own; NeuMF joins both in one score. The MLP is Merlin's ``MLPBlock``.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from core.merlin import Schema, torch_models
from training.batches import Batch
from training.embeddings import TableGroup
from training.interactions.base import PairModel, PairSettings

PAIRS_AT_ONCE = 2**18


class NeuMFSettings(PairSettings):
    """The net's sizes."""

    parts: Literal["both", "gmf", "mlp"] = "both"
    """both: NeuMF; gmf, mlp: one of its two parts alone."""

    mlp: list[Annotated[int, Field(ge=1)]] = Field([64, 32, 16], min_length=1)
    """Widths of the MLP."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the MLP's activations dropped in training."""

    loss: Literal["pointwise", "bpr", "rating"] = "pointwise"
    """pointwise: cross-entropy, chosen items against ``negatives`` drawn at random; bpr: a chosen
    item should score above one drawn at random (Rendle et al., 2009); rating: the target itself,
    by squared error, or by cross-entropy where it is 0 or 1."""

    negatives: int = Field(4, ge=1)
    """pointwise and bpr: items drawn for each chosen one, evenly from all items, those that the
    user chose among them."""


class NeuMF(PairModel):
    """h · [p_u ∘ q_i, MLP(p'_u, q'_i)] + b."""

    settings: NeuMFSettings

    def __init__(self, schema: Schema, settings: NeuMFSettings) -> None:
        super().__init__(schema, settings, "neumf")
        names, dim = self.input_names, settings.embedding_dim
        self.gmf = self.towers = None
        width = 0
        if settings.parts != "mlp":
            self.gmf = nn.ModuleList(_table(schema, name, dim) for name in names)
            width += dim
        if settings.parts != "gmf":
            self.towers = nn.ModuleList(_table(schema, name, dim) for name in names)
            self.mlp = torch_models().MLPBlock(settings.mlp, dropout=settings.dropout or None)
            self.mlp(torch.zeros(2, 2 * dim))
            width += settings.mlp[-1]
        self.output = nn.Linear(width, 1)

    def pair_scores(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """See :meth:`PairModel.pair_scores`."""
        codes = dict(zip(self.input_names, (users, items), strict=True))
        parts = []
        if self.gmf is not None:
            user, item = self._vectors(self.gmf, codes)
            parts.append(user * item)
        if self.towers is not None:
            parts.append(self.mlp(torch.cat(self._vectors(self.towers, codes), dim=1)))
        return self.output(torch.cat(parts, dim=1))[:, 0]

    def _vectors(self, tables: nn.ModuleList, codes: dict) -> list[torch.Tensor]:
        return [table(codes)[name] for table, name in zip(tables, self.input_names, strict=True)]

    def scores(self, batch: Batch) -> torch.Tensor:
        """See :meth:`InteractionModel.scores`; every pair is scored, some users at a time."""
        users = batch[0][self.columns.user]
        items = torch.arange(self.num_items, device=users.device)
        found = []
        for some in users.split(max(1, PAIRS_AT_ONCE // self.num_items)):
            pairs = some.repeat_interleave(len(items)), items.repeat(len(some))
            found.append(self.pair_scores(*pairs).view(len(some), -1))
        return torch.cat(found)


def _table(schema: Schema, name: str, dim: int) -> TableGroup:
    table = TableGroup(schema.select_by_name([name]), dim, "normal")
    nn.init.normal_(table.table.weight, 0.0, (0.1 / dim**0.5) ** 0.5)
    return table


def build(schema: Schema, settings: NeuMFSettings) -> NeuMF:
    """The model for the schema's user and item.

    Raises:
        UserError: the schema lacks one of them, or the rating.
    """
    return NeuMF(schema, settings)
