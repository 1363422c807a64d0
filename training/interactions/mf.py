"""Matrix factorization: Koren et al., "Matrix factorization techniques for recommender systems",
2009; with ``loss: bpr`` Rendle et al., "BPR: Bayesian personalized ranking from implicit
feedback", 2009 (arXiv:1205.2618).

A user's score for an item is the dot product of their vectors plus a bias of each.
"""

import torch
from torch import nn

from core.merlin import Schema
from training.batches import Batch
from training.embeddings import TableGroup
from training.interactions.base import PairModel, PairSettings


class MFSettings(PairSettings):
    """There is nothing else to set."""


class MatrixFactorization(PairModel):
    """⟨p_u, q_i⟩ + b_u + b_i + b."""

    def __init__(self, schema: Schema, settings: MFSettings) -> None:
        super().__init__(schema, settings, "mf")
        user, item = self.input_names
        tables = {
            name: (
                TableGroup(schema.select_by_name([name]), settings.embedding_dim, "dlrm"),
                TableGroup(schema.select_by_name([name]), 1, "normal"),
            )
            for name in (user, item)
        }
        (self.users, self.user_biases), (self.items, self.item_biases) = tables.values()
        for group in (self.users, self.items):
            # A dot product of two then has a deviation of about 0.1.
            nn.init.normal_(group.table.weight, 0.0, (0.1 / settings.embedding_dim**0.5) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(1))

    def pair_scores(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """See :meth:`PairModel.pair_scores`."""
        user, item = self.input_names
        p, q = self.users({user: users})[user], self.items({item: items})[item]
        biases = self.user_biases({user: users})[user] + self.item_biases({item: items})[item]
        return (p * q).sum(1) + biases[:, 0] + self.bias

    def scores(self, batch: Batch) -> torch.Tensor:
        """See :meth:`InteractionModel.scores`; one matrix product."""
        user, item = self.input_names
        users = batch[0][user]
        codes = {item: torch.arange(self.num_items, device=users.device)}
        p, q = self.users({user: users})[user], self.items(codes)[item]
        biases = self.user_biases({user: users})[user] + self.item_biases(codes)[item].T
        return p @ q.T + biases + self.bias


def build(schema: Schema, settings: MFSettings) -> MatrixFactorization:
    """The model for the schema's user and item.

    Raises:
        UserError: the schema lacks one of them, or the rating.
    """
    return MatrixFactorization(schema, settings)
