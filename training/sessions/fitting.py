"""Training of any session model: by gradient through the one loop, or by one pass of counting."""

import csv
import time
from pathlib import Path

import torch

from core import console
from core.artifacts import atomic_path
from training.batches import Batches
from training.checkpoints import save_weights
from training.engine import EngineSettings, FitResult, fit
from training.hardware import to_device
from training.sessions.base import SessionModel
from training.sessions.evaluation import evaluate_sessions


def fit_session_model(
    model: SessionModel,
    train: Batches,
    valid: Batches | None,
    settings: EngineSettings,
    folder: str | Path,
    resume: bool = True,
    identity: str = "",
) -> FitResult:
    """Trains ``model`` and leaves it with its best weights; see :func:`training.engine.fit`.

    A model that does not learn by gradient sees each training batch once, whatever ``settings``
    say, and its state is written to ``folder/model.safetensors`` all the same.
    """
    if model.observes_first and not model.has_observed:
        observe(model, train)
    if model.learns_by_gradient:
        return fit(model, train, valid, settings, folder, resume, identity)
    began = time.monotonic()
    observe(model, train)
    seconds = time.monotonic() - began
    save_weights(Path(folder) / "model.safetensors", model)
    metrics = _validation_metrics(model, valid) if valid else {}
    _write_history(Path(folder) / "history.csv", len(train), metrics)
    return FitResult(
        steps=len(train),
        epochs=1.0,
        best_step=len(train),
        metrics=metrics,
        stopped="finished",
        planned_steps=len(train),
        still_improving=False,
        seconds=seconds,
        samples_per_second=train.rows / seconds,
        history=[],
    )


def observe(model: SessionModel, train: Batches) -> None:
    """Shows ``model`` all training batches once, in every process the whole of them."""
    slices = train.rank, train.world_size
    train.rank, train.world_size = 0, 1
    train.set_position(0)
    try:
        with torch.no_grad(), console.progress("counting", train.rows, "sessions") as advance:
            for batch in train:
                model.observe(to_device(batch, next(model.buffers()).device))
                advance(len(batch[0][f"{model.item}__offsets"]) - 1)
    finally:
        train.rank, train.world_size = slices
    train.set_position(0)
    model.finish()
    model.has_observed = True


def _write_history(path: Path, steps: int, metrics: dict[str, float]) -> None:
    """The one row that a pass of counting has, in the columns that the training loop writes."""
    names = ["step", "epoch", "train_loss", *(f"valid_{name}" for name in metrics)]
    with atomic_path(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, [steps, 1.0, "", *metrics.values()]])


def _validation_metrics(model: SessionModel, valid: Batches) -> dict[str, float]:
    report = evaluate_sessions(model, valid, model.evaluation)
    return {name: value for name, value in report.items() if "@" in name}
