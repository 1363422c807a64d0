"""One training step: forward, backward, and the update of tables and dense layers."""

import torch
from torch import nn

from training import hardware, optimizers, schedule
from training.batches import Batch
from training.distributed import ranks
from training.engine_settings import EngineSettings


class Step:
    """The parts of a step, in the order in which the loop calls them.

    Args:
        settings: with ``device`` and ``precision`` resolved.
    """

    def __init__(self, model: nn.Module, settings: EngineSettings) -> None:
        self.model = model
        self.settings = settings
        self.device = ranks.local_device(settings.device)
        self.parallel = None
        if ranks.world_size() > 1:
            from training.distributed.parallel import Parallel

            self.parallel = Parallel(model, settings, self.device)
        self.optimizers = optimizers.make_optimizers(model, settings, self.device)
        self.tables = optimizers.table_parameters(model)
        if self.parallel:
            self.optimizers += self.parallel.optimizers

    def prepare(self, batch: Batch, rate_factor: float) -> Batch:
        """Sets the learning rates, forgets the last gradients, moves the batch to the device."""
        # Before the backward pass, since fused tables are updated inside it.
        schedule.set_rates(self.optimizers, rate_factor)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return self.place(batch)

    def place(self, batch: Batch) -> Batch:
        """The batch on the device."""
        return hardware.to_device(batch, self.device)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The batch's loss, a scalar with a gradient."""
        with hardware.autocast(self.settings.precision, self.device):
            return self.parallel.loss(batch) if self.parallel else self.model.loss(batch)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of all weights, decayed and clipped as the settings say."""
        loss.backward()
        self.change_gradients()

    def change_gradients(self) -> None:
        """Decay of the rows that the batch uses, and clipping."""
        shards = self.parallel.shard_weights if self.parallel else []
        if self.settings.table_weight_decay:
            optimizers.decay_tables([*self.tables, *shards], self.settings.table_weight_decay)
        if self.settings.gradient_clip:
            largest = self.settings.gradient_clip
            optimizers.clip_gradients(self.model.parameters(), largest, shards)

    def update(self) -> None:
        """Moves the weights."""
        for optimizer in self.optimizers:
            optimizer.step()
