"""The one training loop for both families, on Lightning.

A model brings its loss, its predictions and its metrics (:class:`Trainable`); the loop brings
everything else: optimizers, precision, validation, early stopping, checkpoints and exact resume.
"""

import contextlib
import csv
import io
import itertools
import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from core import console
from core.artifacts import atomic_path, digest
from core.errors import UserError
from core.settings import Settings
from training import checkpoints, optimizers
from training.batches import Batch, Batches
from training.checkpoints import Checkpoint, CheckpointFolder
from training.engine_settings import EngineSettings

__all__ = ["EngineSettings", "FitResult", "Monitor", "Trainable", "evaluate", "fit", "seed_all"]

Metrics = dict[str, float]


class Monitor(NamedTuple):
    """The validation metric that early stopping watches, and which way is better."""

    name: str
    mode: str  # "min" or "max"


class Accumulator(Protocol):
    """Pools a whole split's predictions; nothing is averaged over batches."""

    def update(self, prediction: Any, batch: Batch) -> None:
        """Takes what ``Trainable.predict`` returned for ``batch``."""

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


@dataclass(frozen=True)
class FitResult:
    """How a run ended. The model holds the weights of ``best_step`` afterwards."""

    steps: int
    epochs: float
    best_step: int
    metrics: Metrics
    """Of the validation split at ``best_step``; empty without one."""
    stopped: str
    """``finished`` or ``patience``."""
    seconds: float
    """Of training in this process: without validation, and what a resumed run did before."""
    samples_per_second: float
    history: list[dict[str, float]]
    """The rows of ``history.csv``."""


def seed_all(seed: int) -> None:
    """Seeds Python, NumPy and torch; call it before a model is built, as :func:`fit` does after."""
    with _quiet():
        lightning.seed_everything(seed, workers=False, verbose=False)


def fit(
    model: nn.Module,
    train: Batches,
    valid: Batches | None,
    settings: EngineSettings,
    folder: str | Path,
    resume: bool = True,
    identity: str = "",
) -> FitResult:
    """Trains ``model`` and leaves it with its best weights.

    Writes to ``folder``: ``history.csv`` (a row a validation), ``model.safetensors`` (the best
    weights) and ``checkpoints/``. A run that was killed or interrupted goes on from its last
    whole checkpoint when called again with the same settings, model and data; on CPU its final
    weights are then bit for bit those of an undisturbed run. A finished run is not repeated.

    Args:
        model: an ``nn.Module`` that is a :class:`Trainable`.
        valid: without one there is no early stopping, and the last weights are the best.
        resume: False deletes the checkpoints found in ``folder`` and trains afresh.
        identity: whatever else the result depends on, such as a hash of the features; a
            checkpoint made under another one is not resumed.

    Raises:
        UserError: a NaN or infinite loss, naming the step; a validation metric that the split
            does not define.
        KeyboardInterrupt: on Ctrl-C, once a resumable checkpoint is written.
    """
    folder = Path(folder)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    seed_all(settings.seed)
    store = CheckpointFolder(folder / "checkpoints", settings.keep_checkpoints)
    run = _Run(model, train, valid, settings, folder, store, identity)
    start = store.newest(run.fingerprint) if resume else None
    if start is None:
        store.clear()
        run.train_from(None)
        return run.result()
    run.progress = _Progress(**start.state["progress"])
    if start.state["finished"]:
        console.say(f"{folder}: already trained with these settings on this data")
    else:
        console.say(f"{folder}: resuming at step {run.progress.step:,} of {run.total_steps:,}")
        run.train_from(start)
    return run.result()


def evaluate(
    model: nn.Module, batches: Batches, precision: str = "fp32", what: str = "evaluating"
) -> Metrics:
    """The model's metrics pooled over a whole split, with progress shown under ``what``."""
    with console.progress(what, total=len(batches), unit="batches") as advance:
        return _evaluate(model, batches, precision, advance)


def _evaluate(
    model: nn.Module, batches: Batches, precision: str, advance: Callable[..., None]
) -> Metrics:
    device = next(model.parameters()).device
    accumulator = model.metrics()
    batches.set_position(0)
    was_training = model.training
    # Not model.eval(): Merlin's output blocks override it to reset a buffer.
    model.train(False)
    with torch.no_grad(), _autocast(precision, device):
        for batch in batches:
            batch = _to_device(batch, device)
            accumulator.update(model.predict(batch), batch)
            advance()
    model.train(was_training)
    return accumulator.compute()


@dataclass
class _Progress:
    """Everything that moves while a run goes on, except tensors; part of every checkpoint."""

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_step: int | None = None
    best_metrics: Metrics | None = None
    validations_since_best: int = 0
    history: list[dict[str, float]] | None = None


class _Task(lightning.LightningModule):
    """One training step. The optimizers are stepped here, since tables have their own."""

    def __init__(self, run: "_Run") -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = run.model
        self._run = run

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return self._run.optimizers

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        run = self._run
        settings = run.settings
        optimizers.set_rates(
            run.optimizers,
            optimizers.rate_factor(run.progress.step, run.total_steps, settings),
        )
        for optimizer in run.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = self.model.loss(batch)
        run.check_loss(loss, batch)
        self.manual_backward(loss)
        if settings.table_weight_decay:
            optimizers.decay_tables(run.tables, settings.table_weight_decay)
        if settings.gradient_clip:
            optimizers.clip_gradients(self.model.parameters(), settings.gradient_clip)
        for optimizer in run.optimizers:
            optimizer.step()


class _Stream:
    """The remaining batches of all epochs as one sequence, from a step on."""

    def __init__(self, train: Batches, step: int, total_steps: int) -> None:
        self.train, self.step, self.total_steps = train, step, total_steps

    def __len__(self) -> int:
        return self.total_steps - self.step

    def __iter__(self) -> Iterator[Batch]:
        left = len(self)
        self.train.set_position(*divmod(self.step, len(self.train)))
        while left > 0:
            for batch in self.train:
                yield batch
                left -= 1
                if not left:
                    break


class _Run(lightning.Callback):
    """What happens around the steps: progress, validation, stopping, checkpoints."""

    def __init__(
        self,
        model: nn.Module,
        train: Batches,
        valid: Batches | None,
        settings: EngineSettings,
        folder: Path,
        store: CheckpointFolder,
        identity: str,
    ) -> None:
        self.model, self.train, self.valid = model, train, valid
        self.settings, self.folder, self.store = settings, folder, store
        steps = settings.epochs * len(train)
        self.total_steps = min(steps, settings.max_steps or steps)
        self.progress = _Progress()
        self.optimizers = optimizers.make_optimizers(model, settings)
        self.tables = optimizers.table_parameters(model)
        self.fingerprint = {
            "identity": identity,
            "code": digest(Path(__file__).parent),
            "settings": settings.that_shape_the_result(),
            "model": {"class": type(model).__name__, **model.settings.model_dump(mode="json")},
            "shapes": {name: list(t.shape) for name, t in model.state_dict().items()},
            "data": {
                "train": train.fingerprint,
                "valid": valid.fingerprint if valid else None,
                "order": [train.batch_size, train.shuffle, train.seed, train.chunk_rows],
            },
        }
        self.seconds = 0.0
        self.steps_here = 0
        self.interrupted = False
        self._start: Checkpoint | None = None
        self._advance: Any = None
        self._saved_at = self._resumed_at = time.monotonic()

    # -- the run as a whole ----------------------------------------------------------------

    def train_from(self, start: Checkpoint | None) -> None:
        """Trains from a checkpoint, or from the weights as they are, to the end."""
        if start is not None:
            checkpoints.restore_model(self.model, start.tensors)
            checkpoints.restore_optimizers(
                self.optimizers, start.tensors, start.state["optimizers"]
            )
        self._start = start
        stream = _Stream(self.train, self.progress.step, self.total_steps)
        with (
            _quiet(),
            self._signals(),
            console.progress("training", self.total_steps, "steps") as self._advance,
        ):
            self._advance(self.progress.step)
            trainer = lightning.Trainer(
                max_epochs=1,
                devices=1,
                precision={"fp32": "32-true", "bf16": "bf16-mixed"}[self.settings.precision],
                logger=False,
                callbacks=[self],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
            # Interrupted in its very last step, a run has only its end left.
            if len(stream) and not self._out_of_patience():
                # Lightning adds a SIGTERM handler of its own, which ends the run with an exception.
                with contextlib.suppress(SIGTERMException):
                    trainer.fit(_Task(self), train_dataloaders=stream)
            if not self.interrupted:
                self._finish()
        if self.interrupted:
            console.say(
                f"interrupted after step {self.progress.step:,}; "
                "the same command goes on from there"
            )
            raise KeyboardInterrupt

    def result(self) -> FitResult:
        """Restores the best weights and writes them beside the history."""
        progress = self.progress
        if progress.best_step is not None:
            best = checkpoints.load(self.store.best_file(progress.best_step))
            checkpoints.restore_model(self.model, best.tensors)
        checkpoints.save_weights(self.folder / "model.safetensors", self.model)
        self._write_history()
        patience = progress.step < self.total_steps
        rate = self.steps_here * self.train.batch_size / self.seconds if self.seconds else 0.0
        return FitResult(
            steps=progress.step,
            epochs=progress.step / len(self.train),
            best_step=progress.best_step or progress.step,
            metrics=progress.best_metrics or {},
            stopped="patience" if patience else "finished",
            seconds=self.seconds,
            samples_per_second=rate,
            history=progress.history or [],
        )

    def _finish(self) -> None:
        if self.valid is None:
            self._record({})
            self.progress.best_step = self.progress.step
            self._save_best()
        elif not self.progress.history or self.progress.history[-1]["step"] < self.progress.step:
            self._validate()
        self._save(finished=True)

    # -- Lightning's hooks -----------------------------------------------------------------

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        # As late as can be, so that nothing draws from the generators in between.
        if self._start is not None:
            checkpoints.restore_random(self._start.tensors, self._start.state["random"])
            self._start = None
        self._saved_at = self._resumed_at = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        progress = self.progress
        progress.step += 1
        self.steps_here += 1
        self.seconds += time.monotonic() - self._resumed_at
        self._advance(1, note=self._note())
        if self.valid and progress.step % self._validate_every == 0:
            self._validate()
        if self.interrupted or self._checkpoint_due():
            self._save()
        trainer.should_stop = self.interrupted or self._out_of_patience()
        self._resumed_at = time.monotonic()

    # -- pieces ----------------------------------------------------------------------------

    @property
    def _validate_every(self) -> int:
        return self.settings.steps_between_validations(len(self.train))

    def check_loss(self, loss: torch.Tensor, batch: Batch) -> None:
        """Adds a step's loss to the curve; one that is not finite ends the run."""
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(_explain_loss(value, self.progress.step + 1, batch))
        self.progress.loss_sum += value
        self.progress.loss_steps += 1

    def _validate(self) -> None:
        done = itertools.count(1)

        def advance() -> None:
            self._advance(0, note=f"validating: {next(done):,} of {len(self.valid):,} batches")

        metrics = _evaluate(self.model, self.valid, self.settings.precision, advance)
        name, mode = self.model.monitor
        value = metrics.get(name)
        if value is None or not math.isfinite(value):
            raise UserError(
                f"{self.valid.folder}: {name} is not defined on the validation split "
                f"({self.valid.rows} rows); it needs more, or more varied, rows"
            )
        self._record({f"valid_{key}": v for key, v in metrics.items()})
        progress = self.progress
        best = (progress.best_metrics or {}).get(name)
        if best is None or (value > best if mode == "max" else value < best):
            progress.best_step, progress.best_metrics = progress.step, metrics
            progress.validations_since_best = 0
            self._save_best()
        else:
            progress.validations_since_best += 1

    def _record(self, metrics: Metrics) -> None:
        """Adds a row to the history and to ``history.csv``."""
        progress = self.progress
        row = {
            "step": progress.step,
            "epoch": round(progress.step / len(self.train), 6),
            "train_loss": progress.loss_sum / max(1, progress.loss_steps),
            **metrics,
        }
        progress.history = [*(progress.history or []), row]
        progress.loss_sum, progress.loss_steps = 0.0, 0
        self._write_history()

    def _write_history(self) -> None:
        history = self.progress.history or []
        text = io.StringIO()
        first = ["step", "epoch", "train_loss"]
        # Rows that come from a checkpoint have lost the order of their columns.
        names = first + sorted({name for row in history for name in row} - set(first))
        writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        with atomic_path(self.folder / "history.csv") as partial:
            partial.write_text(text.getvalue(), encoding="utf-8")

    def _note(self) -> str:
        progress = self.progress
        last = progress.history[-1] if progress.history else {}
        mean = progress.loss_sum / progress.loss_steps if progress.loss_steps else None
        loss = last.get("train_loss") if mean is None else mean
        note = "" if loss is None else f"loss {loss:.4f}"
        value = last.get(f"valid_{self.model.monitor.name}")
        return note if value is None else f"{note}, valid {self.model.monitor.name} {value:.4f}"

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.validations_since_best >= patience

    def _checkpoint_due(self) -> bool:
        steps, minutes = (
            self.settings.checkpoint_every_steps,
            self.settings.checkpoint_every_minutes,
        )
        if steps and self.progress.step % steps == 0:
            return True
        return bool(minutes) and time.monotonic() - self._saved_at > 60 * minutes

    def _save(self, finished: bool = False) -> None:
        optimizer_tensors, optimizer_rest = checkpoints.optimizer_tensors(self.optimizers)
        random_tensors, random_rest = checkpoints.random_tensors()
        state = {
            "fingerprint": self.fingerprint,
            "progress": vars(self.progress),
            "best_step": self.progress.best_step,
            "optimizers": optimizer_rest,
            "random": random_rest,
            "finished": finished,
        }
        tensors = {**checkpoints.model_tensors(self.model), **optimizer_tensors, **random_tensors}
        self.store.save_step(self.progress.step, Checkpoint(tensors, state))
        self._saved_at = time.monotonic()

    def _save_best(self) -> None:
        file = self.store.best_file(self.progress.best_step)
        checkpoints.save(file, Checkpoint(checkpoints.model_tensors(self.model), {}))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the run after the step; a second one ends it at once."""

        def handle(number: int, frame: Any) -> None:
            self.interrupted = True
            signal.signal(number, before[number] or signal.SIG_DFL)

        before = {}
        with contextlib.suppress(ValueError):  # Not the main thread: signals go elsewhere.
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.getsignal(number)
                signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


def _explain_loss(value: float, step: int, batch: Batch) -> str:
    """Names the step and, where the input is at fault, its columns."""
    columns = [
        name
        for name, tensor in batch[0].items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if columns:
        return f"step {step}: the loss is {value}: {', '.join(columns)} hold NaN or infinite values"
    return (
        f"step {step}: the loss is {value}, though the input is finite: training diverged; "
        "lower learning_rate or set gradient_clip. The checkpoint before it is kept"
    )


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _to_device(batch: Batch, device: torch.device) -> Batch:
    inputs, targets = batch
    if isinstance(targets, dict):
        targets = {name: tensor.to(device) for name, tensor in targets.items()}
    elif targets is not None:
        targets = targets.to(device)
    return {name: tensor.to(device) for name, tensor in inputs.items()}, targets


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its banners, tips and warnings about how we use it."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\b")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
