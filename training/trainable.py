"""What the training loop asks of a model of either family."""

from typing import Any, NamedTuple, Protocol

import torch

from core.settings import Settings
from training.batches import Batch

Metrics = dict[str, float]


class Monitor(NamedTuple):
    """The validation metric that early stopping watches, and which way is better."""

    name: str
    mode: str  # "min" or "max"

    def better(self, value: float, best: float | None) -> bool:
        """Whether ``value`` beats the best one so far, if there is one."""
        if best is None:
            return True
        return value > best if self.mode == "max" else value < best


class Accumulator(Protocol):
    """Pools a whole split's predictions; nothing is averaged over batches."""

    def update(self, prediction: Any, batch: Batch) -> None:
        """Takes what ``Trainable.predict`` returned for ``batch``."""

    def state(self) -> dict[str, torch.Tensor]:
        """All that was seen so far, as tensors that another process can be sent."""

    def add(self, state: dict[str, torch.Tensor]) -> None:
        """Takes in what another accumulator has seen."""

    def compute(self) -> Metrics:
        """The metrics of everything seen; one that is not defined there is None."""


class Trainable(Protocol):
    """What the loop asks of a model, beside being an ``nn.Module``.

    Attributes:
        settings: the model's own settings; a checkpoint made under others is not resumed.
        monitor: one of the names that ``metrics().compute()`` returns, and its direction.
    """

    settings: Settings
    monitor: Monitor

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean loss of a training batch, a scalar tensor with a gradient."""

    def predict(self, batch: Batch) -> Any:
        """Predictions for a batch, as ``metrics().update`` takes them. Called in eval mode."""

    def metrics(self) -> Accumulator:
        """A fresh accumulator for one pass over a split."""
