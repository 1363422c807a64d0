"""The vectors of items: those that events are read as, and those that prefixes are compared to."""

import torch
from torch import nn
from torch.nn import functional

from core.merlin import ColumnSchema, Schema, Tags
from core.names import key_of
from training.distributed import ranks
from training.dropout import Dropout
from training.sessions.base import cardinality, item_column
from training.sessions.neural_settings import NextItemSettings
from training.sessions.ragged import Sessions

SPARSE_FROM = 100_000
"""Items from which a table whose loss is over drawn items gets gradients of those rows only."""


ITEMS_AT_ONCE = 2**16
"""Items of which the vectors are made together where all are scored."""


class ItemVectors(nn.Module):
    """A table of item vectors, and a second one to compare with where weights are not tied.

    With ``mixtures`` K a score is log Σ_k π_k exp(s_k): the weights π and the K queries come from
    the prefix. After Yang et al., Breaking the softmax bottleneck, 2018; one normalisation for all
    components (theirs mixes softmaxes that are each normalised), and no tanh.

    With ``item_features`` the vector of an item is the sum of its own and those of its features, as
    training has shown them: of a categorical column the vector of its code, of a continuous one a
    learned direction times the item's mean value.
    """

    def __init__(self, schema: Schema, settings: NextItemSettings) -> None:
        super().__init__()
        item = item_column(schema)
        self.item, self.num_items = item.name, cardinality(item)
        self.similarity, self.temperature = settings.similarity, settings.temperature
        self.std = settings.embedding_std
        self.dropout = Dropout(settings.item_dropout)
        width = settings.d_model
        drawn = settings.loss_over(self.num_items) != "cross_entropy"
        # Gradients of the processes are averaged, which NCCL does for dense ones only.
        sparse = drawn and self.num_items >= SPARSE_FROM and ranks.world_size() == 1
        # Keys are those of column names, by which messages name a table.
        self.key = key_of(item.name)
        self.inputs = nn.ModuleDict({self.key: self._table(self.num_items, width, sparse)})
        self.outputs = nn.ModuleDict()
        if not settings.weight_tying:
            self.outputs[self.key] = self._table(self.num_items, width, sparse)
        self.mixtures = settings.mixtures
        # To every vector that a prefix asks with comes the log of its weight.
        self.asks = nn.Linear(width, self.mixtures * (width + 1)) if self.mixtures > 1 else None
        self.features = nn.ModuleDict()
        self.directions = nn.ParameterDict()
        self.names = {key_of(name): name for name in settings.item_features}
        for name in settings.item_features:
            self._add_feature(schema[name], width)

    def _table(self, rows: int, width: int, sparse: bool = False) -> nn.Embedding:
        table = nn.Embedding(rows, width, padding_idx=0, sparse=sparse)
        nn.init.normal_(table.weight, std=self.std)
        with torch.no_grad():
            table.weight[0] = 0.0
        return table

    def _add_feature(self, column: ColumnSchema, width: int) -> None:
        key = key_of(column.name)
        if Tags.CATEGORICAL in column.tags:
            self.features[key] = self._table(cardinality(column), width)
            codes = torch.zeros(self.num_items, dtype=torch.long)
            self.register_buffer(f"codes_{key}", codes)
        else:
            self.directions[key] = nn.Parameter(torch.randn(width) * self.std)
            self.register_buffer(f"sums_{key}", torch.zeros(self.num_items))
            self.register_buffer(f"events_{key}", torch.zeros(self.num_items))

    def observe(self, sessions: Sessions) -> None:
        """Takes in what training events show of their items' features.

        An item seen with several codes keeps the highest one: a known value over a missing one, and
        the same whatever the order of the events.
        """
        items = sessions.columns[self.item].long()
        for key in self.features:
            codes = sessions.columns[self.names[key]].long()
            self.get_buffer(f"codes_{key}").scatter_reduce_(0, items, codes, "amax")
        for key in self.directions:
            values = sessions.columns[self.names[key]].float()
            self.get_buffer(f"sums_{key}").index_add_(0, items, values)
            self.get_buffer(f"events_{key}").index_add_(0, items, torch.ones_like(values))

    def state_fault(self) -> str:
        """What is wrong with a state that was read; empty if nothing is."""
        for name, table in self.features.items():
            codes = self.get_buffer(f"codes_{name}")
            if codes.min() < 0 or codes.max() >= len(table.weight):
                return f"codes_{name} holds codes outside of 0 to {len(table.weight) - 1}"
        for name in self.directions:
            if self.get_buffer(f"events_{name}").min() < 0:
                return f"events_{name} holds values below 0"
        return ""

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Item codes of any shape → the vectors that events are read as, ``(…, d_model)``."""
        return self._with_features(self.inputs[self.key](items), items)

    def candidates(self, items: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The vectors that prefixes are compared with, ``(…, d_model)``, of those codes or all."""
        table = (self.outputs if len(self.outputs) else self.inputs)[self.key]
        own = table.weight[items] if isinstance(items, slice) else table(items)
        vectors = self.dropout(self._with_features(own, items))
        return functional.normalize(vectors, dim=-1) if self.similarity == "cosine" else vectors

    def scores(self, hidden: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Of every candidate after every prefix.

        Args:
            hidden: what the model makes of prefixes, ``(prefixes, d_model)``.
            vectors: of candidates, ``(candidates, d_model)``.

        Returns:
            ``(prefixes, candidates)``.
        """
        if self.asks is None:
            return self._query(hidden) @ vectors.T
        queries, weights = self._mixture(hidden)
        return (queries @ vectors.T + weights).logsumexp(0)

    def all_scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of all codes, ``(prefixes, num_items)``, without gradients; what is needed beside them
        does not grow with the catalogue."""
        found = hidden.new_empty(len(hidden), self.num_items)
        with torch.no_grad():
            for first in range(0, self.num_items, ITEMS_AT_ONCE):
                block = slice(first, first + ITEMS_AT_ONCE)
                found[:, block] = self.scores(hidden, self.candidates(block))
        return found

    def pair_scores(self, hidden: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """The same for one candidate a prefix, ``(prefixes, d_model)`` each → ``(prefixes,)``."""
        if self.asks is None:
            return (self._query(hidden) * vectors).sum(1)
        queries, weights = self._mixture(hidden)
        return ((queries * vectors).sum(2, keepdim=True) + weights).logsumexp(0).squeeze(1)

    def _mixture(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What prefixes ask with, ``(mixtures, prefixes, d_model)``, and logs of the weights."""
        asked = self.asks(hidden).unflatten(1, (self.mixtures, -1)).transpose(0, 1)
        return self._query(hidden + asked[..., 1:]), asked[..., :1].log_softmax(0)

    def _query(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.similarity == "cosine":
            hidden = functional.normalize(hidden, dim=-1)
        return hidden / self.temperature

    def _with_features(self, vectors: torch.Tensor, items: torch.Tensor | slice) -> torch.Tensor:
        for name, table in self.features.items():
            vectors = vectors + table(self.get_buffer(f"codes_{name}")[items])
        for name, direction in self.directions.items():
            events = self.get_buffer(f"events_{name}")[items].clamp(min=1)
            means = self.get_buffer(f"sums_{name}")[items] / events
            vectors = vectors + means[..., None] * direction
        return vectors
