"""Mult-VAE and Mult-DAE: Liang et al., "Variational autoencoders for collaborative filtering",
2018 (arXiv:1802.05814).

A user's items as a 0/1 row go through an encoder to a small vector and through a decoder to a
multinomial over all items. The VAE draws the vector and pays for its divergence from a standard
normal, more and more as training goes on; the denoising variant does neither.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from core.errors import UserError
from core.merlin import Schema, torch_models
from training.batches import Batch
from training.interactions.base import InteractionModel, InteractionSettings
from training.interactions.histories import FIRST_CODE, multi_hot


class MultVAESettings(InteractionSettings):
    """The net, and how much the divergence counts."""

    hidden: list[Annotated[int, Field(ge=1)]] = Field([600], min_length=1)
    """Widths of the encoder's hidden layers; the decoder has them the other way round."""

    latent: int = Field(200, ge=1)
    """Width of the vector in the middle."""

    variational: bool = True
    """Whether it is a VAE; false: the denoising autoencoder Mult-DAE."""

    dropout: float = Field(0.5, ge=0, lt=1)
    """Share of a user's items that the encoder does not see in training."""

    beta: float = Field(0.2, ge=0)
    """Weight of the divergence at the end of the annealing."""

    anneal_steps: int = Field(2000, ge=1)
    """Steps over which that weight rises from 0, linearly."""


class MultVAE(InteractionModel):
    """Encoder, a normal in the middle, decoder."""

    reads_users = True
    settings: MultVAESettings

    def __init__(self, schema: Schema, settings: MultVAESettings) -> None:
        super().__init__(schema, settings, "mult_vae")
        mm = torch_models()
        self.input_names = [self.columns.item]
        self.encoder = mm.MLPBlock(settings.hidden, activation=nn.Tanh)
        self.middle = nn.Linear(settings.hidden[-1], settings.latent * (1 + settings.variational))
        self.decoder = mm.MLPBlock(settings.hidden[::-1], activation=nn.Tanh)
        self.output = nn.Linear(settings.hidden[0], self.num_items)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.encoder(torch.zeros(2, self.num_items))
        self.decoder(torch.zeros(2, settings.latent))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.normal_(layer.bias, 0.0, 0.001)

    def encode(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """0/1 rows ``(users, num_items)`` → mean and log variance ``(users, latent)``.

        Rows are divided by their length, so that users with many items do not saturate the tanh.
        """
        rows = nn.functional.normalize(rows)
        rows = nn.functional.dropout(rows, self.settings.dropout, self.training)
        middle = self.middle(self.encoder(rows))
        if not self.settings.variational:
            return middle, None
        mean, log_variance = middle.chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """``(users, latent)`` → logits ``(users, num_items)``, -inf where a code is no item."""
        logits = self.output(self.decoder(latent))
        no_item = torch.arange(self.num_items, device=logits.device) < FIRST_CODE
        return logits.masked_fill(no_item, float("-inf"))

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean over users of the multinomial's negative log likelihood and the divergence."""
        rows = self._rows(batch)
        mean, log_variance = self.encode(rows)
        latent = mean
        if log_variance is not None and self.training:
            latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        logs = torch.log_softmax(self.decode(latent), dim=1)
        likelihood = (logs[:, FIRST_CODE:] * rows[:, FIRST_CODE:]).sum(1)
        loss = -likelihood.mean()
        if log_variance is not None:
            loss = loss + self.weight_of_divergence() * divergence(mean, log_variance).mean()
        if self.training:
            self.steps += 1
        return loss

    def weight_of_divergence(self) -> torch.Tensor:
        """What it counts at this step, from 0 up to ``beta``."""
        return self.settings.beta * (self.steps / self.settings.anneal_steps).clamp(max=1.0)

    def scores(self, batch: Batch) -> torch.Tensor:
        """See :meth:`InteractionModel.scores`; from the mean, nothing is drawn."""
        return self.decode(self.encode(self._rows(batch))[0])

    def _rows(self, batch: Batch) -> torch.Tensor:
        inputs, name = batch[0], self.columns.item
        return multi_hot(inputs[f"{name}__values"], inputs[f"{name}__offsets"], self.num_items)


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, variance) ‖ N(0, 1)) of each row, in nats, ``(rows,)``."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def build(schema: Schema, settings: MultVAESettings) -> MultVAE:
    """The model for the schema's items.

    Raises:
        UserError: the schema lacks user, item or rating, or has no item.
    """
    model = MultVAE(schema, settings)
    if model.num_items <= FIRST_CODE:
        raise UserError("model mult_vae: the item column has no vocabulary")
    return model
