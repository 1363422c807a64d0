"""One training: the steps in their order, and what happens between them."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from core import console
from core.errors import UserError
from core.signals import Interrupted
from training import checkpoints, faults, schedule
from training.batches import Batch, Batches
from training.checkpoints import Checkpoint, CheckpointFolder
from training.distributed import ranks
from training.engine_settings import EngineSettings
from training.evaluation import pooled_metrics
from training.interrupts import Interrupts
from training.progress import Progress, write_history
from training.seeds import seed_all
from training.step import Step
from training.trainable import Metrics

LOSSES_HELD = {"cpu": 1, "cuda": 16}
"""Steps whose losses are fetched together: each fetch waits until a GPU has done its work."""

SECONDS_BETWEEN_NOTES = 0.1


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
    planned_steps: int
    """Those of all epochs, or ``max_steps``: where it ends without early stopping."""
    still_improving: bool
    """Whether it ended with all planned steps, and its last validation was the best by more than
    chance gives, see :data:`training.progress.LEAST_GAIN`."""
    seconds: float
    """Of training in this process: without validation, and what a resumed run did before."""
    samples_per_second: float
    history: list[dict[str, float]]
    """The rows of ``history.csv``."""


class Run:
    """One training: the steps, and what happens between them.

    Attributes:
        progress: how far it has come; set it before :meth:`train_from` a checkpoint.
        store: its checkpoints.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Batches,
        valid: Batches | None,
        settings: EngineSettings,
        folder: Path,
        fingerprint: dict,
    ) -> None:
        self.model, self.train, self.valid = model, train, valid
        self.settings, self.folder, self.fingerprint = settings, folder, fingerprint
        self.store = CheckpointFolder(folder / "checkpoints", settings.keep_checkpoints)
        self.step = Step(model, settings)
        self.progress = Progress()
        steps = settings.epochs * len(train)
        self.total_steps = min(steps, settings.max_steps or steps)
        self.steps_here = 0
        self.seconds = 0.0
        self._interrupts = Interrupts()
        self._stopped = False
        self._losses: list[tuple[int, torch.Tensor, Batch]] = []
        self._saved_at = self._noted_at = time.monotonic()

    def train_from(self, start: Checkpoint | None) -> None:
        """Trains from a checkpoint, or from the weights as they are, to the end."""
        if start is not None:
            self._restore(start)
        with (
            self._interrupts.watched(),
            console.progress("training", self.total_steps, "steps") as self._advance,
        ):
            self._advance(self.progress.step)
            self._shown = self.progress.step
            self._train()
            if not self._stopped:
                self._finish()
                (self._stopped,) = ranks.any_of([self._interrupts.asked])
        if self._stopped:
            raise Interrupted(
                self._interrupts.number,
                f"interrupted after step {self.progress.step:,}; "
                "the same command goes on from there",
            )

    def _train(self) -> None:
        step, progress = self.step, self.progress
        self.model.train(True)
        self._saved_at = began = time.monotonic()
        for batch in self._batches():
            batch = step.prepare(batch, self._rate_factor())
            loss = step.forward(batch)
            self._take_loss(loss, batch)
            step.backward(loss)
            step.update()

            progress.step += 1
            self.steps_here += 1
            self.seconds += time.monotonic() - began
            if self.valid and progress.step % self._steps_between_validations == 0:
                self._validate()
            self._stopped, due = ranks.any_of([self._interrupts.asked, self._checkpoint_due()])
            if self._stopped or due:
                self._save()
            if self._stopped or self._out_of_patience():
                break
            self._note()
            began = time.monotonic()

    def result(self) -> FitResult:
        """Restores the best weights and writes them beside the history."""
        progress = self.progress
        if progress.best_step is not None:
            best_file = self.store.best_file(progress.best_step)
            self._restore_model(self._read(lambda: checkpoints.load(best_file)))
        weights = self.folder / "model.safetensors"
        self._write(lambda: checkpoints.save_weights(weights, self.model))
        self._write(lambda: write_history(self.folder / "history.csv", progress.history))
        patience = progress.step < self.total_steps
        rate = self.steps_here * self.train.batch_size / self.seconds if self.seconds else 0.0
        return FitResult(
            steps=progress.step,
            epochs=progress.step / len(self.train),
            best_step=progress.best_step or progress.step,
            metrics=progress.best_metrics or {},
            stopped="patience" if patience else "finished",
            planned_steps=self.total_steps,
            still_improving=not patience and progress.still_improving(self.model.monitor),
            seconds=self.seconds,
            samples_per_second=rate,
            history=progress.history,
        )

    def newest(self) -> Checkpoint | None:
        """The checkpoint to go on from, if there is one."""
        return self._read(lambda: self.store.newest(self.fingerprint))

    def _read(self, read: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """A checkpoint: its state in every process, its tensors where the file is, in the first."""
        found: list[Checkpoint] = []

        def look() -> dict | None:
            checkpoint = read()
            if checkpoint is None:
                return None
            found.append(checkpoint)
            return checkpoint.state

        state = ranks.on_first(look)
        if state is None:
            return None
        return found[0] if found else Checkpoint({}, state)

    def _write(self, write: Callable[[], None]) -> None:
        """Writes in the first process, to which the others send what they have of the tables."""
        ranks.on_first(write, self.step.parallel.served() if self.step.parallel else None)

    def _restore(self, start: Checkpoint) -> None:
        if self.step.parallel:
            tensors = self.step.parallel.restore(start, self.step.optimizers)
        else:
            tensors = start.tensors
            checkpoints.restore_model(self.model, tensors)
            checkpoints.restore_optimizers(self.step.optimizers, tensors, start.state["optimizers"])
        number = ranks.rank()
        if number < len(start.state["random"]):
            prefix = f"{number}." if number else ""
            names = [name for name in tensors if name.startswith(f"{prefix}random.")]
            own = {name.removeprefix(prefix): tensors[name] for name in names}
            checkpoints.restore_random(own, start.state["random"][number])
        else:
            seed_all(ranks.own_seed(self.settings.seed, self.progress.step))

    def _restore_model(self, best: Checkpoint) -> None:
        if self.step.parallel:
            self.step.parallel.restore(best)
        else:
            checkpoints.restore_model(self.model, best.tensors)

    def _random_state(self) -> tuple[dict[str, torch.Tensor], list[dict]]:
        """The generators of every process, those of the first under their plain names."""
        tensors, rest = checkpoints.random_tensors()
        named = dict(tensors)
        for number, theirs in enumerate(ranks.tensors_to_first(tensors)[1:], 1):
            named |= {f"{number}.{name}": tensor for name, tensor in theirs.items()}
        return named, ranks.gathered(rest)

    def _batches(self) -> Iterator[Batch]:
        """The batches that are left of all epochs, as one sequence."""
        left = self.total_steps - self.progress.step
        if not left or self._out_of_patience():
            return  # Interrupted in its very last step, a run has only its end left.
        self.train.set_position(*divmod(self.progress.step, len(self.train)))
        epochs = itertools.chain.from_iterable(itertools.repeat(self.train))
        yield from itertools.islice(epochs, left)

    def _rate_factor(self) -> float:
        by_step = schedule.rate_factor(self.progress.step, self.total_steps, self.settings)
        return by_step * self.progress.plateau_factor

    def _take_loss(self, loss: torch.Tensor, batch: Batch) -> None:
        self._losses.append((self.progress.step + 1, loss.detach(), batch))
        if len(self._losses) >= LOSSES_HELD[loss.device.type]:
            self._add_losses()

    def _add_losses(self) -> None:
        """Adds the held losses to the curve; one that is not finite ends the run."""
        if not self._losses:
            return
        steps, losses, batches = zip(*self._losses, strict=True)
        self._losses.clear()
        for step, value, batch in zip(steps, torch.stack(losses).tolist(), batches, strict=True):
            if not math.isfinite(value):
                raise faults.not_finite_loss(value, step, batch, self.model)
            self.progress.add_loss(value)

    @property
    def _steps_between_validations(self) -> int:
        return self.settings.steps_between_validations(len(self.train))

    def _validate(self) -> None:
        self._add_losses()
        self._agree()
        done = itertools.count(1)

        def advance() -> None:
            self._advance(0, note=f"validating: {next(done):,} of {len(self.valid):,} batches")

        metrics = pooled_metrics(self.model, self.valid, self.settings.precision, advance)
        name = self.model.monitor.name
        value = metrics.get(name)
        if value is None or not math.isfinite(value):
            faults.check_weights(self.model, self.progress.step)
            raise UserError(
                f"{self.valid.folder}: {name} is not defined on the validation split "
                f"({self.valid.rows} rows); it needs more, or more varied, rows"
            )
        progress = self.progress
        self._record({f"valid_{key}": v for key, v in metrics.items()})
        if progress.judge(metrics, self.model.monitor):
            self._save_best()
        elif self.settings.decay == "plateau":
            progress.lower_rates(self.settings.plateau_patience, self.settings.plateau_factor)

    def _record(self, metrics: Metrics) -> None:
        """Adds a row to the history and to ``history.csv``."""
        self._add_losses()
        self.progress.add_row(self.progress.step / len(self.train), metrics)
        self._write(lambda: write_history(self.folder / "history.csv", self.progress.history))

    def _finish(self) -> None:
        progress = self.progress
        if self.valid is None:
            self._record({})
            self._agree()
            progress.best_step = progress.step
            self._save_best()
        elif not progress.history or progress.history[-1]["step"] < progress.step:
            self._validate()
        self._save(finished=True)

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.validations_since_best >= patience

    def _checkpoint_due(self) -> bool:
        steps = self.settings.checkpoint_every_steps
        minutes = self.settings.checkpoint_every_minutes
        if steps and self.progress.step % steps == 0:
            return True
        return bool(minutes) and time.monotonic() - self._saved_at > 60 * minutes

    def _agree(self) -> None:
        """Before weights are judged or written: they are those of all processes."""
        if self.step.parallel:
            self.step.parallel.average_buffers()

    def _save(self, finished: bool = False) -> None:
        self._add_losses()
        self._agree()
        faults.check_weights(self.model, self.progress.step)
        optimizer_tensors, optimizer_rest = checkpoints.optimizer_tensors(self.step.optimizers)
        random_tensors, random_rest = self._random_state()
        state = {
            "fingerprint": self.fingerprint,
            "progress": vars(self.progress),
            "best_step": self.progress.best_step,
            "optimizers": optimizer_rest,
            "random": random_rest,
            "finished": finished,
        }
        tensors = {**checkpoints.model_tensors(self.model), **optimizer_tensors, **random_tensors}
        checkpoint = Checkpoint(tensors, state)
        self._write(lambda: self.store.save_step(self.progress.step, checkpoint))
        self._saved_at = time.monotonic()

    def _save_best(self) -> None:
        faults.check_weights(self.model, self.progress.step)
        file = self.store.best_file(self.progress.best_step)
        checkpoint = Checkpoint(checkpoints.model_tensors(self.model), {})
        self._write(lambda: self.store.save(file, checkpoint))

    def _note(self) -> None:
        """Shows how far the run has come, as often as a person can read it."""
        now = time.monotonic()
        if now - self._noted_at < SECONDS_BETWEEN_NOTES:
            return
        self._noted_at = now
        self._advance(self.progress.step - self._shown, note=self.progress.note(self.model.monitor))
        self._shown = self.progress.step
