"""The one training loop for both families.

A model brings its loss, its predictions and its metrics (:class:`~training.trainable.Trainable`);
the loop brings everything else: optimizers, precision, validation, early stopping, checkpoints and
exact resume. Read :mod:`training.run` next, then :mod:`training.step`.
"""

from pathlib import Path

import torch
from torch import nn

from core import console
from core.artifacts import digest, remove_partials
from core.errors import UserError
from training import hardware
from training.batches import Batches
from training.columns import column_rows, input_columns
from training.distributed import ranks
from training.engine_settings import EngineSettings
from training.evaluation import evaluate
from training.progress import Progress
from training.run import FitResult, Run
from training.seeds import seed_all
from training.trainable import Monitor, Trainable

__all__ = ["EngineSettings", "FitResult", "Monitor", "Trainable", "evaluate", "fit", "seed_all"]


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
        UserError: before the first step, splits or settings that do not fit the model or this
            machine; a NaN or infinite loss or weight, naming the step and the columns; a
            validation metric that the split does not define.
        KeyboardInterrupt: on Ctrl-C, once a resumable checkpoint is written.
    """
    folder = Path(folder)
    if valid is None and settings.decay == "plateau":
        raise UserError(
            "train.decay: plateau lowers the rates where validation gets no better, and there is "
            "no validation split; choose constant, linear or cosine"
        )
    settings = prepare(model, train, valid, settings)
    made_of = fingerprint(model, train, valid, settings, identity)
    run = Run(model, train, valid, settings, folder, made_of)
    ranks.on_first(lambda: remove_partials(folder))
    start = run.newest() if resume else None
    if start is None:
        ranks.on_first(run.store.clear)
        run.train_from(None)
        return run.result()
    run.progress = Progress(**start.state["progress"])
    if start.state["finished"]:
        console.say(f"{folder}: already trained with these settings on this data")
    else:
        console.say(f"{folder}: resuming at step {run.progress.step:,} of {run.total_steps:,}")
        run.train_from(start)
    return run.result()


def prepare(
    model: nn.Module, train: Batches, valid: Batches | None, settings: EngineSettings
) -> EngineSettings:
    """Sets threads, random seed and the model's device.

    Returns:
        ``settings`` with what ``auto`` means here.

    Raises:
        UserError: splits or settings that do not fit the model or this machine.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    settings = hardware.resolve(settings)
    hardware.keep_freed_memory()
    _check(model, train, valid)
    # Dropout and masking of each process have a stream of their own.
    seed_all(ranks.own_seed(settings.seed))
    model.to(settings.device)
    for split in (train, valid):
        if isinstance(split, Batches):
            split.hand_out_on(ranks.local_device(settings.device))
    if settings.compile:
        ragged = any(column.is_list for column in train.schema)
        hardware.compile_dense_layers(model, torch.device(settings.device), ragged)
    return settings


def fingerprint(
    model: nn.Module,
    train: Batches,
    valid: Batches | None,
    settings: EngineSettings,
    identity: str = "",
) -> dict:
    """All that the result depends on, as JSON: a checkpoint made under another is not resumed."""
    return {
        "identity": identity,
        "code": digest(Path(__file__).parent),
        "settings": settings.that_shape_the_result(),
        "model": {
            "class": type(model).__name__,
            **model.settings.model_dump(mode="json", exclude={"train"}),
        },
        "monitor": list(model.monitor),
        "columns": {"read": input_columns(model), "rows": column_rows(model)},
        "shapes": {name: list(t.shape) for name, t in model.state_dict().items()},
        "data": {
            "train": train.fingerprint,
            "valid": valid.fingerprint if valid else None,
            "order": [train.batch_size, train.shuffle, train.seed, train.chunk_rows],
        },
    }


def _check(model: nn.Module, train: Batches, valid: Batches | None) -> None:
    """Faults that would otherwise show at some later step."""
    rows = column_rows(model)
    for batches in filter(None, (train, valid)):
        names = set(batches.schema.column_names)
        missing = [name for name in input_columns(model) or () if name not in names]
        if missing:
            raise UserError(
                f"{batches.folder}: the model reads column {', '.join(missing)}, which is not "
                "among the columns that were asked for there"
            )
        for column in batches.schema:
            largest = column.int_domain.max if column.int_domain else None
            if column.name in rows and largest is not None and largest >= rows[column.name]:
                raise UserError(
                    f"{batches.folder}: column {column.name} has ids up to {int(largest):,}, and "
                    f"the model's table {rows[column.name]:,} rows; build the model for the "
                    "schema of these features"
                )
