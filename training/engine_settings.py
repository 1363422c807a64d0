"""Settings of the training loop, apart from it so that reading them does not import torch."""

from typing import Literal

from pydantic import Field, model_validator

from core.settings import Settings

Optimizer = Literal["adam", "adamw", "adagrad", "sgd"]


class EngineSettings(Settings):
    """How a model of either family is trained.

    What is not set here is as the model has it: each starts from settings of its own, see
    docs/models.md. So does null, where it is no value of the setting's own.
    """

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

    table_optimizer: Optimizer | Literal["rowwise_adagrad"] | None = None
    """Of the embedding tables; null: the same as ``optimizer``. It moves the rows that a batch uses
    and no others; but session models' tables have dense gradients (except those of 100,000 items or
    more whose loss is over drawn items, in one process), so that Adam's momentum moves other rows
    too. rowwise_adagrad keeps one number a row instead of one a weight."""

    table_learning_rate: float | None = Field(None, gt=0)
    """Of ``table_optimizer``; null: the same as ``learning_rate``."""

    linear_learning_rate: float | None = Field(None, gt=0)
    """Of the weights of single codes, which logistic_regression and the linear parts of fm, deepfm,
    afm and wide_and_deep have; null: the same as ``table_learning_rate``."""

    table_weight_decay: float = Field(0.0, ge=0)
    """L2 on embedding rows, applied to the rows that a batch uses."""

    tables: Literal["auto", "plain", "compiled", "fused"] = "auto"
    """How click models' tables are looked up and updated; the numbers are the same. plain: torch's
    nn.Embedding; compiled: loops over the batch's rows, CPU only; fused: FBGEMM, whose backward
    pass is the optimizer step; auto: compiled on CPU, on a GPU fused, or plain where a width is no
    multiple of 4 (the weights of single codes have width 1), with gradient_clip or
    table_weight_decay, or without fbgemm_gpu."""

    tables_out_of_core: bool = False
    """Whether click models' tables and their optimizer's state may be larger than memory. They then
    lie in memory-mapped files beside the checkpoints, or, with a GPU, in the host's memory."""

    sharding: Literal["auto", "table_wise", "row_wise", "column_wise"] = "auto"
    """How click models' tables lie over several processes (torchrun): whole tables, or cut by rows
    or by columns; auto: as TorchRec's planner finds best for each table."""

    process_timeout_minutes: float = Field(10.0, gt=0)
    """How long a process of several waits for another before it takes it for lost; writing a
    checkpoint has to take less."""

    warmup_steps: int = Field(0, ge=0)
    """Steps over which both learning rates rise linearly from near 0."""

    decay: Literal["constant", "linear", "cosine", "plateau"] = "constant"
    """How both learning rates fall after the warm-up: linear and cosine go to 0 at the last step;
    plateau multiplies them by ``plateau_factor`` where validation gets no better."""

    plateau_factor: float = Field(0.5, gt=0, lt=1)
    """What ``decay: plateau`` multiplies both learning rates by."""

    plateau_patience: int = Field(1, ge=1)
    """Validations without a better value before ``decay: plateau`` lowers the rates."""

    gradient_clip: float | None = Field(None, gt=0)
    """Largest norm of all gradients taken together; larger ones are scaled down to it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model is trained; auto: on the GPU where torch sees one."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: matrix products in bfloat16 by autocast; weights and losses stay in fp32. auto: bf16 on
    a GPU that multiplies it natively, else fp32, so that every CPU gives the same curve."""

    compile: bool = False
    """Compile the dense layers with torch.compile. On the CPU this needs a C++ compiler, and did
    not pay on a machine with AVX2 only."""

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
    """Of the initial weights, the row order, dropout, masking and drawn negatives. With it the
    whole run is reproducible on CPU."""

    threads: int | None = Field(None, ge=1)
    """CPU threads for tensor arithmetic; null: as many as torch chooses."""

    @model_validator(mode="after")
    def _plateau_comes_before_the_end(self) -> "EngineSettings":
        if self.decay == "plateau" and self.patience and self.patience <= self.plateau_patience:
            raise ValueError(
                f"decay: plateau lowers the rates after plateau_patience={self.plateau_patience} "
                f"validations without a better one, but patience={self.patience} ends the run by "
                "then; set patience higher"
            )
        return self

    def steps_between_validations(self, batches: int) -> int:
        """Steps from one validation to the next, for an epoch of ``batches``."""
        return self.validate_every_steps or max(1, round(self.validate_every * batches))

    def that_shape_the_result(self) -> dict:
        """The settings that a resumed run must share with the run it continues.

        Ask settings whose ``auto`` has been resolved: what auto means is the machine's.
        """
        housekeeping = {
            "valid_batch_size",
            "checkpoint_every_steps",
            "checkpoint_every_minutes",
            "keep_checkpoints",
            "threads",
            "tables",
            "tables_out_of_core",
            "sharding",
            "process_timeout_minutes",
        }
        return self.model_dump(mode="json", exclude=housekeeping)
