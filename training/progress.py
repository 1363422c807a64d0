"""What moves while a run goes on, except tensors, and the history that it leaves."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from core.artifacts import atomic_path
from training.trainable import Metrics, Monitor

LEAST_GAIN = {"min": 0.001, "max": 0.01}
"""Share of its value by which a loss falls, or a ranking metric rises, in the last epoch of a run
that is still improving. Less than that comes and goes by chance."""


@dataclass
class Progress:
    """How far a run has come; part of every checkpoint."""

    step: int = 0
    loss_sum: float = 0.0
    """Of the losses since the last row of the history."""
    loss_steps: int = 0
    best_step: int | None = None
    best_metrics: Metrics | None = None
    validations_since_best: int = 0
    validations_since_drop: int = 0
    """Without a better value, since the best one or since the rates last fell."""
    plateau_factor: float = 1.0
    """What ``decay: plateau`` has come to multiply the learning rates by."""
    history: list[dict[str, float]] = field(default_factory=list)

    def add_loss(self, value: float) -> None:
        """Adds one step's loss to the mean that the history's next row gives."""
        self.loss_sum += value
        self.loss_steps += 1

    def add_row(self, epoch: float, metrics: Metrics) -> None:
        """Ends a stretch of the curve with what was measured there."""
        mean = self.loss_sum / max(1, self.loss_steps)
        row = {"step": self.step, "epoch": round(epoch, 6), "train_loss": mean, **metrics}
        self.history = [*self.history, row]
        self.loss_sum, self.loss_steps = 0.0, 0

    def judge(self, metrics: Metrics, monitor: Monitor) -> bool:
        """Takes in a validation; whether it is the best so far."""
        best = (self.best_metrics or {}).get(monitor.name)
        better = monitor.better(metrics[monitor.name], best)
        if better:
            self.best_step, self.best_metrics = self.step, metrics
            self.validations_since_best = self.validations_since_drop = 0
        else:
            self.validations_since_best += 1
            self.validations_since_drop += 1
        return better

    def still_improving(self, monitor: Monitor) -> bool:
        """Whether the last of several validations was the best, and better by more than chance
        gives than all that are an epoch or more before it; within the first epoch, than the first.
        """
        values = [row.get(f"valid_{monitor.name}") for row in self.history]
        if len(values) < 2 or None in values or self.best_step != self.history[-1]["step"]:
            return False
        # A validation every tenth of an epoch gains little over the one before it.
        epoch_ago = self.history[-1]["epoch"] - 1 + 1e-5  # Epochs are rounded.
        earlier = sum(row["epoch"] <= epoch_ago for row in self.history)
        before, last = values[: max(1, earlier)], values[-1]
        best = min(before) if monitor.mode == "min" else max(before)
        return abs(last - best) > LEAST_GAIN[monitor.mode] * abs(best)

    def lower_rates(self, patience: int, factor: float) -> None:
        """Multiplies the rates after ``patience`` validations without a better one."""
        if self.validations_since_drop >= patience:
            self.plateau_factor *= factor
            self.validations_since_drop = 0

    def note(self, monitor: Monitor) -> str:
        """The run's last figures as a few words."""
        last = self.history[-1] if self.history else {}
        loss = self.loss_sum / self.loss_steps if self.loss_steps else last.get("train_loss")
        note = "" if loss is None else f"loss {loss:.4f}"
        value = last.get(f"valid_{monitor.name}")
        return note if value is None else f"{note}, valid {monitor.name} {value:.4f}"


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """The history as CSV, a row a validation."""
    text = io.StringIO()
    names = dict.fromkeys(["step", "epoch", "train_loss", *(n for row in history for n in row)])
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    with atomic_path(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
