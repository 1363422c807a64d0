"""A model and a split → its metrics, pooled over the whole split."""

from collections.abc import Callable

import torch
from torch import nn

from core import console
from training.batches import Batches
from training.distributed import ranks
from training.hardware import autocast, to_device
from training.trainable import Accumulator, Metrics


def evaluate(
    model: nn.Module, batches: Batches, precision: str = "fp32", what: str = "evaluating"
) -> Metrics:
    """The model's metrics pooled over a whole split, with progress shown under ``what``.

    Args:
        precision: ``fp32`` or ``bf16`` of the matrix products.
    """
    with console.progress(what, total=len(batches), unit="batches") as advance:
        return pooled_metrics(model, batches, precision, advance)


def pooled_metrics(
    model: nn.Module, batches: Batches, precision: str, advance: Callable[[], None]
) -> Metrics:
    """As :func:`evaluate`; ``advance`` is called after every batch."""
    return _over_ranks(pooled(model, batches, precision, advance))


def pooled(
    model: nn.Module, batches: Batches, precision: str, advance: Callable[[], None]
) -> Accumulator:
    """What the model's accumulator holds after a whole split, of this process alone."""
    device = next(model.parameters()).device
    accumulator = model.metrics()
    batches.set_position(0)
    was_training = model.training
    # Not model.eval(): Merlin's output blocks override it to reset a buffer.
    model.train(False)
    with torch.no_grad(), autocast(precision, device):
        for batch in batches:
            batch = to_device(batch, device)
            accumulator.update(model.predict(batch), batch)
            advance()
    model.train(was_training)
    return accumulator


def _over_ranks(accumulator: Accumulator) -> Metrics:
    """The metrics of what all processes have seen, the same in each."""
    if ranks.world_size() == 1:
        return accumulator.compute()
    for state in ranks.tensors_to_first(accumulator.state())[1:]:
        accumulator.add(state)
    return ranks.on_first(accumulator.compute)
