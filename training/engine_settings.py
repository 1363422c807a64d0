"""Settings of the training loop, apart from it so that reading them does not import torch."""

from typing import Literal

from pydantic import Field

from core.settings import Settings

Optimizer = Literal["adam", "adamw", "adagrad", "sgd"]


class EngineSettings(Settings):
    """How a model of either family is trained."""

    epochs: int = Field(2, ge=1)
    """Passes over the training split, at most; early stopping may end the run sooner."""

    max_steps: int | None = Field(None, ge=1)
    """Batches to train on, at most."""

    batch_size: int = Field(128, ge=1)
    """Rows of a training batch, all processes together."""

    valid_batch_size: int = Field(4096, ge=1)
    """Rows of a batch in validation; it changes the speed, not the figures."""

    optimizer: Optimizer = "adagrad"
    """Of all weights that are not embedding tables."""

    learning_rate: float = Field(0.01, gt=0)
    """Of ``optimizer``, after the warm-up."""

    weight_decay: float = Field(0.0, ge=0)
    """L2 (decoupled for adamw) on all weights that are not embedding tables."""

    table_optimizer: Optimizer | None = None
    """Of the embedding tables; null: the same as ``optimizer``."""

    table_learning_rate: float | None = Field(None, gt=0)
    """Of ``table_optimizer``; null: the same as ``learning_rate``."""

    table_weight_decay: float = Field(0.0, ge=0)
    """L2 on embedding rows, applied to the rows that a batch uses."""

    warmup_steps: int = Field(0, ge=0)
    """Steps over which both learning rates rise linearly from near 0."""

    decay: Literal["constant", "linear", "cosine"] = "constant"
    """How both learning rates go to 0 between the warm-up and the last step, if they do."""

    gradient_clip: float | None = Field(None, gt=0)
    """Largest norm of all gradients taken together; larger ones are scaled down to it."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 by autocast; weights and losses stay in fp32."""

    validate_every: float = Field(0.25, gt=0)
    """Epochs between validations: 0.25 validates four times an epoch."""

    validate_every_steps: int | None = Field(None, ge=1)
    """Steps between validations, in the place of ``validate_every``."""

    patience: int | None = Field(3, ge=1)
    """Validations without a better value before training stops; null: never."""

    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Steps between resumable checkpoints; null: by time alone."""

    checkpoint_every_minutes: float | None = Field(5.0, gt=0)
    """Minutes between resumable checkpoints; null: by steps alone."""

    keep_checkpoints: int = Field(2, ge=1)
    """Resumable checkpoints kept; older ones are deleted."""

    seed: int = Field(0, ge=0)
    """Of the row order, dropout and masking. With it the whole run is reproducible on CPU."""

    threads: int | None = Field(None, ge=1)
    """CPU threads for tensor arithmetic; null: as many as torch chooses."""

    def steps_between_validations(self, batches: int) -> int:
        """Steps from one validation to the next, for an epoch of ``batches``."""
        return self.validate_every_steps or max(1, round(self.validate_every * batches))

    def that_shape_the_result(self) -> dict:
        """The settings that a resumed run must share with the run it continues."""
        housekeeping = {
            "valid_batch_size",
            "checkpoint_every_steps",
            "checkpoint_every_minutes",
            "keep_checkpoints",
            "threads",
        }
        return self.model_dump(mode="json", exclude=housekeeping)
