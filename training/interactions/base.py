"""What models of users and items share: their losses, and how all items are ranked for a user."""

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from core.merlin import Schema
from training.batches import Batch
from training.interactions.histories import FIRST_CODE, interaction_columns, multi_hot
from training.metrics.binary import BinaryAccumulator
from training.metrics.ratings import RatingAccumulator
from training.metrics.users import UserMetrics
from training.model_settings import ModelSettings
from training.trainable import Accumulator, Monitor


class InteractionSettings(ModelSettings):
    """What every model of users and items has."""

    ks: tuple[int, ...] = Field((10, 20, 100), min_length=1)
    """Lengths of the list of recommendations that are judged; training watches ndcg of the
    first."""

    @field_validator("ks")
    @classmethod
    def _at_least_one(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError("a list of recommendations has 1 item at least")
        return value


class PairSettings(InteractionSettings):
    """What models that score one user with one item have."""

    embedding_dim: int = Field(32, ge=1)
    """Width of the vectors of users and items."""

    loss: Literal["pointwise", "bpr", "rating"] = "bpr"
    """pointwise: cross-entropy, chosen items against ``negatives`` drawn at random; bpr: a chosen
    item should score above one drawn at random (Rendle et al., 2009); rating: the target itself,
    by squared error, or by cross-entropy where it is 0 or 1."""

    negatives: int = Field(1, ge=1)
    """pointwise and bpr: items drawn for each chosen one, evenly from all items, those that the
    user chose among them."""


class InteractionModel(nn.Module):
    """Scores items for users; trained by the engine, judged on held-out items of each user.

    Attributes:
        input_names: columns of the features that it reads.
        reads_users: whether a training batch holds users with their items (see ``UserBatches``)
            rather than single ratings.
        ranks_items: whether it is judged on rankings of all items rather than on single ratings.
    """

    reads_users = False
    ranks_items = True

    def __init__(self, schema: Schema, settings: InteractionSettings, name: str) -> None:
        super().__init__()
        self.settings = settings
        self.columns = interaction_columns(schema, name)
        self.input_names = [self.columns.user, self.columns.item]
        self.num_items = int(schema[self.columns.item].int_domain.max) + 1
        self.monitor = Monitor(f"ndcg@{settings.ks[0]}", "max")

    def scores(self, batch: Batch) -> torch.Tensor:
        """A batch of ``UserBatches`` → a score for every item code, ``(users, num_items)``."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> torch.Tensor:
        """:meth:`scores`, with -inf for codes that are no items and items of the history."""
        return self.without_history(self.scores(batch).float(), batch)

    def without_history(self, scores: torch.Tensor, batch: Batch) -> torch.Tensor:
        """``scores`` with -inf for codes that are no items and items of the history."""
        inputs, name = batch[0], self.columns.item
        seen = multi_hot(inputs[f"{name}__values"], inputs[f"{name}__offsets"], self.num_items)
        seen[:, :FIRST_CODE] = 1.0
        return scores.masked_fill(seen > 0, float("-inf"))

    def metrics(self) -> "HeldOutMetrics":
        """recall@k and ndcg@k over users."""
        return HeldOutMetrics(self.settings.ks, self.columns.item)


class HeldOutMetrics:
    """The engine's accumulator: scores of a batch of users against their held-out items."""

    def __init__(self, ks: tuple[int, ...], item: str) -> None:
        self.pooled = UserMetrics(ks)
        self.item = item

    def update(self, prediction: torch.Tensor, batch: Any) -> None:
        """Takes what ``InteractionModel.predict`` returned for ``batch``."""
        _, targets = batch
        name = self.item
        values, offsets = targets[f"{name}__values"], targets[f"{name}__offsets"]
        relevant = multi_hot(values, offsets, prediction.shape[1])
        # Chosen in training already: no recommendation any more.
        relevant = relevant * torch.isfinite(prediction)
        some = relevant.sum(1) > 0
        if some.any():
            self.pooled.add(prediction[some], relevant[some])

    def compute(self) -> dict[str, float | None]:
        """The metrics of everything seen."""
        return self.pooled.compute()


class PairModel(InteractionModel):
    """A model of :meth:`pair_scores`: what is left to it is how a user and an item are scored."""

    settings: PairSettings

    def __init__(self, schema: Schema, settings: PairSettings, name: str) -> None:
        super().__init__(schema, settings, name)
        if settings.loss == "rating":
            self.ranks_items = False
            self.monitor = Monitor("rmse" if self.columns.explicit else "logloss", "min")

    def predict(self, batch: Batch) -> torch.Tensor:
        """As the base class; with ``loss: rating`` the scores of a batch of ratings."""
        if self.ranks_items:
            return super().predict(batch)
        return self.pair_scores(*(batch[0][name].long() for name in self.input_names)).float()

    def metrics(self) -> Accumulator:
        """As the base class; with ``loss: rating`` the errors, or those of a click model."""
        if self.ranks_items:
            return super().metrics()
        return RatingAccumulator() if self.columns.explicit else BinaryAccumulator()

    def pair_scores(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Codes ``(n,)`` of both → scores ``(n,)``."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean of ``settings.loss`` over a batch of ratings."""
        inputs, targets = batch
        users, items = (inputs[name].long() for name in self.input_names)
        if self.settings.loss == "rating":
            scores = self.pair_scores(users, items)
            if self.columns.explicit:
                return nn.functional.mse_loss(scores, targets)
            return nn.functional.binary_cross_entropy_with_logits(scores, targets)
        if not self.columns.explicit:
            chosen = targets > 0
            if not chosen.any():
                # A batch without a chosen item teaches nothing, but has a gradient.
                return 0.0 * self.pair_scores(users, items).sum()
            users, items = users[chosen], items[chosen]
        return self.implicit_loss(users, items, self.draw(len(users), items.device))

    def draw(self, rows: int, device: torch.device) -> torch.Tensor:
        """Items drawn evenly from all, ``(rows, negatives)``."""
        shape = (rows, self.settings.negatives)
        return torch.randint(FIRST_CODE, self.num_items, shape, device=device)

    def implicit_loss(
        self, users: torch.Tensor, items: torch.Tensor, drawn: torch.Tensor
    ) -> torch.Tensor:
        """Chosen ``(n,)`` pairs against drawn items ``(n, negatives)``."""
        chosen = self.pair_scores(users, items).unsqueeze(1)
        repeated = users.repeat_interleave(drawn.shape[1])
        other = self.pair_scores(repeated, drawn.flatten()).view_as(drawn)
        softplus = nn.functional.softplus
        if self.settings.loss == "bpr":
            return softplus(other - chosen).mean()
        return (softplus(-chosen).sum() + softplus(other).sum()) / (chosen.numel() + other.numel())
